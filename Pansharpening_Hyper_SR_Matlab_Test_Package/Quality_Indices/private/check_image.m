function x = check_image(x, name)
%CHECK_IMAGE  An image H x W x C as double; cells, structs, complex, NaN and infinite values are one line.
%
%   Integers become double, so that differences below 0 and above the largest integer are right.

if ~(isnumeric(x) || islogical(x))
    error('lemamba:shape', 'expected %s as an array height x width x bands, given a %s; pass the array inside', ...
        name, class(x));
end
if ~isreal(x)
    error('lemamba:shape', 'expected real values in %s, given complex ones; pass abs or real of it', name);
end
if ndims(x) > 3 || isempty(x)
    error('lemamba:shape', 'expected %s as height x width x bands, given size %s; pass one image', ...
        name, regexprep(sprintf('%dx', size(x)), 'x$', ''));
end
x = double(x);
if ~all(isfinite(x(:)))
    error('lemamba:notFinite', 'expected finite values in %s, found NaN or Inf; fix the data or mask them', name);
end
end
