function ratio = check_whole_ratio(ratio, published)
%CHECK_WHOLE_RATIO  The ratio as a whole double of at least 2; with 'published' 2 or 4.

ratio = check_ratio(ratio);
if ratio < 2 || ratio ~= round(ratio)
    error('lemamba:ratio', 'expected a whole ratio of at least 2 at full resolution, given %g; correct it', ratio);
end
if published && ratio ~= 2 && ratio ~= 4
    error('lemamba:ratio', ['expected ratio 2 or 4 with ''published'', given %g: the published interpolation ' ...
        'enlarges by 2^(ratio/2); leave ''published'' out'], ratio);
end
end
