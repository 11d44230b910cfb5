function value = ergas(sr, gt, ratio, varargin)
%ERGAS  Relative dimensionless global error; 0 is best, no upper bound.
%
%   value = ergas(sr, gt, ratio)
%   value = ergas(sr, gt, ratio, 'mask', mask)
%
%   100 / ratio * sqrt( mean over bands of MSE_b / mean(gt_b)^2 )
%   sr, gt  H x W x C, any numeric class; a band whose gt mean is 0 makes it Inf or NaN
%   ratio   size of PAN by that of MS, e.g. 4 (not 1/4)
%   mask    H x W, true where a pixel counts
%   Source: Wald, Data Fusion: Definitions and Architectures, 2002.
%
%   Example:
%      gt = 100 + 50 * rand(64, 64, 4);
%      ergas(gt + 1, gt, 4)
%
%   See also SAM, RASE, RMSE, R_ERGAS, REDUCED_RESOLUTION.

check_arguments(nargin, 3, 'ergas(sr, gt, ratio)');
ratio = check_ratio(ratio);
[sr, gt, options] = image_pair(sr, gt, varargin, 'ergas');
mse = band_means((sr - gt).^2, options.mask);
value = 100 / ratio * sqrt(mean(mse ./ band_means(gt, options.mask).^2));
end
