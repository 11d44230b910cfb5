function ratio = check_ratio(ratio)
%CHECK_RATIO  The resolution ratio as a positive double; text ('4') and other values are one line.

if ischar(ratio) || isa(ratio, 'string')
    error('lemamba:ratio', 'expected a positive number as ratio, given the text ''%s''; write it without quotes', ...
        char(ratio));
end
if ~(isnumeric(ratio) && isscalar(ratio) && isreal(ratio) && isfinite(ratio) && ratio > 0)
    error('lemamba:ratio', 'expected a positive number as ratio, given %s; it is the size of PAN by that of MS', ...
        num2str(ratio));
end
ratio = double(ratio);
end
