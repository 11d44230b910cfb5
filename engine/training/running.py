"""Means of losses between two log lines, kept on the device: reading them is the only time the loop waits for it."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Running:
    """Sums of what each step reports, and the clock behind samples per second."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything and start the clock."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self.samples, self._clock = 0, time.monotonic()

    def add(self, values: dict[str, Tensor | float], samples: int = 0) -> None:
        """Add one batch's or one step's values (scalars); nothing is read from the device."""
        for name, value in values.items():
            value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        self.samples += samples

    def read(self) -> tuple[dict[str, float], float]:
        """Return the means and the samples per second since the last time, and start again."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        rate = self.samples / max(time.monotonic() - self._clock, 1e-9)
        self.restart()
        return means, rate
