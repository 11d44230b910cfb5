function value = d_lambda_ms(sr, ms, ratio, varargin)
%D_LAMBDA_MS  Spectral distortion of QNR with MS at its own size, as in its paper; 0 is best.
%
%   value = d_lambda_ms(sr, ms, ratio)
%   value = d_lambda_ms(sr, ms, ratio, 'published', 'block', 32, 'mask', mask, 'cut', N)
%
%   Mean over band pairs of |Q(ms_i, ms_j) - Q(sr_i, sr_j)|; Q on blocks of 32 pixels of sr and 32 / ratio of ms, which
%   cover the same ground. The toolboxes and d_lambda take MS enlarged to the size of PAN instead.
%   sr     H x W x C, H and W multiples of the block; ms h x w x C, H = ratio h; one band has no pair: NaN
%   block  side of the blocks of sr, a multiple of the ratio, at least twice it
%   mask   H x W, true where valid; only blocks of valid pixels count. 'published' as in d_lambda
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   Source: Alparone et al., Multispectral and panchromatic data fusion assessment without reference, 2008.
%
%   Example:
%      sr = repmat(peaks(64), 1, 1, 4) + rand(64, 64, 4);
%      d_lambda_ms(sr, sr(3:4:end, 3:4:end, :), 4)
%
%   See also D_LAMBDA, D_LAMBDA_K, FULL_RESOLUTION.

check_arguments(nargin, 3, 'd_lambda_ms(sr, ms, ratio)');
ratio = check_ratio(ratio);
options = index_options(varargin, {'published', 'block', 'mask', 'cut'}, 'd_lambda_ms');
side = default_to(options.block, 32);
if mod(side, ratio) || side < 2 * ratio
    error('lemamba:arguments', ['expected blocks that are a multiple of the ratio %g and at least twice it, given ' ...
        '%d; choose another block'], ratio, side);
end
[sr, ms, mask, mask_ms] = pair_of_sizes(sr, ms, ratio, options.mask, options.cut);
check_whole_blocks(sr, side);
original = block_q(cut_blocks(ms, side / ratio), options.published, valid_blocks(mask_ms, side / ratio));
fused = block_q(cut_blocks(sr, side), options.published, valid_blocks(mask, side));
difference = abs(original - fused);
pairs = triu(true(size(difference)), 1);
value = mean(difference(pairs));
end
