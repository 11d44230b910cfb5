function tests = test_indices()
%TEST_INDICES  Function-based tests of the single indices: values by hand, by plain loops, and properties.
%
%   Example:
%      run_tests
%
%   See also RUN_TESTS, TEST_SCRIPTS.

tests = functiontests(localfunctions);
end

function [sr, gt] = pair(side, bands)
% A smooth reference in digital numbers and a fused image with an error of a few percent; the same every time.
[x, y] = meshgrid(1:side, 1:side);
gt = zeros(side, side, bands);
for b = 1:bands
    gt(:, :, b) = round(900 + 300 * sin(x / (2 + b)) + 200 * cos(b * y / 5) + 60 * b);
end
sr = gt + round(40 * sin(gt / 7));
end

function test_sam_by_hand(testCase)
x = reshape([3 4], 1, 1, 2);
y = reshape([4 3], 1, 1, 2);
verifyEqual(testCase, sam(x, y), acos(24 / 25) * 180 / pi, 'RelTol', 1e-12);
verifyEqual(testCase, sam(5 * x, x), 0, 'AbsTol', 1e-5);
verifyTrue(testCase, isnan(sam(0 * x, y)));
end

function test_ergas_rmse_rase_by_hand(testCase)
gt = cat(3, 100 * ones(8), 200 * ones(8));
sr = gt + cat(3, 10 * ones(8), 40 * ones(8));
verifyEqual(testCase, ergas(sr, gt, 4), 25 * sqrt((0.01 + 0.04) / 2), 'RelTol', 1e-12);
verifyEqual(testCase, rmse(sr, gt), sqrt((100 + 1600) / 2), 'RelTol', 1e-12);
verifyEqual(testCase, dd(sr, gt), 25, 'RelTol', 1e-12);
verifyEqual(testCase, rase(sr, gt), 100 / 150 * sqrt((100 + 1600) / 2), 'RelTol', 1e-12);
end

function test_psnr_by_hand(testCase)
gt = cat(3, 100 * ones(8), 100 * ones(8));
sr = gt + cat(3, 10 * ones(8), ones(8));
verifyEqual(testCase, psnr(sr, gt, 100), (20 + 40) / 2, 'RelTol', 1e-12);
verifyEqual(testCase, psnr_cube(sr, gt, 100), -10 * log10((0.01 + 0.0001) / 2), 'RelTol', 1e-12);
verifyEqual(testCase, psnr(gt, gt, 100), Inf);
end

function test_cc_is_the_mean_of_corrcoef(testCase)
[sr, gt] = pair(20, 3);
expected = zeros(1, 3);
for b = 1:3
    r = corrcoef(reshape(sr(:, :, b), [], 1), reshape(gt(:, :, b), [], 1));
    expected(b) = r(1, 2);
end
verifyEqual(testCase, cc(sr, gt), mean(expected), 'RelTol', 1e-12);
verifyEqual(testCase, cc(7 - 2 * gt, gt), -1, 'RelTol', 1e-12);
sr(:, :, 2) = 5;
verifyTrue(testCase, isnan(cc(sr, gt)));
end

function test_sid_by_loops(testCase)
[sr, gt] = pair(9, 4);
total = 0;
for i = 1:9
    for j = 1:9
        p = squeeze(sr(i, j, :)) / sum(sr(i, j, :));
        q = squeeze(gt(i, j, :)) / sum(gt(i, j, :));
        total = total + sum(p .* log(p ./ q)) + sum(q .* log(q ./ p));  % without the 2^-52 of empty bands
    end
end
verifyEqual(testCase, sid(sr, gt), total / 81, 'RelTol', 1e-10);
verifyTrue(testCase, isnan(sid(0 * sr, gt)));
end

