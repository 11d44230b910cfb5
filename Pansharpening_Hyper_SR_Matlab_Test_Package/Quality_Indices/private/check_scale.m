function scale = check_scale(scale, gt, published)
%CHECK_SCALE  Factor before the 16-bit rounding of Q2n as double; one line where the reference does not fit it.
%
%   Refused: values that all end at the largest 16-bit number (Q2n would be 1), and, unless published, data in [0, 1]
%   that stay unscaled (a 0/1 image remains).

scale = check_number(scale, 'scale');
top = max(gt(:));
if scale > 1 && top * scale > 1.5 * 65535
    error('lemamba:const', ['expected values up to %g with scale %g, the reference ends at %g; give 1 for digital ' ...
        'numbers and 65535 for data in [0, 1]'], 65535 / scale, scale, top);
end
if ~published && scale < 2 && top <= 1 && in_unit_range(gt)
    error('lemamba:const', 'expected scale 65535 for data in [0, 1], given %g; correct it', scale);
end
end
