function [res, samples] = analysis_ref_unbatched_images(folder, ratio, full_res, varargin)
%ANALYSIS_REF_UNBATCHED_IMAGES  Reduced-resolution indices of a folder with one .mat per image.
%
%   res = analysis_ref_unbatched_images(folder, ratio, full_res, const)
%   [res, samples] = analysis_ref_unbatched_images(folder, ratio, full_res, const, 'save', 'scores.csv', ...)
%   res = analysis_ref_unbatched_images(folder, ratio, sensor, flag_cut_bounds, printout)   % the published order
%
%   folder    holds output_mulExm_<i>.mat, each with sr and gt, both H x W x C; taken in the order of i
%   sensor    in the published order: its largest value is const ('WV3': 2047), a note says so
%   flag_cut_bounds  0; a border is cut by 'cut', N; printout 0 prints no line per sample
%   The other arguments and options, the printed lines, res and samples are those of analysis_ref_batched_images;
%   'mask' names a variable H x W, and the number printed is i.
%
%   Example:
%      folder = tempname;
%      mkdir(folder);
%      sr = round(1000 + 100 * rand(64, 64, 4));
%      gt = sr + 5;
%      save(fullfile(folder, 'output_mulExm_0.mat'), 'sr', 'gt', '-v7');
%      res = analysis_ref_unbatched_images(folder, 4, 0, 2047)
%
%   See also ANALYSIS_REF_BATCHED_IMAGES, ANALYSIS_UNREF_UNBATCHED_IMAGES, REDUCED_RESOLUTION.

usage = 'analysis_ref_unbatched_images(folder, ratio, full_res, const)';
published = nargin >= 3 && is_text(full_res);
check_call(nargin, 4 - published, usage);
if published
    usage = 'analysis_ref_unbatched_images(folder, ratio, sensor)';
    options = script_options(published_order(varargin, usage), usage);
    if isempty(options.const)
        options.const = char(full_res);
    end
else
    check_full_res(full_res, usage);
    options = script_options(varargin, usage);
end
folder = target_path(folder);
restore = enter_package(); %#ok<NASGU>
measure = @(x, list) reduced_resolution(x.sr, x.gt, ratio, options.const, list{:});
[res, samples] = score_folder(folder, {'sr', 'gt'}, measure, options);
end
