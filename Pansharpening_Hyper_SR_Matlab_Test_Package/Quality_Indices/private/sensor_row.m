function row = sensor_row(sensor)
%SENSOR_ROW  The row of sensor_table.m with this name or alias; case, '-', '_' and spaces do not matter.
%
%   An unknown name is one line that suggests the nearest.

if ~(ischar(sensor) || isa(sensor, 'string'))
    error('lemamba:arguments', 'expected the name of a sensor as text (''WV3'', ''none''), given a %s; quote it', ...
        class(sensor));
end
entries = sensor_table();
row = entries(find_row(entries, sensor), :);
end

function k = find_row(entries, sensor)
name = normalise(char(sensor));
for k = 1:size(entries, 1)
    if any(strcmp(name, normalise([entries(k, 1), entries{k, 2}])))
        return
    end
end
spellings = [entries(:, 1)', entries{:, 2}];
[~, nearest] = min(cellfun(@(spelling) edit_distance(name, normalise(spelling)), spellings));
error('lemamba:sensor', 'unknown sensor "%s" (did you mean "%s"?); known: %s', ...
    char(sensor), spellings{nearest}, strjoin(entries(:, 1)', ', '));
end

function name = normalise(name)
name = lower(regexprep(name, '[^A-Za-z0-9]', ''));
end

function d = edit_distance(a, b)
% Levenshtein: insertions, deletions and substitutions that turn a into b.
line = 0:numel(b);
for i = 1:numel(a)
    above = line;
    line(1) = i;
    for j = 1:numel(b)
        line(j + 1) = min([above(j + 1) + 1, line(j) + 1, above(j) + (a(i) ~= b(j))]);
    end
end
d = line(end);
end
