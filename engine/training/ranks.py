"""Small exchanges between the processes of one training; all ranks call them together, one process pays nothing.

They use a gloo group over CPU tensors, separate from the backend that moves the gradients: none waits for a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """Rank, number of processes and exchanges between them."""

    def __init__(self) -> None:
        ready = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if ready else 0
        self.world = dist.get_world_size() if ready else 1
        self._group = dist.new_group(backend="gloo") if self.world > 1 else None

    @property
    def main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def maximum(self, *values: float) -> list[float]:
        """Return each value's maximum over the ranks."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return tensor.tolist()

    def any_on_device(self, flag: Tensor) -> Tensor:
        """Return whether a scalar boolean is true on any rank, as one; on its device, which nothing waits for."""
        if self.world == 1:
            return flag
        agreed = flag.float()
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return agreed > 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def share(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier(group=self._group)
