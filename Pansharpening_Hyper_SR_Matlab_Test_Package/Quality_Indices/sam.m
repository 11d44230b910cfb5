function value = sam(sr, gt)
%SAM  Spectral angle in degrees, mean over pixels; 0 is best, up to 180.
%
%   sr, gt  H x W x C
%   Pixels where either spectrum is zero have no angle and are left out; an all-black image gives NaN.
%   Source: Yuhas et al., Discrimination among semi-arid landscape endmembers using the SAM algorithm, 1992.

product = sum(sr .* gt, 3);
norms = sqrt(sum(sr.^2, 3) .* sum(gt.^2, 3));
valid = norms ~= 0;
cosine = min(max(product(valid) ./ norms(valid), -1), 1);  % rounding above 1 must not make a complex angle
value = mean(acos(cosine)) * 180 / pi;
end
