function res = analysis_ref_batched_images(file, ratio, full_res, varargin)
%ANALYSIS_REF_BATCHED_IMAGES  Reduced-resolution indices of a batch of fused images.
%
%   res = analysis_ref_batched_images(file, ratio, full_res, const)
%   res = analysis_ref_batched_images(file, ratio, full_res, const, 'published')
%
%   file      .mat (v5 or v7.3) with sr and gt, both B x C x H x W, values in [0, const]
%   ratio     resolution ratio between PAN (or RGB) and MS
%   full_res  kept for compatibility with the published call; it changes nothing (no border is cut)
%   const     largest value of the data: 2047, 1023, 255, 1, ...
%   'published'  the published behaviour where this package corrects a defect (see README.md)
%
%   Prints one line per sample and returns res.<index> = [mean, std] for sam (degrees), ergas, scc, qn, qave,
%   psnr (dB) and ssim; std divides by n - 1 and is 0 for one sample. The path and the current folder are
%   left as found, also after an error.

if nargin < 4
    error('lemamba:arguments', ['expected analysis_ref_batched_images(file, ratio, full_res, const), ' ...
        'given %d arguments; give them all'], nargin);
end
[file, restore] = enter_package(file); %#ok<ASGLU>
[const, published] = trailing_options(varargin);
data = read_mat(file, {'sr', 'gt'});
count = batch_size(data, file);
read = @(k) batch_sample(data, k);
measure = @(x) reduced_resolution(x.sr, x.gt, ratio, const, published);
res = score_samples(1:count, read, measure);
end
