"""Small exchanges between the processes of one training; all ranks call them together, one process pays nothing.

They use a gloo group over CPU tensors, separate from the backend that moves the gradients: none waits for a GPU.

No exchange waits for ever. Each rank notes where it is in the store that all have; one that waits in vain for others
reads there which of them did not come, and ends with one line that names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lemamba.utils.errors import UserError

WAIT = 600.0  # seconds; longer than one rank alone reads its data, compiles kernels or writes a checkpoint
# how torch words an exchange that failed; NCCL's own errors are `torch.distributed.DistError`
_FAILED = (
    "gloo",
    "Timed out waiting",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "pair closure",
    "NCCL",
)


class LostRankError(UserError):
    """Another rank has ended or does not answer."""


class Ranks:
    """Rank, number of processes and exchanges between them.

    Args:
        wait: seconds after which an exchange fails that another rank does not take part in. Of the exchanges of
            gradients and parameters, accelerate's `InitProcessGroupKwargs` sets it.

    Raises:
        LostRankError: from every exchange, if another rank has ended or does not come in time.
    """

    _done = 0  # places reached, by all objects of this process: every rank makes the same ones

    def __init__(self, wait: float = WAIT) -> None:
        ready = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if ready else 0
        self.world = dist.get_world_size() if ready else 1
        self._wait = wait
        if self.world > 1:
            self._store = dist.PrefixStore("lemamba", dist.distributed_c10d._get_default_store())
            self.reach("the start")
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=wait))

    @property
    def main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def reach(self, place: str) -> None:
        """Note that this rank has come to `place`, which all ranks come to in the same order."""
        Ranks._done += 1
        if self.world > 1:
            self._store.set(str(self.rank), f"{self._done} {place}")

    def explain(self, error: BaseException) -> BaseException:
        """Note that this rank ends with `error`, and return what to raise: one line if other ranks are the cause."""
        if self.world == 1 or isinstance(error, LostRankError):
            return error
        failed = isinstance(error, RuntimeError) and any(word in str(error) for word in _FAILED)
        try:
            if not failed:
                text = str(error).partition("\n")[0]
                self._store.set(str(self.rank), f"{self._done} error: {text}")
                return error
            places = [self._store.get(str(rank)).decode().partition(" ") for rank in range(self.world)]
        except RuntimeError:  # rank 0, or its launcher, holds the store
            return LostRankError(f"rank {self.rank}: rank 0 has ended; see its own message, then resume")
        ended = [
            f"rank {r} ended with {place}" for r, (_, _, place) in enumerate(places) if place.startswith("error: ")
        ]
        late = [f"rank {r} came only to {place}" for r, (n, _, place) in enumerate(places) if int(n) < self._done]
        why = "; ".join(ended or late) or "another rank has ended or does not answer; see its own message"
        here = places[self.rank][2]
        return LostRankError(f"rank {self.rank} at {here} waited for others (at most {self._wait:g} s): {why}; resume")

    @contextmanager
    def _exchange(self, name: str) -> Iterator[None]:
        self.reach(name)
        try:
            yield
        except RuntimeError as error:
            lost = self.explain(error)
            if lost is error:
                raise
            raise lost from error

    def maximum(self, *values: float) -> list[float]:
        """Return each value's maximum over the ranks."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        with self._exchange("an agreement"):
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
        with self._exchange("a report"):
            dist.all_gather_object(values, value, group=self._group)
        return values

    def share(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        with self._exchange("a message of rank 0"):
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            with self._exchange("a meeting"):
                dist.barrier(group=self._group)
