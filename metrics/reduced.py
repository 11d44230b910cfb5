"""Reduced-resolution protocol (Wald): all indices against a reference, in one call. Legend: B images, C bands, H W."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lemamba.metrics.index import registered
from lemamba.metrics.inputs import Image, check_peak, check_positive, check_sides, prepared
from lemamba.metrics.parallel import run_all


def reduced_resolution(
    sr: Image,
    gt: Image,
    *,
    ratio: float,
    const: float,
    published: bool = False,
    mask: Image | None = None,
) -> dict[str, Tensor]:
    """All indices with reference; no border is cut.

    Args:
        sr: (B, C, H, W), tensor or NumPy array of any real dtype, sides of at least 32, values in [0, const].
        gt: the same shape.
        ratio: resolution ratio r (enters ERGAS).
        const: peak value: 2047, 1023, 255, or 1 for data in [0, 1].
        published: reproduce the published scripts where this package corrects a defect (qn of data in [0, 1]).
        mask: (B, 1, H, W), True where valid, for nodata.

    Returns:
        {name: (B,) float64} for the names in `metrics.REDUCED_NAMES`; units are in `metrics.INDICES`.

    Raises:
        UserError: shapes differ, NaN, complex values, a side under 32, a const that is not the peak of gt.
    """
    check_positive("ratio", ratio, "it is H/h, e.g. 4")
    check_positive("const", const, "it is the peak of the data, e.g. 2047")
    sr, gt, mask = prepared(sr, gt, mask)
    check_peak(const, "gt", gt)
    check_sides(sr, "reduced resolution")
    indices = registered("reduced")
    tasks = []
    for i in range(len(sr)):  # image by image: every index then works in the cache
        images = {"sr": sr[i : i + 1], "gt": gt[i : i + 1], "mask": None if mask is None else mask[i : i + 1]}
        known = images | {"ratio": ratio, "const": const, "published": published}
        tasks += [partial(index.measure, known) for index in indices.values()]
    values = run_all(tasks, sr, gt)
    columns = torch.cat(values).view(len(sr), -1).T if values else sr.new_zeros(len(indices), 0)
    return dict(zip(indices, columns, strict=True))
