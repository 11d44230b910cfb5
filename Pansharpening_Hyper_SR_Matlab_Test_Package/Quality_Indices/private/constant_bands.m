function flat = constant_bands(x, mask)
%CONSTANT_BANDS  Which bands have one value in all valid pixels, 1 x C; [] = all pixels are valid.

x = reshape(x, [], size(x, 3));
if ~isempty(mask)
    x = x(mask(:), :);
end
flat = all(diff(x, 1, 1) == 0, 1);
end
