function q = block_q(x, published, valid)
%BLOCK_Q  Universal quality index between all pairs of bands, averaged over blocks.
%
%   x          pixels x C x blocks (cut_blocks)
%   published  true leaves a block where both bands are flat (maximum equals minimum) NaN; else it counts 1
%   valid      which blocks count; [] = all
%   q          C x C; entry (i, j) = mean over blocks of 4 Cxy mx my / ((Cxx + Cyy)(mx^2 + my^2)), covariances
%              with n - 1
%   Source: Wang and Bovik, A universal image quality index, 2002.

if ~isempty(valid)
    x = x(:, :, valid);
end
[pixels, bands, count] = size(x);
means = sum(x, 1) / pixels;
centred = x - means;
flat = reshape(max(x, [], 1) == min(x, [], 1), bands, count);
means = reshape(means, bands, count);
q = zeros(bands);
for b = 1:count  % one matrix product per block gives every pair of bands at once
    covariance = centred(:, :, b)' * centred(:, :, b) / (pixels - 1);
    variance = diag(covariance);
    m = means(:, b);
    both_flat = flat(:, b) & flat(:, b)';
    block = 4 * covariance .* (m * m') ./ ((variance + variance') .* (m.^2 + (m.^2)'));
    if published
        block(both_flat) = NaN;
    else
        block(both_flat) = 1;
    end
    q = q + block / count;
end
if count == 0
    q(:) = NaN;
end
end
