function name = target_path(target)
%TARGET_PATH  The name of a .mat file or folder, given as text, that stays right after cd.

if ~is_text(target)
    error('lemamba:arguments', 'expected the name of a .mat file or folder as text, given a %s; quote it', ...
        class(target));
end
name = absolute_path(char(target));
end
