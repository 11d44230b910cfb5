"""Facts of a network for the table at the start of a run: parameters and floating-point operations of one sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def count_flops(model: nn.Module, sample: dict[str, Tensor]) -> int:
    """Return the operations (2 per multiply-add) of one forward pass over a sample of batch 1.

    Counts matrix products, convolutions and custom operators that carry a formula; elementwise work is left out.
    Generators are left as found.
    """
    was_training = model.training
    model.eval()
    known = -1
    while len(flop_registry) > known:  # operators made in the first pass bring formulas that its counter had not yet
        known = len(flop_registry)
        with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
            model(sample["ms"], sample["lms"], sample["pan"])
    model.train(was_training)
    return counter.get_total_flops()
