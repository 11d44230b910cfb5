function value = ssim(sr, gt, const, varargin)
%SSIM  Structural similarity, mean over pixels and bands; at most 1, 1 is best.
%
%   value = ssim(sr, gt, const)
%   value = ssim(sr, gt, const, 'mask', mask)
%
%   sr, gt  H x W x C, any numeric class, brought to 0..255 by 255 / const. Gaussian window 11 x 11, sigma 1.5, only
%           windows inside the image, K = 0.01 and 0.03, L = 255, no down-sampling
%   const   largest value that the data can have: 2047, 1023, 255, 1, ...; one that does not fit is an error
%   mask    H x W, true where valid; only windows of valid pixels count
%   The Image Processing Toolbox has an ssim with padding; the folder first on the path wins.
%   Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
%
%   Example:
%      gt = 2047 * rand(64, 64, 4);
%      ssim(0.99 * gt, gt, 2047)
%
%   See also PSNR, QAVE, UIQI, REDUCED_RESOLUTION.

check_arguments(nargin, 3, 'ssim(sr, gt, const)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'ssim');
const = check_const(const, 'gt', gt);
check_block_size(gt, 'ssim', 11);
valid = valid_windows(options.mask, 11);
window = exp(-(-5:5)'.^2 / (2 * 1.5^2));
window = window / sum(window);
c1 = (0.01 * 255)^2;
c2 = (0.03 * 255)^2;
bands = size(gt, 3);
value = 0;
for b = 1:bands
    x = sr(:, :, b) / const * 255;
    y = gt(:, :, b) / const * 255;
    mx = conv2(window, window, x, 'valid');
    my = conv2(window, window, y, 'valid');
    vx = conv2(window, window, x.^2, 'valid') - mx.^2;
    vy = conv2(window, window, y.^2, 'valid') - my.^2;
    vxy = conv2(window, window, x .* y, 'valid') - mx .* my;
    similarity = (2 * mx .* my + c1) .* (2 * vxy + c2) ./ ((mx.^2 + my.^2 + c1) .* (vx + vy + c2));
    value = value + band_means(similarity, valid) / bands;
end
end
