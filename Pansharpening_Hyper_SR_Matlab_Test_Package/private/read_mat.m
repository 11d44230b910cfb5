function data = read_mat(file, names)
%READ_MAT  Read the named variables of a .mat file, v5 or v7.3 (HDF5), into a struct.
%
%   Only the named ones are read; other variables in the file may be of a kind that cannot be loaded.
%   Errors: no such file, a folder, not a .mat file, a variable missing or not a real numeric array.

if exist(file, 'dir') == 7
    error('lemamba:noFile', ['expected a .mat file, given the folder %s; for a folder of output_mulExm_<i>.mat ' ...
        'call analysis_ref_unbatched_images or analysis_unref_unbatched_images'], file);
end
if ~exist(file, 'file')
    error('lemamba:noFile', 'expected a .mat file, %s does not exist; check the name', file);
end
quiet = warning('off', 'all');  % MATLAB warns for a variable that is missing; the check below has a clearer message
restore = onCleanup(@() warning(quiet)); %#ok<NASGU>
problem = '';
try
    data = load(file, names{:});
catch reason
    data = [];
    problem = strrep(reason.message, sprintf('\n'), ' '); %#ok<SPRINTFN>
end
if ~isstruct(data) || ~all(isfield(data, names))
    complain(file, names, problem);
end
for k = 1:numel(names)
    check_numeric(data.(names{k}), names{k}, file);
end
end

function complain(file, names, problem)
% Octave's load fails where none of the names is in the file: look what is there before calling it damaged.
try
    found = whos('-file', file);
    found = {found.name};
catch
    found = {};
end
if ~isempty(found) && ~all(ismember(names, found))
    error('lemamba:missingKey', 'expected %s in %s, found %s; save it with these names', ...
        strjoin(names, ', '), file, strjoin(found, ', '));
end
error('lemamba:notMat', 'expected a .mat file (v5 or v7.3), %s cannot be read (%s); write it again', file, problem);
end

function check_numeric(value, name, file)
if ~(isnumeric(value) || islogical(value))
    error('lemamba:notNumeric', 'expected numbers in %s of %s, found a %s; save the array inside it', name, file, ...
        class(value));
end
if ~isreal(value)
    error('lemamba:notNumeric', 'expected real numbers in %s of %s, found complex ones; save abs or real of them', ...
        name, file);
end
end
