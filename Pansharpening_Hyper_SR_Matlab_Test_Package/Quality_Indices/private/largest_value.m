function [const, note] = largest_value(const, gt)
%LARGEST_VALUE  Const as a number that fits the reference, from a number or the name of a sensor; and a note.
%
%   See check_const for what does not fit.

note = '';
if isempty(const)
    error('lemamba:arguments', 'expected const, the largest value of the data (2047, 1023, 255, 1); give it');
end
if ischar(const) || isa(const, 'string')
    sensor = char(const);
    const = sensor_peak(sensor);
    note = sprintf('note: const is %g, the largest value of sensor %s\n', const, sensor);
end
const = check_const(const, 'gt', gt);
end
