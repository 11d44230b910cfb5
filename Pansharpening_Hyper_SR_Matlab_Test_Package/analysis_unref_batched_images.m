function [res, samples] = analysis_unref_batched_images(file, ratio, sensor, varargin)
%ANALYSIS_UNREF_BATCHED_IMAGES  Full-resolution indices (no reference) of a batch of fused images.
%
%   res = analysis_unref_batched_images(file, ratio, sensor)
%   [res, samples] = analysis_unref_batched_images(file, ratio, sensor, const, 'save', 'scores.csv', ...)
%
%   file      .mat (v5 or v7.3) with sr and lms (B x C x H x W), ms (B x C x h x w), pan (B x 1 x H x W);
%             H and W multiples of 32 and of the ratio, H = ratio h
%   ratio     a whole number: 2, 3, 4, 6, 8, ...
%   sensor    'WV3' 'WV2' 'QB' 'IKONOS' 'GeoEye1' 'WV4', another spelling ('WorldView-3', 'QuickBird'); 'GF2', 'CAVE',
%             'Harvard' and 'none' take the generic gain 0.3 and any number of bands
%   const     largest value of the data; left out, 1 is assumed where max(lms) <= 1
%   Options, in any order, before or after const:
%   'save', 'scores.csv'  writes every sample, the mean and the std
%   'cut', N              blocks and windows that touch a border of N pixels do not count
%   'mask', 'valid'       the variable `valid` of the file, B x 1 x H x W, is true where pixels count; an array
%                         H x W serves every sample. Only blocks of valid pixels count
%   'nodata', V           pixels of lms or pan whose bands all are V do not count
%   'block', N            side of the blocks of all indices, 32
%   'indices', 'all'      adds d_rho, d_sr, rqnr, r_q2n, r_sam, r_ergas and d_lambda_ms to res
%   'coregister', 1       r_q2n, r_sam and r_ergas sample each band where it fits PAN best
%   'printout', 0         no line per sample
%   'published'           the published behaviour where this package corrects a defect (see README.md)
%
%   Prints one line per sample and one for the means. res.<index> = [mean, std] for d_lambda (D_lambda_K), d_s,
%   qnr_index (HQNR = (1 - D_lambda_K)(1 - D_s)), d_lambda_qnr and qnr (the older pair); std divides by n - 1 and is 0
%   for one sample. samples(k).<index> is the k-th sample. The path and the current folder are left as found, also
%   after an error.
%
%   Example:
%      lms = round(1000 + 100 * rand(2, 4, 64, 64));
%      sr = lms + 5;
%      ms = lms(:, :, 3:4:end, 3:4:end);
%      pan = mean(lms, 2);
%      file = [tempname, '.mat'];
%      save(file, 'sr', 'lms', 'ms', 'pan', '-v7');
%      res = analysis_unref_batched_images(file, 4, 'QB')
%
%   See also ANALYSIS_UNREF_UNBATCHED_IMAGES, ANALYSIS_REF_BATCHED_IMAGES, FULL_RESOLUTION.

usage = 'analysis_unref_batched_images(file, ratio, sensor)';
check_call(nargin, 3, usage);
options = script_options(varargin, usage);
file = target_path(file);
restore = enter_package(); %#ok<NASGU>
measure = @(x, list) full_resolution(x.sr, x.ms, x.lms, x.pan, ratio, sensor, options.const, list{:});
[res, samples] = score_batch(file, {'sr', 'ms', 'pan', 'lms'}, measure, options, ratio, sensor);
end
