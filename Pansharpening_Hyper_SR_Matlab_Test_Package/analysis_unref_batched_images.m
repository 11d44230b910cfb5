function res = analysis_unref_batched_images(file, ratio, sensor, varargin)
%ANALYSIS_UNREF_BATCHED_IMAGES  Full-resolution indices (no reference) of a batch of fused images.
%
%   res = analysis_unref_batched_images(file, ratio, sensor)
%   res = analysis_unref_batched_images(file, ratio, sensor, const, 'published')   % both optional, any order
%
%   file      .mat (v5 or v7.3) with sr and lms (B x C x H x W), ms (B x C x h x w), pan (B x 1 x H x W);
%             H and W multiples of 32, H = ratio h
%   ratio     a power of two
%   sensor    'WV3' 'WV2' 'QB' 'IKONOS' 'GeoEye1' 'WV4' or another name of Tools/sensor_table.m; 'GF2', 'CAVE',
%             'Harvard' and 'none' take the generic gain 0.3 and any number of bands
%   const     largest value of the data; left out, 1 is assumed where max(lms) <= 1
%   'published'  the published behaviour where this package corrects a defect (see README.md)
%
%   Prints one line per sample and returns res.<index> = [mean, std] for d_lambda (D_lambda_K), d_s, qnr_index
%   (HQNR = (1 - D_lambda_K)(1 - D_s)), d_lambda_qnr and qnr (the older pair); std divides by n - 1 and is 0
%   for one sample. The path and the current folder are left as found, also after an error.

if nargin < 3
    error('lemamba:arguments', ['expected analysis_unref_batched_images(file, ratio, sensor), ' ...
        'given %d arguments; give them all'], nargin);
end
[file, restore] = enter_package(file); %#ok<ASGLU>
[const, published] = trailing_options(varargin);
data = read_mat(file, {'sr', 'ms', 'lms', 'pan'});
count = batch_size(data, file);
read = @(k) batch_sample(data, k);
measure = @(x) full_resolution(x.sr, x.ms, x.lms, x.pan, ratio, sensor, const, published);
res = score_samples(1:count, read, measure);
end
