function value = rase(sr, gt, varargin)
%RASE  Relative average spectral error in percent; 0 is best.
%
%   value = rase(sr, gt)
%   value = rase(sr, gt, 'mask', mask)
%
%   100 / M * sqrt( mean over bands of MSE_b ), M the mean of gt over pixels and bands
%   sr, gt  H x W x C, any numeric class; mask  H x W, true where a pixel counts
%   torchmetrics and sewar average it over windows of 8 x 8, which gives other numbers.
%   Source: Ranchin and Wald, Fusion of high spatial and spectral resolution images, 2000.
%
%   Example:
%      gt = 100 + 50 * rand(64, 64, 4);
%      rase(gt + 1, gt)
%
%   See also ERGAS, RMSE, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'rase(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'rase');
level = mean(band_means(gt, options.mask));
value = 100 / level * sqrt(mean(band_means((sr - gt).^2, options.mask)));
end
