function value = dd(sr, gt, varargin)
%DD  Degree of distortion: mean absolute deviation over pixels and bands, in the unit of the data; 0 is best.
%
%   value = dd(sr, gt)
%   value = dd(sr, gt, 'mask', mask)
%
%   sr, gt  H x W x C, any numeric class; mask  H x W, true where a pixel counts
%   Source: Li et al., Fusing hyperspectral and multispectral images via coupled sparse tensor factorization, IEEE
%   Trans. Image Processing 2018, and the code of its authors.
%
%   Example:
%      gt = 2047 * rand(64, 64, 4);
%      dd(gt + 3, gt)
%
%   See also RMSE, SAM, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'dd(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'dd');
value = mean(band_means(abs(sr - gt), options.mask));
end
