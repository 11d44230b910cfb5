"""Several processes that fuse one scene: how they meet, and how an error of one ends all of them in one line.

`torchrun` and `accelerate launch` start them; the scene and the result lie in a file system that all see.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from lemamba.engine.training.ranks import Ranks
from lemamba.utils.errors import UserError, one_line

T = TypeVar("T")
_WAIT = 7 * 86400.0  # a rank may be done long before the others; one that has ended is noticed at once


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes of this job, as the launcher's environment variables say; leave together at the end."""
    begun = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if begun:
        dist.init_process_group("gloo")
    try:
        ranks = Ranks(_WAIT)
        yield ranks
        ranks.barrier()
    finally:
        if begun:
            dist.destroy_process_group()


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def first_alone(ranks: Ranks, work: Callable[[], T]) -> T:
    """Return on every rank what rank 0 computes; its `UserError` is raised on every rank."""
    if ranks.world == 1:
        return work()
    value, failed = None, None
    if ranks.main:
        try:
            value = work()
        except UserError as error:
            failed = error
    value, text = ranks.share((value, None if failed is None else str(failed)))
    if text is not None:
        raise failed or UserError(text)
    return value


def together(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do each rank's own work and wait for the others; if one fails, all raise."""
    if ranks.world == 1:
        return work()
    try:
        result = work()
    except Exception as error:
        ranks.gather(f"rank {ranks.rank}: {one_line(str(error))}")
        raise
    failed = [text for text in ranks.gather("") if text]
    if failed:
        raise UserError(failed[0])
    return result
