"""Compile what `benchmarks.gpu` will measure, several cells of its table at once: `python -m benchmarks.gpu_warm`.

Compiling takes most of a first run, and one process compiles one kernel after another. Here each cell (a training step,
or a shape of the scan) runs once in a separate process, forward and backward with every configuration, and leaves its
kernels in Triton's cache. What these processes measure is worth nothing, as they disturb each other: the choices go to
a folder that is thrown away.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cell(kind: str, index: int, dtype: str) -> None:
    """Run one cell of the table once, forward and backward."""
    from benchmarks import gpu

    if kind == "step":
        gpu.training_step(*gpu.STEPS[index])()
        return
    call, make = gpu.OURS[kind]
    inputs = {k: v.requires_grad_() for k, v in make(*gpu.SHAPES[index], gpu.DTYPES[dtype]).items()}
    call(inputs).float().sum().backward()


def warm(workers: int, limit: float = math.inf) -> int:
    """Run all cells, `workers` at a time, steps first.

    Returns:
        How many failed, or were not done after `limit` seconds; they are compiled later, when they are measured.
    """
    from benchmarks import gpu

    cells: list[tuple[str, int, str]] = [("step", index, "any") for index in range(len(gpu.STEPS))]
    cells += product(gpu.OURS, range(len(gpu.SHAPES)), gpu.DTYPES)
    end = time.monotonic() + limit

    def run(arguments: tuple[str, int, str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.gpu_warm", "--cell", *map(str, arguments)]
            environment = {**os.environ, "LEMAMBA_CACHE": folder}
            left = max(0.0, end - time.monotonic()) if math.isfinite(limit) else None
            try:
                return not subprocess.run(
                    command, cwd=ROOT, env=environment, capture_output=True, timeout=left, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                return False

    with ThreadPoolExecutor(workers) as pool:
        return sum(not done for done in pool.map(run, cells))


def _workers() -> int:
    """Return how many cells this machine runs at once: a step needs up to 14 GB of the GPU, and a processor."""
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return max(1, min(12, os.cpu_count() or 1, memory // 14_000_000_000))


def main() -> None:
    """Warm all cells or, as a worker, one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, help="cells at once (default: as memory and processors allow)")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which what still runs is ended")
    parser.add_argument("--cell", nargs=3, metavar=("KIND", "INDEX", "TYPE"), help="only this cell, in this process")
    options = parser.parse_args()
    if options.cell:
        kind, index, dtype = options.cell
        cell(kind, int(index), dtype)
        return
    left = warm(options.workers or _workers(), options.limit)
    print("every kernel is compiled" if not left else f"{left} cells were not done: they are compiled when measured")


if __name__ == "__main__":
    main()
