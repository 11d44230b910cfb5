function [files, numbers] = list_samples(folder)
%LIST_SAMPLES  The files output_mulExm_<i>.mat of a folder in the order of the number i, and these numbers.

if exist(folder, 'file') == 2
    error('lemamba:noFile', ['expected a folder of output_mulExm_<i>.mat, given the file %s; for one file call ' ...
        'analysis_ref_batched_images or analysis_unref_batched_images'], folder);
end
found = dir(fullfile(folder, 'output_mulExm_*.mat'));
names = {found.name};
parts = regexp(names, '^output_mulExm_(\d+)\.mat$', 'tokens', 'once');
named = ~cellfun('isempty', parts);
if ~any(named)
    error('lemamba:noFile', 'expected files output_mulExm_<i>.mat in %s, found none; check the folder', folder);
end
numbers = cellfun(@(part) str2double(part{1}), parts(named));
[numbers, order] = sort(numbers);
names = names(named);
files = fullfile(folder, names(order));
end
