function y = mtf_filter(x, gains, ratio)
%MTF_FILTER  Every band of x (H x W x C) through the MTF filter of its gain; borders replicated.

[height, width, bands] = size(x);
reach = 20;  % half the filter's 41 samples
rows = min(max(1 - reach:height + reach, 1), height);
columns = min(max(1 - reach:width + reach, 1), width);
y = zeros(size(x));
for b = 1:bands
    if b == 1 || gains(b) ~= gains(b - 1)
        kernel = mtf_kernel(gains(b), ratio);  % the same turned by 180 degrees: convolution is correlation
    end
    y(:, :, b) = conv2(x(rows, columns, b), kernel, 'valid');
end
end
