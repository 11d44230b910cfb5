function res = score_full(numbers, read, ratio, sensor, const, published)
%SCORE_FULL  Print a line per sample and return mean and std of the full-resolution indices.
%
%   numbers(k) is printed for the k-th sample; read(k) gives its struct with sr, ms, lms and pan.

if ~(ischar(sensor) || isa(sensor, 'string'))
    error('lemamba:arguments', 'expected the name of a sensor as text (''WV3'', ''none''), given a %s', class(sensor));
end
scaled = false;
for k = numel(numbers):-1:1  % backwards only to have the struct array at full size at once
    values(k) = struct('d_lambda', 0, 'd_s', 0, 'qnr_index', 0, 'd_lambda_qnr', 0, 'qnr', 0);
end
for k = 1:numel(numbers)
    images = read(k);
    if k == 1
        [~, note] = sensor_gains(sensor, size(images.sr, 3), published);
        fprintf('%s', note);
    end
    if ~scaled && ~published && uint16_scale(const, images.lms) > 1
        print_scale_note();
        scaled = true;
    end
    v = full_resolution(images.sr, images.ms, images.lms, images.pan, ratio, sensor, const, published);
    fprintf('sample %d - d_lambda: %f, qnr_index: %f, d_s: %f\n', numbers(k), v.d_lambda, v.qnr_index, v.d_s);
    values(k) = v;
end
res = summarise(values);
end
