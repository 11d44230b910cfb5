function value = default_to(value, usual)
%DEFAULT_TO  The value, or the usual one where it is [].

if isempty(value)
    value = usual;
end
end
