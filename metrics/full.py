"""Full-resolution protocol: D_lambda_K, D_s, HQNR, and the older D_lambda, QNR, in one call.

HQNR = (1 - D_lambda_K)(1 - D_s) is what the published script prints as `qnr_index`; QNR = (1 - D_lambda)(1 - D_s).
Legend: B images, C bands, h w H W sizes, r ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.coregistration import check_wanted, places
from lemamba.metrics.d_s import low_pass_pan
from lemamba.metrics.full_inputs import check_full, check_geometry, check_pan, check_units, gains_of
from lemamba.metrics.index import chosen, register_index
from lemamba.metrics.inputs import BLOCK, Image, as_image, blank, check_images, check_peak, cut_border
from lemamba.metrics.large import LargeImage
from lemamba.metrics.parallel import run_all
from lemamba.metrics.reprojection import reproject
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import Sensor


@register_index("hqnr", heading="HQNR", direction=+1, protocol="full", column=3, matlab="qnr_index")
def hqnr(d_lambda_k: Tensor, d_s: Tensor) -> Tensor:
    """HQNR from D_lambda_K and D_s, each (B,)."""
    return (1 - d_lambda_k) * (1 - d_s)


@register_index("qnr", heading="QNR", direction=+1, protocol="full", column=5)
def qnr(d_lambda: Tensor, d_s: Tensor) -> Tensor:
    """QNR from D_lambda and D_s, each (B,)."""
    return (1 - d_lambda) * (1 - d_s)


def _check_ms(ms: Tensor, lms: Tensor, mask_ms: Tensor | None, ratio: int) -> Tensor:
    expected = (*lms.shape[:2], lms.shape[2] // ratio, lms.shape[3] // ratio)
    if tuple(ms.shape) != expected:
        raise UserError(f"expected ms {expected} at ratio {ratio}, given {tuple(ms.shape)}; check --ratio and the file")
    return check_images(ms=blank(ms, mask_ms))["ms"]


def _quality_of_lms(lms: Tensor, pan: Tensor, ratio: int, geometry: Geometry | None, **common: Any) -> Tensor:
    return band_quality(lms, low_pass_pan(pan, ratio, geometry), **common)


def _reprojected(
    sr: Tensor,
    gains: tuple[float, ...],
    ratio: int,
    size: tuple[int, int],
    geometry: Geometry | None,
    observed: tuple[Tensor, Tensor, Tensor | None] | None,
) -> Tensor:
    """Reproject one image, each band where ms fits pan best if they are `observed`: (ms, pan, mask of ms)."""
    if observed is None:
        return reproject(sr, gains, ratio, size, geometry)
    ms, pan, mask = observed
    return reproject(sr, gains, ratio, size, at=places(ms, pan, gains[0], ratio, mask)[0])


def _without_border(mask: Tensor | None, image: Tensor, cut: int) -> Tensor | None:
    """Exclude the border that `cut_border` cuts off from the mask."""
    if not cut:
        return mask
    if isinstance(image, LargeImage):
        return _inside_large(mask, image, cut)
    inside = torch.zeros(len(image), 1, *image.shape[-2:], dtype=torch.bool, device=image.device)
    cut_border(inside, cut).fill_(True)
    return inside if mask is None else inside & mask


def _inside_large(mask: Tensor | None, image: LargeImage, cut: int) -> Tensor:
    """Return the mask of an image in a file, without its border."""
    H, W = image.shape[-2:]
    cut_border(cast(Tensor, image), cut)  # refuses a cut that is too large
    ends = (max(cut - 1, 0), H - cut), (max(cut - 1, 0), W - cut)

    def part(rows: slice, columns: slice) -> Tensor:
        at = (torch.arange(s.start, s.stop) for s in (rows, columns))
        own = [(i >= low) & (i < high) for i, (low, high) in zip(at, ends, strict=True)]
        inside = (own[0][:, None] & own[1])[None]
        return inside if mask is None else inside & mask[0, :, rows, columns]

    return cast(Tensor, LargeImage(part, (1, H, W), torch.bool))


def _without_border_ms(
    sr_ms: Tensor, ms: Tensor, mask_ms: Tensor | None, ratio: int, cut: int
) -> dict[str, Tensor | None]:
    """Cut MS pixels off whose cells touch the border, so that blocks begin inside it."""
    if cut:
        h, w = ms.shape[-2:]
        first, last = -(-(cut - 1) // ratio), -(-cut // ratio)
        inside = (..., slice(first, h - last), slice(first, w - last))
        sr_ms, ms, mask_ms = sr_ms[inside], ms[inside], None if mask_ms is None else mask_ms[inside]
    return {"sr_ms": sr_ms, "gt_ms": ms, "valid_ms": mask_ms}


def _all_of(image: Tensor) -> Tensor:
    """Return a mask of all pixels of an image of one band."""
    return _inside_large(None, image, 0) if isinstance(image, LargeImage) else torch.ones_like(image, dtype=torch.bool)


def _mask_of_ms(mask: Tensor | None, ratio: int) -> Tensor | None:
    """Which MS pixels have no invalid pixel in their cell, (B, 1, H, W) -> (B, 1, h, w)."""
    if isinstance(mask, LargeImage):
        large = mask

        def part(rows: slice, columns: slice) -> Tensor:
            below, right = (slice(s.start * ratio, s.stop * ratio) for s in (rows, columns))
            found = _mask_of_ms(large[..., below, right].tensor(), ratio)
            assert found is not None
            return found[0]

        return cast(Tensor, mask.made(part, (mask.shape[-2] // ratio, mask.shape[-1] // ratio), torch.bool))
    return None if mask is None else mask.unflatten(-1, (-1, ratio)).unflatten(-3, (-1, ratio)).all(-1).all(-2)


def full_resolution(
    sr: Image,
    ms: Image,
    lms: Image,
    pan: Image,
    *,
    ratio: int,
    sensor: str | Sensor,
    const: float | None = None,
    published: bool = False,
    mask: Image | None = None,
    extra: str | Sequence[str] = (),
    geometry: Geometry | None = None,
    cut: int = 0,
    block: int = BLOCK,
    coregister: bool = False,
) -> dict[str, Tensor]:
    """All indices without reference.

    Args:
        sr: (B, C, H, W), tensor or NumPy array of any real dtype, in digital numbers or [0, 1], sides multiples of 32
            (`block`) and of the ratio.
        ms: (B, C, h, w), h = H/r; only extra indices need its values.
        lms: (B, C, H, W), ms interpolated to the size of pan.
        pan: (B, 1, H, W).
        ratio: resolution ratio r, a whole number: 2, 3, 4, 5, 6, 8, …
        sensor: name (any case) or `Sensor`.
        const: peak value; None: max(lms) of each image.
        published: reproduce the published script where this package corrects a defect; an error at ratios above 4.
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.
        extra: names of further indices (`metrics.EXTRA`) or "all".
        geometry: where MS pixels lie under PAN pixels; None = the toolboxes' convention.
        cut: border that does not count, as in `cut_border`: blocks and windows that touch it are left out, filters see
            it. 0 for none, as published.
        block: side of blocks.
        coregister: r_q2n, r_sam and r_ergas sample each band of sr where that of ms fits pan best, see
            `coregistration`, instead of where the geometry says.

    Returns:
        {name: (B,) float64} for the names in `metrics.FULL_NAMES`; "d_lambda_k" is that of HQNR, "d_lambda" of QNR.

    Raises:
        UserError: shapes that do not match, NaN, complex values, a const that is not the peak of lms, pan in other
            units than lms, sides that are not multiples of 32, a sensor with another number of bands.
    """
    sr = as_image("sr", sr)
    gains = gains_of(sensor, sr.shape[1], published)
    indices = chosen("full", extra)
    sr, lms, mask = check_full(sr, lms, ratio=ratio, published=published, mask=mask, block=block)
    pan = check_pan(pan, sr, mask)
    check_units(lms, pan)
    check_geometry(geometry, ratio)
    if const is not None:
        check_peak(const, "lms", lms)
    ms = _check_ms(as_image("ms", ms), lms, _mask_of_ms(mask, ratio), ratio)
    filled, mask = mask, _without_border(mask, sr, cut)  # filters see the border, blocks leave it out
    options: dict[str, Any] = {
        "ratio": ratio,
        "sensor": sensor,
        "const": const,
        "published": published,
        "bands": sr.shape[1],
    }
    options |= {"block": block, "geometry": geometry}
    # Those that need images run side by side, image by image; the others follow from their results.
    direct = [index for index in indices.values() if {"sr", "lms", "pan"} & set(index.needs)]
    reprojected = any("sr_ms" in index.needs for index in indices.values())
    check_wanted(coregister, reprojected)
    mask_ms = _mask_of_ms(mask, ratio)
    tasks: list[Callable[[], Tensor]] = []
    for i in range(len(sr)):
        x, y, p = sr[i : i + 1], lms[i : i + 1], pan[i : i + 1]
        common: dict[str, Any] = {
            "published": published,
            "mask": None if mask is None else mask[i : i + 1],
            "block": block,
        }
        known = {"sr": x, "lms": y, "pan": p} | options | common
        known["seen"] = _all_of(p) if filled is None else filled[i : i + 1]
        tasks += [partial(index.measure, known) for index in direct]
        tasks.append(partial(band_quality, x, p, **common))
        tasks.append(partial(_quality_of_lms, y, p, ratio, geometry, **common))
        if reprojected:
            low = None if mask_ms is None else mask_ms[i : i + 1]
            found_at = (ms[i : i + 1], p, low) if coregister else None
            tasks.append(partial(_reprojected, x, gains, ratio, (ms.shape[-2], ms.shape[-1]), geometry, found_at))
    values = run_all(tasks, sr, lms, pan)
    names = [*(index.name for index in direct), "q_sr", "q_lms", *(["sr_ms"] if reprojected else [])]
    found: dict[str, Any] = {name: torch.cat(values[k :: len(names)]) for k, name in enumerate(names)}
    found |= {"ms": ms, "mask_ms": mask_ms}
    if reprojected:
        found |= _without_border_ms(found["sr_ms"], ms, found["mask_ms"], ratio, cut)
    for name, index in indices.items():
        if name not in found:
            found[name] = index.measure(found | options)
    return {name: found[name] for name in indices}
