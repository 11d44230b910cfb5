function note = flat_band_note(x, mask, name)
%FLAT_BAND_NOTE  Text for the user where a band of the image is constant (a dead detector, a missing band); else ''.

flat = find(constant_bands(x, mask));
note = '';
if ~isempty(flat)
    note = sprintf(['note: band %s of %s is constant: Q2n falls to about 0 where the reference alone is constant, ' ...
        'and a reference band of zeros makes ERGAS Inf or NaN\n'], ...
        strjoin(arrayfun(@num2str, flat, 'UniformOutput', false), ', '), name);
end
end
