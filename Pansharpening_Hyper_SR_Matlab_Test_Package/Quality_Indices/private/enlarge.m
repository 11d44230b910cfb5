function y = enlarge(x, ratio)
%ENLARGE  An image h x w by a whole ratio, its samples at ratio/2 + 1 of their cells (rounded down, counted from 1).
%
%   Powers of two go through interp23, as published. Other ratios take the Lagrange polynomial through the 6 nearest
%   samples of each axis (the family of half-band filters that interp23 belongs to), borders mirrored with the edge
%   sample repeated, as operators/resample.py of the Python package.
%   Source: Deslauriers and Dubuc, Symmetric iterative interpolation processes, 1989.

if log2(ratio) == round(log2(ratio))
    y = interp23(x, ratio);
else
    y = lagrange_matrix(size(x, 1), ratio) * x * lagrange_matrix(size(x, 2), ratio)';
end
end

function weights = lagrange_matrix(count, ratio)
% The enlargement of one axis as a matrix, (count * ratio) x count.
outputs = count * ratio;
place = ((0:outputs - 1)' - floor(ratio / 2)) / ratio;
whole = abs(place - round(place)) < 1e-9;
place(whole) = round(place(whole));
node = -2:3;
fraction = place - floor(place);
values = ones(outputs, 6);
for k = 1:6
    for other = node([1:k - 1, k + 1:6])
        values(:, k) = values(:, k) .* (fraction - other) / (node(k) - other);
    end
end
source = mod(floor(place) + node, 2 * count);
source = min(source, 2 * count - 1 - source);
row = repmat((1:outputs)', 1, 6);
weights = accumarray([row(:), source(:) + 1], values(:), [outputs, count]);
end
