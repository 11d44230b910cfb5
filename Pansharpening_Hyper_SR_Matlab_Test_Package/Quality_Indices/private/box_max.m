function x = box_max(x, side)
%BOX_MAX  Maximum over all side x side windows inside an image H x W.

reach = 1;
while reach < side
    step = min(reach, side - reach);
    x = max(x(1:end - step, :), x(1 + step:end, :));
    x = max(x(:, 1:end - step), x(:, 1 + step:end));
    reach = reach + step;
end
end
