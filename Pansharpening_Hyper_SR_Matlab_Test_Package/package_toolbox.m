function file = package_toolbox(folder, version)
%PACKAGE_TOOLBOX  Write this folder as a MATLAB toolbox, an .mltbx that installs with a double click.
%
%   file = package_toolbox(folder)
%   file = package_toolbox(folder, version)
%
%   folder   where the .mltbx goes, default the current one
%   version  default '1.0.0'
%   Installing it puts the scripts and Quality_Indices on the path. Needs MATLAB R2023a or later
%   (matlab.addons.toolbox.ToolboxOptions). It was written from MATLAB's documentation and not run: no MATLAB was at
%   hand, and Octave has no toolbox files.
%
%   Example:
%      package_toolbox(tempdir)
%
%   See also ANALYSIS_REF_BATCHED_IMAGES, REDUCED_RESOLUTION, FULL_RESOLUTION.

if nargin < 1
    folder = pwd;
end
if nargin < 2
    version = '1.0.0';
end
if exist('OCTAVE_VERSION', 'builtin')
    error('lemamba:matlabOnly', 'expected MATLAB R2023a or later for an .mltbx, this is Octave; use addpath instead');
end
here = fileparts(mfilename('fullpath'));
% The identifier stays the same in all versions: by it MATLAB knows that a later one replaces an earlier one.
options = matlab.addons.toolbox.ToolboxOptions(here, '7e0f3c0a-6d5f-4b55-9a52-5e1b6f0a93c4');
options.ToolboxName = 'Quality indices for pansharpening and hyperspectral fusion';
options.ToolboxVersion = version;
options.Summary = 'SAM, ERGAS, SCC, Q2n, Q, PSNR, SSIM, HQNR, QNR and others; the twin of the Python package lemamba';
options.MinimumMatlabRelease = 'R2019b';
options.ToolboxMatlabPath = {here, fullfile(here, 'Quality_Indices')};
file = fullfile(folder, 'lemamba_quality_indices.mltbx');
options.OutputFile = file;
matlab.addons.toolbox.packageToolbox(options);
end
