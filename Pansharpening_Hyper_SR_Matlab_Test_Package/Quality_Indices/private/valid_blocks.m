function valid = valid_blocks(mask, side)
%VALID_BLOCKS  Which distinct side x side blocks of a mask are valid throughout, blocks x 1; [] = all.

valid = [];
if ~isempty(mask)
    valid = reshape(all(cut_blocks(mask, side), 1), [], 1);
end
end
