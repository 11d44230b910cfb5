function print_scale_note()
%PRINT_SCALE_NOTE  Say that data in [0, 1] are scaled before the 16-bit rounding of the Q2n index.

fprintf(['note: values in [0, 1] are multiplied by 65535 before the 16-bit rounding inside Q2n; ' ...
    '''published'' leaves them a 0/1 image\n']);
end
