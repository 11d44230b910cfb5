function [scale, note] = uint16_scale(const, lms, published)
%UINT16_SCALE  Factor that brings values to the 16-bit range of Q2n, 1 for digital numbers; and a note.
%
%   65535 for data in [0, 1], 65535 / const for other largest values below 20 or above 65535.
%   const      largest value of the data; [] = max(lms)
%   published  true: always 1, as published

scale = 1;
note = '';
if isempty(const)
    const = max(double(lms(:)));
end
if (const < 20 || const > 65535) && ~published
    scale = 65535 / max(const, 1);
    note = sprintf(['note: values up to %g are multiplied by %g before the 16-bit rounding inside Q2n; ' ...
        '''published'' rounds and clips them as they are\n'], const, scale);
end
end
