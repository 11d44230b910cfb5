function [const, note] = largest_value(const, varargin)
%LARGEST_VALUE  Const as a number that fits the images, from a number or the name of a sensor; and a note.
%
%   [const, note] = largest_value(const, 'sr', sr, 'gt', gt); see check_const

note = '';
if isempty(const)
    error('lemamba:arguments', 'expected const, the largest value of the data (2047, 1023, 255, 1); give it');
end
if ischar(const) || isa(const, 'string')
    sensor = char(const);
    const = sensor_peak(sensor);
    note = sprintf('note: const is %g, the largest value of sensor %s\n', const, sensor);
end
const = check_const(const, varargin{:});
end
