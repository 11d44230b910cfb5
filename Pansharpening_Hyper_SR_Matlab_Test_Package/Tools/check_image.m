function x = check_image(x, name)
%CHECK_IMAGE  An image H x W x C as double; NaN, infinite or complex values are an error.

if ~(isnumeric(x) || islogical(x)) || ~isreal(x) || ndims(x) > 3 || isempty(x)
    error('lemamba:shape', 'expected %s to be a real image height x width x bands, given a %s of size %s', ...
        name, class(x), regexprep(sprintf('%dx', size(x)), 'x$', ''));
end
x = double(x);
if ~all(isfinite(x(:)))
    error('lemamba:notFinite', 'expected finite values in %s, found NaN or Inf; fix the data', name);
end
end
