"""Input checks shared by all indices: floating point, equal shapes, no NaN, an optional mask of valid pixels.

Nothing is converted to float64 here: an index converts a tile at a time (`tiles.py`).

Legend: B images, C bands, H W size; `mask` (B, 1, H, W) or (B, H, W), True = valid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.utils.errors import UserError

Measure = TypeVar("Measure", bound=Callable[..., Tensor])
BLOCK = 32  # side of blocks and windows in Q2n, Q, D_s, D_lambda
_EXACT_IN_FLOAT32 = (torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.bool)


def check_images(**images: Tensor) -> dict[str, Tensor]:
    """Return the images as (B, C, H, W); a wrong number of axes or a NaN or Inf is a `UserError`.

    float32 and float64 stay what they are, other types become the smaller of the two that holds them exactly.
    """
    checked = {}
    for name, image in images.items():
        if image.dim() != 4:
            raise UserError(f"expected {name} as (B, C, H, W), given shape {tuple(image.shape)}; add the missing axes")
        image = _floating(image)
        if not _finite(image.detach()):
            raise UserError(f"expected finite values, {name} holds NaN or Inf; fix the data or mask these pixels")
        checked[name] = image
    return checked


def _floating(image: Tensor) -> Tensor:
    if image.dtype in (torch.float32, torch.float64):
        return image
    return image.float() if image.dtype in _EXACT_IN_FLOAT32 else image.double()


def _finite(image: Tensor) -> bool:
    # The sum needs no memory; where it overflows, the values decide.
    return bool(torch.isfinite(image.sum())) or bool(torch.isfinite(image).all())


def check_pair(sr: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """`check_images` for two images that must have one shape."""
    pair = check_images(sr=sr, gt=gt)
    check_same_shape(sr=sr, gt=gt)
    return pair["sr"], pair["gt"]


def prepared(sr: Tensor, gt: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return both images in floating point with nodata blanked and the mask as (B, 1, H, W), after `check_pair`."""
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


def each_pair(
    index: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, y: Tensor, mask: Tensor | None
) -> Tensor:
    """Call `index` with one image of each batch at a time.

    Args:
        index: takes (C, H, W) twice and the mask as (H, W) or None, and returns one number.
        x, y: (B, C, H, W).
        mask: (B, 1, H, W) or None.

    Returns:
        (B,) float64.
    """
    masks = [None] * len(x) if mask is None else mask[:, 0].unbind()
    values = [index(*pair) for pair in zip(x, y, masks, strict=True)]
    return torch.stack(values) if values else x.new_zeros(0, dtype=torch.float64)


def check_same_shape(**images: Tensor) -> None:
    """Raise a `UserError` unless all images have one shape."""
    if len({tuple(i.shape) for i in images.values()}) > 1:
        given = ", ".join(f"{n} {tuple(i.shape)}" for n, i in images.items())
        raise UserError(f"expected images of one shape, given {given}; crop or resample them")


def check_sides(image: Tensor, index: str, block: int = BLOCK) -> None:
    """Raise a `UserError` where a block does not fit, or has no variance (a side under 2)."""
    H, W = image.shape[-2:]
    if int(block) != block or block < 2:
        raise UserError(f"{index} needs a block of at least 2 pixels a side, given {block}; usual is {BLOCK}")
    if min(H, W) < block:
        raise UserError(f"{index} needs sides of at least {block} pixels, given {H} x {W}; use a larger image")


def as_mask(mask: Tensor | None, image: Tensor) -> Tensor | None:
    """Return the mask as boolean (B, 1, H, W), or None."""
    if mask is None:
        return None
    mask = mask if mask.dim() == 4 else mask[:, None]
    expected = (image.shape[0], 1, *image.shape[-2:])
    if tuple(mask.shape) != expected:
        raise UserError(
            f"expected a mask {expected}, True = valid, given {tuple(mask.shape)}; use one mask for all bands"
        )
    return mask.to(device=image.device, dtype=torch.bool)


def blank(image: Tensor, mask: Tensor | None) -> Tensor:
    """Set nodata pixels to 0, so that NaN there has no effect."""
    return image if mask is None else torch.where(mask, image, torch.zeros((), dtype=image.dtype, device=image.device))


def cut_border(image: Tensor, cut: int) -> Tensor:
    """Cut the border off as the pansharpening toolbox does, ``I(cut:end-cut, cut:end-cut)``.

    MATLAB counts from 1, so that cut - 1 pixels go at the top and the left, and cut at the bottom and the right:
    numbers published "with a border of 21" mean this.
    """
    H, W = image.shape[-2:]
    if int(cut) != cut or cut < 0 or 2 * cut > min(H, W):
        raise UserError(f"expected a cut of 0 to {min(H, W) // 2} pixels for {H} x {W}, given {cut}; choose another")
    return image[..., cut - 1 : H - cut, cut - 1 : W - cut] if cut else image


def windows_valid(mask: Tensor, side: int) -> Tensor:
    """Return which `side` x `side` windows contain only valid pixels: (B, 1, H, W) -> (B, 1, H-side+1, W-side+1)."""
    bad = (~mask).to(torch.float32)
    bad = F.max_pool2d(F.max_pool2d(bad, (side, 1), stride=1), (1, side), stride=1)
    return bad == 0


def mean_valid(values: Tensor, valid: Tensor | None, dim: int | tuple[int, ...]) -> Tensor:
    """Mean over `dim` of the valid values; NaN if there are none. `valid` broadcasts against `values`."""
    if valid is None:
        return values.mean(dim=dim)
    valid = valid.expand_as(values)
    return torch.where(valid, values, 0.0).sum(dim=dim) / valid.sum(dim=dim)


def cut_blocks(x: Tensor, block: int = BLOCK) -> Tensor:
    """View (K, H, W), sides multiples of `block`, as blocks (rows, columns, K, block, block)."""
    return x.unflatten(-1, (-1, block)).unflatten(-3, (-1, block)).permute(1, 3, 0, 2, 4)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root with gradient 0 (not Inf) at 0."""
    if not x.requires_grad:
        return x.sqrt()
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
