function gains = band_gains(gains, bands)
%BAND_GAINS  MTF gains 1 x bands from numbers (one serves all bands) or the name of a sensor.

if ischar(gains) || isa(gains, 'string')
    gains = sensor_gains(gains, bands, false);
elseif isnumeric(gains) && isscalar(gains)
    gains = gains * ones(1, bands);
end
if ~isnumeric(gains) || numel(gains) ~= bands || any(gains <= 0 | gains >= 1)
    error('lemamba:bands', ['expected one MTF gain between 0 and 1 for each of %d bands, or the name of a ' ...
        'sensor; correct gains'], bands);
end
gains = double(gains(:)');
end
