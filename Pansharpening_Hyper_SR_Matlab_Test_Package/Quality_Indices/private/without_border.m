function mask = without_border(mask, width, image)
%WITHOUT_BORDER  The mask without the pixels nearer than `width` to the border of the image; 0 changes nothing.

if width > 0
    inside = false(size(image, 1), size(image, 2));
    crop_border(image, width);  % an image that is too small for the border is an error there
    inside(1 + width:end - width, 1 + width:end - width) = true;
    if ~isempty(mask)
        inside = inside & mask;
    end
    mask = inside;
end
end
