"""Input checks shared by all indices: floating point, equal shapes, no NaN, the peak, an optional mask of valid pixels.

The peak `const` and the data are checked against each other: a wrong one would give numbers that look right. Nothing is
converted to float64 here: an index converts a tile at a time (`tiles.py`).

Legend: B images, C bands, H W size; `mask` (B, 1, H, W) or (B, H, W), True = valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.large import LargeImage
from lemamba.metrics.tiles import row_tiles
from lemamba.utils.errors import UserError

Measure = TypeVar("Measure", bound=Callable[..., Tensor])
Image = Tensor | np.ndarray | LargeImage
BLOCK = 32  # side of blocks and windows in Q2n, Q, D_s, D_lambda
PEAK_MARGIN = 1.5  # a reference may end at this multiple of the peak; data in [0, 1] end below it
PEAKS = (1, 255, 1023, 2047, 4095, 16383, 65535)  # of data in [0, 1] and of 8, 10, 11, 12, 14 and 16 bits
_EXACT_IN_FLOAT32 = (torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.bool)


def as_image(name: str, image: Any) -> Tensor:
    """Return a tensor or NumPy array as a tensor (B, C, H, W) of its own numbers.

    Raises:
        UserError: another type, complex values, or another number of axes.
    """
    if isinstance(image, LargeImage):
        return cast(Tensor, image)  # it answers as one
    if not isinstance(image, Tensor | np.ndarray):
        raise UserError(f"expected {name} as a torch tensor or NumPy array, given {type(image).__name__}; convert it")
    if image.is_complex() if isinstance(image, Tensor) else image.dtype.kind == "c":
        raise UserError(f"expected real values, {name} is complex; take its magnitude or its real part")
    if isinstance(image, np.ndarray):
        if image.dtype.kind not in "biuf":
            raise UserError(f"expected numbers, {name} has dtype {image.dtype}; convert it")
        image = torch.from_numpy(np.array(image, np.float64))  # torch has not all dtypes and byte orders of NumPy
    if image.dim() != 4:
        missing = "give one image as image[None]" if image.dim() == 3 else "add the missing axes"
        raise UserError(f"expected {name} as (B, C, H, W), given shape {tuple(image.shape)}; {missing}")
    return image


def check_positive(name: str, number: Any, example: str) -> None:
    """Raise a `UserError` unless `number` is a positive finite number."""
    known = isinstance(number, int | float | np.number) and not isinstance(number, bool)
    if not known or not 0 < number < math.inf:
        raise UserError(f"expected a positive number as {name}, given {number!r}; {example}")


def nearest_peak(top: float) -> float:
    """Return the peak of data that end at `top`: 1 for data in [0, 1], else 2^L - 1 of the usual bits."""
    return 1 if top <= PEAK_MARGIN else next((float(peak) for peak in PEAKS if top <= peak), float(math.ceil(top)))


def in_unit_range(image: Tensor) -> bool:
    """Return whether values lie in [0, 1] by their numbers: fractions that end below 1.5. A black image does not."""
    image = image.detach()
    top = float(image.amax()) if image.numel() else 0.0
    if not 0 < top <= PEAK_MARGIN:
        return False
    parts = (image[..., rows, :] for rows in row_tiles(image))
    return any(bool((part != part.round()).any()) for part in parts)


def check_peak(const: Any, name: str, reference: Tensor) -> None:
    """Refuse a peak that cannot be that of the data.

    Args:
        const: the peak; a tensor (one per image, found from the data) is not checked.
        name: of the reference, for the message.
        reference: gt, or lms at full resolution; not sr, which may be as wrong as a method makes it.

    Raises:
        UserError: const is not positive; the reference ends above 1.5 const; or it holds fractions that end below 1.5,
            so data in [0, 1], and const is larger than that.
    """
    if isinstance(const, Tensor):
        return
    check_positive("const", const, "it is the peak of the data, e.g. 2047")
    top = float(reference.detach().amax()) if reference.numel() else 0.0
    if not math.isfinite(top):
        return  # refused as such
    if top > PEAK_MARGIN * const or (top <= PEAK_MARGIN < const and in_unit_range(reference)):
        peak = f"{nearest_peak(top):g}"
        raise UserError(
            f"{name} ends at {top:.6g}, which does not fit the peak const {const:g}; give the peak of these data: "
            f"const={peak} (--const {peak})"
        )


def check_images(*, finite: bool = True, **images: Tensor) -> dict[str, Tensor]:
    """Return the images as (B, C, H, W); what `as_image` refuses, NaN and Inf are a `UserError`.

    float32 and float64 stay what they are, other types become the smaller of the two that holds them exactly. NaN and
    Inf are not looked for without `finite`.
    """
    checked = {}
    for name, image in images.items():
        image = _floating(as_image(name, image))
        if finite and not _finite(image.detach()):
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


def check_pair(sr: Tensor, gt: Tensor, *, finite: bool = True) -> tuple[Tensor, Tensor]:
    """`check_images` for two images that must have one shape."""
    pair = check_images(finite=finite, sr=sr, gt=gt)
    check_same_shape(sr=sr, gt=gt)
    return pair["sr"], pair["gt"]


def prepared(sr: Image, gt: Image, mask: Image | None, *, finite: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return both images in floating point with nodata blanked and the mask as (B, 1, H, W), after `check_pair`."""
    sr, gt = as_image("sr", sr), as_image("gt", gt)
    mask = as_mask(mask, sr)
    return *check_pair(blank(sr, mask), blank(gt, mask), finite=finite), mask


