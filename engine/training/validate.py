"""What validation measures: the indices of a batch, and which way each is better."""

from __future__ import annotations

from torch import Tensor

from lemamba import metrics
from lemamba.utils.facts import DataFacts

QUICK_METRICS = ("sam", "ergas", "psnr")


def metric_names(every: bool) -> tuple[str, ...]:
    """Return the names `measure` gives."""
    return metrics.REDUCED_NAMES if every else QUICK_METRICS


def measure(sr: Tensor, gt: Tensor, facts: DataFacts, *, every: bool = False) -> dict[str, Tensor]:
    """Compute the indices of a batch as inference does: sr clipped, in digital numbers.

    Args:
        sr: fused images (B, C, H, W), nominally in [0, 1].
        gt: ground truth (B, C, H, W) in [0, 1].
        facts: of the data; ratio and divisor are used.
        every: all reduced-resolution indices instead of SAM, ERGAS and PSNR.

    Returns:
        {name: (B,) float64}.
    """
    sr, gt = sr.double().clamp(0, 1) * facts.divisor, gt.double() * facts.divisor
    if every:
        return metrics.reduced_resolution(sr, gt, ratio=facts.ratio, const=facts.divisor)
    return {
        "sam": metrics.sam(sr, gt),
        "ergas": metrics.ergas(sr, gt, ratio=facts.ratio),
        "psnr": metrics.psnr(sr, gt, const=facts.divisor),
    }


def minimised(metric: str) -> bool:
    """Return whether a smaller value of `metric` is better: true for the loss and for errors such as SAM."""
    return metric == "loss" or (metric in metrics.INDICES and metrics.INDICES[metric].direction < 0)
