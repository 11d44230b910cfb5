function mask = without_border(mask, width, image)
%WITHOUT_BORDER  The mask without the pixels that crop_border takes from an image; 0 changes nothing.

if width > 0
    index = crop_border(reshape(1:size(image, 1) * size(image, 2), size(image, 1), size(image, 2)), width);
    inside = false(size(image, 1), size(image, 2));
    inside(index) = true;
    if ~isempty(mask)
        inside = inside & mask;
    end
    mask = inside;
end
end
