function y = bicubic_reduce(x, ratio)
%BICUBIC_REDUCE  Bicubic resize of an image H x W by 1/ratio with anti-aliasing, as MATLAB's imresize.
%
%   Cubic with a = -0.5 stretched to a support of 4 ratio samples, weights normalised, border mirrored with the
%   edge sample repeated; output sample i (from 0) stands at (i + 0.5) ratio - 0.5.

y = reduce_matrix(size(x, 1), ratio) * x * reduce_matrix(size(x, 2), ratio)';
end

function weights = reduce_matrix(count, ratio)
% The resize of one axis as a matrix, ceil(count / ratio) x count.
outputs = ceil(count / ratio);
centre = ((0:outputs - 1)' + 0.5) * ratio - 0.5;
taps = floor(centre - 2 * ratio) + (0:ceil(4 * ratio) + 1);
values = cubic((centre - taps) / ratio);
values = values ./ sum(values, 2);
source = mod(taps, 2 * count);
source = min(source, 2 * count - 1 - source);
row = repmat((1:outputs)', 1, size(taps, 2));
weights = accumarray([row(:), source(:) + 1], values(:), [outputs, count]);
end

function w = cubic(t)
t = abs(t);
w = (1.5 * t.^3 - 2.5 * t.^2 + 1) .* (t <= 1) + (-0.5 * t.^3 + 2.5 * t.^2 - 4 * t + 2) .* (t > 1 & t <= 2);
end
