"""Learning-rate schedules as functions of the position in the training, measured in epochs.

    rate = shape(position) · warm-up(trained),   warm-up = start + (1 − start) · min(1, trained / warmup)

A position of 12.5 is the middle of the thirteenth epoch. Epochs do not depend on the number of processes or on
gradient accumulation, so neither does the rate. A function of position has no state to restore; only `plateau` has, a
few numbers kept as JSON. Under a time budget the loop passes ``used share of the time · epochs`` as position: the same
curve fits into the minutes given, while the warm-up still counts the epochs really trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from lemamba.utils.config import ScheduleConfig
from lemamba.utils.errors import UserError, nearest

WARMUP_START = 0.01  # share of the rate at which the linear warm-up begins


@dataclass
class Schedule:
    """One learning-rate schedule.

    Attributes:
        settings: name of the shape (a key of `SHAPES`) and its numbers; lengths are in epochs.
        base_lr: peak rate.
        epochs: length of the training.
        state: numbers of `plateau`: best value, validations without improvement, factor.

    Raises:
        UserError: an unknown name or impossible lengths.
    """

    settings: ScheduleConfig
    base_lr: float
    epochs: float
    state: dict[str, Any] = field(default_factory=lambda: {"best": None, "bad": 0, "factor": 1.0})

    def __post_init__(self) -> None:
        s = self.settings
        if s.name not in SHAPES:
            raise UserError(f'unknown schedule "{s.name}"{nearest(s.name, SHAPES)}; known: {", ".join(SHAPES)}')
        if s.T0 <= 0:
            raise UserError(f"schedule.T0: expected more than 0 epochs, given {s.T0:g}")
        if s.warmup > 0 and s.warmup >= self.epochs:
            raise UserError(f"schedule.warmup: expected less than the {self.epochs:g} epochs, given {s.warmup:g}")

    def rate(self, position: float, trained: float | None = None) -> float:
        """Return the learning rate at `position` epochs (0 ≤ position ≤ epochs); `trained` defaults to it."""
        s = self.settings
        trained = position if trained is None else trained
        warm = 1.0
        if trained < s.warmup:
            warm = WARMUP_START + (1 - WARMUP_START) * trained / s.warmup
        # 1e-9: a position of 2.9999999999 is the start of epoch 3, reached by adding fractions
        return warm * SHAPES[s.name](self, math.floor(position + 1e-9) if s.per_epoch else position)

    def apply(self, optimizer: Optimizer, position: float, trained: float | None = None) -> float:
        """Set the rate of every parameter group and return it."""
        rate = self.rate(position, trained)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def observe(self, value: float, minimise: bool) -> None:
        """Take a validation's result; only `plateau` uses it. A value that is not finite is no improvement."""
        if self.settings.name != "plateau":
            return
        score = value if minimise else -value
        best = self.state["best"]
        if math.isfinite(score) and (best is None or score < best):
            self.state = {**self.state, "best": score, "bad": 0}
            return
        self.state = {**self.state, "bad": self.state["bad"] + 1}
        if self.state["bad"] > self.settings.patience:
            self.state = {**self.state, "bad": 0, "factor": self.state["factor"] * self.settings.gamma}


def _cosine(schedule: Schedule, peak: float, fraction: float) -> float:
    low = min(schedule.settings.eta_min, peak)
    return low + (peak - low) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2


def _cos_anneal(schedule: Schedule, position: float) -> float:
    return _cosine(schedule, schedule.base_lr, position / schedule.epochs)


def _period(schedule: Schedule, position: float) -> tuple[int, float]:
    """Return the number of restarts before `position` and the elapsed fraction of the current period."""
    restarts, start, length = 0, 0.0, schedule.settings.T0
    while position >= start + length and length > 0:
        start, length, restarts = start + length, length * schedule.settings.T_mult, restarts + 1
    return restarts, (position - start) / length


def _cos_anneal_restart(schedule: Schedule, position: float) -> float:
    return _cosine(schedule, schedule.base_lr, _period(schedule, position)[1])


def _cos_anneal_restart_reduce(schedule: Schedule, position: float) -> float:
    restarts, fraction = _period(schedule, position)
    return _cosine(schedule, schedule.base_lr * schedule.settings.reduce**restarts, fraction)


def _multi_step(schedule: Schedule, position: float) -> float:
    return schedule.base_lr * schedule.settings.gamma ** sum(position >= m for m in schedule.settings.milestones)


def _plateau(schedule: Schedule, position: float) -> float:
    return max(schedule.base_lr * schedule.state["factor"], min(schedule.settings.eta_min, schedule.base_lr))


SHAPES: dict[str, Callable[[Schedule, float], float]] = {
    "constant": lambda schedule, position: schedule.base_lr,
    "cos_anneal": _cos_anneal,
    "cos_anneal_restart": _cos_anneal_restart,
    "cos_anneal_restart_reduce": _cos_anneal_restart_reduce,
    "multi_step": _multi_step,
    "plateau": _plateau,
}
