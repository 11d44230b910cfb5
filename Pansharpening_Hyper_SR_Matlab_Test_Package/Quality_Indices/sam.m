function value = sam(sr, gt, varargin)
%SAM  Spectral angle in degrees, mean over pixels; 0 is best, up to 180.
%
%   value = sam(sr, gt)
%   value = sam(sr, gt, 'mask', mask)
%
%   sr, gt  H x W x C, any numeric class
%   mask    H x W, true where a pixel counts
%   Pixels where either spectrum is zero have no angle and are left out; an all-black image gives NaN.
%   Source: Yuhas et al., Discrimination among semi-arid landscape endmembers using the SAM algorithm, 1992.
%
%   Example:
%      gt = cat(3, [3 0; 1 1], [4 5; 1 0]);
%      sam(gt(:, :, [2 1]), gt)
%
%   See also ERGAS, SID, R_SAM, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'sam(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'sam');
product = sum(sr .* gt, 3);
norms = sqrt(sum(sr.^2, 3) .* sum(gt.^2, 3));
valid = norms ~= 0;
if ~isempty(options.mask)
    valid = valid & options.mask;
end
cosine = min(max(product(valid) ./ norms(valid), -1), 1);  % rounding above 1 must not make a complex angle
value = mean(acos(cosine(:))) * 180 / pi;
end
