function x = box_max(x, side)
%BOX_MAX  Maximum over all side x side windows inside an image H x W; side is a power of two.

step = 1;
while step < side
    x = max(x(1:end - step, :), x(1 + step:end, :));
    x = max(x(:, 1:end - step), x(:, 1 + step:end));
    step = 2 * step;
end
end
