"""Speed of the metrics next to a plain NumPy version and Octave, on the same images in one run.

    python -m benchmarks.bench_metrics                 20 images: 256x256x8 reduced, 512x512x8 full
    python -m benchmarks.bench_metrics --images 4      quicker, same ratios
    python -m benchmarks.bench_metrics --device cuda   also a whole batch on a GPU

Both sides take turns on a few images, so that a busy machine slows both; medians per image are compared, elapsed and
in time of all cores. The plain version filters by direct sums, as MATLAB's `imfilter` does; a second line lets it
filter by FFT, which is kinder to it. Targets: at most 1/4 of plain NumPy at reduced and 1/8 at full resolution on
2 cores, a full batch under 0.1 s on a GPU.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import plain_numpy_metrics as plain
from benchmarks.parity_metrics import find_octave, run_octave
from lemamba import metrics
from lemamba.utils.formats.mat import write_mat
from lemamba.utils.sensors import get_sensor

SENSOR, RATIO, CONST, BANDS = "WV3", 4, 2047, 8
TURN = 4  # images per turn
Images = dict[str, Tensor]


def make_images(count: int, side: int) -> Images:
    """Smooth scenes with noise, whole digital numbers: sr, gt (also lms), ms, pan."""
    torch.manual_seed(0)
    coarse = torch.rand(count, BANDS, side // 8, side // 8, dtype=torch.float64)
    gt = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic") * 1500 + 200
    sr = gt + 40 * torch.randn_like(gt)
    images = {"sr": sr, "gt": gt, "lms": gt, "ms": gt[..., ::RATIO, ::RATIO], "pan": sr.mean(dim=1, keepdim=True)}
    return {k: v.clamp(0, CONST).round() for k, v in images.items()}


def ours_reduced(x: Images) -> dict[str, Tensor]:
    return metrics.reduced_resolution(x["sr"], x["gt"], ratio=RATIO, const=CONST)


def ours_full(x: Images) -> dict[str, Tensor]:
    return metrics.full_resolution(x["sr"], x["ms"], x["lms"], x["pan"], ratio=RATIO, sensor=SENSOR)


def each(images: Images) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Images one by one as (C, H, W) arrays."""
    for i in range(len(images["sr"])):
        yield {k: v[i].numpy() for k, v in images.items()}


def plain_reduced(images: Images) -> None:
    for x in each(images):
        plain.reduced_resolution(x["sr"], x["gt"], RATIO, CONST)


def plain_full(images: Images, mtf: Callable = plain.mtf_direct) -> None:
    gains = get_sensor(SENSOR).gains(BANDS)
    for x in each(images):
        plain.full_resolution(x["sr"], x["lms"], x["pan"][0], RATIO, gains, mtf=mtf)


def compare(images: Images, sides: dict[str, Callable]) -> dict[str, tuple[float, float]]:
    """Median seconds per image of each side, elapsed and of all cores; they take turns on a few images."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for run in sides.values():  # warm up
        run({k: v[:1] for k, v in images.items()})
    for start in range(0, len(images["sr"]), TURN):
        part = {k: v[start : start + TURN] for k, v in images.items()}
        for name, run in sides.items():
            elapsed, cores = time.perf_counter(), time.process_time()
            run(part)
            n = len(part["sr"])
            spent[name].append(((time.perf_counter() - elapsed) / n, (time.process_time() - cores) / n))
    return {name: tuple(map(statistics.median, zip(*s, strict=True))) for name, s in spent.items()}


def octave_seconds(images: Images, call: str) -> float | None:
    """Seconds per image of the MATLAB package in Octave, reading included; None where Octave is missing."""
    if find_octave() is None:
        return None
    with tempfile.TemporaryDirectory() as place:
        write_mat(Path(place) / "x.mat", {k: v.numpy() for k, v in images.items()})
        out = run_octave(f"tic; {call}; printf('seconds %g\\n', toc);", Path(place), timeout=3600)
    return float(re.search(r"seconds (\S+)", out)[1]) / len(images["sr"])


def gpu_seconds(images: Images, run: Callable, rounds: int = 7) -> float:
    """Median seconds of a whole batch that already lies on the GPU."""
    images = {k: v.cuda() for k, v in images.items()}
    seconds = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(images)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20, help="images per protocol (default 20)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--octave_images", type=int, default=2, help="images given to Octave, 0 = none (default 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: also a batch on the GPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kinder = {"plain NumPy, FFT": partial(plain_full, mtf=plain.mtf_fft)}
    protocols = {
        "reduced": (256, {"ours": ours_reduced, "plain NumPy": plain_reduced}, f"'x.mat', {RATIO}, 0, {CONST}"),
        "full": (512, {"ours": ours_full, "plain NumPy": plain_full} | kinder, f"'x.mat', {RATIO}, '{SENSOR}'"),
    }
    for protocol, (side, sides, arguments) in protocols.items():
        images = make_images(options.images, side)
        print(f"{protocol} resolution, {options.images} images {side}x{side}x{BANDS}, {options.threads} threads")
        medians = compare(images, sides)
        if options.octave_images:
            script = {"reduced": "analysis_ref_batched_images", "full": "analysis_unref_batched_images"}[protocol]
            few = {k: v[: options.octave_images] for k, v in images.items()}
            seconds = octave_seconds(few, f"{script}({arguments})")
            medians |= {} if seconds is None else {"Octave": (seconds, math.nan)}
        ours = medians["ours"]
        for name, (elapsed, cores) in medians.items():
            ratios = f"{elapsed / ours[0]:6.1f}x elapsed"
            if not math.isnan(cores):  # another process: its time on the cores is not known here
                ratios += f" {cores / ours[1]:6.1f}x cores"
            print(f"  {name:18} {1e3 * elapsed:8.1f} ms per image {elapsed * options.images:8.2f} s in all {ratios}")
        if options.device == "cuda":
            print(f"  ours, GPU batch    {gpu_seconds(images, sides['ours']):9.4f} s in all")


if __name__ == "__main__":
    main()
