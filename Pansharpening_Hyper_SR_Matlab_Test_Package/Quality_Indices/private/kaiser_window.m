function window = kaiser_window(count, beta)
%KAISER_WINDOW  Kaiser window of count samples, column.

t = 2 * (0:count - 1)' / (count - 1) - 1;
window = besseli(0, beta * sqrt(1 - t.^2)) / besseli(0, beta);
end
