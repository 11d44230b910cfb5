function [values, notes] = reduced_resolution(sr, gt, ratio, const, varargin)
%REDUCED_RESOLUTION  The seven indices with reference of one fused image.
%
%   values = reduced_resolution(sr, gt, ratio, const)
%   [values, notes] = reduced_resolution(sr, gt, ratio, const, 'cut', 21, 'mask', mask, 'indices', 'all', ...)
%
%   sr, gt  fused image and reference, H x W x C, values in [0, const], any numeric class
%   ratio   size of PAN by that of MS (in ERGAS only)
%   const   largest value that the data can have: 2047, 1023, 255, 1, ..., or the name of a sensor that has one
%           ('WV3'); one that does not fit is an error
%   Options, in any order:
%   'cut', N          leaves a border out, x(N:end - N), as DLPan-Toolbox (21) and the published Demo1 (30) do
%   'mask', mask      H x W, true where a pixel is valid
%   'nodata', V       pixels of gt whose bands all are V are not valid
%   'block', N        side of the blocks of Q2n and of the windows of Q, 32
%   'indices', 'all'  adds rmse, cc, psnr_cube (dB), uiqi, sid, dd and rase (percent)
%   'published'       Q2n rounds data in [0, 1] to a 0/1 image, as published
%   values  struct: sam (degrees), ergas, scc, qn, qave, psnr (dB), ssim
%   notes   cell array of text for the user
%
%   Example:
%      gt = round(200 * repmat(peaks(64), 1, 1, 4) + 1500);
%      reduced_resolution(gt + 20 * rand(size(gt)), gt, 4, 2900)
%
%   See also FULL_RESOLUTION, SAM, ERGAS, SCC, Q2N, QAVE, PSNR, SSIM, ANALYSIS_REF_BATCHED_IMAGES.

check_arguments(nargin, 4, 'reduced_resolution(sr, gt, ratio, const)');
allowed = {'published', 'mask', 'nodata', 'cut', 'block', 'indices'};
options = index_options(varargin, allowed, 'reduced_resolution');
ratio = check_ratio(ratio);
if ~isequal(size(sr), size(gt))
    error('lemamba:shape', 'expected sr and gt of one size, given %s and %s; fuse to the size of gt', ...
        mat2str(size(sr)), mat2str(size(gt)));
end
mask = crop_border(valid_pixels(options, gt), options.cut);
sr = check_image(blank(crop_border(sr, options.cut), mask), 'sr');
gt = check_image(blank(crop_border(gt, options.cut), mask), 'gt');
[const, const_note] = largest_value(const, gt);
[scale, scale_note] = uint16_scale(const, gt, options.published);
notes = {const_note, scale_note, flat_band_note(sr, mask, 'sr'), flat_band_note(gt, mask, 'gt')};
valid = {'mask', mask};
blocks = {'mask', mask, 'block', default_to(options.block, 32)};
values.sam = sam(sr, gt, valid{:});
values.ergas = ergas(sr, gt, ratio, valid{:});
values.scc = scc(sr, gt, valid{:});
values.qn = q2n(sr, gt, scale, options.published, blocks{:});
values.qave = qave(sr, gt, blocks{:});
values.psnr = psnr(sr, gt, const, valid{:});
values.ssim = ssim(sr, gt, const, valid{:});
if options.extra
    values.rmse = rmse(sr, gt, valid{:});
    values.cc = cc(sr, gt, valid{:});
    values.psnr_cube = psnr_cube(sr, gt, const, valid{:});
    values.uiqi = uiqi(sr, gt, valid{:});
    values.sid = sid(sr, gt, valid{:});
    values.dd = dd(sr, gt, valid{:});
    values.rase = rase(sr, gt, valid{:});
end
end
