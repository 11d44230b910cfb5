function valid = valid_windows(mask, side)
%VALID_WINDOWS  Which side x side windows inside the image hold valid pixels only; [] = all.

valid = [];
if ~isempty(mask)
    valid = box_sum(double(~mask), side) == 0;
end
end
