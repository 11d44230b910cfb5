function yes = in_unit_range(image)
%IN_UNIT_RANGE  Whether values lie in [0, 1] by their numbers: fractions that end below 1.5. A black image does not.

top = max(image(:));
yes = top > 0 && top <= 1.5 && any(image(:) ~= round(image(:)));
end
