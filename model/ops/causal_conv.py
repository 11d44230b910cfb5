"""The short causal convolution before a one-dimensional Mamba scan.

Shapes: x (B, D, L), weight (D, k), bias (D). The package `causal_conv1d` is used for CUDA tensors where it is
installed; torch's operators give the same results everywhere.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache

from torch import Tensor
from torch.nn import functional as F


@lru_cache(maxsize=1)
def kernel_installed() -> bool:
    """Return whether the package `causal_conv1d` can be found; it is imported only for a CUDA tensor."""
    return importlib.util.find_spec("causal_conv1d") is not None


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``silu(conv(x))`` per channel, where the output at t sees the inputs t - k + 1 … t.

    Args:
        x: (B, D, L).
        weight: (D, k); the last tap is for the current sample.
        bias: (D), or None.

    Returns:
        (B, D, L).
    """
    if x.is_cuda and kernel_installed():
        from causal_conv1d import causal_conv1d_fn

        return causal_conv1d_fn(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), activation="silu")
    padded = F.pad(x, (weight.shape[1] - 1, 0))
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return F.silu(F.conv1d(padded, weight[:, None], bias, groups=weight.shape[0]))
