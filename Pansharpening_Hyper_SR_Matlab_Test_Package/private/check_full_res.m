function check_full_res(value, usage)
%CHECK_FULL_RES  The published flag full_res is 0 or 1 and changes nothing; other values are arguments in wrong order.

if ~((isnumeric(value) || islogical(value)) && isscalar(value) && (value == 0 || value == 1))
    given = class(value);
    if isnumeric(value) && isscalar(value)
        given = num2str(value);
    elseif is_text(value)
        given = sprintf('''%s''', char(value));
    end
    error('lemamba:arguments', 'expected full_res 0 or 1 as third argument of %s, given %s; check the order', ...
        usage, given);
end
end
