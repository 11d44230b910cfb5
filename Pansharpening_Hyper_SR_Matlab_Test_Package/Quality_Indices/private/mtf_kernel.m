function kernel = mtf_kernel(gain, ratio)
%MTF_KERNEL  41 x 41 low-pass filter that imitates a sensor's modulation transfer function.
%
%   gain   of the MTF at the Nyquist frequency of the low resolution, 0..1
%   ratio  resolution ratio
%   A Gaussian in frequency is sampled, transformed and windowed with a Kaiser window (beta 0.5) that is rotated
%   round the centre (Huang's method). Not normalised: it sums to a little under 1, as in the published toolbox.
%   Source: Aiazzi et al., MTF-tailored multiscale fusion, 2006; window: Huang, IEEE Trans. Audio 1972.

side = 41;
alpha = sqrt(((side - 1) / (2 * ratio))^2 / (-2 * log(gain)));
response = gaussian_kernel(side, alpha);
impulse = real(fftshift(ifft2(ifftshift(response))));
t = (-(side - 1) / 2:(side - 1) / 2) * 2 / (side - 1);
radius = sqrt(t.^2 + (t').^2);
window = interp1(t, kaiser_window(side, 0.5)', radius, 'linear', 0);
kernel = impulse .* window;
end
