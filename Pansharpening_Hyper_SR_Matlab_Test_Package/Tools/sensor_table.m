function table = sensor_table()
%SENSOR_TABLE  One row per sensor: name, other names, MTF gains of the MS bands, whose gains with 'published'.
%
%   A single gain serves any number of bands.
%   Written from utils/sensors.py by `python -m lemamba.utils.sensors`; edit that file instead.

table = {
    'WV3', {'WorldView3'}, [0.325 0.355 0.36 0.35 0.365 0.36 0.335 0.315], ''
    'WV2', {'WorldView2'}, [0.35 0.35 0.35 0.35 0.35 0.35 0.35 0.27], ''
    'QB', {'QuickBird'}, [0.34 0.32 0.3 0.22], 'IKONOS'
    'IKONOS', {}, [0.26 0.28 0.29 0.28], ''
    'WV4', {'WorldView4'}, [0.23 0.23 0.23 0.23], ''
    'GeoEye1', {'GE1', 'GeoEye'}, [0.23 0.23 0.23 0.23], ''
    'GF2', {'GaoFen2'}, [0.3], 'IKONOS'
    'CAVE', {}, [0.3], ''
    'Harvard', {}, [0.3], ''
    'none', {'other'}, [0.3], ''
};
end
