function scale = uint16_scale(const, lms)
%UINT16_SCALE  Factor that brings values to the 16-bit range of Q2n: 65535 for data in [0, 1], else 1.
%
%   const  largest value of the data; [] = 1 where max(lms) <= 1

if isempty(const)
    const = max(double(lms(:)));
end
if const <= 1
    scale = 65535;
else
    scale = 1;
end
end
