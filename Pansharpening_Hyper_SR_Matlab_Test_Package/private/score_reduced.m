function res = score_reduced(numbers, read, ratio, const, published)
%SCORE_REDUCED  Print a line per sample and return mean and std of the reduced-resolution indices.
%
%   numbers(k) is printed for the k-th sample; read(k) gives its struct with sr and gt, H x W x C.

if isempty(const)
    error('lemamba:arguments', 'expected const, the largest value of the data (2047, 1023, 255, 1); give it');
end
if const <= 1 && ~published
    print_scale_note();
end
for k = numel(numbers):-1:1  % backwards only to have the struct array at full size at once
    values(k) = struct('sam', 0, 'ergas', 0, 'scc', 0, 'qn', 0, 'qave', 0, 'psnr', 0, 'ssim', 0);
end
for k = 1:numel(numbers)
    images = read(k);
    v = reduced_resolution(images.sr, images.gt, ratio, const, published);
    fprintf('sample %d - sam: %f, ergas: %f, scc: %f, qn: %f, q_ave: %f, psnr: %f, ssim: %f\n', ...
        numbers(k), v.sam, v.ergas, v.scc, v.qn, v.qave, v.psnr, v.ssim);
    values(k) = v;
end
res = summarise(values);
end
