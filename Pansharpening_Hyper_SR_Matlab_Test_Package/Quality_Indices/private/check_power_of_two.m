function ratio = check_power_of_two(ratio)
%CHECK_POWER_OF_TWO  The ratio as double; the 23-tap interpolator is defined for 2, 4, 8, ... only.

ratio = check_ratio(ratio);
if ratio < 2 || log2(ratio) ~= round(log2(ratio))
    error('lemamba:ratio', 'expected a ratio that is a power of two (2, 4, 8), given %g; correct it', ratio);
end
end
