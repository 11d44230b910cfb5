function [values, notes] = full_resolution(sr, ms, lms, pan, ratio, sensor, const, varargin)
%FULL_RESOLUTION  The five indices without reference of one fused image.
%
%   values = full_resolution(sr, ms, lms, pan, ratio, sensor)
%   [values, notes] = full_resolution(sr, ms, lms, pan, ratio, sensor, const, 'cut', 32, 'indices', 'all', ...)
%
%   sr, lms  fused image and enlarged MS, H x W x C, H and W multiples of 32 and of the ratio
%   ms       MS image, h x w x C, H = ratio h
%   pan      H x W
%   ratio    a whole number: 2, 3, 4, 6, 8, ... (with 'published' 2 or 4)
%   sensor   name for the MTF gains: 'WV3', 'QuickBird', ...; 'none' for any number of bands
%   const    largest value of the data; [] or left out = 1 where max(lms) <= 1; one that does not fit is an error
%   Options, in any order:
%   'cut', N          blocks and windows that touch a border of N pixels do not count; filters see it
%   'mask', mask      H x W, true where a pixel is valid; only blocks of valid pixels count
%   'nodata', V       pixels of lms or pan whose bands all are V are not valid
%   'block', N        side of the blocks of all indices, 32; H and W must be multiples of it
%   'indices', 'all'  adds d_rho, d_sr, rqnr, r_q2n (NaN where ms is smaller than a block), r_sam (degrees),
%                     r_ergas and d_lambda_ms (NaN where a block of ms has fewer than 2 x 2 pixels)
%   'coregister', 1   r_q2n, r_sam and r_ergas sample each band of sr where that of ms fits pan best
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
allowed = {'published', 'mask', 'nodata', 'cut', 'block', 'indices', 'coregister'};
options = index_options(varargin, allowed, 'full_resolution');
side = default_to(options.block, 32);
options.coregister = check_coregister(options);
ratio = check_whole_ratio(ratio, options.published);
check_shapes(sr, ms, lms, pan, ratio);
mask = valid_pixels(options, lms, pan);
[sr, ms] = pair_of_sizes(sr, ms, ratio, mask, 0);
lms = check_image(blank(lms, mask), 'lms');
pan = check_image(blank(pan, mask), 'pan');
check_whole_blocks(sr, side);
if ~isempty(const)
    const = check_const(const, 'lms', lms);
end
[gains, sensor_note] = sensor_gains(sensor, size(sr, 3), options.published);
[scale, scale_note] = uint16_scale(const, lms, options.published);
notes = {sensor_note, scale_note, flat_band_note(sr, mask, 'sr'), flat_band_note(lms, mask, 'lms')};
border = {'mask', mask, 'cut', options.cut};
blocks = [{options.published}, border, {'block', side}];
values.d_lambda = d_lambda_k(sr, lms, gains, ratio, scale, blocks{:});
values.d_s = d_s(sr, lms, pan, ratio, blocks{:});
values.qnr_index = (1 - values.d_lambda) * (1 - values.d_s);
values.d_lambda_qnr = d_lambda(sr, lms, blocks{:});
values.qnr = (1 - values.d_lambda_qnr) * (1 - values.d_s);
if options.extra
    ms_scale = uint16_scale(const, ms, false);
    aligned = {};
    if options.coregister
        aligned = {'coregister', pan};
    end
    values = add_extra(values, sr, ms, pan, ratio, gains, ms_scale, border, side, options.published, aligned);
end
end

function values = add_extra(values, sr, ms, pan, ratio, gains, scale, border, side, published, aligned)
values.d_rho = d_rho(sr, pan, ratio, border{:});
values.d_sr = d_sr(sr, pan, border{:});
values.rqnr = (1 - values.d_lambda) * (1 - values.d_sr);
values.r_q2n = NaN;
inner = inner_cells(ms(:, :, 1), border{4}, ratio);
if min(size(inner)) >= side
    values.r_q2n = r_q2n(sr, ms, gains, ratio, scale, border{:}, 'block', side, aligned{:});
end
values.r_sam = r_sam(sr, ms, gains, ratio, border{:}, aligned{:});
values.r_ergas = r_ergas(sr, ms, gains, ratio, border{:}, aligned{:});
values.d_lambda_ms = NaN;
if mod(side, ratio) == 0 && side >= 2 * ratio
    values.d_lambda_ms = d_lambda_ms(sr, ms, ratio, published, border{:}, 'block', side);
end
end

function yes = check_coregister(options)
value = options.coregister;
if isempty(value)
    value = false;
end
if ~isscalar(value) || ~any(value == [0, 1])
    error('lemamba:arguments', 'expected 0 or 1 after ''coregister'', given an array or another number; correct it');
end
yes = value == 1;
if yes && ~options.extra
    error('lemamba:arguments', ['expected ''indices'', ''all'' with ''coregister'', 1: it changes none of the ' ...
        'published indices; add it']);
end
end

function check_shapes(sr, ms, lms, pan, ratio)
[height, width, bands] = size(sr);
if ~isequal(size(sr), size(lms)) || ~isequal(size(pan), [height, width]) || ...
        ~isequal([size(ms, 1), size(ms, 2), size(ms, 3)], [height / ratio, width / ratio, bands])
    error('lemamba:shape', ['expected sr and lms H x W x C, pan H x W, ms H/%g x W/%g x C, given sr %s, ' ...
        'lms %s, pan %s, ms %s; check the file and the ratio'], ratio, ratio, mat2str(size(sr)), ...
        mat2str(size(lms)), mat2str(size(pan)), mat2str(size(ms)));
end
end
