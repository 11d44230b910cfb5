function y = interp23(x, ratio)
%INTERP23  Enlarge an image h x w x C by a power of two with the 23-tap interpolator, borders circular.
%
%   Every doubling puts the samples between zeros (the first time at the second, fourth, ... place, later at the
%   first, third, ...) and filters along each axis. The published loop doubled ratio/2 times, which is right for
%   2 and 4 only; this one doubles log2(ratio) times; other ratios take the way of ENLARGE.
%   Source: Aiazzi et al., Context-driven fusion based on oversampled multiresolution analysis, 2002.

rows = interp_matrix(size(x, 1), ratio);
columns = interp_matrix(size(x, 2), ratio)';
y = zeros(size(rows, 1), size(columns, 2), size(x, 3));
for b = 1:size(x, 3)
    y(:, :, b) = rows * x(:, :, b) * columns;
end
end

function weights = interp_matrix(count, ratio)
% The enlargement of one axis as a matrix, (count * ratio) x count.
half = [0.5, 0.305334091185, 0, -0.072698593239, 0, 0.021809577942, 0, -0.005192756653, 0, ...
    0.000807762146, 0, -0.000060081482];
taps = 2 * [half(end:-1:2), half];
weights = eye(count);
first = true;
while size(weights, 1) < count * ratio
    low = size(weights, 1);
    place = 2 * (0:low - 1)' + first;
    target = mod(place + (-11:11), 2 * low);
    source = repmat((1:low)', 1, 23);
    values = repmat(taps, low, 1);
    doubling = accumarray([target(:) + 1, source(:)], values(:), [2 * low, low]);
    weights = doubling * weights;
    first = false;
end
end
