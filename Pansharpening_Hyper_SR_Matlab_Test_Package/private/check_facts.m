function check_facts(file, top, ratio, const, sensor)
%CHECK_FACTS  Hold the arguments against what the file says of its images; a contradiction is one line.
%
%   Files of the Python package carry info_ratio, info_divisor (largest value) and info_sensor; others have none.
%   top     largest value of the reference: a divisor that does not fit it says nothing
%   const   [] or text where not given; sensor  '' where not given; 'none' fits every sensor

facts = read_facts(file);
if isfield(facts, 'info_ratio') && isnumeric(ratio) && isscalar(ratio) && facts.info_ratio ~= ratio
    error('lemamba:ratio', 'the file says ratio %g, given %g; correct it, or name another file', ...
        facts.info_ratio, ratio);
end
if isfield(facts, 'info_divisor') && isnumeric(const) && ~isempty(const)
    said = facts.info_divisor;
    fits = top <= 1.5 * said && (said <= 1.5 || top > 1.5);
    if fits && said ~= const
        error('lemamba:const', 'the file says largest value %g, given const %g; correct it, or name another file', ...
            said, const);
    end
end
if isfield(facts, 'info_sensor') && ~isempty(sensor) && is_text(sensor)
    said = char(double(facts.info_sensor(:)'));
    try
        differs = ~same_sensor(said, sensor) && ~same_sensor('none', sensor);
    catch
        differs = false;  % an unknown name: the file's says nothing, and the user's is refused later
    end
    if differs
        error('lemamba:sensor', 'the file says sensor %s, given %s; correct it, or name another file', said, ...
            char(sensor));
    end
end
end

function facts = read_facts(file)
quiet = warning('off', 'all');
restore = onCleanup(@() warning(quiet)); %#ok<NASGU>
try
    facts = load(file, 'info_ratio', 'info_divisor', 'info_sensor');
catch
    facts = struct();  % Octave's load fails where none is there
end
names = fieldnames(facts)';
for k = 1:numel(names)
    value = facts.(names{k});
    if isempty(value) || ~(isnumeric(value) || ischar(value)) || (~strcmp(names{k}, 'info_sensor') && ~isscalar(value))
        facts = rmfield(facts, names{k});
    end
end
end
