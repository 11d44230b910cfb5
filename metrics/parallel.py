"""Run independent measurements in parallel on the cores of a CPU.

The passes of an index are short: splitting each over the cores makes them wait for each other thousands of times (for
milliseconds, where other programs run). One whole measurement per core avoids that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def run_all(tasks: Sequence[Callable[[], Tensor]], *inputs: Tensor) -> list[Tensor]:
    """Call every task and return the results in order.

    Args:
        tasks: functions that do not modify shared data.
        inputs: the tensors that they read. Tasks run one after the other on a GPU, with gradients, and where torch is
            limited to one thread.
    """
    workers = min(torch.get_num_threads(), len(tasks))
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if workers < 2 or tracked or any(x.device.type != "cpu" for x in inputs):
        return [task() for task in tasks]

    def without_gradients(task: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad():  # a new thread starts with gradients on
            return task()

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(without_gradients, tasks))
    finally:
        torch.set_num_threads(threads)  # the number for threads yet to start is common to all
