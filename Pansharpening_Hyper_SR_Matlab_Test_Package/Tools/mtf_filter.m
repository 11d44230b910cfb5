function y = mtf_filter(x, gains, ratio)
%MTF_FILTER  Every band of x (H x W x C) through the MTF filter of its gain; borders replicated.

[height, width, bands] = size(x);
reach = 20;  % half the filter's 41 samples
rows = min(max(1 - reach:height + reach, 1), height);
columns = min(max(1 - reach:width + reach, 1), width);
y = zeros(size(x));
for b = 1:bands
    if b == 1 || gains(b) ~= gains(b - 1)
        % The kernel is a sum of a few products column x row: far fewer multiplications than 41 x 41 per pixel.
        [u, s, v] = svd(mtf_kernel(gains(b), ratio));
        weights = diag(s);
    end
    padded = x(rows, columns, b);
    for k = 1:sum(weights > eps * weights(1))
        y(:, :, b) = y(:, :, b) + conv2(u(:, k) * weights(k), v(:, k), padded, 'valid');
    end
end
end
