function value = sid(sr, gt, varargin)
%SID  Spectral information divergence, mean over pixels; 0 is best, no upper bound.
%
%   value = sid(sr, gt)
%   value = sid(sr, gt, 'mask', mask)
%
%   Spectra are taken as distributions, p = x / sum(x) + e and q = y / sum(y) + e with e = 2^-52; a pixel's divergence
%   is sum((p - q)(log p - log q)), natural logarithm.
%   sr, gt  H x W x C, any numeric class; mask  H x W, true where a pixel counts
%   Values below 0 count 0. Pixels that are black in either image are left out, as in SAM; none left: NaN.
%   Source: Chang, An information-theoretic approach to spectral variability, IEEE Trans. Information Theory 2000.
%
%   Example:
%      gt = 1 + rand(64, 64, 8);
%      sid(gt + 0.1 * rand(64, 64, 8), gt)
%
%   See also SAM, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'sid(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'sid');
sr = max(sr, 0);
gt = max(gt, 0);
valid = any(sr > 0, 3) & any(gt > 0, 3);
if ~isempty(options.mask)
    valid = valid & options.mask;
end
bands = size(gt, 3);
x = reshape(sr, [], bands);
y = reshape(gt, [], bands);
x = x(valid(:), :);
y = y(valid(:), :);
p = x ./ sum(x, 2) + eps;
q = y ./ sum(y, 2) + eps;
value = mean(sum((p - q) .* (log(p) - log(q)), 2), 1);
end
