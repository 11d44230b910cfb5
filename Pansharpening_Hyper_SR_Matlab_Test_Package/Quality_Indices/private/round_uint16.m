function x = round_uint16(x)
%ROUND_UINT16  Values as a 16-bit image holds them: half away from zero, clipped to 0..65535; still double.

x = min(max(round(x), 0), 65535);
end
