function [res, samples] = analysis_unref_unbatched_images(folder, ratio, sensor, varargin)
%ANALYSIS_UNREF_UNBATCHED_IMAGES  Full-resolution indices of a folder with one .mat per image.
%
%   res = analysis_unref_unbatched_images(folder, ratio, sensor)
%   [res, samples] = analysis_unref_unbatched_images(folder, ratio, sensor, const, 'save', 'scores.csv', ...)
%   res = analysis_unref_unbatched_images(folder, ratio, sensor, flag_cut_bounds, printout)   % the published order
%
%   folder    holds output_mulExm_<i>.mat, each with sr and lms (H x W x C), ms (h x w x C) and pan (H x W);
%             taken in the order of i
%   flag_cut_bounds  0; a border is cut by 'cut', N; printout 0 prints no line per sample
%   const     more than 1; 1 after the sensor may mean flag_cut_bounds and is refused: write 'const', 1
%   The other arguments and options, the printed lines, res and samples are those of analysis_unref_batched_images;
%   'mask' names a variable H x W, and the number printed is i.
%
%   Example:
%      folder = tempname;
%      mkdir(folder);
%      lms = round(1000 + 100 * rand(64, 64, 4));
%      sr = lms + 5;
%      ms = lms(3:4:end, 3:4:end, :);
%      pan = mean(lms, 3);
%      save(fullfile(folder, 'output_mulExm_0.mat'), 'sr', 'lms', 'ms', 'pan', '-v7');
%      res = analysis_unref_unbatched_images(folder, 4, 'QB')
%
%   See also ANALYSIS_UNREF_BATCHED_IMAGES, ANALYSIS_REF_UNBATCHED_IMAGES, FULL_RESOLUTION.

usage = 'analysis_unref_unbatched_images(folder, ratio, sensor)';
check_call(nargin, 3, usage);
options = script_options(published_order(varargin, usage), usage);
folder = target_path(folder);
restore = enter_package(); %#ok<NASGU>
measure = @(x, list) full_resolution(x.sr, x.ms, x.lms, x.pan, ratio, sensor, options.const, list{:});
[res, samples] = score_folder(folder, {'sr', 'ms', 'lms', 'pan'}, measure, options);
end
