function [values, notes] = full_resolution(sr, ms, lms, pan, ratio, sensor, const, varargin)
%FULL_RESOLUTION  The five indices without reference of one fused image.
%
%   values = full_resolution(sr, ms, lms, pan, ratio, sensor)
%   [values, notes] = full_resolution(sr, ms, lms, pan, ratio, sensor, const, 'cut', 32, 'indices', 'all', ...)
%
%   sr, lms  fused image and enlarged MS, H x W x C, H and W multiples of 32; any numeric class
%   ms       MS image, h x w x C, H = ratio h
%   pan      H x W
%   ratio    a power of two (with 'published' 2 or 4)
%   sensor   name for the MTF gains: 'WV3', 'QuickBird', ...; 'none' for any number of bands
%   const    largest value of the data; [] or left out = 1 where max(lms) <= 1; one that does not fit is an error
%   Options, in any order:
%   'cut', N          leaves a border of N pixels out, N a multiple of the ratio; what is left must be a multiple of 32
%   'mask', mask      H x W, true where a pixel is valid; only blocks of valid pixels count
%   'nodata', V       pixels of lms or pan whose bands all are V are not valid
%   'block', N        side of the blocks of all indices, 32; H and W must be multiples of it
%   'indices', 'all'  adds d_rho, r_sam (degrees), r_ergas and r_q2n (NaN where ms is smaller than a block)
%   'published'       the published behaviour where this package corrects a defect
%   values  struct: d_lambda (D_lambda_K), d_s, qnr_index (HQNR), d_lambda_qnr, qnr
%   notes   cell array of text for the user
%
%   Example:
%      pan = round(200 * peaks(64) + 1500);
%      lms = repmat(pan, 1, 1, 4) + round(20 * rand(64, 64, 4));
%      full_resolution(lms, lms(3:4:end, 3:4:end, :), lms, pan, 4, 'QB')
%
%   See also REDUCED_RESOLUTION, D_LAMBDA_K, D_S, D_LAMBDA, D_RHO, R_Q2N, ANALYSIS_UNREF_BATCHED_IMAGES.

check_arguments(nargin, 6, 'full_resolution(sr, ms, lms, pan, ratio, sensor)');
if nargin < 7
    const = [];
end
allowed = {'published', 'mask', 'nodata', 'cut', 'block', 'indices'};
options = index_options(varargin, allowed, 'full_resolution');
side = default_to(options.block, 32);
ratio = check_shapes(sr, ms, lms, pan, ratio, options.cut);
if options.published && ratio > 4
    error('lemamba:ratio', ['expected ratio 2 or 4 with ''published'', given %g: the published interpolation ' ...
        'enlarges by 2^(ratio/2); leave ''published'' out'], ratio);
end
full_mask = crop_border(valid_pixels(options, lms, pan), options.cut);
sr = check_image(blank(crop_border(sr, options.cut), full_mask), 'sr');
lms = check_image(blank(crop_border(lms, options.cut), full_mask), 'lms');
pan = check_image(blank(crop_border(pan, options.cut), full_mask), 'pan');
ms = crop_border(ms, options.cut / ratio);
check_whole_blocks(sr, side);
if ~isempty(const)
    const = check_const(const, 'lms', lms);
end
[gains, sensor_note] = sensor_gains(sensor, size(sr, 3), options.published);
[scale, scale_note] = uint16_scale(const, lms, options.published);
notes = {sensor_note, scale_note, flat_band_note(sr, full_mask, 'sr'), flat_band_note(lms, full_mask, 'lms')};
blocks = {options.published, 'mask', full_mask, 'block', side};
values.d_lambda = d_lambda_k(sr, lms, gains, ratio, scale, blocks{:});
values.d_s = d_s(sr, lms, pan, ratio, blocks{:});
values.qnr_index = (1 - values.d_lambda) * (1 - values.d_s);
values.d_lambda_qnr = d_lambda(sr, lms, blocks{:});
values.qnr = (1 - values.d_lambda_qnr) * (1 - values.d_s);
if options.extra
    values = add_extra(values, sr, ms, pan, ratio, gains, scale, blocks, full_mask);
else
    check_finite_ms(ms, full_mask);
end
end

function values = add_extra(values, sr, ms, pan, ratio, gains, scale, blocks, mask)
values.d_rho = d_rho(sr, pan, ratio, 'mask', mask);
values.r_sam = r_sam(sr, ms, gains, ratio, 'mask', mask);
values.r_ergas = r_ergas(sr, ms, gains, ratio, 'mask', mask);
values.r_q2n = NaN;
if min(size(ms, 1), size(ms, 2)) >= blocks{end}
    values.r_q2n = r_q2n(sr, ms, gains, ratio, scale, blocks{:});
end
end

function check_finite_ms(ms, mask)
if isempty(mask)
    check_image(ms, 'ms');
end
end

function ratio = check_shapes(sr, ms, lms, pan, ratio, cut)
ratio = check_power_of_two(ratio);
[height, width, bands] = size(sr);
if ~isequal(size(sr), size(lms)) || ~isequal(size(pan), [height, width]) || ...
        ~isequal([size(ms, 1), size(ms, 2), size(ms, 3)], [height / ratio, width / ratio, bands])
    error('lemamba:shape', ['expected sr and lms H x W x C, pan H x W, ms H/%g x W/%g x C, given sr %s, ' ...
        'lms %s, pan %s, ms %s; check the file and the ratio'], ratio, ratio, mat2str(size(sr)), ...
        mat2str(size(lms)), mat2str(size(pan)), mat2str(size(ms)));
end
if mod(cut, ratio)
    error('lemamba:arguments', 'expected a border to cut that is a multiple of the ratio %g, given %d; correct it', ...
        ratio, cut);
end
end
