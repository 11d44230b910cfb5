function check_block_size(x, index)
%CHECK_BLOCK_SIZE  The block indices need at least one block of 32 x 32.

if size(x, 1) < 32 || size(x, 2) < 32
    error('lemamba:tooSmall', 'expected at least 32 x 32 pixels for %s, given %d x %d; use a larger image', ...
        index, size(x, 1), size(x, 2));
end
end
