function [scale, note] = uint16_scale(const, lms, published)
%UINT16_SCALE  Factor that brings values to the 16-bit range of Q2n: 65535 for data in [0, 1], else 1; and a note.
%
%   const      largest value of the data; [] = 1 where max(lms) <= 1
%   published  true: always 1, as published

scale = 1;
note = '';
if isempty(const)
    const = max(double(lms(:)));
end
if const <= 1 && ~published
    scale = 65535;
    note = sprintf(['note: values in [0, 1] are multiplied by 65535 before the 16-bit rounding inside Q2n; ' ...
        '''published'' leaves them a 0/1 image\n']);
end
end
