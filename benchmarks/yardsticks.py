"""How many float32 exponentials a second this machine computes, by two loops over numbers in the first cache.

"ours" is frozen (native/rate.c): a polynomial at the full width of the vectors, nothing but arithmetic. "library" is
the C library's own expf in the widest form the compiler finds (expf.c, `-Ofast`; glibc has one for AVX-512): what a C
program gets without writing an exponential itself. The scan computes one exponential a state and step, so its states
and steps a second, divided by these, are its share of the machine.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from lemamba.model.ops.native.build import library

SOURCE = Path(__file__).resolve().parent / "expf.c"
FLAGS = ("-Ofast", "-march=native", "-fopenmp", "-shared", "-fPIC")


@cache
def _expf() -> ctypes.CDLL | None:
    """Compile expf.c; None where the compiler cannot."""
    command = shutil.which("cc") or shutil.which("gcc")
    if command is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "expf.so"
        done = subprocess.run([command, *FLAGS, str(SOURCE), "-o", str(target), "-lm"], check=False)
        return ctypes.CDLL(str(target)) if done.returncode == 0 else None


def _rate(found: ctypes.CDLL, threads: int) -> float:
    """Return exponentials per second on `threads` threads: the best of five short runs."""
    found.exp_rate.restype = ctypes.c_int64
    found.exp_rate.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    sink, best = torch.zeros(threads), 0.0
    for _ in range(5):
        start = time.perf_counter()
        count = found.exp_rate(3000, threads, sink.data_ptr())
        best = max(best, count / (time.perf_counter() - start))
    return best


def exp_rates(threads: int) -> dict[str, float]:
    """Return exponentials per second on `threads` threads, by yardstick."""
    found, reason = library()
    if found is None:
        raise SystemExit(f"the exp throughput is measured by the compiled kernels: {reason}")
    others = _expf()
    return {"ours": _rate(found, threads)} | ({"library": _rate(others, threads)} if others else {})


def flops_per_second() -> float:
    """Return the float32 operations a second of processor time of one core: the best of five short runs.

    A multiplication with addition is two. Processor time, so that other work on the machine does not count.
    """
    found, reason = library()
    if found is None:
        raise SystemExit(f"the throughput of arithmetic is measured by the compiled kernels: {reason}")
    found.fma_rate.restype = ctypes.c_int64
    found.fma_rate.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    sink, best = torch.zeros(1), 0.0
    for _ in range(5):
        start = time.process_time()
        count = found.fma_rate(2_000_000, 1, sink.data_ptr())
        best = max(best, 2 * count / (time.process_time() - start))
    return best
