function res = analysis_unref_unbatched_images(folder, ratio, sensor, varargin)
%ANALYSIS_UNREF_UNBATCHED_IMAGES  Full-resolution indices of a folder with one .mat per image.
%
%   res = analysis_unref_unbatched_images(folder, ratio, sensor)
%   res = analysis_unref_unbatched_images(folder, ratio, sensor, const, 'published')   % both optional, any order
%
%   folder    holds output_mulExm_<i>.mat, each with sr and lms (H x W x C), ms (h x w x C) and pan (H x W);
%             taken in the order of i
%   The other arguments, the printed lines and res are those of analysis_unref_batched_images; the number
%   printed is i.

if nargin < 3
    error('lemamba:arguments', ['expected analysis_unref_unbatched_images(folder, ratio, sensor), ' ...
        'given %d arguments; give them all'], nargin);
end
[folder, restore] = enter_package(folder); %#ok<ASGLU>
[const, published] = trailing_options(varargin);
[files, numbers] = list_samples(folder);
read = @(k) read_mat(files{k}, {'sr', 'ms', 'lms', 'pan'});
measure = @(x) full_resolution(x.sr, x.ms, x.lms, x.pan, ratio, sensor, const, published);
res = score_samples(numbers, read, measure);
end
