function res = summarise(values)
%SUMMARISE  Mean and standard deviation (n - 1; 0 for one sample) of every field of a struct array.

names = fieldnames(values);
res = struct();
for k = 1:numel(names)
    column = [values.(names{k})];
    res.(names{k}) = [mean(column), std(column)];
end
end
