function value = sid(sr, gt, varargin)
%SID  Spectral information divergence, mean over pixels; 0 is best, no upper bound.
%
%   value = sid(sr, gt)
%   value = sid(sr, gt, 'mask', mask)
%
%   Spectra are taken as probabilities, p = x / sum(x) and q = y / sum(y); a pixel's divergence is
%   sum(p log(p / q)) + sum(q log(q / p)), natural logarithm.
%   sr, gt  H x W x C, any numeric class; mask  H x W, true where a pixel counts
%   Pixels with a value of 0 or less in either image have no divergence and are left out; none left: NaN.
%   Source: Chang, An information-theoretic approach to spectral variability, IEEE Trans. Information Theory 2000.
%
%   Example:
%      gt = 1 + rand(64, 64, 8);
%      sid(gt + 0.1 * rand(64, 64, 8), gt)
%
%   See also SAM, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'sid(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'sid');
valid = all(sr > 0, 3) & all(gt > 0, 3);
if ~isempty(options.mask)
    valid = valid & options.mask;
end
bands = size(gt, 3);
x = reshape(sr, [], bands);
y = reshape(gt, [], bands);
x = x(valid(:), :);
y = y(valid(:), :);
p = x ./ sum(x, 2);
q = y ./ sum(y, 2);
value = mean(sum((p - q) .* (log(p) - log(q)), 2), 1);
end
