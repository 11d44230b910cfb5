"""MATLAB's ``imresize`` with antialiasing, for bicubic (a = -0.5), bilinear and nearest kernels.

Grids are centred on half pixels, the kernel is stretched by 1/scale when shrinking, the weights are normalised and the
border is mirrored with the edge sample repeated. Neither ``torch.nn.functional.interpolate(antialias=True)`` nor PIL
does this.
Legend: H W size before, h w size after.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from lemamba.operators.banded import Blocks, apply_to_both, banded_blocks
from lemamba.operators.resample import mirrored

_BLOCK = 64  # outputs per block


def _cubic(x: Tensor) -> Tensor:
    a = x.abs()
    near = 1.5 * a**3 - 2.5 * a**2 + 1
    far = -0.5 * a**3 + 2.5 * a**2 - 4 * a + 2
    return torch.where(a <= 1, near, torch.where(a <= 2, far, 0.0))


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)


def _box(x: Tensor) -> Tensor:
    return ((x >= -0.5) & (x < 0.5)).to(x.dtype)


# kernel, width, whether shrinking stretches it (MATLAB never antialiases 'nearest')
_METHODS: dict[str, tuple[Callable[[Tensor], Tensor], float, bool]] = {
    "bicubic": (_cubic, 4.0, True),
    "bilinear": (_triangle, 2.0, True),
    "nearest": (_box, 1.0, False),
}


def resized(n: int, scale: float) -> int:
    """Number of output samples: ceil(n * scale), robust to the rounding of a scale such as 1/3."""
    return math.ceil(n * scale - 1e-9)


def _taps(n: int, scale: float, method: str) -> tuple[Tensor, Tensor]:
    """Weights (m, P) and 0-based input indices (m, P) of the m outputs."""
    kernel, width, antialias = _METHODS[method]
    stretch = min(scale, 1.0) if antialias else 1.0
    width = width / stretch
    centre = (torch.arange(resized(n, scale), dtype=torch.float64) + 0.5) / scale - 0.5
    left = torch.floor(centre - width / 2)
    position = left[:, None] + torch.arange(math.ceil(width) + 2, dtype=torch.float64)
    weight = stretch * kernel(stretch * (centre[:, None] - position))
    weight = weight / weight.sum(dim=1, keepdim=True)
    return weight, mirrored(position.long(), n)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a cached inference tensor could not be used in training later
def _blocks(n: int, scale: float, method: str, dtype: torch.dtype, device: torch.device) -> Blocks:
    return banded_blocks(*_taps(n, scale, method), _BLOCK, dtype, device)


def imresize(x: Tensor, scale: float, method: str = "bicubic") -> Tensor:
    """Resize both axes by `scale` as MATLAB's ``imresize(x, scale, method)`` does.

    Args:
        x: (B, C, H, W) or (..., H, W), floating point. Half types are computed in float32.
        scale: positive; 1/4 shrinks four times, 4 enlarges four times.
        method: "bicubic", "bilinear" or "nearest".

    Returns:
        (..., ceil(scale*H), ceil(scale*W)), dtype of `x`; values are not clipped (bicubic overshoots).
    """
    if method not in _METHODS:
        raise ValueError(f"imresize: method must be one of {', '.join(_METHODS)}, given {method!r}")
    if not scale > 0:
        raise ValueError(f"imresize: scale must be positive, given {scale}")
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    rows, columns = (_blocks(n, float(scale), method, work.dtype, work.device) for n in x.shape[-2:])
    return apply_to_both(work, rows, columns).to(x.dtype)
