function [values, notes] = full_resolution(sr, ms, lms, pan, ratio, sensor, const, published)
%FULL_RESOLUTION  The five indices without reference of one fused image.
%
%   sr, lms    fused image and enlarged MS, H x W x C, H and W multiples of 32
%   ms         MS image, h x w x C, H = ratio h
%   pan        H x W
%   ratio      a power of two (published = true: 2 or 4)
%   sensor     name for the MTF gains, see sensor_gains
%   const      largest value of the data; [] = 1 where max(lms) <= 1
%   published  true: the published behaviour where this package corrects a defect
%   values     struct: d_lambda (D_lambda_K), d_s, qnr_index (HQNR), d_lambda_qnr, qnr
%   notes      cell array of text for the user

sr = check_image(sr, 'sr');
ms = check_image(ms, 'ms');
lms = check_image(lms, 'lms');
pan = check_image(pan, 'pan');
check_shapes(sr, ms, lms, pan, ratio);
if published && ratio > 4
    error('lemamba:ratio', ['expected ratio 2 or 4 with ''published'', given %g: the published interpolation ' ...
        'enlarges by 2^(ratio/2); leave ''published'' out'], ratio);
end
[gains, sensor_note] = sensor_gains(sensor, size(sr, 3), published);
[scale, scale_note] = uint16_scale(const, lms, published);
notes = {sensor_note, scale_note};
values.d_lambda = d_lambda_k(sr, lms, gains, ratio, scale);
values.d_s = d_s(sr, lms, pan, ratio, published);
values.qnr_index = (1 - values.d_lambda) * (1 - values.d_s);
values.d_lambda_qnr = d_lambda(sr, lms, published);
values.qnr = (1 - values.d_lambda_qnr) * (1 - values.d_s);
end

function check_shapes(sr, ms, lms, pan, ratio)
check_power_of_two(ratio);
[height, width, bands] = size(sr);
if ~isequal(size(sr), size(lms)) || ~isequal(size(pan), [height, width]) || ...
        ~isequal([size(ms, 1), size(ms, 2), size(ms, 3)], [height / ratio, width / ratio, bands])
    error('lemamba:shape', ['expected sr and lms H x W x C, pan H x W, ms H/%g x W/%g x C, given sr %s, ' ...
        'lms %s, pan %s, ms %s; check the file and the ratio'], ratio, ratio, mat2str(size(sr)), ...
        mat2str(size(lms)), mat2str(size(pan)), mat2str(size(ms)));
end
if mod(height, 32) || mod(width, 32)
    error('lemamba:size', ['expected height and width that are multiples of 32 at full resolution, given ' ...
        '%d x %d; crop the images'], height, width);
end
end
