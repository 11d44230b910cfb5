function value = universal_quality(x, y, side, mask)
%UNIVERSAL_QUALITY  Universal quality index in sliding side x side windows, mean over windows and bands.
%
%   x, y  H x W x C; mask  H x W or []: only windows of valid pixels count
%   A window flat (maximum equals minimum) in both images compares the levels: 2 x y / (x^2 + y^2), and counts 1
%   where both levels are 0.
%   Source: Wang and Bovik, A universal image quality index, 2002.

valid = valid_windows(mask, side);
bands = size(x, 3);
value = 0;
for b = 1:bands
    value = value + band_means(q_map(x(:, :, b), y(:, :, b), side), valid) / bands;
end
end

function quality = q_map(x, y, side)
N = side^2;
sum_x = box_sum(x, side);
sum_y = box_sum(y, side);
% Second moments about the band's level: the variance of a window is small compared with its square.
level = mean(y(:));
x0 = x - level;
y0 = y - level;
sum_x0 = box_sum(x0, side);
sum_y0 = box_sum(y0, side);
spread = N * box_sum(x0.^2 + y0.^2, side) - sum_x0.^2 - sum_y0.^2;
common = N * box_sum(x0 .* y0, side) - sum_x0 .* sum_y0;
levels = sum_x.^2 + sum_y.^2;
flat = box_max(x, side) == -box_max(-x, side) & box_max(y, side) == -box_max(-y, side);
quality = ones(size(sum_x));
usual = ~flat & spread > 0 & levels ~= 0;
quality(usual) = 4 * common(usual) .* sum_x(usual) .* sum_y(usual) ./ (spread(usual) .* levels(usual));
flat = flat & levels ~= 0;
quality(flat) = 2 * sum_x(flat) .* sum_y(flat) ./ levels(flat);
end
