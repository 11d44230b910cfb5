function means = band_means(x, mask)
%BAND_MEANS  Mean of every band over the valid pixels, H x W x C to 1 x C; [] = all valid, none valid: NaN.

x = reshape(x, [], size(x, 3));
if ~isempty(mask)
    x = x(mask(:), :);
end
means = mean(x, 1);
end
