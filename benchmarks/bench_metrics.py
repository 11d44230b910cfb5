"""Speed and memory of the metrics next to plain NumPy, torchmetrics, sewar and Octave: one table, measured in one run.

    python -m benchmarks.bench_metrics                      all rows, at most about 6 minutes on a quiet machine
    python -m benchmarks.bench_metrics --minutes 1          as many rows as fit, the most important first
    python -m benchmarks.bench_metrics --out table.md       also writes the table to a file, after each row
    python -m benchmarks.bench_metrics --only qn            rows with this word
    python -m benchmarks.bench_metrics --device cuda        also whole batches on a GPU

A cell is CPU time of one thread, smallest of several calls in which all sides take turns, and in brackets the memory
needed above the inputs in multiples of the image as float32. Times of others are multiples of ours: above 1 we are
faster. Rows "float64" compare libraries on equal images; rows "float32" show how cost grows with size and bands.
Memory is what torch allocates (ours, torchmetrics), what NumPy allocates (NumPy, sewar), and the growth of the process
(Octave; ours above 1024 x 1024, where "process" is added). Octave reads no file within its time.
torchmetrics and sewar are compared where installed (``pip install torchmetrics sewar``); not all of their indices are
the same number (docs/why_numbers_differ.md).
"""

from __future__ import annotations

import argparse
import importlib
import re
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain_numpy_metrics as plain
from benchmarks.parity_metrics import find_octave, run_octave
from lemamba import metrics
from lemamba.utils.atomic import write_text
from lemamba.utils.formats.mat import write_mat
from lemamba.utils.sensors import get_sensor

SENSOR, RATIO, CONST, BANDS = "WV3", 4, 2047, 8
SIDES = ("ours", "NumPy", "torchmetrics", "sewar", "Octave")
ROUND_SECONDS, MOST_ROUNDS = 1.5, 60  # a row repeats until its sides took so long, or so often
SMALL = 1024  # up to this side memory is counted allocation by allocation
Images = dict[str, Tensor]
Call = Callable[[], object]


@dataclass
class Cell:
    """Seconds of CPU time, and bytes above the inputs where they are known."""

    seconds: float
    memory: int | None = None
    process: bool = False


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        side: of the images.
        bands: C.
        dtype: of the images.
        make: returns the sides' calls; called when the row's turn comes.
        seconds: estimate of the time that the row takes.
        once: measure time and memory in one single call.
        octave: index that Octave computes of the same images, "" for none.
    """

    name: str
    side: int
    bands: int
    dtype: str
    make: Callable[[], dict[str, Call]]
    seconds: float
    once: bool = False
    octave: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Return the samples of an image."""
        return self.side * self.side * self.bands


