"""Reduced-resolution protocol (Wald): all indices against a reference, in one call. Legend: B images, C bands, H W."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lemamba.metrics.index import chosen
from lemamba.metrics.inputs import BLOCK, Image, check_peak, check_positive, check_sides, cut_border, prepared
from lemamba.metrics.parallel import run_all


def reduced_resolution(
    sr: Image,
    gt: Image,
    *,
    ratio: float,
    const: float,
    published: bool = False,
    mask: Image | None = None,
    extra: str | Sequence[str] = (),
    cut: int = 0,
    block: int = BLOCK,
) -> dict[str, Tensor]:
    """All indices with reference.

    Args:
        sr: (B, C, H, W), tensor or NumPy array of any real dtype, sides of at least 32 (`block`), values in [0, const].
        gt: the same shape.
        ratio: resolution ratio r (enters ERGAS).
        const: peak value: 2047, 1023, 255, or 1 for data in [0, 1].
        published: reproduce the published scripts where this package corrects a defect (qn of data in [0, 1]).
        mask: (B, 1, H, W), True where valid, for nodata.
        extra: names of further indices (`metrics.EXTRA`) or "all".
        cut: border that is cut off first, see `cut_border`; 0 for none, as published. Papers use 21 and 30.
        block: side of the blocks of Q2n and of the box of Q.

    Returns:
        {name: (B,) float64} for the names in `metrics.REDUCED_NAMES` and the extra ones; units are in
        `metrics.INDICES` and `metrics.EXTRA`.

    Raises:
        UserError: shapes differ, NaN, complex values, a side under 32, a const that is not the peak of gt.
    """
    check_positive("ratio", ratio, "it is H/h, e.g. 4")
    check_positive("const", const, "it is the peak of the data, e.g. 2047")
    indices = chosen("reduced", extra)
    sr, gt, mask = prepared(sr, gt, mask)
    check_peak(const, "gt", gt)
    sr, gt = (cut_border(image, cut) for image in (sr, gt))
    mask = None if mask is None else cut_border(mask, cut)
    check_sides(sr, "reduced resolution", block)
    tasks = []
    for i in range(len(sr)):  # image by image: every index then works in the cache
        images = {"sr": sr[i : i + 1], "gt": gt[i : i + 1], "mask": None if mask is None else mask[i : i + 1]}
        known = images | {"ratio": ratio, "const": const, "published": published, "block": block}
        tasks += [partial(index.measure, known) for index in indices.values()]
    values = run_all(tasks, sr, gt)
    columns = torch.cat(values).view(len(sr), -1).T if values else sr.new_zeros(len(indices), 0, dtype=torch.float64)
    return dict(zip(indices, columns, strict=True))
