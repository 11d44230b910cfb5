"""A linear layer whose result may be cut into parts. Shapes: x (…, I), parts (…, O_i)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lemamba.model.ops.native.linear import linear, linear_parts


class Linear(nn.Linear):
    """`torch.nn.Linear` with the project's product on a CPU (`lemamba.model.ops.native.linear`)."""

    def forward(self, x: torch.Tensor, sizes: Sequence[int] | None = None) -> torch.Tensor | list[torch.Tensor]:
        """Map x (…, I) to (…, O), or, given sizes that add up to O, to a list of (…, O_i)."""
        if sizes is None:
            return linear(x, self.weight, self.bias)
        return linear_parts(x, self.weight, self.bias, sizes)
