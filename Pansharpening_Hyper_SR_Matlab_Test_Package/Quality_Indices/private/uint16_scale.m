function [scale, note] = uint16_scale(const, lms, published)
%UINT16_SCALE  Factor that brings values to the 16-bit range of Q2n, 65535 for data in [0, 1], else 1; and a note.
%
%   Some reflectances are above 1: up to 1.5, the factor is 65535 / 1.5.
%   const      largest value of the data; [] = max(lms)
%   published  true: always 1, as published

scale = 1;
note = '';
if isempty(const)
    const = max(double(lms(:)));
end
if const <= 1.5 && ~published
    scale = 65535;
    if const > 1
        scale = 65535 / 1.5;
    end
    note = sprintf(['note: values in [0, 1] are multiplied by %.5g before the 16-bit rounding inside Q2n; ' ...
        '''published'' leaves them a 0/1 image\n'], scale);
end
end
