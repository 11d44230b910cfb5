function kernel = gaussian_kernel(side, sigma)
%GAUSSIAN_KERNEL  Gaussian of side x side samples, largest value 1.

t = (-(side - 1) / 2:(side - 1) / 2)';
line = exp(-t.^2 / (2 * sigma^2));
kernel = line * line';
end
