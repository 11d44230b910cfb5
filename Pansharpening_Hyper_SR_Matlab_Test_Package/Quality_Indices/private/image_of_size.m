function pan = image_of_size(pan, sr, mask)
%IMAGE_OF_SIZE  The panchromatic image as double, blanked outside the mask; it must be H x W like sr.

if ~isequal(size(pan), [size(sr, 1), size(sr, 2)])
    error('lemamba:shape', 'expected pan %d x %d like sr, given %s; these indices need one panchromatic band', ...
        size(sr, 1), size(sr, 2), mat2str(size(pan)));
end
if isnumeric(pan)
    pan = blank(pan, mask);
end
pan = check_image(pan, 'pan');
end
