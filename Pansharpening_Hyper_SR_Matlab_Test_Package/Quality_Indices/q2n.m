function value = q2n(sr, gt, scale, varargin)
%Q2N  Hypercomplex quality index of multi- and hyperspectral images (res.qn), 0..1, 1 is best.
%
%   value = q2n(sr, gt, scale)
%   value = q2n(sr, gt, scale, 'block', 32, 'mask', mask, 'published')
%
%   sr, gt  H x W x C, any numeric class, at least one block large; mirrored to multiples of the block, then cut into
%           blocks
%   scale   the images are multiplied by this and rounded to 16 bit: 65535 for data in [0, 1], 1 for digital numbers;
%           one that does not fit is an error
%   block   side of the blocks, 32
%   mask    H x W, true where valid; only blocks of valid pixels count
%   'published'  takes scale 1 for data in [0, 1] too, which makes them a 0/1 image
%   In every block both images are normalised with the mean and standard deviation of gt, band by band, and
%   compared as arrays of hypercomplex numbers; the score is the mean modulus over blocks.
%   Source: Garzelli and Nencini, Hypercomplex quality assessment of multi/hyperspectral images, 2009.
%
%   Example:
%      gt = round(200 * repmat(peaks(64), 1, 1, 4) + 1500);
%      q2n(gt + 20 * rand(size(gt)), gt, 1)
%
%   See also QAVE, UIQI, R_Q2N, D_LAMBDA_K, REDUCED_RESOLUTION.

check_arguments(nargin, 3, 'q2n(sr, gt, scale), scale 65535 for data in [0, 1] and 1 for digital numbers');
[sr, gt, options] = image_pair(sr, gt, varargin, 'q2n');
scale = check_scale(scale, gt, options.published);
side = default_to(options.block, 32);
check_block_size(gt, 'qn', side);
x = cut_blocks(mirror_to_multiple(round_uint16(gt * scale), side), side);
y = cut_blocks(mirror_to_multiple(round_uint16(sr * scale), side), side);
[M, bands, count] = size(x);
% Integers: means and centred values are exact, so a flat block has a variance of exactly 0.
mean_x = sum(x, 1) / M;
mean_y = sum(y, 1) / M;
x = x - mean_x;
y = y - mean_y;
spread = sqrt(sum(x.^2, 1) / (M - 1));
spread(spread == 0) = 2.2e-16;
spread(mean_x == 0) = 1;
table = hypercomplex_table(bands);
K = size(table, 1);
% Moments of the normalised x and of the conjugated normalised y*; bands added up to K are constant 1.
% The mean of the normalised x is 1 in every component.
sign_y = [1, -ones(1, K - 1)];
m_y = ones(1, K, count);
m_y(1, 1:bands, :) = (mean_y - mean_x) ./ spread + 1;
norm_x = sqrt(K) * ones(1, count);
norm_y = reshape(sqrt(sum(m_y.^2, 2)), 1, count);
variance = reshape(sum(sum(x.^2, 1) ./ spread.^2 + sum(y.^2, 1) ./ spread.^2, 2), 1, count) / (M - 1);
covariance = zeros(bands^2, count);
for b = 1:count
    s = spread(:, :, b);
    products = (x(:, :, b)' * y(:, :, b)) ./ (s' * s) .* sign_y(1:bands);
    covariance(:, b) = products(:) / (M - 1);
end
modulus = sqrt(sum((table * covariance).^2, 1));
means = 2 * norm_x .* norm_y ./ (norm_x.^2 + norm_y.^2);
q = modulus .* means * 2 ./ variance;
flat = variance == 0;  % both images flat in all bands: only their levels can be compared
q(flat) = means(flat);
q = q(:);
if ~isempty(options.mask)
    q = q(valid_blocks(mirror_to_multiple(options.mask, side), side));
end
value = mean(q, 1);
end
