function options = script_options(args, usage)
%SCRIPT_OPTIONS  Trailing arguments of a script as a struct: a number is const, text names an option.
%
%   const     a number in any place, or after 'const'; [] where not given
%   save      after 'save': absolute name of a .csv file, '' where not given
%   printout  false after 'printout', 0: no lines per sample
%   mask      after 'mask', text: the variable of the .mat file with the mask, '' where not given
%   rest      the other options, for reduced_resolution or full_resolution
%   usage     the call with its needed arguments, for messages

options = struct('const', [], 'save', '', 'printout', true, 'mask', '', 'rest', {{}});
while ~isempty(args)
    if ~is_text(args{1})
        options = set_const(options, args{1}, usage);
        args(1) = [];
    elseif strcmpi(char(args{1}), 'published')
        options.rest = [options.rest, {'published'}];
        args(1) = [];
    else
        options = set_named(options, args, usage);
        args(1:2) = [];
    end
end
end

function options = set_named(options, args, usage)
known = {'const', 'save', 'printout', 'mask', 'nodata', 'cut', 'block', 'indices', 'coregister'};
name = lower(char(args{1}));
if ~any(strcmp(name, known))
    error('lemamba:arguments', ['expected after %s a number (const) or the options ''published'', ''%s'', ' ...
        'given ''%s''; correct it'], usage, strjoin(known, ''', '''), char(args{1}));
end
if numel(args) < 2
    error('lemamba:arguments', 'expected a value after ''%s'', given none; add it', name);
end
value = args{2};
switch name
    case 'const'
        options = set_const(options, value, usage);
    case 'save'
        options.save = csv_name(value);
    case 'printout'
        options.printout = is_on(value);
    case 'mask'
        if is_text(value)
            options.mask = char(value);
        else
            options.rest = [options.rest, {'mask', value}];
        end
    otherwise
        options.rest = [options.rest, {name, value}];
end
end

function options = set_const(options, value, usage)
if ~(isnumeric(value) && isscalar(value) && isreal(value) && isfinite(value) && value > 0)
    error('lemamba:arguments', 'expected const after %s as a positive number, given %s; correct it', usage, ...
        shown(value));
end
if ~isempty(options.const)
    error('lemamba:arguments', 'expected one number (const) after %s, given %g and %g; leave one out', usage, ...
        options.const, value);
end
options.const = double(value);
end

function text = shown(value)
if isnumeric(value) && isscalar(value)
    text = num2str(value);
else
    text = sprintf('a %s of size %s', class(value), mat2str(size(value)));
end
end

function name = csv_name(name)
if ~is_text(name) || isempty(regexpi(char(name), '\.csv$', 'once'))
    error('lemamba:arguments', 'expected a name that ends in .csv after ''save''; correct it');
end
name = absolute_path(char(name));
folder = fileparts(name);
if exist(folder, 'dir') ~= 7
    error('lemamba:noFile', 'expected a folder %s for ''save'', it does not exist; make it', folder);
end
end

function yes = is_on(value)
if ~((isnumeric(value) || islogical(value)) && isscalar(value))
    error('lemamba:arguments', 'expected 0 or 1 after ''printout''; correct it');
end
yes = value ~= 0;
end
