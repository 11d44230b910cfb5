function tests = test_scripts()
%TEST_SCRIPTS  Function-based tests of the four scripts: orders of arguments, options, tables, errors.
%
%   Example:
%      run_tests
%
%   See also RUN_TESTS, TEST_INDICES.

tests = functiontests(localfunctions);
end

function [folder, restore] = make_files()
% ref.mat and unref.mat with two samples, and the same samples in the folders one and one_full.
folder = tempname;
mkdir(folder);
mkdir(folder, 'one');
mkdir(folder, 'one_full');
restore = onCleanup(@() remove(folder));
[x, y] = meshgrid(1:64, 1:64);
gt = zeros(2, 4, 64, 64);
for k = 1:2
    for b = 1:4
        gt(k, b, :, :) = round(900 + 300 * sin(x / (2 + b)) + 200 * cos(k * y / 5) + 60 * b);
    end
end
sr = gt + round(40 * sin(gt / 7));
lms = gt;
ms = gt(:, :, 3:4:end, 3:4:end);
pan = round(mean(gt, 2));
valid = true(2, 1, 64, 64);
valid(:, :, 1:3, :) = false;
save(fullfile(folder, 'ref.mat'), 'sr', 'gt', 'valid', '-v7');
save(fullfile(folder, 'unref.mat'), 'sr', 'ms', 'lms', 'pan', '-v7');
all_images = struct('sr', sr, 'gt', gt, 'lms', lms, 'ms', ms, 'pan', pan);
for k = 1:2
    names = fieldnames(all_images)';
    one = struct();
    for n = 1:numel(names)
        one.(names{n}) = permute(all_images.(names{n})(k, :, :, :), [3 4 2 1]);
    end
    file = sprintf('output_mulExm_%d.mat', k - 1);
    save(fullfile(folder, 'one', file), '-struct', 'one', 'sr', 'gt', '-v7');
    save(fullfile(folder, 'one_full', file), '-struct', 'one', 'sr', 'lms', 'ms', 'pan', '-v7');
end
end

function remove(folder)
if exist('OCTAVE_VERSION', 'builtin')
    confirm_recursive_rmdir(false, 'local');
end
rmdir(folder, 's');
end

