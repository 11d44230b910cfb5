function [values, notes] = reduced_resolution(sr, gt, ratio, const, published)
%REDUCED_RESOLUTION  The seven indices with reference of one fused image.
%
%   sr, gt     fused image and reference, H x W x C, values in [0, const]
%   ratio      resolution ratio (in ERGAS only)
%   published  true: Q2n rounds data in [0, 1] to a 0/1 image, as published
%   values     struct: sam (degrees), ergas, scc, qn, qave, psnr (dB), ssim
%   notes      cell array of text for the user

if isempty(const)
    error('lemamba:arguments', 'expected const, the largest value of the data (2047, 1023, 255, 1); give it');
end
sr = check_image(sr, 'sr');
gt = check_image(gt, 'gt');
if ~isequal(size(sr), size(gt))
    error('lemamba:shape', 'expected sr and gt of one size, given %s and %s; fuse to the size of gt', ...
        mat2str(size(sr)), mat2str(size(gt)));
end
if ~(isnumeric(ratio) && isscalar(ratio) && ratio > 0)
    error('lemamba:ratio', 'expected a positive ratio, given %s', num2str(ratio));
end
[scale, note] = uint16_scale(const, gt, published);
notes = {note};
values.sam = sam(sr, gt);
values.ergas = ergas(sr, gt, ratio);
values.scc = scc(sr, gt);
values.qn = q2n(sr, gt, scale);
values.qave = qave(sr, gt);
values.psnr = psnr(sr, gt, const);
values.ssim = ssim(sr, gt, const);
end
