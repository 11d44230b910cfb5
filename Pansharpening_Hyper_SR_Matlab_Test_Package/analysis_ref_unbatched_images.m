function res = analysis_ref_unbatched_images(folder, ratio, full_res, varargin)
%ANALYSIS_REF_UNBATCHED_IMAGES  Reduced-resolution indices of a folder with one .mat per image.
%
%   res = analysis_ref_unbatched_images(folder, ratio, full_res, const)
%   res = analysis_ref_unbatched_images(folder, ratio, full_res, const, 'published')
%
%   folder    holds output_mulExm_<i>.mat, each with sr and gt, both H x W x C; taken in the order of i
%   The other arguments, the printed lines and res are those of analysis_ref_batched_images; the number
%   printed is i.

if nargin < 4
    error('lemamba:arguments', ['expected analysis_ref_unbatched_images(folder, ratio, full_res, const), ' ...
        'given %d arguments; give them all'], nargin);
end
[folder, restore] = enter_package(folder); %#ok<ASGLU>
[const, published] = trailing_options(varargin);
[files, numbers] = list_samples(folder);
read = @(k) read_mat(files{k}, {'sr', 'gt'});
measure = @(x) reduced_resolution(x.sr, x.gt, ratio, const, published);
res = score_samples(numbers, read, measure);
end