function test_the_published_calls_give_the_same(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
path = fullfile(folder, 'ref.mat');
ratio = 4;
full_res = 1;
const = 2047;
res = analysis_ref_batched_images(path, ratio, full_res, const);
for flag = {0, 1, true, false}
    verifyEqual(testCase, analysis_ref_batched_images(path, ratio, flag{1}, const), res);
end
one = fullfile(folder, 'one');
verifyEqual(testCase, analysis_ref_unbatched_images(one, ratio, full_res, const), res);
verifyEqual(testCase, analysis_ref_unbatched_images(one, ratio, 'wv3'), res);
verifyEqual(testCase, analysis_ref_unbatched_images(one, ratio, 'wv3', 0), res);
verifyEqual(testCase, analysis_ref_unbatched_images(one, ratio, 'wv3', 0, 1), res);
verifyEqual(testCase, analysis_ref_unbatched_images(one, ratio, 'wv3', 2047), res);
path = fullfile(folder, 'unref.mat');
sensor = 'QB';
res = analysis_unref_batched_images(path, ratio, sensor);
full = fullfile(folder, 'one_full');
verifyEqual(testCase, analysis_unref_unbatched_images(full, ratio, sensor), res);
verifyEqual(testCase, analysis_unref_unbatched_images(full, ratio, 'QuickBird', 0, 1), res);
verifyEqual(testCase, analysis_unref_unbatched_images(full, ratio, sensor, 2047), res);
end

function test_a_flag_of_1_is_never_const(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
one = fullfile(folder, 'one');
full = fullfile(folder, 'one_full');
verifyError(testCase, @() analysis_ref_unbatched_images(one, 4, 'wv3', 1), 'lemamba:arguments');
verifyError(testCase, @() analysis_ref_unbatched_images(one, 4, 'wv3', 1, 1), 'lemamba:arguments');
verifyError(testCase, @() analysis_unref_unbatched_images(full, 4, 'QB', 1), 'lemamba:arguments');
verifyError(testCase, @() analysis_unref_unbatched_images(full, 4, 'QB', true, 0), 'lemamba:arguments');
verifyError(testCase, @() analysis_unref_unbatched_images(full, 4, 'QB', 'const', 1), 'lemamba:const');
end

function test_wrong_orders_are_one_line(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
file = fullfile(folder, 'ref.mat');
verifyError(testCase, @() analysis_ref_batched_images(file, 4, 2047, 1), 'lemamba:arguments');
verifyError(testCase, @() analysis_ref_batched_images(file, 4, 1, 1), 'lemamba:const');
verifyError(testCase, @() analysis_ref_batched_images(file, 4, 'WV3', 2047), 'lemamba:arguments');
verifyError(testCase, @() analysis_ref_batched_images(file, '4', 0, 2047), 'lemamba:ratio');
verifyError(testCase, @() analysis_ref_batched_images(file, 4, 0, 2047, 1), 'lemamba:arguments');
verifyError(testCase, @() analysis_ref_batched_images(folder, 4, 0, 2047), 'lemamba:noFile');
verifyError(testCase, @() analysis_ref_unbatched_images(file, 4, 0, 2047), 'lemamba:noFile');
verifyError(testCase, @() analysis_ref_batched_images(), 'lemamba:arguments');
end

function test_mean_and_std_and_samples(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
[res, samples] = analysis_ref_batched_images(fullfile(folder, 'ref.mat'), 4, 0, 2047, 'indices', 'all');
names = fieldnames(res)';
verifyEqual(testCase, names, [{'sam', 'ergas', 'scc', 'qn', 'qave', 'psnr', 'ssim'}, ...
    {'rmse', 'cc', 'psnr_cube', 'uiqi', 'sid', 'dd', 'rase'}]);
for name = names
    column = [samples.(name{1})];
    verifyEqual(testCase, res.(name{1}), [mean(column), std(column)]);
end
end

function test_options_reach_the_images(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
file = fullfile(folder, 'ref.mat');
data = load(file);
mask = squeeze(data.valid(1, 1, :, :));
sr = permute(data.sr(1, :, :, :), [3 4 2 1]);
gt = permute(data.gt(1, :, :, :), [3 4 2 1]);
[~, samples] = analysis_ref_batched_images(file, 4, 0, 2047, 'mask', 'valid', 'cut', 2, 'block', 16);
verifyEqual(testCase, samples(1), reduced_resolution(sr, gt, 4, 2047, 'mask', mask, 'cut', 2, 'block', 16));
[~, again] = analysis_ref_batched_images(file, 4, 0, 'cut', 2, 'mask', mask, 2047, 'block', 16);
verifyEqual(testCase, again, samples);
end

function test_extra_indices_at_full_resolution(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
file = fullfile(folder, 'unref.mat');
res = analysis_unref_batched_images(file, 4, 'QB', 'block', 16, 'indices', 'all');
verifyEqual(testCase, fieldnames(res)', {'d_lambda', 'd_s', 'qnr_index', 'd_lambda_qnr', 'qnr', ...
    'd_rho', 'd_sr', 'rqnr', 'r_q2n', 'r_sam', 'r_ergas', 'd_lambda_ms'});
verifyTrue(testCase, all(isfinite(cellfun(@(v) v(1), struct2cell(res)))));
res = analysis_unref_batched_images(file, 4, 'QB', 'indices', 'all');
verifyTrue(testCase, isnan(res.r_q2n(1)));  % ms is smaller than a block
end

function test_cut_at_full_resolution_is_a_mask(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
file = fullfile(folder, 'unref.mat');
inside = false(64);
inside(5:59, 5:59) = true;
[~, cut] = analysis_unref_batched_images(file, 4, 'QB', 'block', 8, 'cut', 5, 'indices', 'all');
[~, masked] = analysis_unref_batched_images(file, 4, 'QB', 'block', 8, 'mask', inside, 'indices', 'all');
verifyTrue(testCase, abs(cut(1).d_s - masked(1).d_s) < 1e-2);  % the filters see the border in one of them only
verifyEqual(testCase, cut(1).d_lambda_qnr, masked(1).d_lambda_qnr, 'RelTol', 1e-9);
verifyEqual(testCase, cut(1).d_rho, masked(1).d_rho, 'RelTol', 1e-9);
verifyError(testCase, @() analysis_unref_batched_images(file, 4, 'QB', 'cut', 33), 'lemamba:tooSmall');
end

function test_the_table_is_saved_whole(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
table_name = fullfile(folder, 'scores.csv');
[res, samples] = analysis_ref_batched_images(fullfile(folder, 'ref.mat'), 4, 0, 2047, 'save', table_name);
lines = strsplit(strtrim(fileread(table_name)), '\n');
verifyEqual(testCase, lines{1}, 'sample,sam,ergas,scc,qn,qave,psnr,ssim');
verifyEqual(testCase, numel(lines), 5);
verifyEqual(testCase, sscanf(strrep(lines{3}, ',', ' '), '%f')', [2, values_of(samples(2))]);
verifyEqual(testCase, strncmp(lines{4}, 'mean,', 5) && strncmp(lines{5}, 'std,', 4), true);
verifyEqual(testCase, sscanf(strrep(lines{4}(6:end), ',', ' '), '%f')', cellfun(@(v) v(1), struct2cell(res))');
verifyEqual(testCase, exist([table_name, '.part'], 'file'), 0);
end

function values = values_of(s)
values = cell2mat(struct2cell(s))';
end

function test_where_a_table_cannot_go_is_told_before_the_work(testCase)
[folder, restore] = make_files(); %#ok<ASGLU>
file = fullfile(folder, 'ref.mat');
verifyError(testCase, @() analysis_ref_batched_images(file, 4, 0, 2047, 'save', 'scores.txt'), 'lemamba:arguments');
nowhere = fullfile(folder, 'nowhere', 'scores.csv');
verifyError(testCase, @() analysis_ref_batched_images(file, 4, 0, 2047, 'save', nowhere), 'lemamba:noFile');
end
