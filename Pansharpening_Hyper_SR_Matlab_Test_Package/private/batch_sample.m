function images = batch_sample(data, k)
%BATCH_SAMPLE  The k-th sample of a struct of arrays B x C x H x W, as H x W x C.

names = fieldnames(data);
images = struct();
for n = 1:numel(names)
    images.(names{n}) = permute(data.(names{n})(k, :, :, :), [3 4 2 1]);
end
end