def on_pairs(index: Measure) -> Measure:
    """Make an index of prepared images one that prepares them itself.

    `register_index` goes below this decorator: a protocol prepares a pair once and calls the bare function.
    """
    return _prepare_and_measure(index, finite=True)


def on_moments(index: Measure) -> Measure:
    """`on_pairs` for an index whose result is NaN or Inf if any sample is: only then are they looked for."""
    return _prepare_and_measure(index, finite=False)


def _prepare_and_measure(index: Measure, finite: bool) -> Measure:
    @wraps(index)
    def measure(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None, **options: Any) -> Tensor:
        sr, gt, mask = prepared(sr, gt, mask, finite=finite)
        if "const" in options:
            check_peak(options["const"], "gt", gt)
        if "ratio" in options:
            check_positive("ratio", options["ratio"], "it is H/h, e.g. 4")
        value = index(sr, gt, mask=mask, **options)
        if not finite and not math.isfinite(value.detach().sum()):
            check_pair(sr, gt)
        return value

    return cast(Measure, measure)


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


def as_mask(mask: Image | None, image: Tensor) -> Tensor | None:
    """Return the mask as boolean (B, 1, H, W), or None."""
    if mask is None:
        return None
    mask = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask
    mask = mask if mask.dim() == 4 else mask[:, None]
    expected = (image.shape[0], 1, *image.shape[-2:])
    if tuple(mask.shape) != expected:
        raise UserError(
            f"expected a mask {expected}, True = valid, given {tuple(mask.shape)}; use one mask for all bands"
        )
    return cast(Tensor, mask) if isinstance(mask, LargeImage) else mask.to(device=image.device, dtype=torch.bool)


def blank(image: Tensor, mask: Tensor | None) -> Tensor:
    """Set nodata pixels to 0, so that NaN there has no effect."""
    if isinstance(image, LargeImage):
        return image if mask is None else cast(Tensor, image.where(cast(LargeImage, mask)))
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
    if isinstance(mask, LargeImage):

        def part(rows: slice, columns: slice) -> Tensor:
            wide = mask[..., rows.start : rows.stop + side - 1, columns.start : columns.stop + side - 1]
            return windows_valid(wide.tensor(), side)[0]

        H, W = mask.shape[-2:]
        return cast(Tensor, mask.made(part, (H - side + 1, W - side + 1), torch.bool))
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
