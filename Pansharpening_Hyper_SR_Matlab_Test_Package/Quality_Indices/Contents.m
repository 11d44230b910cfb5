% Quality indices of fused images
%
% help on the folder above lists them; every function works with this folder alone on the path.
%
% One image
%   reduced_resolution, full_resolution, same_sensor
%
% With reference
%   sam, ergas, scc, q2n, qave, psnr, ssim, rmse, cc, psnr_cube, uiqi, sid, dd, rase
%
% Without reference
%   d_lambda_k, d_lambda, d_lambda_ms, d_s, d_rho, d_sr, r_sam, r_ergas, r_q2n
