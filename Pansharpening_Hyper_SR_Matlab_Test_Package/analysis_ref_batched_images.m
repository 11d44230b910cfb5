function [res, samples] = analysis_ref_batched_images(file, ratio, full_res, varargin)
%ANALYSIS_REF_BATCHED_IMAGES  Reduced-resolution indices of a batch of fused images.
%
%   res = analysis_ref_batched_images(file, ratio, full_res, const)
%   [res, samples] = analysis_ref_batched_images(file, ratio, full_res, const, 'save', 'scores.csv', ...)
%
%   file      .mat (v5 or v7.3) with sr and gt, both B x C x H x W, values in [0, const]
%   ratio     resolution ratio between PAN (or RGB) and MS
%   full_res  0 or 1, kept for compatibility with the published call; it changes nothing (no border is cut)
%   const     largest value of the data: 2047, 1023, 255, 1, ...; one that does not fit the data is an error
%   Options, in any order, before or after const:
%   'save', 'scores.csv'  writes every sample, the mean and the std
%   'cut', N              leaves a border out, x(N:end - N) (21 in DLPan-Toolbox, 30 in the published Demo1)
%   'mask', 'valid'       the variable `valid` of the file, B x 1 x H x W, is true where pixels count; an array
%                         H x W serves every sample
%   'nodata', V           pixels of gt whose bands all are V do not count
%   'block', N            side of the blocks of Q2n and of the windows of Q, 32
%   'indices', 'all'      adds rmse, cc, psnr_cube, uiqi, sid, dd and rase to res
%   'printout', 0         no line per sample
%   'published'           the published behaviour where this package corrects a defect (see README.md)
%
%   Prints one line per sample and one for the means. res.<index> = [mean, std] for sam (degrees), ergas, scc, qn,
%   qave, psnr (dB) and ssim; std divides by n - 1 and is 0 for one sample. samples(k).<index> is the k-th sample.
%   The path and the current folder are left as found, also after an error.
%
%   Example:
%      sr = round(1000 + 100 * rand(2, 4, 64, 64));
%      gt = sr + 5;
%      file = [tempname, '.mat'];
%      save(file, 'sr', 'gt', '-v7');
%      res = analysis_ref_batched_images(file, 4, 0, 2047)
%
%   See also ANALYSIS_REF_UNBATCHED_IMAGES, ANALYSIS_UNREF_BATCHED_IMAGES, REDUCED_RESOLUTION.

usage = 'analysis_ref_batched_images(file, ratio, full_res, const)';
check_call(nargin, 4, usage);
check_full_res(full_res, usage);
options = script_options(varargin, usage);
file = target_path(file);
restore = enter_package(); %#ok<NASGU>
measure = @(x, list) reduced_resolution(x.sr, x.gt, ratio, options.const, list{:});
[res, samples] = score_batch(file, {'sr', 'gt'}, measure, options, ratio, '');
end
