function value = psnr(sr, gt, const, varargin)
%PSNR  Peak signal-to-noise ratio in dB, mean over bands; larger is better, Inf for equal images.
%
%   value = psnr(sr, gt, const)
%   value = psnr(sr, gt, const, 'mask', mask)
%
%   sr, gt  H x W x C, any numeric class
%   const   largest value that the data can have: 2047, 1023, 255, 1, ...; one that does not fit is an error
%   mask    H x W, true where a pixel counts
%   The Image Processing Toolbox has a psnr of the whole cube (here PSNR_CUBE); the folder first on the path wins.
%
%   Example:
%      gt = 2047 * rand(64, 64, 4);
%      psnr(0.99 * gt, gt, 2047)
%
%   See also PSNR_CUBE, RMSE, SSIM, REDUCED_RESOLUTION.

check_arguments(nargin, 3, 'psnr(sr, gt, const)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'psnr');
const = check_const(const, 'gt', gt);
mse = band_means(((sr - gt) / const).^2, options.mask);
value = mean(10 * log10(1 ./ mse));
end
