"""The short causal convolution in front of a one-dimensional Mamba scan.

Shapes: x (B, D, L), weight (D, k), bias (D). `causal_conv1d` is used for CUDA tensors where it is installed; the plain
path gives the same numbers everywhere.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache

from torch import Tensor
from torch.nn import functional as F


@lru_cache(maxsize=1)
def kernel_installed() -> bool:
    """Tell whether the package `causal_conv1d` can be found (it is imported only when a CUDA tensor comes)."""
    return importlib.util.find_spec("causal_conv1d") is not None


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``silu(conv(x))`` per channel, where the output at t sees the inputs t - k + 1 … t.

    Args:
        x: (B, D, L).
        weight: (D, k); the last tap meets the present sample.
        bias: (D).

    Returns:
        (B, D, L).
    """
    if x.is_cuda and kernel_installed():
        from causal_conv1d import causal_conv1d_fn

        return causal_conv1d_fn(x, weight.to(x.dtype), bias.to(x.dtype), activation="silu")
    padded = F.pad(x, (weight.shape[1] - 1, 0))
    return F.silu(F.conv1d(padded, weight[:, None].to(x.dtype), bias.to(x.dtype), groups=weight.shape[0]))
