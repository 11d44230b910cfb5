function x = mirror_to_multiple(x, side)
%MIRROR_TO_MULTIPLE  Extend an image at the right, then at the bottom, to multiples of side by mirroring.
%
%   The edge sample is repeated. Needs height and width of at least side, so that one reflection is enough.

[height, width, ~] = size(x);
x = x(:, [1:width, width:-1:(width - mod(-width, side) + 1)], :);
x = x([1:height, height:-1:(height - mod(-height, side) + 1)], :, :);
end
