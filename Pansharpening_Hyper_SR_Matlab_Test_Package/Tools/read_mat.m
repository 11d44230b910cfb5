function data = read_mat(file, names)
%READ_MAT  Read the named variables of a .mat file, v5 or v7.3 (HDF5), into a struct.
%
%   Only the named ones are read; other variables in the file may be of a kind that cannot be loaded.
%   Errors: no such file, not a .mat file, a variable missing or not numeric.

if ~exist(file, 'file')
    error('lemamba:noFile', 'expected a .mat file, %s does not exist; check the name', file);
end
quiet = warning('off', 'all');  % MATLAB warns for a variable that is missing; the check below has a clearer message
restore = onCleanup(@() warning(quiet)); %#ok<NASGU>
try
    data = load(file, names{:});
catch problem
    error('lemamba:notMat', 'expected a .mat file (v5 or v7.3), %s cannot be read (%s); write it again', file, ...
        strrep(problem.message, sprintf('\n'), ' ')); %#ok<SPRINTFN>
end
if ~isstruct(data) || ~all(isfield(data, names))
    found = whos('-file', file);
    error('lemamba:missingKey', 'expected %s in %s, found %s; save it with these names', ...
        strjoin(names, ', '), file, strjoin({found.name}, ', '));
end
for k = 1:numel(names)
    if ~(isnumeric(data.(names{k})) || islogical(data.(names{k})))
        error('lemamba:notNumeric', 'expected numbers in %s of %s, found a %s; save an array', names{k}, file, ...
            class(data.(names{k})));
    end
end
end
