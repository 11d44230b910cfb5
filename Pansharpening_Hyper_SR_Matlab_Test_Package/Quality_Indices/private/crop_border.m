function x = crop_border(x, width)
%CROP_BORDER  The image without `width` pixels on every side; [] stays [].

if width > 0 && ~isempty(x)
    if min(size(x, 1), size(x, 2)) <= 2 * width
        error('lemamba:tooSmall', ['expected an image larger than twice the border of %d pixels, given ' ...
            '%d x %d; cut less'], width, size(x, 1), size(x, 2));
    end
    x = x(1 + width:end - width, 1 + width:end - width, :);
end
end
