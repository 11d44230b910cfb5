"""Exponential moving average of the weights: what is validated, saved as best and handed to users.

    shadow ← d · shadow + (1 − d) · weight,   d = min(decay, (1 + n)/(10 + n)) while warming up, n = updates so far

The warm-up lets a short training forget its random start; from n ≈ 1800 on it no longer matters at decay 0.995.
Buffers (batch-norm statistics) are copied, not averaged: they are averages already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Shadow weights of `model`, by parameter name.

    Args:
        model: the bare network (not wrapped for several processes); its floating-point parameters are followed.
        decay: 0 ≤ decay < 1.
        warmup: use the growing decay above.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.shadow = {n: p.detach().clone() for n, p in model.named_parameters()}

    def rate(self) -> float:
        """Return the decay of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow the weights after one optimizer step."""
        weights = dict(model.named_parameters())
        shadows = list(self.shadow.values())
        torch._foreach_lerp_(shadows, [weights[n] for n in self.shadow], 1 - self.rate())
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let `model` hold the averaged weights inside the block; exactly what was there comes back after it."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            kept = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return averaged parameters and the network's present buffers, under the names of ``model.state_dict()``."""
        by_parameter = {id(p): self.shadow[n] for n, p in model.named_parameters()}  # a tied weight has two names
        return {n: by_parameter.get(id(v), v).detach() for n, v in model.state_dict(keep_vars=True).items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], updates: int) -> None:
        """Restore shadow weights (every name must be there, of the right shape) and the number of updates."""
        for name, shadow in self.shadow.items():
            shadow.copy_(state[name])
        self.updates = updates
