"""A linear layer whose result may be cut into parts. Shapes: x (…, I), result (…, O), parts (…, O_i)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lemamba.model.ops.native.linear import linear, linear_parts


class Linear(nn.Linear):
    """`torch.nn.Linear` with the project's product on a CPU (`lemamba.model.ops.native.linear`)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, I) to (…, O)."""
        return linear(x, self.weight, self.bias)

    def parts(self, x: Tensor, sizes: Sequence[int], *, apart: bool = False) -> list[Tensor]:
        """Map x (…, I) to tensors (…, O_i) of the given sizes, which add up to O; `apart` as in `linear_parts`."""
        return linear_parts(x, self.weight, self.bias, sizes, apart=apart)
