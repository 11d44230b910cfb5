function value = uiqi(sr, gt, varargin)
%UIQI  Universal quality index in sliding 8 x 8 windows, mean over windows and bands; -1..1, 1 is best.
%
%   value = uiqi(sr, gt)
%   value = uiqi(sr, gt, 'block', 8, 'mask', mask)
%
%   The window of the paper and of most Python packages; qave is the same with 32 x 32. Options and flat windows as
%   there.
%   Source: Wang and Bovik, A universal image quality index, 2002.
%
%   Example:
%      gt = repmat(peaks(64), 1, 1, 4);
%      uiqi(gt + 0.1 * rand(size(gt)), gt)
%
%   See also QAVE, Q2N, SSIM, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'uiqi(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'uiqi');
side = default_to(options.block, 8);
check_block_size(gt, 'uiqi', side);
value = universal_quality(sr, gt, side, options.mask);
end
