function low = low_resolution(sr, gains, ratio, places)
%LOW_RESOLUTION  The fused image as the sensor would see it: MTF filter of sum 1, then every ratio-th sample.
%
%   sr H x W x C with H, W multiples of ratio; the sample taken is the one that imresize(x, 1/ratio, 'nearest') takes
%   and to which interp23 puts it back (ratio/2 + 1, counted from 1), or that of `places`, see coregistration.

bands = size(sr, 3);
if isempty(places)
    places = floor(ratio / 2) * ones(bands, 2);
end
low = zeros(size(sr, 1) / ratio, size(sr, 2) / ratio, bands);
for b = 1:bands
    filtered = mtf_filter(sr(:, :, b), gains(b), ratio);
    kernel = mtf_kernel(gains(b), ratio);
    low(:, :, b) = filtered(places(b, 1) + 1:ratio:end, places(b, 2) + 1:ratio:end) / sum(kernel(:));
end
end
