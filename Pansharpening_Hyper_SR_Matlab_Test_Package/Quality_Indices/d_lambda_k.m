function value = d_lambda_k(sr, lms, gains, ratio, scale, varargin)
%D_LAMBDA_K  Spectral distortion after Khan (res.d_lambda), 0..1, 0 is best.
%
%   value = d_lambda_k(sr, lms, gains, ratio, scale)
%   value = d_lambda_k(sr, lms, gains, ratio, scale, 'block', 32, 'mask', mask, 'cut', N, 'published')
%
%   1 - Q2n between lms, in the place of the reference, and the fused image through the MTF filter, at full size.
%   sr, lms  H x W x C, any numeric class
%   gains    MTF gains at the Nyquist frequency, 1 x C, or the name of a sensor ('WV3', 'none')
%   ratio    size of PAN by that of MS
%   scale    and the options as in q2n
%   After 'cut', N blocks and windows that touch a border of N pixels do not count; filters see it.
%   Source: Khan et al., Pansharpening quality assessment using the modulation transfer functions of instruments,
%   2009, with Q2n at the size of PAN as in the published toolbox.
%
%   Example:
%      lms = round(200 * repmat(peaks(64), 1, 1, 4) + 1500);
%      d_lambda_k(lms + 20 * rand(size(lms)), lms, 'QB', 4, 1)
%
%   See also D_LAMBDA, D_S, Q2N, FULL_RESOLUTION.

check_arguments(nargin, 5, 'd_lambda_k(sr, lms, gains, ratio, scale)');
ratio = check_ratio(ratio);
[sr, lms, options] = image_pair(sr, lms, varargin, 'd_lambda_k', {'cut'});
low = mtf_filter(sr, band_gains(gains, size(sr, 3)), ratio);
blocks = {'block', default_to(options.block, 32), 'mask', options.mask};
value = 1 - q2n(low, lms, scale, options.published, blocks{:});
end
