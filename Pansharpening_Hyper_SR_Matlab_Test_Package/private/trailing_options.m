function [const, published] = trailing_options(args)
%TRAILING_OPTIONS  Optional arguments in any order: a number is const, the text 'published' is the option.
%
%   const is [] and published is false where not given.

const = [];
published = false;
for k = 1:numel(args)
    value = args{k};
    if (ischar(value) || isa(value, 'string')) && strcmpi(char(value), 'published')
        published = true;
    elseif isnumeric(value) && isscalar(value) && isfinite(value) && value > 0
        const = double(value);
    else
        error('lemamba:arguments', ...
            'optional argument %d: expected a positive number (const) or ''published''; correct it', k);
    end
end
end