def make_images(count: int, side: int) -> Images:
    """Smooth scenes with noise, whole digital numbers: sr, gt (also lms), ms, pan."""
    torch.manual_seed(0)
    coarse = torch.rand(count, BANDS, side // 8, side // 8, dtype=torch.float64)
    gt = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic") * 1500 + 200
    sr = gt + 40 * torch.randn_like(gt)
    images = {"sr": sr, "gt": gt, "lms": gt, "ms": gt[..., ::RATIO, ::RATIO], "pan": sr.mean(dim=1, keepdim=True)}
    return {k: v.clamp(0, CONST).round() for k, v in images.items()}


def make_large(side: int, bands: int) -> Images:
    """One float32 image, made band by band: whole numbers with noise."""
    torch.manual_seed(0)
    gt, sr = torch.empty(1, bands, side, side), torch.empty(1, bands, side, side)
    for b in range(bands):
        gt[0, b].random_(200, 1800)
        sr[0, b] = gt[0, b] + torch.empty(side, side).random_(-60, 61)
    return {"sr": sr, "gt": gt, "lms": gt, "ms": gt[..., 2::RATIO, 2::RATIO].clone(), "pan": sr[:, :1].clone()}


def ours_reduced(x: Images) -> dict[str, Tensor]:
    return metrics.reduced_resolution(x["sr"], x["gt"], ratio=RATIO, const=CONST)


def ours_full(x: Images, sensor: str = SENSOR) -> dict[str, Tensor]:
    return metrics.full_resolution(x["sr"], x["ms"], x["lms"], x["pan"], ratio=RATIO, sensor=sensor)


def single_indices(x: Tensor, y: Tensor, pan: Tensor) -> dict[str, Call]:
    """Our functions, one by one."""
    full = {"ratio": RATIO, "sensor": "none"}
    return {
        "ergas": lambda: metrics.ergas(x, y, ratio=RATIO),
        "psnr": lambda: metrics.psnr(x, y, const=CONST),
        "qn": lambda: metrics.q2n(x, y, const=CONST),
        "sam": lambda: metrics.sam(x, y),
        "scc": lambda: metrics.scc(x, y),
        "qave": lambda: metrics.qave(x, y),
        "ssim": lambda: metrics.ssim(x, y, const=CONST),
        "d_lambda_k": lambda: metrics.d_lambda_k(x, y, **full),
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


def plain_indices(x: Tensor, y: Tensor) -> dict[str, Call]:
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


def other_libraries(x: Tensor, y: Tensor) -> dict[str, dict[str, Call]]:
    """Calls of other libraries by index, where they are installed and define the same number or one of that name."""
    sr, gt = (i[0].permute(1, 2, 0).contiguous().numpy() for i in (x, y))
    calls: dict[str, dict[str, Call]] = {}

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


# What is measured


def rows() -> Iterator[Row]:
    """Yield the rows of the table, the most important first."""
    slow = {"d_lambda": 30, "ssim": 12, "qave": 12, "scc": 4, "uiqi": 3}
    names = list(single_indices(*(torch.empty(0),) * 3))
    yield protocol_row("reduced", 256, 6)
    yield protocol_row("full", 512, 10)
    yield from (index_row(name, 256, slow.get(name, 2)) for name in names[:5])
    yield from (bands_row(name, bands) for name in ("qn", "reduced", "full") for bands in (BANDS, 31, 128))
    yield from (size_row(name, side) for side in (1024, 4096, 8192) for name in ("reduced", "full"))
    yield from (index_row(name, 256, slow.get(name, 2)) for name in names[5:])
    yield from (index_row(name, 1024, 3) for name in ("ergas", "psnr", "sam"))
    yield from (size_row(name, side) for side in (512, 2048) for name in ("reduced", "full"))


def protocol_row(name: str, side: int, seconds: float) -> Row:
    def make() -> dict[str, Call]:
        images = make_images(1, side)
        x = {k: v[0].numpy() for k, v in images.items()}
        if name == "reduced":
            numpy_call = partial(plain.reduced_resolution, x["sr"], x["gt"], RATIO, CONST)
            return {"ours": partial(ours_reduced, images), "NumPy": numpy_call}
        gains = get_sensor(SENSOR).gains(BANDS)
        numpy_call = partial(plain.full_resolution, x["sr"], x["lms"], x["pan"][0], RATIO, gains, mtf=plain.mtf_fft)
        return {"ours": partial(ours_full, images), "NumPy": numpy_call}

    return Row(f"{name} resolution", side, BANDS, "float64", make, seconds, octave=name)


def index_row(name: str, side: int, seconds: float) -> Row:
    def make() -> dict[str, Call]:
        images = make_images(1, side)
        x, y = images["sr"], images["gt"]
        calls = {"ours": single_indices(x, y, images["pan"])[name]}
        calls |= {"NumPy": plain_indices(x, y)[name]} if name in plain_indices(x, y) else {}
        return calls | other_libraries(x, y).get(name, {})

    octave = name if side == 256 and name in OCTAVE else ""
    return Row(name, side, BANDS, "float64", make, seconds, octave=octave)


def bands_row(name: str, bands: int) -> Row:
    def make() -> dict[str, Call]:
        images = make_large(256, bands)
        return {
            "ours": {**ours_calls(images), "qn": partial(metrics.q2n, images["sr"], images["gt"], const=CONST)}[name]
        }

    return Row(name, 256, bands, "float32", make, 2 + 0.05 * bands)


def size_row(name: str, side: int) -> Row:
    seconds = side * side * BANDS * (130e-9 if name == "reduced" else 60e-9) * (1.2 if side > SMALL else 5)
    return Row(name, side, BANDS, "float32", lambda: {"ours": ours_calls(make_large(side, BANDS))[name]}, seconds + 1,
               once=side > SMALL)  # fmt: skip


def ours_calls(images: Images) -> dict[str, Call]:
    return {"reduced": partial(ours_reduced, images), "full": partial(ours_full, images, sensor="none")}


# How it is measured


def measure(row: Row) -> None:
    """Fill the cells of a row."""
    calls = row.make()
    if row.once:
        memory, seconds = process_peak(calls["ours"])
        row.cells["ours"] = Cell(seconds, memory, process=True)
        return
    spent: dict[str, list[float]] = {side: [cpu_seconds(call)] for side, call in calls.items()}  # warm up
    for _ in range(rounds_of(sum(s[0] for s in spent.values()))):
        for side, call in calls.items():
            spent[side].append(cpu_seconds(call))
    for side, call in calls.items():
        peak = peak_allocated if side in ("ours", "torchmetrics") else peak_traced
        slow = spent[side][0] > 3 * ROUND_SECONDS
        row.cells[side] = Cell(min(spent[side][1:] or spent[side]), None if slow else peak(call))
    if row.octave:
        row.cells |= octave_cell(row)


def rounds_of(seconds: float) -> int:
    return max(1, min(MOST_ROUNDS, int(ROUND_SECONDS / max(seconds, 1e-4)))) if seconds < 4 * ROUND_SECONDS else 0


def cpu_seconds(run: Call) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_allocated(run: Call) -> int:
    """Bytes that torch holds at most during a call above what it held before; exact, other libraries do not count."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = np.cumsum([0, *(nbytes for _, nbytes in changes)])
    return int(held.max())


def peak_traced(run: Call) -> int:
    """The same for NumPy."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def process_peak(run: Call) -> tuple[int | None, float]:
    """Bytes by which the process grows at most in a call (None where Linux's counters are missing), and CPU seconds."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None, cpu_seconds(run)
    before = _status("VmRSS")
    seconds = cpu_seconds(run)
    return max(0, _status("VmHWM") - before), seconds


def _status(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


OCTAVE = {  # calls of the MATLAB package on sr, gt, pan (H x W x C)
    "reduced": f"reduced_resolution(sr, gt, {RATIO}, {CONST})",
    "full": f"full_resolution(sr, ms, gt, pan, {RATIO}, '{SENSOR}')",
    "sam": "sam(sr, gt)",
    "ergas": f"ergas(sr, gt, {RATIO})",
    "scc": "scc(sr, gt)",
    "qn": "q2n(sr, gt, 1)",
    "qave": "qave(sr, gt)",
    "psnr": f"psnr(sr, gt, {CONST})",
    "ssim": f"ssim(sr, gt, {CONST})",
    "d_lambda_k": f"d_lambda_k(sr, gt, 'none', {RATIO}, 1)",
    "d_s": f"d_s(sr, gt, pan, {RATIO})",
    "d_lambda": "d_lambda(sr, gt)",
    "rmse": "rmse(sr, gt)",
    "cc": "cc(sr, gt)",
    "psnr_cube": f"psnr_cube(sr, gt, {CONST})",
    "uiqi": "uiqi(sr, gt)",
    "sid": "sid(sr, gt)",
    "dd": "dd(sr, gt)",
    "rase": "rase(sr, gt)",
    "d_rho": f"d_rho(sr, pan, {RATIO})",
    "d_sr": "d_sr(sr, pan)",
}
_OCTAVE_SCRIPT = """
x = load('x.mat');
hwc = @(image) permute(image, [3 4 2 1]);
sr = hwc(x.sr); gt = hwc(x.gt); ms = hwc(x.ms); pan = hwc(x.pan);
addpath(fullfile(fileparts(which('analysis_ref_batched_images')), 'Quality_Indices'));
function kilobytes = status(name)
  kilobytes = str2double(regexp(fileread('/proc/self/status'), [name ':\\s+(\\d+)'], 'tokens', 'once'){1});
end
"""


def octave_cell(row: Row) -> dict[str, Cell]:
    """Return time (of a second call) and memory (of the first) in Octave; nothing where it is missing."""
    if find_octave() is None:
        return {}
    call = OCTAVE[row.octave]
    script = _OCTAVE_SCRIPT + (
        "file = fopen('/proc/self/clear_refs', 'w'); fprintf(file, '5'); fclose(file); before = status('VmRSS');\n"
        f"v = {call}; grown = status('VmHWM') - before;\n"
        f"start = cputime(); v = {call}; printf('octave %.9g %.9g\\n', cputime() - start, grown);"
    )
    with tempfile.TemporaryDirectory() as place:
        write_mat(Path(place) / "x.mat", {k: v.numpy() for k, v in make_images(1, row.side).items()}, dtype=np.float64)
        found = re.search(r"octave (\S+) (\S+)", run_octave(script, Path(place), timeout=600))
    return {"Octave": Cell(float(found[1]), int(1024 * float(found[2])))}


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


# How it is shown

HEAD = ("measured", "image", "ours", "ns per sample", *SIDES[1:])


def line_of(row: Row) -> list[str]:
    """Return the texts of a row."""
    image = 4 * row.samples
    ours = row.cells["ours"].seconds
    cells = [f"`{row.name}`", f"{row.side}²×{row.bands} {row.dtype}"]
    for side in SIDES:
        cell = row.cells.get(side)
        if cell is None:
            text = ""
        else:
            shown = f"{1e3 * cell.seconds:.3g} ms" if side == "ours" else f"{cell.seconds / ours:.3g} ×"
            memory = "" if cell.memory is None else f" ({cell.memory / image:.2f}{' process' if cell.process else ''})"
            text = shown + memory
        cells += [text, f"{1e9 * cell.seconds / row.samples:.3g}"] if side == "ours" and cell else [text]
    return cells


def markdown(lines: list[list[str]]) -> str:
    """Return the table, its columns aligned."""
    table = [list(HEAD), *lines]
    widths = [max(len(line[k]) for line in table) for k in range(len(HEAD))]
    texts = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in table]
    rule = "|" + "|".join("-" * (w + 2) if k < 2 else "-" * (w + 1) + ":" for k, w in enumerate(widths)) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def fits(row: Row) -> bool:
    """Return whether the machine has the memory for a row's two images and as much again."""
    try:
        available = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    except OSError:
        return True
    return available is None or 1024 * int(available[1]) > 4 * row.samples * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6, help="rows that would end later are left out (default 6)")
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--out", type=Path, help="file for the table, written after each row")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: also batches on the GPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.device == "cuda":
        for name, side, run in (("reduced", 256, ours_reduced), ("full", 512, ours_full)):
            print(f"GPU, 20 images {side}x{side}x{BANDS}, {name}: {gpu_seconds(make_images(20, side), run):.4f} s")
    started, lines, left_out = time.perf_counter(), [], []
    for row in rows():
        if options.only not in row.name:
            continue
        if time.perf_counter() - started + row.seconds > 60 * options.minutes or not fits(row):
            left_out.append(f"{row.name} {row.side}²×{row.bands}")
            continue
        measure(row)
        lines.append(line_of(row))
        print(" | ".join(lines[-1]), flush=True)
        if options.out:
            write_text(options.out, markdown(lines) + "\n")
    print(f"\n{markdown(lines)}")
    if left_out:
        print(f"\nnot measured, for lack of time or memory: {', '.join(left_out)}")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
