function verifyTrue(~, value)
%VERIFYTRUE  Octave's stand-in for MATLAB's: an error unless value is true.

if ~(islogical(value) && isscalar(value) && value)
    error('lemamba:tests', 'expected true');
end
end
