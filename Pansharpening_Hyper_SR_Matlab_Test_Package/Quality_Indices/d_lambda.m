function value = d_lambda(sr, lms, varargin)
%D_LAMBDA  Spectral distortion of the older QNR (res.d_lambda_qnr); 0 is best.
%
%   value = d_lambda(sr, lms)
%   value = d_lambda(sr, lms, 'published', 'block', 32, 'mask', mask, 'cut', N)
%
%   Mean over band pairs of |Q(lms_i, lms_j) - Q(sr_i, sr_j)|. res.d_lambda of the scripts is D_LAMBDA_K.
%   sr, lms  H x W x C, any numeric class, H and W multiples of the block; one band has no pair: NaN
%   block    side of the blocks on which Q is taken, 32
%   mask     H x W, true where valid; only blocks of valid pixels count
%   'published'  a block flat in both bands makes the value NaN; else it counts 1
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   Source: Alparone et al., Multispectral and panchromatic data fusion assessment without reference, 2008.
%
%   Example:
%      lms = repmat(peaks(64), 1, 1, 4) + rand(64, 64, 4);
%      d_lambda(lms + 0.1 * rand(64, 64, 4), lms)
%
%   See also D_LAMBDA_K, D_S, FULL_RESOLUTION.

check_arguments(nargin, 2, 'd_lambda(sr, lms)');
[sr, lms, options] = image_pair(sr, lms, varargin, 'd_lambda', {'cut'});
side = default_to(options.block, 32);
check_whole_blocks(lms, side);
valid = valid_blocks(options.mask, side);
original = block_q(cut_blocks(lms, side), options.published, valid);
fused = block_q(cut_blocks(sr, side), options.published, valid);
difference = abs(original - fused);
pairs = triu(true(size(difference)), 1);
value = mean(difference(pairs));
end
