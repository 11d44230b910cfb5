function [res, samples] = score_batch(file, names, measure, options)
%SCORE_BATCH  Score one .mat file with the named arrays B x C x H x W, see score_samples.
%
%   measure  [values, notes] = measure(images, options), options a cell of name-value pairs

if ~isempty(options.mask)
    names = [names, {options.mask}];
end
data = read_mat(file, names);
[data, count] = batch_size(data, file, options.mask);
read = @(k) batch_sample(data, k);
[res, samples] = score_samples(1:count, read, @(x) measure(x, sample_options(x, options)), options);
end
