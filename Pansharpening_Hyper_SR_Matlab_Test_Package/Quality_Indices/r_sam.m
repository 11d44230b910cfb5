function value = r_sam(sr, ms, gains, ratio, varargin)
%R_SAM  Spectral angle in degrees between ms and the fused image brought back to its size; 0 is best.
%
%   value = r_sam(sr, ms, gains, ratio)
%   value = r_sam(sr, ms, gains, ratio, 'mask', mask, 'cut', N, 'coregister', pan)
%
%   The fused image goes through the MTF filter, normalised to sum 1, and keeps every ratio-th sample (reprojection);
%   sam compares it with ms. It measures consistency with the input, not quality by itself.
%   sr     H x W x C; ms h x w x C with H = ratio h; any numeric class
%   gains  MTF gains at the Nyquist frequency, 1 x C, or the name of a sensor ('WV3', 'none')
%   mask   H x W, true where valid; a pixel of ms counts where all its pixels are valid
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   pan    H x W: each band of sr is sampled where that of ms fits pan best, as the authors' program does; without it
%          all are sampled at pixel floor(ratio / 2) of each cell
%   Source: Scarpa and Ciotola, Full-resolution quality assessment for pansharpening, Remote Sensing 2022.
%
%   Example:
%      sr = round(200 * repmat(peaks(128), 1, 1, 4) + 1500);
%      r_sam(sr, sr(3:4:end, 3:4:end, :), 'QB', 4)
%
%   See also SAM, D_LAMBDA_K, FULL_RESOLUTION.

check_arguments(nargin, 4, 'r_sam(sr, ms, gains, ratio)');
[low, ms, mask] = reprojected_pair(sr, ms, gains, ratio, varargin, 'r_sam');
value = sam(low, ms, 'mask', mask);
end
