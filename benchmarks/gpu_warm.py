"""Compile what `benchmarks.gpu` will measure, several cells of its table at once: `python -m benchmarks.gpu_warm`.

Compiling takes most of a first run, and one process compiles one kernel after another. Here each cell runs once in a
separate process, forward and backward with every configuration, and leaves its kernels in Triton's cache. What these
processes measure is worth nothing, as they disturb each other: the choices go to a folder that is thrown away.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cell(kind: str, index: int, dtype: str) -> None:
    """Run one cell of the table once, forward and backward."""
    from benchmarks import gpu

    call, make = gpu.OURS[kind]
    inputs = {k: v.requires_grad_() for k, v in make(*gpu.SHAPES[index], gpu.DTYPES[dtype]).items()}
    call(inputs).float().sum().backward()


def warm(workers: int) -> int:
    """Run all cells, `workers` at a time; return how many failed (they are compiled later, when they are measured)."""
    from benchmarks import gpu

    cells = list(product(gpu.OURS, range(len(gpu.SHAPES)), gpu.DTYPES))

    def run(arguments: tuple[str, int, str]) -> int:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.gpu_warm", "--cell", *map(str, arguments)]
            environment = {**os.environ, "LEMAMBA_CACHE": folder}
            return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode

    with ThreadPoolExecutor(workers) as pool:
        return sum(code != 0 for code in pool.map(run, cells))


def main() -> None:
    """Warm all cells or, as a worker, one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=min(6, os.cpu_count() or 1), help="cells at once (GPU memory!)")
    parser.add_argument("--cell", nargs=3, metavar=("KIND", "INDEX", "TYPE"), help="only this cell, in this process")
    options = parser.parse_args()
    if options.cell:
        kind, index, dtype = options.cell
        cell(kind, int(index), dtype)
        return
    failed = warm(options.workers)
    print("every kernel is compiled" if not failed else f"{failed} cells failed and are compiled when measured")


if __name__ == "__main__":
    main()
