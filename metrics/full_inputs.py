"""Checks of the full-resolution protocol: sizes, bands, ratio. Legend: B images, C bands, h w H W sizes, r ratio."""

from __future__ import annotations

from torch import Tensor

from lemamba.metrics.inputs import BLOCK, blank, check_images, check_same_shape
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import Sensor, get_sensor

_PUBLISHED_ALIAS = {"QB": "IKONOS", "GF2": "IKONOS"}  # the published script scores these with the IKONOS gains


def check_ratio(ratio: int, published: bool) -> int:
    """Refuse a ratio that interp23 is not defined for; the published interpolation is wrong beyond 4."""
    if int(ratio) != ratio or ratio < 1 or int(ratio) & (int(ratio) - 1):
        raise UserError(f"full resolution needs a ratio that is a power of two, given {ratio}; correct --ratio")
    if published and ratio > 4:
        raise UserError(f"the published interpolation is wrong at ratio {ratio} (right for 2 and 4); drop published")
    return int(ratio)


def gains_of(sensor: str | Sensor, bands: int, published: bool = False) -> tuple[float, ...]:
    """MTF gains per band; published: those of IKONOS for QB and GF2."""
    sensor = get_sensor(sensor)
    if published:
        sensor = get_sensor(_PUBLISHED_ALIAS.get(sensor.name, sensor))
    return sensor.gains(bands)


def check_full(
    sr: Tensor, lms: Tensor, pan: Tensor | None, *, ratio: int, published: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return sr, lms, pan as float64 with nodata blanked, after all checks of shape and size."""
    ratio = check_ratio(ratio, published)
    given = {"sr": sr, "lms": lms} | ({} if pan is None else {"pan": pan})
    images = check_images(**{name: blank(image, mask) for name, image in given.items()})
    check_same_shape(sr=sr, lms=lms)
    H, W = sr.shape[-2:]
    if H % BLOCK or W % BLOCK or not H or not W or H % ratio or W % ratio:
        raise UserError(f"full resolution needs sides that are multiples of {BLOCK}, given {H} x {W}; crop the images")
    if pan is not None and tuple(pan.shape) != (len(sr), 1, H, W):
        raise UserError(
            f"expected pan {(len(sr), 1, H, W)}, given {tuple(pan.shape)}; D_s is defined for one band: with a guide "
            "of several, measure at reduced resolution"
        )
    return images["sr"], images["lms"], images.get("pan"), mask
