function value = scc(sr, gt, varargin)
%SCC  Spatial correlation of edges, 0..1, 1 is best.
%
%   value = scc(sr, gt)
%   value = scc(sr, gt, 'mask', mask)
%
%   One pixel of border is cut, the Sobel magnitude is taken per band (zero padding), then one cosine over all
%   pixels and bands, not centred: unrelated images score about 0.8. No edges in either image gives NaN.
%   sr, gt  H x W x C, any numeric class; mask  H x W: only pixels whose 3 x 3 neighbours are valid count
%   Source: after Zhou et al., A wavelet transform method to merge Landsat TM and SPOT, 1998, with the Sobel
%   magnitude of the published toolbox.
%
%   Example:
%      gt = peaks(64);
%      scc(gt + 0.1 * rand(64), gt)
%
%   See also CC, SSIM, REDUCED_RESOLUTION.

check_arguments(nargin, 2, 'scc(sr, gt)');
[sr, gt, options] = image_pair(sr, gt, varargin, 'scc');
a = sobel_magnitude(sr(2:end - 1, 2:end - 1, :));
b = sobel_magnitude(gt(2:end - 1, 2:end - 1, :));
valid = valid_windows(options.mask, 3);
a = blank(a, valid);
b = blank(b, valid);
value = sum(a(:) .* b(:)) / sqrt(sum(a(:).^2) * sum(b(:).^2));
end

function edges = sobel_magnitude(x)
smooth = [1; 2; 1];
slope = [1; 0; -1];
edges = zeros(size(x));
for b = 1:size(x, 3)
    along_columns = conv2(slope, smooth, x(:, :, b), 'same');
    along_rows = conv2(smooth, slope, x(:, :, b), 'same');
    edges(:, :, b) = sqrt(along_columns.^2 + along_rows.^2);
end
end
