"""Exponential moving average (EMA) of the weights: these are validated, saved as best and given to users.

    shadow ← d · shadow + (1 − d) · weight,   d = min(decay, (1 + n)/(10 + n)) while warming up, n = updates so far

The warm-up lets a short training forget its random start; at decay 0.995 it has no effect from n ≈ 1800 on. Buffers
(batch-norm statistics) are copied, not averaged: they are averages already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lemamba.engine.training.sharding import put_back


class EMA:
    """Shadow weights of `model`, by parameter name.

    Args:
        model: the bare network (not wrapped for several processes); its parameters are averaged.
        decay: 0 ≤ decay < 1.
        warmup: use the growing decay above.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.shadow = {n: p.detach().clone() for n, p in model.named_parameters()}

    def rate(self) -> float:
        """Return the decay of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    def update(self, model: nn.Module) -> None:
        """Update the average after one optimizer step."""
        put_back(model)
        weights = dict(model.named_parameters())
        average = get_ema_multi_avg_fn(self.rate())
        average(list(self.shadow.values()), [weights[n] for n in self.shadow], None)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averaged weights into `model` inside the block; afterwards its own come back, bit for bit."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        put_back(model)
        for name, p in model.named_parameters():
            kept = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return averaged parameters and the network's current buffers under the names of ``model.state_dict()``."""
        put_back(model)  # gathered parameters would not be found below, and the raw weights be returned
        by_parameter = {id(p): self.shadow[n] for n, p in model.named_parameters()}  # a tied weight has two names
        return {n: by_parameter.get(id(v), v).detach() for n, v in model.state_dict(keep_vars=True).items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], updates: int) -> None:
        """Restore shadow weights (every name must be there, of the right shape) and the number of updates."""
        for name, shadow in self.shadow.items():
            shadow.copy_(state[name])
        self.updates = updates
