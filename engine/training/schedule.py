"""Learning-rate schedules as functions of the position in the training, measured in epochs.

    rate = shape(position) · warm-up(trained),   warm-up = start + (1 − start) · min(1, trained / warmup)

A position of 12.5 is the middle of the thirteenth epoch. Epochs do not depend on the number of processes or on the
accumulation, so neither does the rate; and a schedule that is a function of position has nothing to restore, except
`plateau`, whose few numbers are JSON. Under a time budget the loop passes ``share of the time · epochs`` as position,
which squeezes the same curve into the minutes given, while the warm-up goes on counting the epochs really trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from lemamba.utils.errors import UserError, nearest


@dataclass
class Schedule:
    """One learning-rate schedule. Lengths are in epochs.

    Attributes:
        name: key of `SHAPES`.
        base_lr: peak rate.
        epochs: length of the training.
        warmup: epochs of linear warm-up from `warmup_start`; it multiplies the shape.
        per_epoch: hold the shape within an epoch (as released); warm-up moves at every step.
        state: numbers of `plateau`: best value, validations without gain, factor.
    """

    name: str
    base_lr: float
    epochs: float
    warmup: float = 0.0
    per_epoch: bool = True
    eta_min: float = 0.0
    T0: float = 50.0
    T_mult: float = 2.0
    reduce: float = 0.9
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    patience: int = 5
    warmup_start: float = 0.01
    state: dict[str, Any] = field(default_factory=lambda: {"best": None, "bad": 0, "factor": 1.0})

    def rate(self, position: float, trained: float | None = None) -> float:
        """Return the learning rate at `position` epochs (0 ≤ position ≤ epochs); `trained` defaults to it."""
        trained = position if trained is None else trained
        warm = 1.0
        if trained < self.warmup:
            warm = self.warmup_start + (1 - self.warmup_start) * trained / self.warmup
        # 1e-9: a position of 2.9999999999 is the start of epoch 3, reached by adding fractions
        return warm * SHAPES[self.name](self, math.floor(position + 1e-9) if self.per_epoch else position)

    def apply(self, optimizer: Optimizer, position: float, trained: float | None = None) -> float:
        """Set the rate of every parameter group and return it."""
        rate = self.rate(position, trained)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def observe(self, value: float, minimise: bool) -> None:
        """Tell the schedule a validation's result; only `plateau` listens. A value that is not finite is no gain."""
        if self.name != "plateau":
            return
        score = value if minimise else -value
        best = self.state["best"]
        if math.isfinite(score) and (best is None or score < best):
            self.state = {**self.state, "best": score, "bad": 0}
            return
        self.state = {**self.state, "bad": self.state["bad"] + 1}
        if self.state["bad"] > self.patience:
            self.state = {**self.state, "bad": 0, "factor": self.state["factor"] * self.gamma}

    def state_dict(self) -> dict[str, Any]:
        """Return what must be restored, as JSON values."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.state = dict(state)


def _cosine(s: Schedule, peak: float, fraction: float) -> float:
    low = min(s.eta_min, peak)
    return low + (peak - low) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2


def _cos_anneal(s: Schedule, position: float) -> float:
    return _cosine(s, s.base_lr, position / s.epochs)


def _period(s: Schedule, position: float) -> tuple[int, float]:
    """Return how many restarts lie behind `position` and the fraction of the present period."""
    restarts, start, length = 0, 0.0, s.T0
    while position >= start + length and length > 0:
        start, length, restarts = start + length, length * s.T_mult, restarts + 1
    return restarts, (position - start) / length


def _cos_anneal_restart(s: Schedule, position: float) -> float:
    return _cosine(s, s.base_lr, _period(s, position)[1])


def _cos_anneal_restart_reduce(s: Schedule, position: float) -> float:
    restarts, fraction = _period(s, position)
    return _cosine(s, s.base_lr * s.reduce**restarts, fraction)


def _multi_step(s: Schedule, position: float) -> float:
    return s.base_lr * s.gamma ** sum(position >= m for m in s.milestones)


SHAPES: dict[str, Callable[[Schedule, float], float]] = {
    "constant": lambda s, position: s.base_lr,
    "cos_anneal": _cos_anneal,
    "cos_anneal_restart": _cos_anneal_restart,
    "cos_anneal_restart_reduce": _cos_anneal_restart_reduce,
    "multi_step": _multi_step,
    "plateau": lambda s, position: max(s.base_lr * s.state["factor"], min(s.eta_min, s.base_lr)),
}


def build_schedule(name: str, *, base_lr: float, epochs: float, **args: Any) -> Schedule:
    """Build the schedule called `name`; unknown names and impossible lengths are `UserError`s."""
    if name not in SHAPES:
        raise UserError(f'unknown schedule "{name}"{nearest(name, SHAPES)}; known: {", ".join(SHAPES)}')
    schedule = Schedule(name, base_lr, epochs, **args)
    if schedule.T0 <= 0:
        raise UserError(f"schedule.T0: expected more than 0 epochs, given {schedule.T0:g}")
    if schedule.warmup > 0 and schedule.warmup >= epochs:
        raise UserError(f"schedule.warmup: expected less than the {epochs:g} epochs, given {schedule.warmup:g}")
    return schedule
