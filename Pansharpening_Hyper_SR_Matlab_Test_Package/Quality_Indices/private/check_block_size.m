function check_block_size(x, index, side)
%CHECK_BLOCK_SIZE  The block indices need at least one block of side x side.

if size(x, 1) < side || size(x, 2) < side
    error('lemamba:tooSmall', 'expected at least %d x %d pixels for %s, given %d x %d; use a larger image', ...
        side, side, index, size(x, 1), size(x, 2));
end
end
