"""Validation: every sample of the validation set measured once, whatever the number of processes.

sr, gt (B, C, H, W) in [0, 1]; the metric function gets them as they are and returns {name: (B,)}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lemamba.reporting.tables import direction

MetricFunction = Callable[[Tensor, Tensor], dict[str, Tensor]]


class Interrupted(Exception):  # noqa: N818  (no error: a signal came)
    """A signal asked to stop; the validation is given up and made again after resuming."""


class MeterLike(Protocol):
    """What the engine needs of `metrics.Meter`."""

    def update(self, values: dict[str, Tensor]) -> None:
        """Take the values (B,) of a batch."""

    def compute(self) -> dict[str, tuple[float, float]]:
        """Return mean and standard deviation over all samples of all ranks."""


def minimised(metric: str) -> bool:
    """Tell whether a smaller value of `metric` is better: of the loss, and of the indices in `reporting.tables`."""
    return metric == "loss" or direction(metric) < 0


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Iterable[dict[str, Tensor]],
    loss: Callable[[Tensor, Tensor], dict[str, Tensor]],
    metrics: MetricFunction,
    meter: MeterLike,
    device: torch.device,
    rounds: int = 0,
    interrupted_anywhere: Callable[[], bool] = lambda: False,
    interrupted_here: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, float], dict[str, Tensor] | None]:
    """Measure `model` on this rank's part of the validation set.

    Args:
        model: in the state to be measured (EMA weights applied); left in training mode as it was.
        loader: this rank's batches.
        loss: its total is reported as "loss", averaged over samples.
        metrics: (sr, gt) → {name: (B,)}.
        meter: accumulates over batches and ranks.
        device: where to compute.
        rounds: forward passes every rank must make (networks whose forward needs all ranks); 0 = as many as batches.
        interrupted_anywhere: asked once by every rank, after its batches: did a signal reach any rank?
        interrupted_here: asked between batches: did a signal reach this one?

    Raises:
        Interrupted: on all ranks, where a signal reached any.

    Returns:
        Mean of each metric over all ranks, and the first sample of this rank ({"lms", "sr", "gt"} (C, H, W)) or None.
    """
    was_training = model.training
    model.eval()
    first, done, batch = None, 0, None
    for batch in loader:
        batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        sr = model(batch["ms"], batch["lms"], batch["pan"]).float()
        totals = torch.stack([loss(s[None], g[None])["total"] for s, g in zip(sr, batch["gt"], strict=True)])
        meter.update({"loss": totals.double(), **metrics(sr, batch["gt"])})
        if first is None:
            first = {"lms": batch["lms"][0], "sr": sr[0], "gt": batch["gt"][0]}
        done += 1
        if interrupted_here() and not rounds:  # with `rounds`, the others would wait for forward passes
            break
    for _ in range(done, rounds if batch is not None else 0):
        model(batch["ms"], batch["lms"], batch["pan"])
    model.train(was_training)
    if interrupted_anywhere():
        raise Interrupted
    means: dict[str, Any] = {name: float(mean) for name, (mean, _) in meter.compute().items()}
    return means, first
