function value = d_rho(sr, pan, ratio, varargin)
%D_RHO  Spatial distortion 1 - rho, rho the local correlation of the fused bands with PAN; 0..2, 0 is best.
%
%   value = d_rho(sr, pan, ratio)
%   value = d_rho(sr, pan, ratio, 'block', side, 'mask', mask, 'cut', N)
%
%   rho is the Pearson correlation in every side x side window inside the image, mean over windows and bands; a window
%   flat in one image counts 0, one flat in both 1.
%   sr     H x W x C; pan H x W; any numeric class
%   block  side of the windows, the ratio
%   mask   H x W, true where valid; only windows of valid pixels count
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   Source: Scarpa and Ciotola, Full-resolution quality assessment for pansharpening, Remote Sensing 2022. Their
%   program takes deviations from a running mean, pads with zeros and clips negative correlations to 0.
%
%   Example:
%      pan = peaks(64);
%      d_rho(repmat(pan, 1, 1, 4) + rand(64, 64, 4), pan, 4)
%
%   See also D_S, CC, FULL_RESOLUTION.

check_arguments(nargin, 3, 'd_rho(sr, pan, ratio)');
ratio = check_ratio(ratio);
options = index_options(varargin, {'block', 'mask', 'cut'}, 'd_rho');
side = default_to(options.block, max(2, round(ratio)));
mask = check_mask(options.mask, size(sr, 1), size(sr, 2));
sr = check_image(blank(sr, mask), 'sr');
pan = image_of_size(pan, sr, mask);
check_block_size(sr, 'd_rho', side);
valid = valid_windows(without_border(mask, options.cut, sr), side);
value = 0;
bands = size(sr, 3);
for b = 1:bands
    value = value + (1 - band_means(local_correlation(sr(:, :, b), pan, side), valid)) / bands;
end
end

function rho = local_correlation(x, y, side)
N = side^2;
flat_x = box_max(x, side) == -box_max(-x, side);
flat_y = box_max(y, side) == -box_max(-y, side);
x = x - mean(x(:));
y = y - mean(y(:));
sum_x = box_sum(x, side);
sum_y = box_sum(y, side);
common = N * box_sum(x .* y, side) - sum_x .* sum_y;
power = (N * box_sum(x.^2, side) - sum_x.^2) .* (N * box_sum(y.^2, side) - sum_y.^2);
rho = double(flat_x & flat_y);
usual = ~flat_x & ~flat_y & power > 0;
rho(usual) = min(max(common(usual) ./ sqrt(power(usual)), -1), 1);
end
