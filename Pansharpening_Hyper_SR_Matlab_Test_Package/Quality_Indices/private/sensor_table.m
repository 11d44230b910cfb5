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
    'Landsat8', {'OLI', 'LC08', 'L8'}, [0.3], '', 65535
    'Landsat9', {'OLI2', 'LC09', 'L9'}, [0.3], '', 65535
    'Sentinel2', {'S2', 'S2A', 'S2B', 'MSI'}, [0.38 0.34 0.34 0.33 0.22 0.23], '', 10000
    'Pleiades', {'PHR', 'PHR1A', 'PHR1B'}, [0.3], '', 4095
    'SPOT6', {'SPOT7', 'SPOT67'}, [0.3], '', 4095
    'PlanetScope', {'Dove'}, [0.3], '', 10000
    'PlanetScope8', {'SuperDove'}, [0.3], '', 10000
    'SkySat', {}, [0.3], '', 10000
    'GF1', {'GaoFen1'}, [0.3], '', 1023
    'GF6', {'GaoFen6'}, [0.3], '', 4095
    'Jilin1', {'JL1'}, [0.3], '', 1023
    'KOMPSAT3', {'KOMPSAT3A', 'K3', 'K3A'}, [0.3], '', 16383
    'WVLegion', {'WorldViewLegion', 'Legion'}, [0.3], '', 2047
    'PRISMA', {}, [0.3], '', 65535
    'EnMAP', {}, [0.3], '', 10000
    'CAVE', {}, [0.3], '', 1
    'Harvard', {}, [0.3], '', 1
    'none', {'other'}, [0.3], '', []};
end
