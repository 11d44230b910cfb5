"""One stage of training on the images that are to be fused: Adam, and the weights of the smallest loss are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lemamba.utils.errors import UserError

Terms = Sequence[Callable[[], Tensor]]


def train_stage(
    module: nn.Module,
    terms: Callable[[int], Terms],
    *,
    steps: int,
    rate: float | Callable[[float], float],
    decay: float = 0.0,
    period: int = 1,
    on_step: Callable[[float], None] = lambda loss: None,
) -> list[float]:
    """Train `module` in place.

    Args:
        module: all its parameters are trained.
        terms: number of the step -> functions that return one loss each, a scalar. Their mean is minimised; each is
            differentiated by itself, so that only one graph is in memory.
        steps: how many; 0 changes nothing.
        rate: learning rate of Adam; or a function that returns it for the share of the steps that are done, 0 to 1.
        decay: L2 penalty, as in `torch.optim.Adam`.
        period: losses are averaged over so many steps before they are compared. The weights after the step (the last
            of the period) with the smallest loss are kept, as the released codes do.
        on_step: called after every step with its loss.

    Returns:
        The mean loss of every period.

    Raises:
        UserError: a loss that is not finite.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0 if callable(rate) else rate, weight_decay=decay)
    means: list[float] = []
    kept: dict[str, Tensor] = {}
    recent: list[float] = []
    for step in range(steps):
        if callable(rate):
            for group in optimizer.param_groups:
                group["lr"] = rate(step / steps)
        optimizer.zero_grad()
        parts = terms(step)
        loss = 0.0
        for part in parts:
            value = part() / len(parts)
            value.backward()
            loss += float(value.detach())
        if not math.isfinite(loss):
            raise UserError(f"training on the images diverged in step {step + 1}; check their values and --divisor")
        optimizer.step()
        on_step(loss)
        recent.append(loss)
        if len(recent) == period or step == steps - 1:
            means.append(sum(recent) / len(recent))
            recent.clear()
            if means[-1] <= min(means):
                kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
    if kept:
        module.load_state_dict(kept)
    return means
