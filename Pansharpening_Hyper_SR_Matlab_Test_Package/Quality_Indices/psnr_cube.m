function value = psnr_cube(sr, gt, const, varargin)
%PSNR_CUBE  Peak signal-to-noise ratio in dB with one MSE over all bands; larger is better, Inf for equal images.
%
%   value = psnr_cube(sr, gt, const)
%   value = psnr_cube(sr, gt, const, 'mask', mask)
%
%   sr, gt, const, mask as in psnr. It is the PSNR of most Python libraries; where the errors of bands differ it is
%   lower than the mean over bands.
%
%   Example:
%      gt = 2047 * rand(64, 64, 4);
%      psnr_cube(0.99 * gt, gt, 2047)
%
%   See also PSNR, RMSE, REDUCED_RESOLUTION.

check_arguments(nargin, 3, 'psnr_cube(sr, gt, const)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'psnr_cube');
const = check_const(const, 'gt', gt);
value = 10 * log10(1 / mean(band_means(((sr - gt) / const).^2, options.mask)));
end
