function value = rmse(sr, gt, varargin)
%RMSE  Root mean square error over all pixels and bands, in the unit of the data; 0 is best.
%
%   value = rmse(sr, gt)
%   value = rmse(sr, gt, 'mask', mask)
%
%   sr, gt  H x W x C, any numeric class; mask  H x W, true where a pixel counts
%   MATLAB R2022b and later have an rmse of columns; the folder first on the path wins.
%
%   Example:
%      gt = 2047 * rand(64, 64, 4);
%      rmse(gt + 3, gt)
%
%   See also RASE, PSNR_CUBE, ERGAS, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'rmse(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'rmse');
value = sqrt(mean(band_means((sr - gt).^2, options.mask)));
end
