function blocks = cut_blocks(x, side)
%CUT_BLOCKS  Distinct side x side blocks of an image H x W x C as (side*side) x C x blocks; H, W multiples of side.

[height, width, bands] = size(x);
x = reshape(x, [side, height / side, side, width / side, bands]);
blocks = reshape(permute(x, [1 3 5 2 4]), side * side, bands, []);
end
