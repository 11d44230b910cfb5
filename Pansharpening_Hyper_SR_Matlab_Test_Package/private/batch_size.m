function [data, count] = batch_size(data, file, mask)
%BATCH_SIZE  Number of samples B of a struct of arrays B x C x H x W; all must have the same B.
%
%   mask  name of the mask, '' for none; as B x H x W it becomes B x 1 x H x W

if ~isempty(mask) && ndims(data.(mask)) == 3
    m = data.(mask);
    data.(mask) = reshape(m, [size(m, 1), 1, size(m, 2), size(m, 3)]);
end
names = fieldnames(data);
sizes = cellfun(@(name) size(data.(name), 1), names);
dims = cellfun(@(name) ndims(data.(name)), names);
if any(dims ~= 4) || any(sizes ~= sizes(1))
    shapes = cellfun(@(name) [name ' ' sprintf('%dx', size(data.(name)))], names, 'UniformOutput', false);
    shapes = regexprep(shapes, 'x$', '');
    error('lemamba:shape', ['expected arrays batch x bands x height x width with one batch size in %s, ' ...
        'given %s; for one image per file use the unbatched script'], file, strjoin(shapes(:)', ', '));
end
count = sizes(1);
end