function test_universal_quality_of_a_doubled_image(testCase)
% 4 Cxy mx my / ((Cxx + Cyy)(mx^2 + my^2)) with x = 2 y is 16/25 in every window.
[~, gt] = pair(40, 2);
verifyEqual(testCase, qave(2 * gt, gt), 16 / 25, 'RelTol', 1e-9);
verifyEqual(testCase, uiqi(2 * gt, gt), 16 / 25, 'RelTol', 1e-9);
verifyEqual(testCase, uiqi(gt + 1, gt, 'block', 32), qave(gt + 1, gt), 'RelTol', 1e-12);
verifyEqual(testCase, uiqi(gt, gt, 'block', 5), 1, 'RelTol', 1e-9);
end

function test_equal_images_are_perfect(testCase)
[~, gt] = pair(40, 4);
verifyEqual(testCase, [scc(gt, gt), q2n(gt, gt, 1), qave(gt, gt), ssim(gt, gt, 2047)], ones(1, 4), 'RelTol', 1e-9);
verifyEqual(testCase, [rmse(gt, gt), sid(gt, gt), rase(gt, gt), d_lambda(gt(1:32, 1:32, :), gt(1:32, 1:32, :))], ...
    zeros(1, 4), 'AbsTol', 1e-12);
end

function test_d_rho_by_loops(testCase)
[sr, gt] = pair(12, 2);
pan = mean(gt, 3);
total = 0;
for b = 1:2
    for i = 1:9
        for j = 1:9
            r = corrcoef(reshape(sr(i:i + 3, j:j + 3, b), [], 1), reshape(pan(i:i + 3, j:j + 3), [], 1));
            total = total + 1 - r(1, 2);
        end
    end
end
verifyEqual(testCase, d_rho(sr, pan, 4), total / (2 * 81), 'RelTol', 1e-9);
verifyEqual(testCase, d_rho(3 * pan + 1, pan, 4), 0, 'AbsTol', 1e-9);
verifyEqual(testCase, d_rho(1000 - pan, pan, 4), 2, 'AbsTol', 1e-9);
verifyEqual(testCase, d_rho(5 * ones(12), pan, 4), 1, 'AbsTol', 1e-12);
verifyEqual(testCase, d_rho(5 * ones(12), 7 * ones(12), 4), 0, 'AbsTol', 1e-12);
end

function test_d_sr_by_hand(testCase)
[~, gt] = pair(32, 3);
pan = 2 * gt(:, :, 1) - gt(:, :, 3);
verifyEqual(testCase, d_sr(gt, pan), 0, 'AbsTol', 1e-12);
verifyEqual(testCase, d_sr(cat(3, gt, gt), pan), 0, 'AbsTol', 1e-12);  % bands that depend on each other
x = [1; 2; 3; 6];
p = [2; 1; 5; 4];
left = p - x * (x' * p) / (x' * x);
expected = sum((left - mean(left)).^2) / sum((p - mean(p)).^2);
verifyEqual(testCase, d_sr(reshape(x, 2, 2), reshape(p, 2, 2)), expected, 'RelTol', 1e-12);
end

function test_d_lambda_ms_of_repeated_pixels_is_about_0(testCase)
% Repeating pixels changes Q only by n - 1 in the place of n, and that cancels.
[~, ms] = pair(16, 3);
sr = zeros(64, 64, 3);
for b = 1:3
    sr(:, :, b) = kron(ms(:, :, b), ones(4));
end
verifyEqual(testCase, d_lambda_ms(sr, ms, 4), 0, 'AbsTol', 1e-12);
end

function test_reprojection_keeps_the_angle_of_a_scaled_scene(testCase)
% With one gain for all bands the filter treats them alike, so bands in a fixed proportion keep it.
[~, gt] = pair(64, 1);
weights = reshape([1 2 3 4], 1, 1, 4);
ms = gt(3:4:end, 3:4:end);
verifyEqual(testCase, r_sam(gt .* weights, ms .* weights, 'WV4', 4), 0, 'AbsTol', 1e-5);
end

