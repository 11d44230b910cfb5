"""Products of hypercomplex numbers of 2^n components (Cayley-Dickson), the algebra of the index Q2n.

Source: A. Garzelli, F. Nencini, "Hypercomplex quality assessment of multi/hyperspectral images", IEEE GRSL 6(4), 2009.
Legend: K = 2^n components.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def product_signs(components: int) -> Tensor:
    """Signs S of the hypercomplex product: e_i * e_j = S[i, j] e_(i xor j), (K, K) int64.

    From (a, b)(c, d) = (a c - conj(d) b, d a + b conj(c)), halves split recursively, e_0 = 1.
    """
    signs = torch.ones(1, 1, dtype=torch.int64)
    while len(signs) < components:
        conjugate = torch.full((len(signs),), -1)
        conjugate[0] = 1
        upper = torch.cat([signs, signs.T], dim=1)  # a c | d a
        lower = torch.cat([signs * conjugate, -signs.T * conjugate], dim=1)  # b conj(c) | -conj(d) b
        signs = torch.cat([upper, lower])
    return signs


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def conjugate_table(components: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Signs (K, K) of x_i * conj(y)_j and the index i xor k that makes component k from row i."""
    conjugate = torch.full((components,), -1)
    conjugate[0] = 1
    signs = product_signs(components) * conjugate
    i = torch.arange(components)
    return signs.double().to(device), (i[:, None] ^ i[None, :]).to(device)
