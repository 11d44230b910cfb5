function value = r_q2n(sr, ms, gains, ratio, scale, varargin)
%R_Q2N  Hypercomplex quality index between ms and the fused image brought back to its size; 1 is best.
%
%   value = r_q2n(sr, ms, gains, ratio, scale)
%   value = r_q2n(sr, ms, gains, ratio, scale, 'mask', mask, 'cut', N, 'block', 32, 'coregister', pan, ...
%                 'published')
%
%   The fused image goes through the MTF filter, normalised to sum 1, and keeps every ratio-th sample (reprojection);
%   q2n compares it with ms. It measures consistency with the input, not quality by itself.
%   sr     H x W x C; ms h x w x C with H = ratio h; any numeric class
%   scale, 'block', 'published'  as in q2n, at the size of ms
%   gains  MTF gains at the Nyquist frequency, 1 x C, or the name of a sensor ('WV3', 'none')
%   mask   H x W, true where valid; a pixel of ms counts where all its pixels are valid
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   pan    H x W: each band of sr is sampled where that of ms fits pan best, as the authors' program does; without it
%          all are sampled at pixel floor(ratio / 2) of each cell
%   Source: Scarpa and Ciotola, Full-resolution quality assessment for pansharpening, Remote Sensing 2022.
%
%   Example:
%      sr = round(200 * repmat(peaks(128), 1, 1, 4) + 1500);
%      r_q2n(sr, sr(3:4:end, 3:4:end, :), 'QB', 4, 1)
%
%   See also Q2N, D_LAMBDA_K, FULL_RESOLUTION.

check_arguments(nargin, 5, 'r_q2n(sr, ms, gains, ratio, scale)');
options = index_options(varargin, {'mask', 'cut', 'block', 'coregister', 'published'}, 'r_q2n');
kept = {'mask', options.mask, 'cut', options.cut, 'coregister', options.coregister};
[low, ms, mask] = reprojected_pair(sr, ms, gains, ratio, kept, 'r_q2n');
value = q2n(low, ms, scale, options.published, 'block', default_to(options.block, 32), 'mask', mask);
end
