function const = check_const(const, varargin)
%CHECK_CONST  Largest value of the data as double, held against images; one line where they do not fit.
%
%   const = check_const(const, 'sr', sr, 'gt', gt)
%
%   Refused: values above 1.5 const, because 8-bit or [0, 1] peaks on 11-bit data give a Q2n of 1 and a negative PSNR;
%   and a const of 2 or more for images that stay within [0, 1], which would score 100 dB. A fused image may exceed
%   const a little, hence 1.5. Images without a positive value say nothing and pass.

const = check_number(const, 'const');
tops = zeros(1, numel(varargin) / 2);
for k = 1:numel(tops)
    tops(k) = max(varargin{2 * k}(:));
end
[top, k] = max(tops);
if top > 1.5 * const
    error('lemamba:const', ['expected values up to const = %g, %s reaches %g; give the largest value that the data ' ...
        'can have%s'], const, varargin{2 * k - 1}, top, suggestion(top));
end
if const >= 2 && top > 0 && top <= 1
    error('lemamba:const', ['expected values up to const = %g, the images stay within [0, 1]; give const 1, or ' ...
        'multiply the images by %g'], const, const);
end
end

function text = suggestion(top)
usual = [1, 255, 1023, 2047, 4095, 10000, 65535];
usual = usual(usual >= top);
if isempty(usual)
    text = '';
else
    text = sprintf(', probably %d', usual(1));
end
end
