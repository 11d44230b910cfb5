"""Full-resolution protocol: D_lambda_K, D_s, HQNR, and the older D_lambda, QNR, in one call.

HQNR = (1 - D_lambda_K)(1 - D_s) is what the published script prints as `qnr_index`; QNR = (1 - D_lambda)(1 - D_s).
Legend: B images, C bands, h w H W sizes, r ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.d_s import low_pass_pan
from lemamba.metrics.full_inputs import check_full, check_pan, gains_of
from lemamba.metrics.index import register_index, registered
from lemamba.metrics.inputs import Image, as_image, check_peak
from lemamba.metrics.parallel import run_all
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import Sensor


@register_index("hqnr", heading="HQNR", direction=+1, protocol="full", column=3, matlab="qnr_index")
def hqnr(d_lambda_k: Tensor, d_s: Tensor) -> Tensor:
    """HQNR from D_lambda_K and D_s, each (B,)."""
    return (1 - d_lambda_k) * (1 - d_s)


@register_index("qnr", heading="QNR", direction=+1, protocol="full", column=5)
def qnr(d_lambda: Tensor, d_s: Tensor) -> Tensor:
    """QNR from D_lambda and D_s, each (B,)."""
    return (1 - d_lambda) * (1 - d_s)


def _check_ms(ms: Tensor, lms: Tensor, ratio: int) -> None:
    expected = (*lms.shape[:2], lms.shape[2] // ratio, lms.shape[3] // ratio)
    if tuple(ms.shape) != expected:
        raise UserError(f"expected ms {expected} at ratio {ratio}, given {tuple(ms.shape)}; check --ratio and the file")
    if not bool(torch.isfinite(ms.detach().double().sum())):
        raise UserError("expected finite values, ms holds NaN or Inf; fix the data")


def _quality_of_lms(lms: Tensor, pan: Tensor, ratio: int, **common: Any) -> Tensor:
    return band_quality(lms, low_pass_pan(pan, ratio), **common)


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
) -> dict[str, Tensor]:
    """All indices without reference.

    Args:
        sr: (B, C, H, W), tensor or NumPy array of any real dtype, sides multiples of 32, in digital numbers or [0, 1].
        ms: (B, C, h, w), h = H/r; checked, no index needs its values.
        lms: (B, C, H, W), ms interpolated to the size of pan.
        pan: (B, 1, H, W).
        ratio: resolution ratio r, a power of two.
        sensor: name (any case) or `Sensor`.
        const: peak value; None: decided per image by max(lms) <= 1.
        published: reproduce the published script where this package corrects a defect; an error at ratios above 4.
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.

    Returns:
        {name: (B,) float64} for the names in `metrics.FULL_NAMES`; "d_lambda_k" is that of HQNR, "d_lambda" of QNR.

    Raises:
        UserError: shapes that do not match, NaN, complex values, a const that is not the peak of lms, sides that are
            not multiples of 32, a sensor with another number of bands.
    """
    sr = as_image("sr", sr)
    gains_of(sensor, sr.shape[1], published)
    sr, lms, mask = check_full(sr, lms, ratio=ratio, published=published, mask=mask)
    pan = check_pan(pan, sr, mask)
    _check_ms(as_image("ms", ms), lms, ratio)
    if const is not None:
        check_peak(const, "lms", lms)
    options = {"ratio": ratio, "sensor": sensor, "const": const, "published": published, "bands": sr.shape[1]}
    indices = registered("full")
    # Those that need images and options only run side by side, image by image; the others follow from their results.
    direct = [index for index in indices.values() if {"sr", "lms", "pan"} & set(index.needs)]
    tasks: list[Callable[[], Tensor]] = []
    for i in range(len(sr)):
        x, y, p = sr[i : i + 1], lms[i : i + 1], pan[i : i + 1]
        m = None if mask is None else mask[i : i + 1]
        known = {"sr": x, "lms": y, "pan": p, "mask": m} | options
        tasks += [partial(index.measure, known) for index in direct]
        tasks.append(partial(band_quality, x, p, published=published, mask=m))
        tasks.append(partial(_quality_of_lms, y, p, ratio, published=published, mask=m))
    values = run_all(tasks, sr, lms, pan)
    names = [*(index.name for index in direct), "q_sr", "q_lms"]
    found = {name: torch.cat(values[k :: len(names)]) for k, name in enumerate(names)}
    for name, index in indices.items():
        if name not in found:
            found[name] = index.measure(found | options)
    return {name: found[name] for name in indices}
