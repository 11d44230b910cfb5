"""Decimation of the Wald protocol: every `ratio`-th sample, taken at offset ``ratio // 2``.

The offset is the one that MATLAB's ``imresize(x, 1/ratio, 'nearest')`` takes; `interp23` puts the samples back there.
Legend: H W size before, h w size after, r ratio.
"""

from __future__ import annotations

from torch import Tensor


def decimate(x: Tensor, ratio: int) -> Tensor:
    """Keep ``x[..., r//2::r, r//2::r]``.

    Args:
        x: (..., H, W), any dtype. H and W should be multiples of `ratio`; otherwise the last partial cell counts only
            where it holds the sample at ``r//2``.
        ratio: positive integer; 1 returns `x`.

    Returns:
        A view (..., h, w), h = H/ratio.
    """
    if ratio < 1 or int(ratio) != ratio:
        raise ValueError(f"decimate: ratio must be a positive integer, given {ratio}")
    return x[..., ratio // 2 :: ratio, ratio // 2 :: ratio]
