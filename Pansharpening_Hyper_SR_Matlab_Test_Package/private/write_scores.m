function write_scores(file, numbers, samples, res)
%WRITE_SCORES  A table of all indices as .csv: one row per sample, then their mean and std, 17 digits.
%
%   It is written under another name first and renamed, so that the file is whole or absent.

names = fieldnames(samples)';
temporary = [file, '.part'];
[out, reason] = fopen(temporary, 'w');
if out < 0
    error('lemamba:noFile', 'expected to write %s, given "%s"; name another file', file, reason);
end
fprintf(out, 'sample,%s\n', strjoin(names, ','));
for k = 1:numel(numbers)
    write_row(out, num2str(numbers(k)), cellfun(@(name) samples(k).(name), names));
end
write_row(out, 'mean', cellfun(@(name) res.(name)(1), names));
write_row(out, 'std', cellfun(@(name) res.(name)(2), names));
fclose(out);
[done, reason] = movefile(temporary, file, 'f');
if ~done
    error('lemamba:noFile', 'expected to write %s, given "%s"; name another file', file, reason);
end
end

function write_row(out, label, values)
fprintf(out, '%s%s\n', label, sprintf(',%.17g', values));
end
