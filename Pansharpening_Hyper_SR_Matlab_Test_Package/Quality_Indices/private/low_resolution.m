function low = low_resolution(sr, gains, ratio)
%LOW_RESOLUTION  The fused image as the sensor would see it: MTF filter, then every ratio-th sample.
%
%   sr H x W x C with H, W multiples of ratio; the sample taken is the one that imresize(x, 1/ratio, 'nearest') takes
%   and to which interp23 puts it back (ratio/2 + 1, counted from 1).

low = mtf_filter(sr, gains, ratio);
first = floor(ratio / 2) + 1;
low = low(first:ratio:end, first:ratio:end, :);
end
