function res = score_samples(numbers, read, measure)
%SCORE_SAMPLES  Print a line per sample and return mean and std (n - 1; 0 for one sample) of every index.
%
%   numbers  numbers(k) is printed for the k-th sample
%   read     read(k) gives the k-th sample's images as a struct
%   measure  [values, notes] = measure(images): a struct of indices, and text for the user; each note is printed once

seen = {''};
for k = 1:numel(numbers)
    [v, notes] = measure(read(k));
    notes = setdiff(notes, seen);
    fprintf('%s', notes{:});
    seen = [seen, notes]; %#ok<AGROW>
    fprintf('sample %d - %s\n', numbers(k), values_as_text(v));
    if k == 1
        values = repmat(v, 1, numel(numbers));
    end
    values(k) = v;
end
res = struct();
for name = fieldnames(v)'
    column = [values.(name{1})];
    res.(name{1}) = [mean(column), std(column)];
end
end

function text = values_as_text(v)
% As the published scripts print them: all indices with reference, three of those without.
names = fieldnames(v)';
if isfield(v, 'qnr_index')
    names = {'d_lambda', 'qnr_index', 'd_s'};
end
parts = cellfun(@(name) sprintf('%s: %f', strrep(name, 'qave', 'q_ave'), v.(name)), names, 'UniformOutput', false);
text = strjoin(parts, ', ');
end
