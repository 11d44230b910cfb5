function options = index_options(args, allowed, call)
%INDEX_OPTIONS  Trailing name-value arguments of an index or a protocol as a struct.
%
%   published  true after 'published' (a logical in the first place means the same)
%   mask       after 'mask': H x W, true where a pixel is valid; [] = all
%   nodata     after 'nodata': pixels whose bands all have this value are invalid; [] = none
%   cut        after 'cut': width of the border that is left out, 0
%   block      after 'block': side of blocks and windows; [] = the index's own
%   coregister after 'coregister': PAN in a single index, 0 or 1 in a protocol; [] = not
%   extra      true after 'indices', 'all'
%   allowed    the names that this function takes; call  its name, for messages

options = struct('published', false, 'mask', [], 'nodata', [], 'cut', 0, 'block', [], 'extra', false, ...
    'coregister', []);
if ~isempty(args) && islogical(args{1}) && isscalar(args{1})
    options.published = args{1};
    args(1) = [];
end
while ~isempty(args)
    name = option_name(args{1}, allowed, call);
    if strcmp(name, 'published')
        options.published = true;
        args(1) = [];
        continue
    end
    if numel(args) < 2
        error('lemamba:arguments', 'expected a value after ''%s'' in %s, given none; add it', name, call);
    end
    options = set_option(options, name, args{2});
    args(1:2) = [];
end
end

function name = option_name(name, allowed, call)
if ~(ischar(name) || isa(name, 'string')) || ~any(strcmpi(char(name), allowed))
    given = 'a value without a name';
    if ischar(name) || isa(name, 'string')
        given = sprintf('''%s''', char(name));
    end
    error('lemamba:arguments', 'expected after the arguments of %s only the options ''%s'', given %s; correct it', ...
        call, strjoin(allowed, ''', '''), given);
end
name = lower(char(name));
end

function options = set_option(options, name, value)
switch name
    case 'indices'
        if ~(ischar(value) || isa(value, 'string')) || ~any(strcmpi(char(value), {'all', 'published'}))
            error('lemamba:arguments', 'expected ''all'' or ''published'' after ''indices''; correct it');
        end
        options.extra = strcmpi(char(value), 'all');
    case 'cut'
        options.cut = whole_number(value, 'cut', 0);
    case 'block'
        options.block = whole_number(value, 'block', 2);
    case 'nodata'
        if ~(isnumeric(value) && isscalar(value) && isreal(value))
            error('lemamba:arguments', 'expected one number after ''nodata'' (NaN is one); correct it');
        end
        options.nodata = double(value);
    case 'coregister'
        if ~(isnumeric(value) || islogical(value))
            error('lemamba:arguments', 'expected an image or 0 or 1 after ''coregister'', given a %s; correct it', ...
                class(value));
        end
        options.coregister = value;
    otherwise
        options.mask = value;
end
end

function value = whole_number(value, name, least)
if ~(isnumeric(value) && isscalar(value) && isreal(value) && value >= least && value == round(value) && isfinite(value))
    error('lemamba:arguments', 'expected a whole number of at least %d after ''%s''; correct it', least, name);
end
value = double(value);
end
