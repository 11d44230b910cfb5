function value = psnr(sr, gt, const)
%PSNR  Peak signal-to-noise ratio in dB, mean over bands; larger is better, Inf for equal images.
%
%   sr, gt  H x W x C; const  the peak value

mse = mean(mean(((sr - gt) / const).^2, 1), 2);
value = mean(10 * log10(1 ./ mse), 3);
end
