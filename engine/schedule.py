"""Learning-rate schedules as functions of the position in the training, measured in epochs.

A position of 12.5 is the middle of the thirteenth epoch. Epochs do not depend on the number of processes or on the
accumulation, so neither does the rate; and a schedule that is a function of position has nothing to restore, except
`plateau`, whose few numbers are JSON. Under a time budget the loop passes ``progress · epochs`` as position, which
squeezes the same curve into the minutes given.

    rate = base · (start + (1 − start) · position / warmup)   while position < warmup
    rate = shape(position − warmup)                           after it
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from utils.errors import UserError, nearest


@dataclass
class Schedule:
    """One learning-rate schedule. Lengths are in epochs.

    Attributes:
        name: key of `SHAPES`.
        base_lr: peak rate.
        epochs: length of the training.
        warmup: epochs of linear warm-up from `warmup_start` · base; the shape starts after it.
        per_epoch: hold the rate within an epoch (as released); warm-up always moves at every step.
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

    def rate(self, position: float) -> float:
        """Return the learning rate at `position` epochs (0 ≤ position ≤ epochs)."""
        if position < self.warmup:
            start = self.warmup_start
            return self.base_lr * (start + (1 - start) * position / self.warmup)
        if self.per_epoch:
            position = max(math.floor(position + 1e-9), self.warmup)
        return SHAPES[self.name](self, position - self.warmup)

    def apply(self, optimizer: Optimizer, position: float) -> float:
        """Set the rate of every parameter group and return it."""
        rate = self.rate(position)
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


def _cosine(schedule: Schedule, peak: float, fraction: float) -> float:
    low = min(schedule.eta_min, peak)
    return low + (peak - low) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2


def _cos_anneal(s: Schedule, position: float) -> float:
    length = s.epochs - s.warmup
    return _cosine(s, s.base_lr, position / length if length > 0 else 1.0)


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
    # milestones count from the start of the training, warm-up included
    return s.base_lr * s.gamma ** sum(position + s.warmup >= m for m in s.milestones)


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
    if schedule.warmup >= epochs > 0 and schedule.warmup > 0:
        raise UserError(f"schedule.warmup: expected less than the {epochs:g} epochs, given {schedule.warmup:g}")
    return schedule
