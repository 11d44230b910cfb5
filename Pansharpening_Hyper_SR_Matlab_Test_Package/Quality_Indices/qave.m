function value = qave(sr, gt, varargin)
%QAVE  Universal quality index, mean over sliding 32 x 32 windows and bands; -1..1, 1 is best.
%
%   value = qave(sr, gt)
%   value = qave(sr, gt, 'block', 32, 'mask', mask)
%
%   sr, gt  H x W x C, any numeric class, at least one window large; only windows inside the image
%   block   side of the windows, 32
%   mask    H x W, true where valid; only windows of valid pixels count
%   A window flat (maximum equals minimum) in both images compares the levels: 2 x y / (x^2 + y^2), and counts 1
%   where both levels are 0.
%   Source: Wang and Bovik, A universal image quality index, 2002.
%
%   Example:
%      gt = repmat(peaks(64), 1, 1, 4);
%      qave(gt + 0.1 * rand(size(gt)), gt)
%
%   See also UIQI, Q2N, SSIM, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'qave(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'qave');
side = default_to(options.block, 32);
check_block_size(gt, 'qave', side);
value = universal_quality(sr, gt, side, options.mask);
end
