"""Stochastic depth (Huang et al., ECCV 2016): drop a residual branch for whole samples during training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero the branch with probability `rate` for each sample and divide by 1 - rate; identity in evaluation.

    Args:
        rate: drop probability in [0, 1).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate must lie in [0, 1), given {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, …) with the branch of some samples set to zero and the others scaled."""
        return x if self._off() else x * self._factors(x)

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return x + the branch, both (B, …), as `forward` changes it; on a GPU in one pass over memory."""
        if self._off() or x.device.type == "cpu":
            return x + self(branch)
        return torch.addcmul(x, branch, self._factors(branch))

    def _off(self) -> bool:
        return self.rate == 0.0 or not self.training

    def _factors(self, x: Tensor) -> Tensor:
        """Draw 0 or 1 / (1 - rate) for each sample of x: (B, 1, …)."""
        keep = 1.0 - self.rate
        return x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        """Show the rate when the network is printed."""
        return f"rate={self.rate}"
