"""The order of samples: a function of seed and epoch, so that a resumed run sees what an uninterrupted one would.

Keys are ``(epoch, index)``: a data set derives the augmentation of a sample from them, in whichever process. In every
epoch one seeded permutation is cut into global batches; rank r takes its part of each:

    batch b of rank r = order[(b·world + r)·B : (b·world + r + 1)·B]

so two processes with batch B see exactly the samples that one process with batch 2B sees. Samples that do not fill a
global batch are dropped (different ones in each epoch). Validation is split without padding: every sample is measured
once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from lemamba.utils.errors import UserError

_SPREAD = 0x9E3779B97F4A7C15  # odd 64-bit constant: neighbouring (seed, epoch) pairs get unrelated generators


def epoch_order(length: int, seed: int, epoch: int, shuffle: bool = True) -> list[int]:
    """Return the order of the samples in an epoch; the same on every rank and every machine."""
    if not shuffle:
        return list(range(length))
    generator = torch.Generator().manual_seed((seed * _SPREAD + epoch) % 2**63)
    return torch.randperm(length, generator=generator).tolist()


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, index)`` keys for one rank; set `epoch` and `start` before iterating.

    Args:
        length: samples in the set.
        batch_size: per process (B).
        rank: this process.
        world: number of processes.
        seed: of the order.
        shuffle: False keeps the file's order.

    Raises:
        UserError: the set is smaller than one global batch.
    """

    def __init__(
        self, length: int, batch_size: int, *, rank: int = 0, world: int = 1, seed: int = 0, shuffle: bool = True
    ) -> None:
        self.length, self.batch_size, self.rank, self.world = length, batch_size, rank, world
        self.seed, self.shuffle = seed, shuffle
        self.epoch = self.start = 0
        if length < batch_size * world:
            raise UserError(
                f"the training set has {length} samples, one step needs {batch_size} x {world} processes = "
                f"{batch_size * world}; give a smaller -b"
            )

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, for each rank."""
        return self.length // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch  # a prefetching loader may still iterate when `epoch` is set for the next one
        order = epoch_order(self.length, self.seed, epoch, self.shuffle)
        for batch in range(self.start, len(self)):
            first = (batch * self.world + self.rank) * self.batch_size
            yield [(epoch, index) for index in order[first : first + self.batch_size]]


def valid_batches(length: int, batch_size: int, rank: int = 0, world: int = 1) -> list[list[tuple[int, int]]]:
    """Split the validation set over the ranks without padding; a rank may get fewer batches than another, or none."""
    mine = [(0, index) for index in range(rank, length, world)]
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def build_loader(dataset: Any, batches: Sampler | list, num_workers: int, pin: bool) -> DataLoader:
    """Return a loader over batches of keys."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        # its own, as otherwise a loader draws from torch's global generator each time it starts, and a run resumed in
        # mid-epoch starts it once more than the run that was never stopped
        generator=torch.Generator(),
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
    )


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """Ignore SIGINT, which a terminal sends to all processes: the main one needs more batches to finish its step.

    A worker ends with its main process, however that ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def worker_error(error: UserError) -> UserError:
    """Return a loader process's `UserError` without the traceback that torch puts before its message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) < 2 or "DataLoader worker" not in lines[0]:
        return error
    return UserError(lines[-1].partition("UserError: ")[2] or lines[-1])
