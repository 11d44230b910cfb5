function const = check_const(const, name, reference)
%CHECK_CONST  Largest value of the data as double, held against the reference; one line where they do not fit.
%
%   const = check_const(const, 'gt', gt)
%
%   Refused: a reference above 1.5 const, because a peak of 1 or 255 for 11-bit data gives a Q2n of 1 and a negative
%   PSNR; and fractions up to 1.5, so data in [0, 1], with a const above 1.5, which would score 100 dB. The fused
%   image is not held against const: it may be as wrong as a method makes it. The rule is that of metrics/inputs.py.

const = check_number(const, 'const');
top = max(reference(:));
if top > 1.5 * const || (const > 1.5 && in_unit_range(reference))
    peak = nearest_peak(top);
    error('lemamba:const', '%s ends at %g, which does not fit the largest value const %g; give const %g', ...
        name, top, const, peak);
end
end

function peak = nearest_peak(top)
% 1 for data in [0, 1], else 2^L - 1 of the usual numbers of bits.
peaks = [255, 1023, 2047, 4095, 16383, 65535, ceil(top)];
peaks = [1, peaks(peaks >= top)];
peak = peaks(1 + (top > 1.5));
end
