function check_power_of_two(ratio)
%CHECK_POWER_OF_TWO  The 23-tap interpolator is defined for ratios 2, 4, 8, ...

if ~(isnumeric(ratio) && isscalar(ratio) && ratio >= 2 && log2(ratio) == round(log2(ratio)))
    error('lemamba:ratio', 'expected a ratio that is a power of two (2, 4, 8), given %s', num2str(ratio));
end
end
