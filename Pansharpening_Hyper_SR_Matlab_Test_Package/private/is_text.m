function yes = is_text(value)
%IS_TEXT  Whether a value is text, as characters or as MATLAB's string.

yes = ischar(value) || isa(value, 'string');
end
