function check_arguments(given, needed, usage)
%CHECK_ARGUMENTS  One line where a function is called with too few arguments.
%
%   given   nargin; needed  the least number; usage  the call with all needed arguments, e.g. 'psnr(sr, gt, const)'

if given < needed
    name = strtok(usage, '(');
    error('lemamba:arguments', 'expected %s, given %d arguments; give them all (help %s)', usage, given, name);
end
end
