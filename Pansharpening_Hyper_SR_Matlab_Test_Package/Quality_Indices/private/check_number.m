function value = check_number(value, name)
%CHECK_NUMBER  A positive finite number as double; text, arrays and complex numbers are one line.

if ischar(value) || isa(value, 'string')
    error('lemamba:arguments', 'expected %s as a positive number, given the text ''%s''; leave the quotes out', ...
        name, char(value));
end
if ~(isnumeric(value) && isscalar(value) && isreal(value) && isfinite(value) && value > 0)
    error('lemamba:arguments', 'expected %s as a positive number, given %s; correct it', name, shown(value));
end
value = double(value);
end

function text = shown(value)
if isnumeric(value) && isscalar(value)
    text = num2str(value);
else
    text = sprintf('a %s of size %s', class(value), mat2str(size(value)));
end
end
