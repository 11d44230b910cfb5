function check_whole_blocks(x, side)
%CHECK_WHOLE_BLOCKS  Indices without reference use distinct blocks: both sides must be multiples of side.

if mod(size(x, 1), side) || mod(size(x, 2), side)
    error('lemamba:size', ['expected height and width that are multiples of %d at full resolution, given ' ...
        '%d x %d; crop the images'], side, size(x, 1), size(x, 2));
end
end
