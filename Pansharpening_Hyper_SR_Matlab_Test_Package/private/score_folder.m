function [res, samples] = score_folder(folder, names, measure, options)
%SCORE_FOLDER  Score output_mulExm_<i>.mat with the named arrays H x W x C in the order of i, see score_samples.
%
%   measure  [values, notes] = measure(images, options), options a cell of name-value pairs

if ~isempty(options.mask)
    names = [names, {options.mask}];
end
[files, numbers] = list_samples(folder);
read = @(k) read_mat(files{k}, names);
[res, samples] = score_samples(numbers, read, @(x) measure(x, sample_options(x, options)), options);
end
