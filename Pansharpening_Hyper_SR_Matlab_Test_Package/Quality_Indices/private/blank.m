function x = blank(x, mask)
%BLANK  Set the pixels outside the mask to 0 in every band, so that NaN there has no effect; [] changes nothing.

if ~isempty(mask)
    x(repmat(~mask, 1, 1, size(x, 3))) = 0;
end
end
