function places = coregistration(ms, pan, gain, ratio, mask)
%COREGISTRATION  Row and column, from 0, of the PAN pixel in its cell where each band of ms lies, C x 2.
%
%   ms    h x w x C; pan H x W, H = ratio h; double
%   gain  MTF gain of the first band
%   mask  h x w, true where ms is valid, or []; only positions that depend on no other pixel count
%   PAN is low-passed and sampled at every place of a cell; a band lies where its local correlation with these samples
%   is largest on average. That of Scarpa and Ciotola (Remote Sensing 2022) and their program: sums over windows of
%   2w x 2w pixels, w = floor(ratio / 2), zeros outside the image, deviations from the running mean.
%   floor(ratio / 2), the toolboxes' convention, where no place fits better, and for a constant band or pan.

w = floor(ratio / 2);
bands = size(ms, 3);
places = w * ones(bands, 2);
if ratio == 1 || ~varies(pan, [])
    return
end
low = mtf_filter(pan, gain, ratio);
valid = counted(mask, w);
for b = 1:bands
    if varies(ms(:, :, b), mask)
        places(b, :) = place(ms(:, :, b), low, ratio, valid);
    end
end
end

function found = place(band, low, ratio, valid)
w = floor(ratio / 2);
[x, power_x] = deviations(band, w);
fit = zeros(1, ratio^2);
for i = 1:ratio
    for j = 1:ratio
        [y, power_y] = deviations(low(i:ratio:end, j:ratio:end), w);
        fit((i - 1) * ratio + j) = band_means(window_sums(x .* y, w) ./ sqrt(power_x .* power_y), valid);
    end
end
[most, best] = max(fit);
found = [w, w];
if most > fit(w * (ratio + 1) + 1) + 1e-12
    found = [floor((best - 1) / ratio), mod(best - 1, ratio)];
end
end

function [x, power] = deviations(x, w)
x = x - window_sums(x, w) / (4 * w^2);
power = max(window_sums(x.^2, w), 1e-20);
end

function sums = window_sums(x, w)
% From w - 1 pixels before to w after each pixel.
padded = zeros(size(x) + 2 * w - 1);
padded(w:end - w, w:end - w) = x;
sums = box_sum(padded, 2 * w);
end

function valid = counted(mask, w)
valid = [];
if ~isempty(mask)
    around = true(size(mask) + 4 * w - 2);
    around(2 * w - 1:end - 2 * w, 2 * w - 1:end - 2 * w) = mask;
    valid = valid_windows(around, 4 * w - 1);
end
end

function yes = varies(x, mask)
if ~isempty(mask)
    x = x(mask);
end
yes = ~isempty(x) && min(x(:)) < max(x(:));
end
