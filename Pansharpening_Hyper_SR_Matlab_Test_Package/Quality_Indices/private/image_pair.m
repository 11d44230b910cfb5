function [sr, gt, options] = image_pair(sr, gt, args, call, more)
%IMAGE_PAIR  Two images H x W x C of one size as double, blanked outside the mask, and the options of an index.
%
%   args  the index's trailing arguments, see index_options; call  its name, for messages
%   more  further names of options; after 'cut' the border leaves the mask, but the images keep it for filters

allowed = {'published', 'mask', 'block'};
if nargin > 4
    allowed = [allowed, more];
end
options = index_options(args, allowed, call);
if ~isequal(size(sr), size(gt))
    error('lemamba:shape', 'expected two images of one size, given %s and %s; fuse to the size of the reference', ...
        mat2str(size(sr)), mat2str(size(gt)));
end
options.mask = check_mask(options.mask, size(sr, 1), size(sr, 2));
if ~isempty(options.mask) && isnumeric(sr) && isnumeric(gt)
    sr = blank(sr, options.mask);
    gt = blank(gt, options.mask);
end
sr = check_image(sr, 'sr');
gt = check_image(gt, 'the reference');
options.seen = options.mask;  % what is blanked in other images of the same scene
options.mask = without_border(options.mask, options.cut, sr);
end
