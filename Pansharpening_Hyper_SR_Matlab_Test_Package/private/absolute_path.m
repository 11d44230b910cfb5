function name = absolute_path(name)
%ABSOLUTE_PATH  A file or folder name that stays right after cd.

if ~isempty(name) && ~strcmp(name, '.') && isempty(regexp(name, '^([\\/~]|[A-Za-z]:)', 'once'))
    name = fullfile(pwd, name);
end
end
