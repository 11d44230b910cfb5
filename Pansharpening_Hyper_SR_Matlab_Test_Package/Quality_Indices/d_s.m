function value = d_s(sr, lms, pan, ratio, varargin)
%D_S  Spatial distortion, mean over bands of |Q(sr, pan) - Q(lms, pan_lp)|; 0 is best.
%
%   value = d_s(sr, lms, pan, ratio)
%   value = d_s(sr, lms, pan, ratio, 'published', 'block', 32, 'mask', mask, 'cut', N)
%
%   sr, lms  H x W x C; pan H x W; any numeric class, H and W multiples of the block
%   ratio    a whole number (with 'published' 2 or 4)
%   pan_lp is pan reduced by bicubic resize and enlarged again, by the 23-tap interpolator where the ratio is a power
%   of two. Q is averaged over the blocks of a band first, then the difference is taken. Options as in d_lambda.
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   Source: Alparone et al., Multispectral and panchromatic data fusion assessment without reference, 2008.
%
%   Example:
%      pan = peaks(64);
%      lms = repmat(pan, 1, 1, 4) + rand(64, 64, 4);
%      d_s(lms + 0.1 * rand(64, 64, 4), lms, pan, 4)
%
%   See also D_LAMBDA, D_LAMBDA_K, D_RHO, FULL_RESOLUTION.

check_arguments(nargin, 4, 'd_s(sr, lms, pan, ratio)');
[sr, lms, options] = image_pair(sr, lms, varargin, 'd_s', {'cut'});
ratio = check_whole_ratio(ratio, options.published);
side = default_to(options.block, 32);
check_whole_blocks(lms, side);
check_whole_blocks(lms, ratio);
pan = image_of_size(pan, sr, options.seen);
valid = valid_blocks(options.mask, side);
low = enlarge(bicubic_reduce(pan, ratio), ratio);
bands = size(sr, 3);
difference = zeros(1, bands);
for b = 1:bands
    fused = block_q(cut_blocks(cat(3, sr(:, :, b), pan), side), options.published, valid);
    original = block_q(cut_blocks(cat(3, lms(:, :, b), low), side), options.published, valid);
    difference(b) = abs(fused(1, 2) - original(1, 2));
end
value = mean(difference);
end
