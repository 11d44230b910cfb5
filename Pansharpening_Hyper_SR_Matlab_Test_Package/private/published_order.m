function args = published_order(args, usage)
%PUBLISHED_ORDER  Turn the published (folder, ratio, sensor, flag_cut_bounds, printout) into options.
%
%   args  what follows the sensor. A leading 0 is flag_cut_bounds, and the number after it printout. A leading 1 could
%   be flag_cut_bounds or const and is refused; so is flag_cut_bounds 1, whose width of the border is not in the call.

is_flag = @(value) (isnumeric(value) || islogical(value)) && isscalar(value) && (value == 0 || value == 1);
if isempty(args) || ~is_flag(args{1})
    return
end
if args{1} == 1
    error('lemamba:arguments', ['expected after %s flag_cut_bounds 0 or an option, given 1, which may mean ' ...
        'flag_cut_bounds or const; write ''cut'', 21 (DLPan-Toolbox), ''cut'', 30 (Demo1) or ''const'', 1'], usage);
end
args(1) = [];
if ~isempty(args) && is_flag(args{1})
    args = [{'printout', args{1}}, args(2:end)];
end
end
