function mask = check_mask(mask, height, width)
%CHECK_MASK  A mask of valid pixels as logical H x W; [] stays [].

if isempty(mask)
    mask = [];
    return
end
if ~(isnumeric(mask) || islogical(mask)) || ~isequal(size(mask), [height, width])
    error('lemamba:mask', 'expected a mask %d x %d, true where a pixel is valid, given a %s of size %s; correct it', ...
        height, width, class(mask), regexprep(sprintf('%dx', size(mask)), 'x$', ''));
end
mask = mask ~= 0;
end