function test_integers_and_single_are_computed_in_double(testCase)
[sr, gt] = pair(64, 4);
sr = sr + 100;
sr(1:10, 1:10, :) = 0;  % differences below 0, at which integers saturate
pan = round(mean(gt, 3));
ms = gt(3:4:end, 3:4:end, :);
for convert = {@uint16, @int32, @single}
    c = convert{1};
    verifyEqual(testCase, psnr(c(sr), c(gt), 2047), psnr(sr, gt, 2047));
    verifyEqual(testCase, ssim(c(sr), c(gt), 2047), ssim(sr, gt, 2047));
    verifyEqual(testCase, psnr_cube(c(sr), c(gt), uint16(2047)), psnr_cube(sr, gt, 2047));
    for index = {@sam, @scc, @qave, @uiqi, @rmse, @cc, @rase, @sid, @dd, @d_lambda}
        verifyEqual(testCase, index{1}(c(sr), c(gt)), index{1}(sr, gt));
    end
    verifyEqual(testCase, ergas(c(sr), c(gt), uint8(4)), ergas(sr, gt, 4));
    verifyEqual(testCase, q2n(c(sr), c(gt), 1), q2n(sr, gt, 1));
    verifyEqual(testCase, d_s(c(sr), c(gt), c(pan), 4), d_s(sr, gt, pan, 4));
    verifyEqual(testCase, d_rho(c(sr), c(pan), 4), d_rho(sr, pan, 4));
    verifyEqual(testCase, d_lambda_k(c(sr), c(gt), 'QB', 4, 1), d_lambda_k(sr, gt, 'QB', 4, 1));
    verifyEqual(testCase, r_ergas(c(sr), c(ms), 'QB', 4), r_ergas(sr, ms, 'QB', 4));
end
end

function test_a_mask_of_one_half_is_a_crop(testCase)
[sr, gt] = pair(64, 4);
mask = true(64, 64);
mask(33:end, :) = false;
crop = @(x) x(1:32, :, :);
for index = {@sam, @rmse, @cc, @rase, @sid, @dd, @qave, @uiqi}
    verifyEqual(testCase, index{1}(sr, gt, 'mask', mask), index{1}(crop(sr), crop(gt)), 'RelTol', 1e-9);
end
verifyEqual(testCase, psnr(sr, gt, 2047, 'mask', mask), psnr(crop(sr), crop(gt), 2047), 'RelTol', 1e-9);
verifyEqual(testCase, ssim(sr, gt, 2047, 'mask', mask), ssim(crop(sr), crop(gt), 2047), 'RelTol', 1e-9);
verifyEqual(testCase, ergas(sr, gt, 4, 'mask', mask), ergas(crop(sr), crop(gt), 4), 'RelTol', 1e-9);
verifyEqual(testCase, q2n(sr, gt, 1, 'mask', mask), q2n(crop(sr), crop(gt), 1), 'RelTol', 1e-9);
verifyEqual(testCase, d_lambda(sr, gt, 'mask', mask), d_lambda(crop(sr), crop(gt)), 'RelTol', 1e-9);
end

function test_pixels_outside_the_mask_have_no_effect(testCase)
[sr, gt] = pair(64, 4);
mask = true(64, 64);
mask(40:50, 40:50) = false;
broken = sr;
broken(repmat(~mask, 1, 1, 4)) = NaN;
expected = reduced_resolution(sr, gt, 4, 2047, 'mask', mask, 'indices', 'all');
given = reduced_resolution(broken, gt, 4, 2047, 'mask', mask, 'indices', 'all');
verifyEqual(testCase, given, expected);
end

function test_cut_is_a_crop(testCase)
[sr, gt] = pair(96, 4);
crop = @(x) x(21:end - 21, 21:end - 21, :);  % as DLPan-Toolbox writes it
verifyEqual(testCase, reduced_resolution(sr, gt, 4, 2047, 'cut', 21), ...
    reduced_resolution(crop(sr), crop(gt), 4, 2047));
end

