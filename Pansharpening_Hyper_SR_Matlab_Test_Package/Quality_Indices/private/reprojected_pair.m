function [low, ms, mask_ms] = reprojected_pair(sr, ms, gains, ratio, args, call)
%REPROJECTED_PAIR  The fused image at the resolution of ms, ms, and the mask there, for the R- indices.
%
%   sr H x W x C, ms h x w x C with H = ratio h; gains  1 x C or the name of a sensor; args  'mask', 'cut',
%   'coregister' with PAN

options = index_options(args, {'mask', 'cut', 'coregister'}, call);
ratio = check_ratio(ratio);
[sr, ms, ~, mask_ms] = pair_of_sizes(sr, ms, ratio, options.mask, options.cut);
gains = band_gains(gains, size(sr, 3));
places = [];
if ~isempty(options.coregister)
    pan = image_of_size(options.coregister, sr, check_mask(options.mask, size(sr, 1), size(sr, 2)));
    places = coregistration(ms, pan, gains(1), ratio, mask_ms);
end
low = inner_cells(low_resolution(sr, gains, ratio, places), options.cut, ratio);
ms = inner_cells(ms, options.cut, ratio);
mask_ms = inner_cells(mask_ms, options.cut, ratio);
end
