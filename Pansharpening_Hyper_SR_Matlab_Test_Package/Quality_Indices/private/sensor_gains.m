function [gains, note] = sensor_gains(sensor, bands, published)
%SENSOR_GAINS  MTF gains of the MS bands at the Nyquist frequency, 1 x bands, and a note for the user.
%
%   sensor     a name of sensor_table.m; case, '-', '_' and spaces do not matter. Sensors without published gains
%              ('GF2', 'CAVE', 'none', ...) take 0.3 for any number of bands.
%   published  true: QB and GF2 take the gains of IKONOS, as the published script did
%   A sensor with another number of bands and an unknown name are errors.
%   The gains are those of the pansharpening toolbox of Vivone et al. (GRSM 2015, 2021).

row = sensor_row(sensor);
note = '';
if published && ~isempty(row{4})
    note = sprintf('note: published behaviour: %s is scored with the MTF gains of %s\n', row{1}, row{4});
    other = sensor_row(row{4});
    row{3} = other{3};
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
