function restore = enter_package()
%ENTER_PACKAGE  Put the package first on the path; clearing `restore` restores path and folder.
%
%   The current folder becomes the package's own, because a file of the same name in the caller's folder (sam.m,
%   psnr.m) would otherwise win over ours; a toolbox's psnr and ssim lie later on the path.

here = absolute_path(fileparts(fileparts(mfilename('fullpath'))));
folder = pwd;
searched = path;
restore = onCleanup(@() leave(folder, searched));
% Octave keeps relative entries of the path as they are and drops them, with a warning, on cd.
entries = cellfun(@absolute_path, strsplit(searched, pathsep), 'UniformOutput', false);
path(strjoin(entries, pathsep));
addpath(fullfile(here, 'Quality_Indices'));
cd(here);
end

function leave(folder, searched)
cd(folder);
path(searched);
end
