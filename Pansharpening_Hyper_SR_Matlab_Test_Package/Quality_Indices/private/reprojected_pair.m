function [low, ms, mask] = reprojected_pair(sr, ms, gains, ratio, args, call)
%REPROJECTED_PAIR  The fused image at the resolution of ms, ms, and the mask there, for the R- indices.
%
%   sr H x W x C, ms h x w x C with H = ratio h; gains  1 x C or the name of a sensor; args  'mask', H x W: a pixel of
%   ms is valid where all its ratio x ratio pixels are.

options = index_options(args, {'mask'}, call);
ratio = check_ratio(ratio);
expected = [ratio * size(ms, 1), ratio * size(ms, 2), size(ms, 3)];
if ratio ~= round(ratio) || ~isequal([size(sr, 1), size(sr, 2), size(sr, 3)], expected)
    error('lemamba:shape', ['expected sr %g times as high and wide as ms with as many bands, given %s and %s; ' ...
        'check the images and the ratio'], ratio, mat2str(size(sr)), mat2str(size(ms)));
end
mask = check_mask(options.mask, size(sr, 1), size(sr, 2));
if ~isempty(mask)
    sr = blank(sr, mask);
    mask = reshape(all(cut_blocks(mask, ratio), 1), size(ms, 1), size(ms, 2));
    ms = blank(ms, mask);
end
ms = check_image(ms, 'ms');
low = low_resolution(check_image(sr, 'sr'), band_gains(gains, size(sr, 3)), ratio);
low = blank(low, mask);
end
