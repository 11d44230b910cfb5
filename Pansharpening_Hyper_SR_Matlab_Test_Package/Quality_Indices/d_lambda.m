function value = d_lambda(sr, lms, published)
%D_LAMBDA  Spectral distortion of the older QNR (res.d_lambda_qnr): mean over band pairs of
%   |Q(lms_i, lms_j) - Q(sr_i, sr_j)|; 0 is best.
%
%   sr, lms  H x W x C, H and W multiples of 32; Q on 32 x 32 blocks. One band has no pair: NaN.
%   published as in block_q.
%   Source: Alparone et al., Multispectral and panchromatic data fusion assessment without reference, 2008.

difference = abs(block_q(cut_blocks(lms, 32), published) - block_q(cut_blocks(sr, 32), published));
pairs = triu(true(size(difference)), 1);
value = mean(difference(pairs));
end
