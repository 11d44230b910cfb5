function x = inner_cells(x, cut, ratio)
%INNER_CELLS  An image at the size of ms without the pixels whose ratio x ratio cells touch a border of `cut` pixels.
%
%   The border is that of crop_border, at the size of PAN; blocks then begin inside it. [] stays [].

if cut > 0 && ~isempty(x)
    first = ceil((cut - 1) / ratio);
    last = ceil(cut / ratio);
    x = x(first + 1:end - last, first + 1:end - last, :);
end
end
