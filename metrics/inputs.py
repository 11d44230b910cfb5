"""What every index does with its input: float64, equal shapes, no NaN, an optional mask of valid pixels.

Legend: B images, C bands, H W size; `mask` (B, 1, H, W) or (B, H, W), True = valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.utils.errors import UserError

Measure = TypeVar("Measure", bound=Callable[..., Tensor])
BLOCK = 32  # side of the blocks and windows of Q2n, Q, D_s, D_lambda
_PLANE_BUDGET = 2**16  # float64 samples of one plane that stay in a core's cache through a dozen passes


def check_images(**images: Tensor) -> dict[str, Tensor]:
    """Return the images as float64 (B, C, H, W); a wrong number of axes or a NaN or Inf is a `UserError`."""
    checked = {}
    for name, image in images.items():
        if image.dim() != 4:
            raise UserError(f"expected {name} as (B, C, H, W), given shape {tuple(image.shape)}; add the missing axes")
        image = image.double()
        if not bool(torch.isfinite(image.detach().sum())):
            raise UserError(f"expected finite values, {name} holds NaN or Inf; mend the data or mask these pixels")
        checked[name] = image
    return checked


def check_pair(sr: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """`check_images` for two images that must have one shape."""
    pair = check_images(sr=sr, gt=gt)
    check_same_shape(sr=sr, gt=gt)
    return pair["sr"], pair["gt"]


def prepared(sr: Tensor, gt: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return both images as float64 with nodata blanked and the mask as (B, 1, H, W), after `check_pair`."""
    mask = as_mask(mask, sr)
    return *check_pair(blank(sr, mask), blank(gt, mask)), mask


def on_pairs(index: Measure) -> Measure:
    """Make an index of prepared images one that prepares them itself.

    `register_index` goes below this decorator: a protocol prepares a pair once and calls the bare function.
    """

    @wraps(index)
    def prepare_and_measure(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None, **options: Any) -> Tensor:
        sr, gt, mask = prepared(sr, gt, mask)
        return index(sr, gt, mask=mask, **options)

    return cast(Measure, prepare_and_measure)


def check_same_shape(**images: Tensor) -> None:
    """Raise a `UserError` unless all images have one shape."""
    if len({tuple(i.shape) for i in images.values()}) > 1:
        given = ", ".join(f"{n} {tuple(i.shape)}" for n, i in images.items())
        raise UserError(f"expected images of one shape, given {given}; crop or resample them")


def check_sides(image: Tensor, index: str) -> None:
    """Raise a `UserError` where a block of 32 does not fit."""
    H, W = image.shape[-2:]
    if min(H, W) < BLOCK:
        raise UserError(f"{index} needs sides of at least {BLOCK} pixels, given {H} x {W}; use a larger image")


def as_mask(mask: Tensor | None, image: Tensor) -> Tensor | None:
    """Return the mask as boolean (B, 1, H, W), or None."""
    if mask is None:
        return None
    mask = mask if mask.dim() == 4 else mask[:, None]
    expected = (image.shape[0], 1, *image.shape[-2:])
    if tuple(mask.shape) != expected:
        raise UserError(f"expected a mask {expected}, True = valid, given {tuple(mask.shape)}; give one for all bands")
    return mask.to(device=image.device, dtype=torch.bool)


def blank(image: Tensor, mask: Tensor | None) -> Tensor:
    """Put 0 where the mask says nodata, so that NaN there harms nothing."""
    return image if mask is None else torch.where(mask, image, torch.zeros((), dtype=image.dtype, device=image.device))


def windows_valid(mask: Tensor, side: int) -> Tensor:
    """Tell which `side` x `side` windows hold valid pixels only: (B, 1, H, W) -> (B, 1, H-side+1, W-side+1)."""
    bad = (~mask).to(torch.float32)
    bad = F.max_pool2d(F.max_pool2d(bad, (side, 1), stride=1), (1, side), stride=1)
    return bad == 0


def mean_valid(values: Tensor, valid: Tensor | None, dim: int | tuple[int, ...]) -> Tensor:
    """Mean over `dim` of the values that are valid; none: NaN. `valid` broadcasts against `values`."""
    if valid is None:
        return values.mean(dim=dim)
    valid = valid.expand_as(values)
    return torch.where(valid, values, 0.0).sum(dim=dim) / valid.sum(dim=dim)


def plane_chunks(planes: int, H: int, W: int, device: torch.device) -> Iterator[slice]:
    """Slices over (B*C) planes: on a CPU few enough to stay in its cache, elsewhere all at once."""
    step = max(1, _PLANE_BUDGET // (H * W)) if device.type == "cpu" else planes
    for start in range(0, planes, step):
        yield slice(start, start + step)


def strips(H: int, device: torch.device) -> Iterator[slice]:
    """Slices over rows, in multiples of a block: on a CPU one row of blocks at a time, elsewhere all at once."""
    step = BLOCK if device.type == "cpu" else max(H, 1)
    for start in range(0, H, step):
        yield slice(start, start + step)


def cut_blocks(x: Tensor) -> Tensor:
    """View (K, H, W), sides multiples of 32, as blocks (rows, columns, K, 32, 32)."""
    return x.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).permute(1, 3, 0, 2, 4)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 and not Inf."""
    if not x.requires_grad:
        return x.sqrt()
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
