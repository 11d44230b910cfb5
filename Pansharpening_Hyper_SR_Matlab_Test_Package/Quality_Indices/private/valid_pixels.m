function mask = valid_pixels(options, varargin)
%VALID_PIXELS  The mask of an image: options.mask, and not nodata in any of the images that follow; [] = all valid.
%
%   A pixel is nodata in an image where all its bands have the value options.nodata.

image = varargin{1};
mask = check_mask(options.mask, size(image, 1), size(image, 2));
if isempty(options.nodata)
    return
end
if isempty(mask)
    mask = true(size(image, 1), size(image, 2));
end
for k = 1:numel(varargin)
    if isnan(options.nodata)
        mask = mask & ~all(isnan(varargin{k}), 3);
    else
        mask = mask & ~all(varargin{k} == options.nodata, 3);
    end
end
end
