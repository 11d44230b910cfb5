function scale = check_scale(scale, sr, gt, published)
%CHECK_SCALE  Factor before the 16-bit rounding of Q2n as double; one line where the images do not fit it.
%
%   Refused: values that all end at the largest 16-bit number (Q2n would be 1), and, unless published, images within
%   [0, 1] that stay unscaled (a 0/1 image remains).

scale = check_number(scale, 'scale');
top = max(max(sr(:)), max(gt(:)));
if top * scale > 1.5 * 65535
    error('lemamba:const', ['expected values up to %g with scale %g, given up to %g; give 1 for digital numbers and ' ...
        '65535 for data in [0, 1]'], 65535 / scale, scale, top);
end
if ~published && top > 0 && top <= 1 && scale < 2
    error('lemamba:const', 'expected scale 65535 for images within [0, 1], given %g; correct it', scale);
end
end
