"""What LE-Mamba costs by the number of bands: `python -m benchmarks.bench_bands`, one thread.

Training steps (batch 1 of 64 x 64, L1) and inference (one image), with the published input and output and with a low
rank (`spectral_rank`). Processor time, the least of the turns, and peak memory beyond what the process held before,
each setting in a process of its own. Guide: RGB.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

from lemamba.utils.startup import prepare_process, run_cli

prepare_process()  # as every entry point does, before torch is imported

import torch  # noqa: E402

from lemamba.engine.fusing.cost import count_flops, count_parameters, held_bytes, peak_bytes  # noqa: E402
from lemamba.model import build_model  # noqa: E402

CPU = torch.device("cpu")
STEP = 64  # side of a training patch


def least(turns: int, run: Callable[[], object]) -> float:
    """Return the processor seconds of the quickest of some runs."""
    found = []
    for _ in range(turns):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def images(bands: int, side: int) -> dict[str, torch.Tensor]:
    """Return random ms, lms, pan."""
    small, size = torch.rand(1, bands, side // 4, side // 4), (1, bands, side, side)
    return {"ms": small, "lms": torch.rand(size), "pan": torch.rand(1, 3, side, side)}


def measured(job: tuple[int, int | None, str, int, int]) -> tuple[float, float]:
    """Return seconds and MiB of a step or of fusing one image."""
    bands, rank, what, side, turns = job
    torch.manual_seed(0)
    net = build_model("LEMamba", img_channel=bands, condition_channel=3, out_channel=bands, spectral_rank=rank)
    sample = images(bands, STEP if what == "step" else side)
    before = held_bytes(CPU)
    if what == "step":
        optimizer = torch.optim.AdamW(net.parameters())

        def run() -> None:
            optimizer.zero_grad()
            (net(**sample) - sample["lms"]).abs().mean().backward()
            optimizer.step()
    else:
        net.eval()

        def run() -> None:
            with torch.inference_mode():
                net(**sample)

    run()  # compiles kernels, fills caches
    seconds = least(turns, run)
    return seconds, (peak_bytes(CPU) - before) / 2**20


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bands", type=int, nargs="+", default=[31, 102, 198])
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 16], help="0 = as published")
    parser.add_argument("--side", type=int, default=256, help="of the fused image (default %(default)s)")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print("| bands | rank | parameters | GFLOP/Mpx | step, s | step, MiB | inference, s | inference, MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for bands, rank in itertools.product(options.bands, options.ranks):
        sizes = {"img_channel": bands, "condition_channel": 3, "out_channel": bands}
        net = build_model("LEMamba", **sizes, spectral_rank=rank or None)
        flops = count_flops(net, images(bands, STEP)) / STEP**2 / 1e3
        cells = []
        for what in ("step", "fuse"):
            with multiprocessing.get_context("fork").Pool(1) as pool:
                cells += pool.map(measured, [(bands, rank or None, what, options.side, options.turns)])
        numbers = " | ".join(f"{seconds:.2f} | {mib:.0f}" for seconds, mib in cells)
        print(f"| {bands} | {rank or 'none'} | {count_parameters(net):,} | {flops:.0f} | {numbers} |", flush=True)


if __name__ == "__main__":
    run_cli(main)
