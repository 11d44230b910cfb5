function table = hypercomplex_table(bands)
%HYPERCOMPLEX_TABLE  The product of hypercomplex numbers as a sparse matrix of signs, K x bands^2.
%
%   K is the next power of two. For x and y with components x_i, y_j (zero after `bands`) the product's
%   components are table * reshape(x * y', [], 1). The rule, applied to halves:
%   (a, b)(c, d) = (a c - d* b, d a + b c*), * negating all but the first component.
%   Source: Garzelli and Nencini, Hypercomplex quality assessment of multi/hyperspectral images, 2009.

signs = 1;  % signs(i, j) of e_i e_j = signs(i, j) e_(i xor j)
while size(signs, 1) < bands
    conjugate = [1, -ones(1, size(signs, 1) - 1)];
    signs = [signs, signs'; signs .* conjugate, -signs' .* conjugate];
end
K = size(signs, 1);
[i, j] = ndgrid(0:bands - 1);
signs = signs(1:bands, 1:bands);
table = sparse(bitxor(i(:), j(:)) + 1, (1:bands^2)', signs(:), K, bands^2);
end
