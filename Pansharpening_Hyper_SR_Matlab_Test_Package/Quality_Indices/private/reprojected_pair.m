function [low, ms, mask_ms] = reprojected_pair(sr, ms, gains, ratio, args, call)
%REPROJECTED_PAIR  The fused image at the resolution of ms, ms, and the mask there, for the R- indices.
%
%   sr H x W x C, ms h x w x C with H = ratio h; gains  1 x C or the name of a sensor; args  'mask', 'cut'

options = index_options(args, {'mask', 'cut'}, call);
ratio = check_ratio(ratio);
[sr, ms, ~, mask_ms] = pair_of_sizes(sr, ms, ratio, options.mask, options.cut);
low = inner_cells(low_resolution(sr, band_gains(gains, size(sr, 3)), ratio), options.cut, ratio);
ms = inner_cells(ms, options.cut, ratio);
mask_ms = inner_cells(mask_ms, options.cut, ratio);
end