function test_nodata_is_a_mask(testCase)
[sr, gt] = pair(64, 4);
gt(1:5, 1:7, :) = -9999;
mask = true(64, 64);
mask(1:5, 1:7) = false;
verifyEqual(testCase, reduced_resolution(sr, gt, 4, 2047, 'nodata', -9999), ...
    reduced_resolution(sr, gt, 4, 2047, 'mask', mask));
end

function test_the_side_of_blocks(testCase)
[sr, gt] = pair(64, 4);
crop = @(x, i, j) x(16 * i + (1:16), 16 * j + (1:16), :);
total = 0;
for i = 0:3
    for j = 0:3
        total = total + q2n(crop(sr, i, j), crop(gt, i, j), 1, 'block', 16) / 16;
    end
end
verifyEqual(testCase, q2n(sr, gt, 1, 'block', 16), total, 'RelTol', 1e-9);
end

function test_a_peak_that_does_not_fit_is_refused(testCase)
[sr, gt] = pair(40, 4);
for const = {1, 255}
    verifyError(testCase, @() psnr(sr, gt, const{1}), 'lemamba:const');
    verifyError(testCase, @() psnr_cube(sr, gt, const{1}), 'lemamba:const');
    verifyError(testCase, @() ssim(sr, gt, const{1}), 'lemamba:const');
    verifyError(testCase, @() reduced_resolution(sr, gt, 4, const{1}), 'lemamba:const');
end
unit = gt / 2047;
verifyError(testCase, @() psnr(unit, unit, 2047), 'lemamba:const');
verifyError(testCase, @() q2n(unit, unit, 1), 'lemamba:const');
verifyError(testCase, @() q2n(sr, gt, 65535), 'lemamba:const');
verifyTrue(testCase, isfinite(psnr(sr / 2047, unit, 1)));
end

function test_wrong_arguments_are_one_line(testCase)
[sr, gt] = pair(40, 4);
verifyError(testCase, @() q2n(sr, gt), 'lemamba:arguments');
verifyError(testCase, @() psnr(sr, gt), 'lemamba:arguments');
verifyError(testCase, @() ssim(sr, gt), 'lemamba:arguments');
verifyError(testCase, @() ergas(sr, gt), 'lemamba:arguments');
verifyError(testCase, @() ergas(sr, gt, '4'), 'lemamba:ratio');
verifyError(testCase, @() psnr(sr, gt, '2047'), 'lemamba:arguments');
verifyError(testCase, @() sam(sr, gt, 'blok', 3), 'lemamba:arguments');
verifyError(testCase, @() sam(sr, gt, 'mask'), 'lemamba:arguments');
verifyError(testCase, @() sam(sr, gt, 'mask', true(3)), 'lemamba:mask');
verifyError(testCase, @() sam(sr + 1i, gt), 'lemamba:shape');
verifyError(testCase, @() sam({sr}, {gt}), 'lemamba:shape');
verifyError(testCase, @() sam(struct('a', sr), struct('a', gt)), 'lemamba:shape');
verifyError(testCase, @() sam(sr(1:9, :, :), gt), 'lemamba:shape');
verifyError(testCase, @() sam(sr * NaN, gt), 'lemamba:notFinite');
verifyError(testCase, @() ssim(sr(1:9, 1:9), gt(1:9, 1:9), 2047), 'lemamba:tooSmall');
verifyError(testCase, @() d_lambda(sr, gt), 'lemamba:size');
verifyError(testCase, @() d_rho(sr, gt, 4), 'lemamba:shape');
verifyError(testCase, @() r_sam(sr, gt, 'none', 4), 'lemamba:shape');
verifyError(testCase, @() d_lambda_k(sr, gt, 'nowhere', 4, 1), 'lemamba:sensor');
end

function test_a_constant_band_is_told(testCase)
[sr, gt] = pair(40, 4);
gt(:, :, 3) = 500;
[~, notes] = reduced_resolution(sr, gt, 4, 2047);
verifyTrue(testCase, any(cellfun(@(note) ~isempty(strfind(note, 'band 3 of gt is constant')), notes))); %#ok<STREMP>
end
