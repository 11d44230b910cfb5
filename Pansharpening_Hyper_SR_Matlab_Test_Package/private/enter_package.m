function [target, restore] = enter_package(target)
%ENTER_PACKAGE  Put the package first on the path; clearing `restore` restores path and folder.
%
%   target is made absolute first. The current folder becomes the package's own, because a file of the same
%   name in the caller's folder (sam.m, psnr.m) would otherwise win over ours.

if ~(ischar(target) || isa(target, 'string'))
    error('lemamba:arguments', 'expected the name of a .mat file or folder as text, given a %s', class(target));
end
target = absolute(char(target));
here = absolute(fileparts(fileparts(mfilename('fullpath'))));
folder = pwd;
searched = path;
restore = onCleanup(@() leave(folder, searched));
% Octave keeps relative entries of the path as they are and drops them, with a warning, on cd.
entries = cellfun(@absolute, strsplit(searched, pathsep), 'UniformOutput', false);
path(strjoin(entries, pathsep));
addpath(fullfile(here, 'Quality_Indices'), fullfile(here, 'Tools'));
cd(here);
end

function name = absolute(name)
if ~isempty(name) && ~strcmp(name, '.') && isempty(regexp(name, '^([\\/~]|[A-Za-z]:)', 'once'))
    name = fullfile(pwd, name);
end
end

function leave(folder, searched)
cd(folder);
path(searched);
end
