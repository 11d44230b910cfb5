function value = d_sr(sr, pan, varargin)
%D_SR  Spatial distortion by regression, the part of PAN's variance that the fused bands do not explain; 0 is best.
%
%   value = d_sr(sr, pan)
%   value = d_sr(sr, pan, 'mask', mask, 'cut', N)
%
%   PAN is fitted by a linear combination of the bands, without a constant: var(pan - fit) / var(pan).
%   RQNR = (1 - D_lambda_K)(1 - D_sR).
%   sr    H x W x C; pan H x W; any numeric class; a constant pan gives NaN
%   mask  H x W, true where a pixel counts
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   Source: Alparone, Garzelli, Vivone, Spatial consistency for full-scale assessment of pansharpening, IGARSS 2018.
%
%   Example:
%      pan = peaks(64);
%      d_sr(repmat(pan, 1, 1, 4) + rand(64, 64, 4), pan)
%
%   See also D_S, D_RHO, D_LAMBDA_K, FULL_RESOLUTION.

check_arguments(nargin, 2, 'd_sr(sr, pan)');
options = index_options(varargin, {'mask', 'cut'}, 'd_sr');
mask = check_mask(options.mask, size(sr, 1), size(sr, 2));
sr = check_image(blank(sr, mask), 'sr');
pan = image_of_size(pan, sr, mask);
mask = without_border(mask, options.cut, sr);
bands = reshape(sr, [], size(sr, 3));
target = pan(:);
if ~isempty(mask)
    bands = bands(mask(:), :);
    target = target(mask(:));
end
quiet = warning('off', 'all');  % bands that depend on each other have many solutions with one fit
restore = onCleanup(@() warning(quiet)); %#ok<NASGU>
error_of_fit = target - bands * (bands \ target);
value = var(error_of_fit) / var(target);
end
