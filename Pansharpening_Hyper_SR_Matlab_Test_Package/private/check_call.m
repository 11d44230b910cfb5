function check_call(given, needed, usage)
%CHECK_CALL  One line where a script is called with too few arguments.
%
%   given  nargin; needed  the least number; usage  the call with all needed arguments

if given < needed
    error('lemamba:arguments', 'expected %s, given %d arguments; give them all (help %s)', usage, given, ...
        strtok(usage, '('));
end
end
