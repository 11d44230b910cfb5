function [res, samples] = score_samples(numbers, read, measure, options)
%SCORE_SAMPLES  Print a line per sample and return mean and std (n - 1; 0 for one sample) of every index.
%
%   numbers  numbers(k) is printed for the k-th sample
%   read     read(k) gives the k-th sample's images as a struct
%   measure  [values, notes] = measure(images): a struct of indices, and text for the user; each note is printed once
%   options  of script_options: printout and save are used
%   res      res.<index> = [mean, std]; samples  the indices of every sample, a struct array
%   Runs of more than 10 samples print their progress after every tenth. Samples with NaN are listed at the end.

count = numel(numbers);
seen = {''};
started = tic;
for k = 1:count
    [v, notes] = measure(read(k));
    notes = setdiff(notes, seen);
    fprintf('%s', notes{:});
    seen = [seen, notes]; %#ok<AGROW>
    if options.printout
        fprintf('sample %d - %s\n', numbers(k), values_as_text(v));
    end
    if k == 1
        samples = repmat(v, 1, count);
    end
    samples(k) = v;
    print_progress(k, count, toc(started));
end
res = struct();
for name = fieldnames(v)'
    column = [samples.(name{1})];
    res.(name{1}) = [mean(column), std(column)];
    print_missing(name{1}, isnan(column), numbers);
end
if count > 1
    fprintf('mean of %d samples - %s\n', count, means_as_text(res));
end
if ~isempty(options.save)
    write_scores(options.save, numbers, samples, res);
end
end

function print_progress(k, count, seconds)
if count > 10 && k < count && mod(k, ceil(count / 10)) == 0
    fprintf('progress: %d of %d samples, about %.0f s left\n', k, count, seconds / k * (count - k));
end
end

function print_missing(name, missing, numbers)
% One black image makes a mean NaN; the user must not look for it in a hundred lines.
if any(missing) && ~all(missing)
    fprintf('note: %s is NaN for sample %s, and so is its mean; leave these samples out or see the help of %s\n', ...
        name, strjoin(arrayfun(@num2str, numbers(missing), 'UniformOutput', false), ', '), name);
end
end

function text = values_as_text(v)
text = join_values(v, @(x) sprintf('%f', x));
end

function text = means_as_text(res)
text = join_values(res, @(x) sprintf('%f +- %f', x));
end

function text = join_values(v, shown)
% As the published scripts print them: the seven indices with reference, or three of those without.
names = {'sam', 'ergas', 'scc', 'qn', 'qave', 'psnr', 'ssim'};
if isfield(v, 'qnr_index')
    names = {'d_lambda', 'qnr_index', 'd_s'};
end
label = @(name) sprintf('%s: %s', strrep(name, 'qave', 'q_ave'), shown(v.(name)));
text = strjoin(cellfun(label, names, 'UniformOutput', false), ', ');
end
