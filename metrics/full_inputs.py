"""Checks of the full-resolution protocol: sizes, bands, ratio. Legend: B images, C bands, h w H W sizes, r ratio."""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.inputs import (
    BLOCK,
    Image,
    as_image,
    as_mask,
    blank,
    check_images,
    check_positive,
    check_same_shape,
    check_sides,
)
from lemamba.metrics.large import LargeImage
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import Sensor, get_sensor


def check_ratio(ratio: int, published: bool) -> int:
    """Return the ratio, a positive whole number (1, 2 or 4 as published); any other is a `UserError`."""
    check_positive("ratio", ratio, "it is H/h, e.g. 4")
    if not ratio >= 1 or int(ratio) != ratio:
        raise UserError(f"full resolution needs a ratio that is a whole number, given {ratio}; correct --ratio")
    if published and ratio not in (1, 2, 4):
        raise UserError(f"expected ratio 2 or 4 with the published behaviour, given {ratio}; leave published out")
    return int(ratio)


def check_geometry(geometry: Geometry | None, ratio: int) -> None:
    """Raise a `UserError` unless the geometry has the ratio that is measured with."""
    if geometry is not None and geometry.ratio != (ratio, ratio):
        raise UserError(f"expected a geometry of ratio {ratio}, given {geometry}; correct --ratio")


def published_geometry(ratio: int) -> Geometry:
    """Return the toolboxes' convention: MS pixels lie on PAN pixel r//2 of their cell, where `decimate` takes them."""
    return Geometry((ratio, ratio), (ratio // 2, ratio // 2))


def gains_of(sensor: str | Sensor, bands: int, published: bool = False) -> tuple[float, ...]:
    """Return the MTF gains per band; published: those that the published scripts use (IKONOS for QB and GF2)."""
    sensor = get_sensor(sensor)
    return get_sensor((published and sensor.published_gains) or sensor).gains(bands)


def check_full(
    sr: Image, lms: Image, *, ratio: int, published: bool, mask: Image | None, block: int | None = BLOCK
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return sr and lms with nodata blanked, and the mask as (B, 1, H, W), after all checks of size."""
    ratio = check_ratio(ratio, published)
    sr, lms = as_image("sr", sr), as_image("lms", lms)
    mask = as_mask(mask, sr)
    images = check_images(sr=blank(sr, mask), lms=blank(lms, mask))
    check_same_shape(sr=sr, lms=lms)
    H, W = sr.shape[-2:]
    if block is not None:
        check_sides(sr, "full resolution", block)
    block = block or 1
    if not H or not W or H % block or W % block or H % ratio or W % ratio:
        needed = f"multiples of {block}" + (f" and of the ratio {ratio}" if block % ratio else "")
        raise UserError(f"full resolution needs sides that are {needed}, given {H} x {W}; crop the images")
    return images["sr"], images["lms"], mask


OTHER_UNITS = 5.0  # times the mean of lms: PAN of another number of bits, or divided


def check_units(lms: Tensor, pan: Tensor) -> None:
    """Refuse pan in other units than lms, (B, ·, H, W) with one mask: its Q with the bands depends on both means.

    Scenes in files are matched when they are read, and not looked at as a whole here.
    """
    if isinstance(lms, LargeImage) or isinstance(pan, LargeImage):
        return
    means = float(lms.double().mean()), float(pan.double().mean())
    if min(means) > 0 and not 1 / OTHER_UNITS < means[1] / means[0] < OTHER_UNITS:
        raise UserError(
            f"expected pan in the units of lms, their means are {means[1]:.4g} and {means[0]:.4g}; bring pan to the "
            "scale of lms"
        )


def check_pan(pan: Image, sr: Tensor, mask: Tensor | None) -> Tensor:
    """Return pan with nodata blanked; it must have one band and the size of sr."""
    pan = as_image("pan", pan)
    expected = (len(sr), 1, *sr.shape[-2:])
    if tuple(pan.shape) != expected:
        raise UserError(
            f"expected pan {expected}, given {tuple(pan.shape)}; D_s is defined for one band: with a guide of several, "
            "measure at reduced resolution"
        )
    return check_images(pan=blank(pan, mask))["pan"]
