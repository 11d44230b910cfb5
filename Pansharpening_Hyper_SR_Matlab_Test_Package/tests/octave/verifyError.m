function verifyError(~, action, identifier)
%VERIFYERROR  Octave's stand-in for MATLAB's: an error unless action() raises one with this identifier.

try
    action();
catch problem
    if ~strcmp(problem.identifier, identifier)
        error('lemamba:tests', 'expected the error %s, given %s: %s', identifier, problem.identifier, problem.message);
    end
    return
end
error('lemamba:tests', 'expected the error %s, none was raised', identifier);
end
