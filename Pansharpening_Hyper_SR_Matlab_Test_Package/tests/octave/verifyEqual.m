function verifyEqual(~, actual, expected, kind, tolerance)
%VERIFYEQUAL  Octave's stand-in for MATLAB's: an error unless both are equal, within 'AbsTol' or 'RelTol' if given.

if nargin < 4
    equal = isequaln(actual, expected) && strcmp(class(actual), class(expected));
else
    room = tolerance;
    if strcmp(kind, 'RelTol')
        room = tolerance * abs(expected);
    end
    alike = abs(actual - expected) <= room | actual == expected | (isnan(actual) & isnan(expected));
    equal = isequal(size(actual), size(expected)) && all(alike(:));
end
if ~equal
    error('lemamba:tests', 'given %s, expected %s', shown(actual), shown(expected));
end
end

function text = shown(value)
if isnumeric(value) || islogical(value)
    text = mat2str(value, 17);
else
    text = class(value);
end
end
