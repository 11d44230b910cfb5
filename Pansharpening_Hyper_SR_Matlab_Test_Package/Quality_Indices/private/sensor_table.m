function rows = sensor_table()
%SENSOR_TABLE  One row per sensor: name, other names, MTF gains of MS, whose gains with 'published', largest value.
%
%   A single gain serves any number of bands; [] stands for no known largest value.
%   Written from utils/sensors.py by `python -m lemamba.utils.sensors`; edit that file instead.

rows = {
    'WV3', {'WorldView3'}, [0.325 0.355 0.36 0.35 0.365 0.36 0.335 0.315], '', 2047
    'WV2', {'WorldView2'}, [0.35 0.35 0.35 0.35 0.35 0.35 0.35 0.27], '', 2047
    'QB', {'QuickBird'}, [0.34 0.32 0.3 0.22], 'IKONOS', 2047
    'IKONOS', {}, [0.26 0.28 0.29 0.28], '', 2047
    'WV4', {'WorldView4'}, [0.23 0.23 0.23 0.23], '', 2047
    'GeoEye1', {'GE1', 'GeoEye'}, [0.23 0.23 0.23 0.23], '', 2047
    'GF2', {'GaoFen2'}, [0.3], 'IKONOS', 1023
    'CAVE', {}, [0.3], '', 1
    'Harvard', {}, [0.3], '', 1
    'none', {'other'}, [0.3], '', []};
end
