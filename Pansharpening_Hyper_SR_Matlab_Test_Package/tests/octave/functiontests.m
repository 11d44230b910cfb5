function tests = functiontests(functions)
%FUNCTIONTESTS  Octave's stand-in for MATLAB's: the list of a test file's functions for run_functions.

tests = functions;
end
