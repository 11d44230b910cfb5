function list = sample_options(images, options)
%SAMPLE_OPTIONS  Name-value pairs for one sample: those of the call, and the sample's own mask.

list = options.rest;
if ~isempty(options.mask)
    list = [list, {'mask', images.(options.mask)}];
end
end
