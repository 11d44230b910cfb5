function [sr, ms, mask, mask_ms] = pair_of_sizes(sr, ms, ratio, mask, cut)
%PAIR_OF_SIZES  The fused image H x W x C and ms h x w x C, H = ratio h, as double, with their masks.
%
%   mask  H x W or []; a pixel of ms is valid where all its ratio x ratio pixels are. Both images are blanked.
%   cut   width of the border that leaves the masks returned; the images keep it for filters

expected = [ratio * size(ms, 1), ratio * size(ms, 2), size(ms, 3)];
if ratio ~= round(ratio) || ~isequal([size(sr, 1), size(sr, 2), size(sr, 3)], expected)
    error('lemamba:shape', ['expected sr %g times as high and wide as ms with as many bands, given %s and %s; ' ...
        'check the images and the ratio'], ratio, mat2str(size(sr)), mat2str(size(ms)));
end
mask = check_mask(mask, size(sr, 1), size(sr, 2));
sr = check_image(blank(sr, mask), 'sr');
ms = check_image(blank(ms, mask_of_cells(mask, ratio)), 'ms');
mask = without_border(mask, cut, sr);
mask_ms = mask_of_cells(mask, ratio);
end

function cells = mask_of_cells(mask, ratio)
cells = [];
if ~isempty(mask)
    cells = reshape(all(cut_blocks(mask, ratio), 1), size(mask) / ratio);
end
end
