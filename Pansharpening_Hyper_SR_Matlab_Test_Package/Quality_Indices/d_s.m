function value = d_s(sr, lms, pan, ratio, published)
%D_S  Spatial distortion, mean over bands of |Q(sr, pan) - Q(lms, pan_lp)|; 0 is best.
%
%   sr, lms  H x W x C; pan H x W; H, W multiples of 32
%   pan_lp is pan reduced by bicubic resize and enlarged by the 23-tap interpolator. Q is averaged over the
%   32 x 32 blocks of a band first, then the difference is taken. published as in block_q.
%   Source: Alparone et al., Multispectral and panchromatic data fusion assessment without reference, 2008.

low = interp23(bicubic_reduce(pan, ratio), ratio);
bands = size(sr, 3);
difference = zeros(1, bands);
for b = 1:bands
    fused = block_q(cut_blocks(cat(3, sr(:, :, b), pan), 32), published);
    original = block_q(cut_blocks(cat(3, lms(:, :, b), low), 32), published);
    difference(b) = abs(fused(1, 2) - original(1, 2));
end
value = mean(difference);
end
