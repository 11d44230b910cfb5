% Quality indices for pansharpening and hyperspectral fusion
%
% Scripts: score files, print a line per sample, return mean and std
%   analysis_ref_batched_images     - Reduced resolution, one .mat with B x C x H x W
%   analysis_unref_batched_images   - Full resolution, one .mat with B x C x H x W
%   analysis_ref_unbatched_images   - Reduced resolution, a folder of output_mulExm_<i>.mat
%   analysis_unref_unbatched_images - Full resolution, a folder of output_mulExm_<i>.mat
%
% One image (Quality_Indices)
%   reduced_resolution - All indices with reference
%   full_resolution    - All indices without reference
%   same_sensor        - Whether two names stand for one sensor
%
% Indices with reference (Quality_Indices)
%   sam        - Spectral angle in degrees
%   ergas      - Relative dimensionless global error
%   scc        - Spatial correlation of edges
%   q2n        - Hypercomplex quality index (Q4, Q8, ...)
%   qave       - Universal quality index, 32 x 32 windows
%   psnr       - Peak signal-to-noise ratio in dB, mean over bands
%   ssim       - Structural similarity
%   rmse       - Root mean square error
%   cc         - Correlation coefficient, mean over bands
%   psnr_cube  - Peak signal-to-noise ratio in dB, one MSE over all bands
%   uiqi       - Universal quality index, 8 x 8 windows
%   sid        - Spectral information divergence
%   dd         - Degree of distortion, mean absolute deviation
%   rase       - Relative average spectral error in percent
%
% Indices without reference (Quality_Indices)
%   d_lambda_k - Spectral distortion of HQNR
%   d_lambda   - Spectral distortion of QNR
%   d_s        - Spatial distortion of HQNR and QNR
%   d_rho      - Spatial distortion by local correlation with PAN
%   d_sr       - Spatial distortion by regression (RQNR)
%   d_lambda_ms - Spectral distortion of QNR with ms at its own size
%   r_sam      - Spectral angle between ms and the reduced fused image
%   r_ergas    - Relative global error between ms and the reduced fused image
%   r_q2n      - Hypercomplex quality index between ms and the reduced fused image
%
% Tests and packaging
%   tests/run_tests - Run all tests, in MATLAB and in Octave
%   package_toolbox - Write the toolbox file (.mltbx), in MATLAB
