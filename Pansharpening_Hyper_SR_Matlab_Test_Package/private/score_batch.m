function [res, samples] = score_batch(file, names, measure, options, ratio, sensor)
%SCORE_BATCH  Score one .mat file with the named arrays B x C x H x W, see score_samples.
%
%   measure  [values, notes] = measure(images, options), options a cell of name-value pairs
%   names    the reference last; ratio and sensor ('' for none)  as given, held against what the file says

reference = names{end};
if ~isempty(options.mask)
    names = [names, {options.mask}];
end
data = read_mat(file, names);
check_facts(file, double(max(data.(reference)(:))), ratio, options.const, sensor);
[data, count] = batch_size(data, file, options.mask);
read = @(k) batch_sample(data, k);
[res, samples] = score_samples(1:count, read, @(x) measure(x, sample_options(x, options)), options);
end
