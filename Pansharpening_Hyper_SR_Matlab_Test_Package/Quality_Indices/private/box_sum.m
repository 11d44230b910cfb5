function sums = box_sum(x, side)
%BOX_SUM  Sums over all side x side windows inside an image H x W, summed directly, not by cumulative sums
%   (those leave a rounding residue that hides windows without contrast).

line = ones(side, 1);
sums = conv2(line, line, x, 'valid');
end
