"""Speed and memory of the metrics next to plain NumPy, torchmetrics, sewar and Octave, on the same images in one run.

    python -m benchmarks.bench_metrics                 20 images: 256x256x8 reduced, 512x512x8 full; all tables
    python -m benchmarks.bench_metrics --images 4      quicker, same ratios
    python -m benchmarks.bench_metrics --sides 256 8192    other sizes for cost per sample and memory
    python -m benchmarks.bench_metrics --device cuda   also a whole batch on a GPU

Tables: both protocols; each index next to other libraries (float64, one thread); cost per sample and memory above the
inputs (float32) by size; cost by number of bands. torchmetrics and sewar are compared where installed
(``pip install torchmetrics sewar``).

Both sides take turns on a few images, so that a busy machine slows both; medians per image are compared, elapsed and
in time of all cores. The plain version filters by direct sums, as MATLAB's `imfilter` does; a second line lets it
filter by FFT, which is kinder to it. Targets: at most 1/4 of plain NumPy at reduced and 1/8 at full resolution on
2 cores, a full batch under 0.1 s on a GPU.
"""

from __future__ import annotations

import argparse
import importlib
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


def ours_full(x: Images, sensor: str = SENSOR) -> dict[str, Tensor]:
    return metrics.full_resolution(x["sr"], x["ms"], x["lms"], x["pan"], ratio=RATIO, sensor=sensor)


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


def other_libraries(x: Tensor, y: Tensor) -> dict[str, dict[str, Callable]]:
    """Calls of other libraries by index, where they are installed and define the same number or one of that name."""
    sr, gt = (i[0].permute(1, 2, 0).contiguous().numpy() for i in (x, y))
    calls: dict[str, dict[str, Callable]] = {}

    def add(library: str, module: str, functions: dict[str, tuple[str, Callable]]) -> None:
        try:
            found = importlib.import_module(module)
        except ImportError:
            return
        for index, (name, call) in functions.items():
            calls.setdefault(index, {})[library] = partial(call, getattr(found, name))

    images = "torchmetrics.functional.image"
    ergas, d_lambda = "error_relative_global_dimensionless_synthesis", "spectral_distortion_index"
    add("torchmetrics", images, {
        "sam": ("spectral_angle_mapper", lambda f: f(x, y)),
        "ergas": (ergas, lambda f: f(x, y, ratio=RATIO)),
        "psnr": ("peak_signal_noise_ratio", lambda f: f(x, y, data_range=float(CONST))),
        "psnr_cube": ("peak_signal_noise_ratio", lambda f: f(x, y, data_range=float(CONST))),
        "ssim": ("structural_similarity_index_measure", lambda f: f(x, y, data_range=float(CONST))),
        "scc": ("spatial_correlation_coefficient", lambda f: f(x, y)),
        "qave": ("universal_image_quality_index", lambda f: f(x, y)),
        "d_lambda": (d_lambda, lambda f: f(x, y)),
    })  # fmt: skip
    add("sewar", "sewar.full_ref", {
        "sam": ("sam", lambda f: f(gt, sr)),
        "ergas": ("ergas", lambda f: f(gt, sr, r=1 / RATIO)),
        "psnr_cube": ("psnr", lambda f: f(gt, sr, MAX=CONST)),
        "rmse": ("rmse", lambda f: f(gt, sr)),
        "uiqi": ("uqi", lambda f: f(gt, sr)),
        "ssim": ("ssim", lambda f: f(gt, sr, MAX=CONST)),
        "scc": ("scc", lambda f: f(gt, sr)),
    })  # fmt: skip
    add("sewar", "sewar.no_ref", {"d_lambda": ("d_lambda", lambda f: f(gt, sr))})
    return calls


def single_indices(x: Tensor, y: Tensor, pan: Tensor) -> dict[str, Callable]:
    """Our functions, one by one."""
    full = {"ratio": RATIO, "sensor": "none"}
    return {
        "sam": lambda: metrics.sam(x, y),
        "ergas": lambda: metrics.ergas(x, y, ratio=RATIO),
        "scc": lambda: metrics.scc(x, y),
        "qn": lambda: metrics.q2n(x, y, const=CONST),
        "qave": lambda: metrics.qave(x, y),
        "psnr": lambda: metrics.psnr(x, y, const=CONST),
        "ssim": lambda: metrics.ssim(x, y, const=CONST),
        "D_lambda_K": lambda: metrics.d_lambda_k(x, y, **full),
        "d_s": lambda: metrics.d_s(x, y, pan, ratio=RATIO),
        "d_lambda": lambda: metrics.d_lambda(x, y),
        "rmse": lambda: metrics.rmse(x, y),
        "cc": lambda: metrics.cc(x, y),
        "psnr_cube": lambda: metrics.psnr_cube(x, y, const=CONST),
        "uiqi": lambda: metrics.uiqi(x, y),
        "sid": lambda: metrics.sid(x, y),
        "dd": lambda: metrics.dd(x, y),
        "rase": lambda: metrics.rase(x, y),
        "d_rho": lambda: metrics.d_rho(x, pan, ratio=RATIO),
        "d_sr": lambda: metrics.d_sr(x, pan),
    }


