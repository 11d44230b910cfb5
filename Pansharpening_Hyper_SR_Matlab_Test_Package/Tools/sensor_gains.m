function [gains, note] = sensor_gains(sensor, bands, published)
%SENSOR_GAINS  MTF gains of the MS bands at the Nyquist frequency, 1 x bands, and a note for the user.
%
%   Known, any case: WV3 WV2 QB IKONOS GeoEye1 WV4. Any other name ('none', 'CAVE', 'GF2') takes 0.3 for any
%   number of bands. A known sensor with another number of bands is an error, never silently cut.
%   published = true: QB and GF2 take the gains of IKONOS, as the published script did.
%   The gains are those of the pansharpening toolbox of Vivone et al. (GRSM 2015, 2021).

name = lower(regexprep(char(sensor), '[^A-Za-z0-9]', ''));
note = '';
if published && any(strcmp(name, {'qb', 'gf2'}))
    note = sprintf('note: published behaviour: %s is scored with the MTF gains of IKONOS\n', upper(name));
    name = 'ikonos';
end
switch name
    case 'qb'
        gains = [0.34 0.32 0.30 0.22];
    case 'ikonos'
        gains = [0.26 0.28 0.29 0.28];
    case {'geoeye1', 'wv4'}
        gains = [0.23 0.23 0.23 0.23];
    case 'wv2'
        gains = [0.35 0.35 0.35 0.35 0.35 0.35 0.35 0.27];
    case 'wv3'
        gains = [0.325 0.355 0.360 0.350 0.365 0.360 0.335 0.315];
    otherwise
        gains = 0.3 * ones(1, bands);
        note = sprintf('note: no MTF gains are published for sensor %s: the generic 0.3 is used\n', char(sensor));
end
if numel(gains) ~= bands
    error('lemamba:bands', 'sensor %s has %d bands, the image has %d; name another sensor', ...
        char(sensor), numel(gains), bands);
end
end
