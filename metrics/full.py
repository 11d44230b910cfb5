"""Full-resolution protocol: D_lambda_K, D_s, HQNR, and the older D_lambda, QNR, in one call.

HQNR = (1 - D_lambda_K)(1 - D_s) is what the published script prints as `qnr_index`; QNR = (1 - D_lambda)(1 - D_s).
Legend: B images, C bands, h w H W sizes, r ratio.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lemamba.metrics.block_q import band_quality
from lemamba.metrics.d_lambda import d_lambda_from
from lemamba.metrics.d_lambda_k import d_lambda_k_of
from lemamba.metrics.d_s import d_s_from, low_pass_pan
from lemamba.metrics.full_inputs import check_full, gains_of
from lemamba.metrics.inputs import as_mask
from lemamba.metrics.parallel import run_all
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import Sensor

FULL_NAMES = ("d_lambda", "d_s", "hqnr", "d_lambda_qnr", "qnr")


def _check_ms(ms: Tensor, lms: Tensor, ratio: int) -> None:
    expected = (*lms.shape[:2], lms.shape[2] // ratio, lms.shape[3] // ratio)
    if tuple(ms.shape) != expected:
        raise UserError(f"expected ms {expected} at ratio {ratio}, given {tuple(ms.shape)}; check --ratio and the file")
    if not bool(torch.isfinite(ms.detach().double().sum())):
        raise UserError("expected finite values, ms holds NaN or Inf; mend the data")


def _quality_of_lms(lms: Tensor, pan: Tensor, ratio: int, **common: Any) -> Tensor:
    return band_quality(lms, low_pass_pan(pan, ratio), **common)


def full_resolution(
    sr: Tensor,
    ms: Tensor,
    lms: Tensor,
    pan: Tensor,
    *,
    ratio: int,
    sensor: str | Sensor,
    const: float | None = None,
    published: bool = False,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """All indices without reference.

    Args:
        sr: (B, C, H, W), sides multiples of 32, in the sensor's numbers.
        ms: (B, C, h, w), h = H/r; checked, no index needs its values.
        lms: (B, C, H, W), ms interpolated to the size of pan.
        pan: (B, 1, H, W).
        ratio: resolution ratio r, a power of two.
        sensor: name (any case) or `Sensor`.
        const: peak value; None finds out whether the data lie in [0, 1], per image.
        published: reproduce the published script where ours mends a defect; an error at ratios above 4.
        mask: (B, 1, H, W), True where valid; only blocks without nodata count.

    Returns:
        d_lambda (that is D_lambda_K), d_s, hqnr, d_lambda_qnr, qnr: each (B,) float64.

    Raises:
        UserError: shapes that do not fit, NaN, sides no multiple of 32, a wrong number of bands for the sensor.
    """
    gains_of(sensor, sr.shape[1], published)
    sr, lms, pan, mask = check_full(sr, lms, pan, ratio=ratio, published=published, mask=as_mask(mask, sr))
    _check_ms(ms, lms, ratio)
    tasks = []
    for i in range(len(sr)):
        x, y, p = sr[i : i + 1], lms[i : i + 1], pan[i : i + 1]
        m = None if mask is None else mask[i : i + 1]
        common = {"published": published, "mask": m}
        tasks += [
            partial(d_lambda_k_of, x, y, m, ratio=ratio, sensor=sensor, const=const, published=published),
            partial(band_quality, x, p, **common),
            partial(_quality_of_lms, y, p, ratio, **common),
        ]
    values = run_all(tasks, sr, lms, pan)
    spectral, q_sr, q_lms = (torch.cat(values[k::3]) for k in range(3))
    spatial = d_s_from(q_sr, q_lms)
    older = d_lambda_from(q_sr[:, :-1, :-1], q_lms[:, :-1, :-1])
    return {
        "d_lambda": spectral,
        "d_s": spatial,
        "hqnr": (1 - spectral) * (1 - spatial),
        "d_lambda_qnr": older,
        "qnr": (1 - older) * (1 - spatial),
    }
