function yes = same_sensor(one, other)
%SAME_SENSOR  Whether two names stand for one sensor, whatever the spelling; an unknown name is an error.
%
%   yes = same_sensor(one, other)
%
%   one, other  names or aliases: 'WV3', 'WorldView-3', 'QuickBird', 'none', ...
%
%   Example:
%      same_sensor('WorldView-3', 'wv3')
%
%   See also FULL_RESOLUTION, D_LAMBDA_K.

check_arguments(nargin, 2, 'same_sensor(one, other)');
one = sensor_row(one);
other = sensor_row(other);
yes = strcmp(one{1}, other{1});
end
