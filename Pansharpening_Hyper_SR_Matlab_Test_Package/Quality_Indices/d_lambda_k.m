function value = d_lambda_k(sr, lms, gains, ratio, scale)
%D_LAMBDA_K  Spectral distortion after Khan (res.d_lambda), 0..1, 0 is best.
%
%   1 - Q2n between lms, in the place of the reference, and the fused image through the MTF filter, at full size.
%   sr, lms  H x W x C; gains 1 x C; scale as in q2n
%   Source: Khan et al., Pansharpening quality assessment using the modulation transfer functions of instruments,
%   2009, with Q2n at the size of PAN as in the published toolbox.

value = 1 - q2n(mtf_filter(sr, gains, ratio), lms, scale);
end
