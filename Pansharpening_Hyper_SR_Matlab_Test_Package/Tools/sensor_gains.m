function [gains, note] = sensor_gains(sensor, bands, published)
%SENSOR_GAINS  MTF gains of the MS bands at the Nyquist frequency, 1 x bands, and a note for the user.
%
%   sensor     a name of sensor_table.m; case, '-', '_' and spaces do not matter. Sensors without published gains
%              ('GF2', 'CAVE', 'none', ...) take 0.3 for any number of bands.
%   published  true: QB and GF2 take the gains of IKONOS, as the published script did
%   A sensor with another number of bands and an unknown name are errors.
%   The gains are those of the pansharpening toolbox of Vivone et al. (GRSM 2015, 2021).

if ~(ischar(sensor) || isa(sensor, 'string'))
    error('lemamba:arguments', 'expected the name of a sensor as text (''WV3'', ''none''), given a %s', class(sensor));
end
table = sensor_table();
row = table(find_row(table, sensor), :);
note = '';
if published && ~isempty(row{4})
    note = sprintf('note: published behaviour: %s is scored with the MTF gains of %s\n', row{1}, row{4});
    row{3} = table{find_row(table, row{4}), 3};
elseif isscalar(row{3})
    note = sprintf('note: no MTF gains are published for sensor %s: the generic %g is used\n', row{1}, row{3});
end
gains = row{3};
if isscalar(gains)
    gains = gains * ones(1, bands);
end
if numel(gains) ~= bands
    error('lemamba:bands', 'sensor %s has %d bands, the image has %d; name another sensor', ...
        row{1}, numel(gains), bands);
end
end

function k = find_row(table, sensor)
name = normalise(char(sensor));
for k = 1:size(table, 1)
    if any(strcmp(name, normalise([table(k, 1), table{k, 2}])))
        return
    end
end
spellings = [table(:, 1)', table{:, 2}];
[~, nearest] = min(cellfun(@(spelling) edit_distance(name, normalise(spelling)), spellings));
error('lemamba:sensor', 'unknown sensor "%s" (did you mean "%s"?); known: %s', ...
    char(sensor), spellings{nearest}, strjoin(table(:, 1)', ', '));
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