def plain_indices(x: Tensor, y: Tensor) -> dict[str, Callable]:
    """Plain NumPy, one by one."""
    sr, gt = x[0].numpy(), y[0].numpy()
    return {
        "sam": lambda: plain.sam(sr, gt),
        "ergas": lambda: plain.ergas(sr, gt, RATIO),
        "scc": lambda: plain.scc(sr, gt),
        "qn": lambda: plain.q2n(sr, gt, CONST),
        "qave": lambda: plain.qave(sr, gt),
        "psnr": lambda: plain.psnr(sr, gt, CONST),
        "ssim": lambda: plain.ssim(sr, gt, CONST),
    }


def print_indices(rounds: int = 5) -> None:
    """Table: CPU time of each index and of other libraries as multiples of it, smallest of rounds in turns."""
    images = make_images(1, 256)
    x, y, pan = images["sr"], images["gt"], images["pan"]
    ours, numpy_calls, others = single_indices(x, y, pan), plain_indices(x, y), other_libraries(x, y)
    print(f"each index, 256x256x{BANDS}, float64, one thread: ms of CPU time, others as multiples")
    for name, call in ours.items():
        sides = {"ours": call} | ({"NumPy": numpy_calls[name]} if name in numpy_calls else {}) | others.get(name, {})
        spent: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side, run in sides.items():
                spent[side].append(cpu_seconds(run))
        best = {side: min(seconds) for side, seconds in spent.items()}
        rest = " ".join(f"{k} x{v / best['ours']:.2f}" for k, v in best.items() if k != "ours")
        print(f"  {name:10} {1e3 * best['ours']:8.2f} ms  {rest}", flush=True)


def cpu_seconds(run: Callable) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_memory(run: Callable) -> int | None:
    """Bytes that a call needs above what the process holds before it; None where Linux's counters are missing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def peak_allocated(run: Callable) -> int:
    """Bytes that torch holds at most during a call above what it held before; exact, other libraries do not count."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = np.cumsum([0, *(nbytes for _, nbytes in changes)])
    return int(held.max())


def _status(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def make_large(side: int, bands: int) -> Images:
    """One float32 image, made band by band: whole numbers with noise."""
    torch.manual_seed(0)
    gt, sr = torch.empty(1, bands, side, side), torch.empty(1, bands, side, side)
    for b in range(bands):
        gt[0, b].random_(200, 1800)
        sr[0, b] = gt[0, b] + torch.empty(side, side).random_(-60, 61)
    return {"sr": sr, "gt": gt, "lms": gt, "ms": gt[..., 2::RATIO, 2::RATIO].clone(), "pan": sr[:, :1].clone()}


def print_sizes(sides: list[int]) -> None:
    """Table: cost per sample and memory of both protocols by size."""
    print(f"by size, {BANDS} bands, float32, one thread: ns of CPU time per sample, memory above the inputs in images")
    for side in sides:
        images = make_large(side, BANDS)
        rounds = 5 if side <= 512 else 1
        cells = []
        for name, run in (("reduced", ours_reduced), ("full", partial(ours_full, sensor="none"))):
            call = partial(run, images)
            if side <= 2048:
                call()
            seconds = min(cpu_seconds(call) for _ in range(rounds))
            memory = peak_memory(call)
            image = 4 * images["sr"].numel()
            used = "" if memory is None else f" {memory / image:5.2f} images ({memory / 2**20:.0f} MiB)"
            cells.append(f"{name} {1e9 * seconds / images['sr'].numel():6.1f} ns{used}")
        print(f"  {side:5} x {side:<5} " + "   ".join(cells), flush=True)


def print_bands(side: int = 256) -> None:
    """Table: cost by number of bands."""
    print(f"by bands, {side}x{side}, float32, one thread: ms of CPU time")
    for bands in (8, 31, 128):
        images = make_large(side, bands)
        calls = {"reduced": partial(ours_reduced, images), "full": partial(ours_full, images, sensor="none")}
        calls["qn"] = partial(metrics.q2n, images["sr"], images["gt"], const=CONST)
        cells = [f"{k} {1e3 * min(cpu_seconds(c) for _ in range(4)):8.1f}" for k, c in calls.items()]
        print(f"  {bands:4} bands  " + "   ".join(cells), flush=True)


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
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096], help="sizes of the second table"
    )
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
    torch.set_num_threads(1)
    print_indices()
    print_sizes(options.sides)
    print_bands()


if __name__ == "__main__":
    main()
