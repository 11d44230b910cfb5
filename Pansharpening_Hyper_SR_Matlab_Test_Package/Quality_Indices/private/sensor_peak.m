function peak = sensor_peak(sensor)
%SENSOR_PEAK  Largest value of a sensor's data (2047 for 11 bits), from sensor_table.m; an error for 'none'.

row = sensor_row(sensor);
peak = row{5};
if isempty(peak)
    error('lemamba:sensor', 'expected the largest value of the data: sensor %s has none; give const as a number', ...
        row{1});
end
end
