function value = ergas(sr, gt, ratio)
%ERGAS  Relative dimensionless global error; 0 is best, no upper bound.
%
%   100 / ratio * sqrt( mean over bands of MSE_b / mean(gt_b)^2 )
%   sr, gt  H x W x C; a band whose gt mean is 0 makes it Inf or NaN
%   Source: Wald, Data Fusion: Definitions and Architectures, 2002.

mse = mean(mean((sr - gt).^2, 1), 2);
level = mean(mean(gt, 1), 2);
value = 100 / ratio * sqrt(mean(mse ./ level.^2, 3));
end
