function x = crop_border(x, width)
%CROP_BORDER  The image without its border as the published toolbox cuts it, x(width:end - width); [] stays [].
%
%   One pixel less goes at the top and the left than at the bottom and the right: numbers published with a border of
%   21 mean this.

if width > 0 && ~isempty(x)
    if min(size(x, 1), size(x, 2)) < 2 * width
        error('lemamba:tooSmall', ['expected an image at least twice as large as the border of %d pixels, given ' ...
            '%d x %d; cut less'], width, size(x, 1), size(x, 2));
    end
    x = x(width:end - width, width:end - width, :);
end
end
