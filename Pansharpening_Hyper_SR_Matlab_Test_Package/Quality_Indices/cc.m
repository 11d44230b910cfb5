function value = cc(sr, gt, varargin)
%CC  Correlation coefficient (Pearson) of every band, mean over bands; -1..1, 1 is best.
%
%   value = cc(sr, gt)
%   value = cc(sr, gt, 'mask', mask)
%
%   sr, gt  H x W x C, any numeric class; mask  H x W, true where a pixel counts
%   A band that is constant in either image has no correlation: NaN.
%
%   Example:
%      gt = rand(64, 64, 4);
%      cc(2 * gt + 1, gt)
%
%   See also SCC, QAVE, D_RHO, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'cc(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'cc');
mask = options.mask;
bands = size(gt, 3);
x = sr - reshape(band_means(sr, mask), 1, 1, bands);
y = gt - reshape(band_means(gt, mask), 1, 1, bands);
power = sqrt(band_means(x.^2, mask) .* band_means(y.^2, mask));
r = band_means(x .* y, mask) ./ power;
r(constant_bands(sr, mask) | constant_bands(gt, mask)) = NaN;
value = mean(r);
end
