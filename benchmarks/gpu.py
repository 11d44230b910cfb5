"""Training steps and the scan on a CUDA GPU: `make gpu` or `python -m benchmarks.gpu`.

First whole steps of LE-Mamba (forward, loss, backward, clipping, AdamW, EMA), float32 and bf16, next to what
`benchmarks.step_budget` counts of them: milliseconds, peak memory, and the kernels that take longest. Then the scan,
for long maps and for windows, float32 and bfloat16, forward and forward+backward: milliseconds, the share of two floors
that is reached, peak memory, and the ratio to mamba_ssm's CUDA operator where that is installed. Two comparisons: the
scan alone, and the four-direction scan of an image against cross-scan + scan + merge. A row that fails is reported and
the others go on. Where mamba_ssm is missing and nvcc is here, `--build DIST` compiles only the selective-scan sources
of its source distribution (fetched elsewhere: `pip download --no-deps --no-binary :all: mamba-ssm`). The first run of
a shape compiles and measures configurations (`model/ops/triton/tune.py`): minutes, fewer after `benchmarks.gpu_warm`.
Writes scan_gpu.json and scan_gpu.md into benchmarks/results/ after every row, the most important first; after `--limit`
seconds no further row is begun, and the number of those left out is written.

Floors of a step: the bytes counted, at the copying speed measured on this GPU. Floors of the scan: its exponentials at
4.17e12 a second (special-function units), and the bytes that an operator must read and write at the copying speed.
Backward counts the exponentials once more.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_budget import Budget, budget_of
from lemamba.engine.training.ema import EMA
from lemamba.engine.training.optim import build_optimizer
from lemamba.losses import build_loss
from lemamba.model import build_model
from lemamba.model.ops import available_backends, cross_selective_scan, selective_scan
from lemamba.model.ops.scan.cross import sum_of_sequences, to_sequences
from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.startup import run_cli

SHAPES = [(32, 256, 4096, 32), (2048, 256, 64, 16), (8, 512, 16384, 32)]  # B, KD, L, N; four groups
STEPS = [("base", "no"), ("base", "bf16"), ("tiny", "no"), ("tiny", "bf16")]  # variant, --mixed_precision
BATCH, SIDE, BANDS = 32, 64, 8  # of a step
SHOWN = 15  # kernels of a step
REPEATS = 20  # of what is timed
GROUPS, RANK = 4, 2
COPIED = 1 << 28  # floats, far beyond the caches
EXP_LIMIT = 4.17e12  # exponentials per second of the special-function units: the floor's unit, whatever the GPU
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Calls = dict[str, Callable[[dict], torch.Tensor]]
RESULTS = Path(__file__).resolve().parent / "results"


def unpacked(distribution: Path) -> Path:
    """Return the folder of a source distribution: itself, or what its archive holds."""
    if distribution.is_dir():
        return distribution
    if not distribution.is_file():
        raise UserError(f"expected a source distribution of mamba-ssm, found no {distribution}; pip download it")
    target = Path(tempfile.mkdtemp(prefix="mamba-ssm-"))
    with tarfile.open(distribution) as archive:
        archive.extractall(target, filter="data")
    return next((p.parent for p in target.glob("*/csrc")), target)


def build(distribution: Path) -> None:
    """Compile mamba-ssm's selective-scan sources for this GPU and make them importable as selective_scan_cuda."""
    folder = unpacked(distribution)
    if shutil.which("nvcc") is None:
        raise UserError("expected nvcc on PATH to build mamba-ssm's operator, found none; leave out --build")
    found = (folder / "csrc" / "selective_scan").glob("selective_scan*")
    sources = sorted(str(p) for p in found if p.suffix in (".cpp", ".cu"))  # nvcc refuses headers (.cuh)
    if not sources:
        raise UserError(f"expected {folder}/csrc/selective_scan with sources, found none; give mamba-ssm's sdist")
    from torch.utils.cpp_extension import load

    # torch switches the operators of half types off, mamba-ssm's own build switches them on again; the C++ standard is
    # torch's own choice
    hidden = ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_OPERATORS", "BFLOAT16_CONVERSIONS",
              "BFLOAT162_OPERATORS", "BFLOAT162_CONVERSIONS")  # fmt: skip
    flags = ["-O3", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda"]
    flags += [f"-U__CUDA_NO_{name}__" for name in hidden]
    sys.modules["selective_scan_cuda"] = load(
        "selective_scan_cuda", sources, extra_include_paths=[str(folder / "csrc" / "selective_scan")],
        extra_cuda_cflags=flags, verbose=True,
    )  # fmt: skip


def build_or_say_why(distribution: Path) -> None:
    """Build mamba-ssm's operator; where that fails, ours is still worth measuring."""
    try:
        build(distribution)
    except Exception as error:  # noqa: BLE001 - a compiler, ninja, an archive: the reason is printed
        print(f"mamba-ssm's operator was not built: {error}", flush=True)


def draw(B: int, KD: int, L: int, N: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return inputs of a scan on the GPU; parameters stay float32."""

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype)

    return {
        "u": randn(B, KD, L), "delta": randn(B, KD, L), "A": -torch.rand(KD, N, device="cuda") * 4 - 0.1,
        "B": randn(B, GROUPS, N, L), "C": randn(B, GROUPS, N, L), "D": torch.ones(KD, device="cuda"),
        "delta_bias": torch.full((KD,), -3.0, device="cuda"),
    }  # fmt: skip


def draw_image(B: int, KD: int, L: int, N: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return inputs of a four-direction scan of a square image with L pixels, in the network's memory layout.

    That is channels last, and dt, Bt and Ct are slices of one product.
    """
    side, D = round(L**0.5), KD // GROUPS

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(B, side, side, *shape, device="cuda", dtype=dtype).movedim((1, 2), (-2, -1))

    dt, Bt, Ct = randn(GROUPS, RANK + 2 * N).split((RANK, N, N), dim=2)
    return {
        "x": randn(D), "dt": dt, "Bt": Bt, "Ct": Ct,
        "A": -torch.rand(KD, N, device="cuda") * 4 - 0.1, "D": torch.ones(KD, device="cuda"),
        "dt_weight": torch.randn(GROUPS, D, RANK, device="cuda"), "dt_bias": torch.full((KD,), -3.0, device="cuda"),
    }  # fmt: skip


def separate(x, dt, Bt, Ct, A, D, dt_weight, dt_bias) -> torch.Tensor:
    """Cross-scan, mamba_ssm's scan, merge: four copies in memory, as the published network does it."""
    batch, channels, height, width = x.shape
    u = to_sequences(x[:, None].expand(batch, GROUPS, channels, height, width)).flatten(1, 2)
    delta = torch.matmul(dt_weight.to(x.dtype), to_sequences(dt)).flatten(1, 2)
    y = selective_scan(u, delta, A, to_sequences(Bt), to_sequences(Ct), D, dt_bias, True, backend="mamba_ssm")
    return sum_of_sequences(y.unflatten(1, (GROUPS, channels)), height, width)


def milliseconds(run: Callable[[], object]) -> float:
    """Return the median time of a run on the GPU."""
    for _ in range(3):
        run()
    times = []
    for _ in range(REPEATS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def measure(call: Callable[[dict], torch.Tensor], inputs: dict, backward: bool) -> tuple[float, float]:
    """Return milliseconds and peak memory in GB beyond the inputs."""
    leaves = {k: v.detach().requires_grad_(backward) for k, v in inputs.items()}

    def run() -> None:
        y = call(leaves)
        if backward:
            y.backward(torch.ones_like(y))
            for leaf in leaves.values():
                leaf.grad = None

    with torch.set_grad_enabled(backward):
        run()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        memory = (torch.cuda.max_memory_allocated() - before) / 1e9
        return milliseconds(run), memory


def copy_speed() -> float:
    """Return bytes read and written a second by a large copy."""
    source = torch.empty(COPIED, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (milliseconds(lambda: target.copy_(source)) / 1e3)


def needed_bytes(inputs: dict, output: torch.Tensor, backward: bool) -> int:
    """Return what one operator must move: inputs and output; backward again inputs, output's gradient, gradients."""
    sizes = sum(t.numel() * t.element_size() for t in inputs.values())
    result = output.numel() * output.element_size()
    return sizes + result + (2 * sizes + result if backward else 0)


def one(call: Callable, make: Callable, shape: tuple, dtype: str, backward: bool, speed: float) -> dict:
    """Measure one cell of the table; a failure is its result."""
    try:
        inputs = make(*shape, DTYPES[dtype])
        with torch.no_grad():
            size = needed_bytes(inputs, call(inputs), backward)
        ms, memory = measure(call, inputs, backward)
        exps = shape[0] * shape[1] * shape[2] * shape[3] * (2 if backward else 1)
        floors = {"exp": exps / EXP_LIMIT * 1e3, "bytes": size / speed * 1e3}
        shares = {f"share_of_{name}_floor": round(floor / ms, 3) for name, floor in floors.items()}
        return {"ms": round(ms, 3), "memory_gb": round(memory, 3), **shares}
    except Exception as error:  # noqa: BLE001 - the other cells are worth having whatever this one met
        traceback.print_exc()
        return {"failed": _reason(error)}
    finally:
        torch.cuda.empty_cache()


def training_step(variant: str, precision: str) -> Callable[[], None]:
    """Return a training step of LE-Mamba on drawn images, by the parts that training uses."""
    settings = config.resolve({"model": {"arch": "LEMamba", "variant": variant}})
    sizes = {"img_channel": BANDS, "condition_channel": 1, "out_channel": BANDS}
    model = build_model("LEMamba", **sizes, **config.model_arguments(settings)).cuda().train()
    images = [torch.rand(BATCH, c, n, n, device="cuda") for c, n in ((BANDS, SIDE // 4), (BANDS, SIDE), (1, SIDE))]
    gt, criterion = torch.rand_like(images[1]), build_loss("l1ssim").cuda()
    optimizer = build_optimizer("AdamW", model, lr=1e-4, weight_decay=1e-6)
    ema = EMA(model, 0.995)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            sr = model(*images)
        criterion(sr.float(), gt)["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
        optimizer.zero_grad()

    return step


def longest_kernels(step: Callable[[], None]) -> dict[str, float]:
    """Return the milliseconds of the kernels that take longest in a step, by name."""
    kinds = torch.profiler.ProfilerActivity
    gpu = kinds.CUDA in torch.profiler.supported_activities()
    with torch.profiler.profile(activities=[kinds.CUDA if gpu else kinds.CPU]) as profile:
        step()
        torch.cuda.synchronize()
    times = {e.key: (e.self_device_time_total if gpu else e.self_cpu_time_total) / 1e3 for e in profile.key_averages()}
    ordered = sorted(times, key=times.__getitem__, reverse=True)
    return {name[:80]: round(times[name], 3) for name in ordered[:SHOWN]}


def step_row(variant: str, precision: str, speed: float) -> dict:
    """Measure a training step, beside what is counted of it; a failure is its result."""
    row = {"variant": variant, "precision": precision, "batch": BATCH, "side": SIDE}
    try:
        counted: Budget = budget_of(variant, precision, BATCH, SIDE, BANDS)
        row["counted"] = {
            "floor_ms": round(counted.total().bytes / speed * 1e3, 1), "peak_gb": round(counted.peak / 1e9, 1),
            "gb": round(counted.total().bytes / 1e9, 1), "kernels": counted.total().kernels,
        }  # fmt: skip
        step = training_step(variant, precision)
        step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        row |= {"ms": round(milliseconds(step), 1), "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1)}
        return row | {"kernels": longest_kernels(step)}
    except Exception as error:  # noqa: BLE001 - as in `one`
        traceback.print_exc()
        return row | {"failed": _reason(error)}
    finally:
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def order() -> list[tuple[str, tuple[int, ...], str, bool]]:
    """Return kind, shape, dtype and direction of every row, the most important first.

    That is what a training step of the network calls: the four directions with backward, in float32, of its maps and
    windows; then the same in bfloat16, then forward, then the scan alone, then the longest maps.
    """
    kinds, shapes, dtypes = ("four directions", "scan"), range(len(SHAPES)), tuple(DTYPES)
    rows = product(kinds, shapes, dtypes, (True, False))
    important = sorted(rows, key=lambda r: (r[1] == 2, r[0] == "scan", not r[3], dtypes.index(r[2]), r[1]))
    return [(kind, SHAPES[index], dtype, backward) for kind, index, dtype, backward in important]


def table(calls: dict[str, tuple[Calls, Callable[..., dict]]], speed: float, results: dict, end: float) -> None:
    """Measure the steps, then the calls of every kind, in `order`; print each row and save it at once.

    Args:
        calls: by kind, the calls by name and what draws their inputs.
        speed: bytes a second of a copy.
        results: the rows are added to "steps" and "rows", the number of those left out to "left_out".
        end: on `time.monotonic`, when no further row is begun.
    """
    todo: list[tuple[str, Callable[[], dict]]] = [("steps", partial(step_row, *step, speed)) for step in STEPS]
    todo += [("rows", partial(scan_row, calls[kind], speed, kind, *rest)) for kind, *rest in order()]
    for left, (part, measured) in zip(range(len(todo), 0, -1), todo, strict=True):
        if time.monotonic() > end:
            results["left_out"] = left
            print(f"the time is up: {left} rows were left out", flush=True)
            break
        results[part].append(measured())
        print(json.dumps(results[part][-1]), flush=True)
        save(results)  # a run that is cut short leaves what it has
    save(results)


def scan_row(calls: tuple[Calls, Callable[..., dict]], speed: float, kind: str, *cell: Any) -> dict:
    """Measure every call of a kind for one shape, dtype and direction."""
    (named, make), (shape, dtype, backward) = calls, cell
    row = {"kind": kind, "shape": list(shape), "dtype": dtype, "backward": backward}
    return row | {name: one(call, make, shape, dtype, backward, speed) for name, call in named.items()}


def _cell(result: dict) -> str:
    if "failed" in result:
        return result["failed"]
    return (
        f"{result['ms']:.3f} ms, {result['share_of_exp_floor']:.2f} exp, {result['share_of_bytes_floor']:.2f} bytes, "
        f"{result['memory_gb']:.2f} GB"
    )


def _step_line(row: dict) -> str:
    if "failed" in row:
        return f"| {row['variant']} | {row['precision']} | {row['failed']} | | | | |"
    counted, kernels = row["counted"], [f"{name} {ms} ms" for name, ms in list(row["kernels"].items())[:3]]
    cells = (
        row["variant"], "float32" if row["precision"] == "no" else row["precision"], f"{row['ms']} ms",
        f"{counted['floor_ms']} ms", f"{row['peak_gb']} GB", f"{counted['peak_gb']} GB", ", ".join(kernels),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def markdown(results: dict) -> str:
    """Return the tables as a page: steps beside what is counted; the scan with mamba_ssm's time over ours."""
    lines = [
        f"# Training steps and the scan on {results['device']}", "",
        f"{results['date']}, torch {results['torch']}, CUDA {results['cuda']}, triton {results['triton']}; "
        f"copying {results['copy_gb_per_s']} GB/s. {results.get('left_out', 0)} rows were left out for time.", "",
        f"LE-Mamba, {BANDS} bands, {BATCH} samples of {SIDE} × {SIDE}; counted by benchmarks.step_budget.", "",
        "| variant | type | a step | counted floor | peak memory | counted peak | longest kernels |",
        "|---|---|---|---|---|---|---|", *map(_step_line, results["steps"]), "",
        "| what | B, KD, L, N | type | | ours | mamba_ssm | ratio |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in results["rows"]:
        ours, theirs = row["triton"], row.get("mamba_ssm", {"failed": "not here"})
        ratio = f"{theirs['ms'] / ours['ms']:.2f} ×" if "ms" in ours and "ms" in theirs else "–"
        way = "forward + backward" if row["backward"] else "forward"
        shape = ", ".join(map(str, row["shape"]))
        cells = (row["kind"], shape, row["dtype"], way, _cell(ours), _cell(theirs), ratio)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def save(results: dict) -> None:
    """Write both files, each complete or not at all."""
    RESULTS.mkdir(exist_ok=True)
    for name, text in (("scan_gpu.json", json.dumps(results, indent=1) + "\n"), ("scan_gpu.md", markdown(results))):
        part = RESULTS / f"{name}.part"
        part.write_text(text)
        part.replace(RESULTS / name)


def scan(backend: str) -> Callable[[dict], torch.Tensor]:
    """Return the scan alone by one backend."""
    return lambda i: selective_scan(**i, delta_softplus=True, backend=backend)


OURS = {  # kind of comparison -> our call, its inputs
    "scan": (scan("triton"), draw),
    "four directions": (lambda i: cross_selective_scan(**i, backend="triton")[0], draw_image),
}


def comparisons() -> tuple[Calls, Calls]:
    """Return what to measure of the scan alone and of the four directions: ours, and mamba_ssm's where it is."""
    scans, crosses = ({"triton": call} for call, _make in OURS.values())
    if available_backends()["mamba_ssm"].available:
        scans["mamba_ssm"], crosses["mamba_ssm"] = scan("mamba_ssm"), lambda i: separate(**i)
    else:
        here = importlib.util.find_spec("selective_scan_cuda") is not None
        print("no comparison with mamba_ssm:", "it does not load" if here else "it is not installed (see --build)")
    return scans, crosses


def main() -> None:
    """Measure what can be measured here and say what cannot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, help="mamba-ssm source distribution (.tar.gz or folder)")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no further row is begun")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("expected a CUDA GPU, torch finds none; run this on a GPU machine")
    if options.build:
        build_or_say_why(options.build)
    import triton

    end = time.monotonic() + options.limit
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for state in available_backends().values():
        print(f"{state.name:<10}{'yes' if state.available else 'no':<4}{state.reason}")
    scans, crosses = comparisons()
    speed = copy_speed()
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": triton.__version__, "copy_gb_per_s": round(speed / 1e9), "steps": [], "rows": [],
    }  # fmt: skip
    calls = {"scan": (scans, draw), "four directions": (crosses, draw_image)}
    table(calls, speed, results, end)
    cells = [cell for row in results["rows"] for cell in row.values() if isinstance(cell, dict)]
    failed = sum("failed" in cell for cell in [*results["steps"], *cells])
    if failed:
        raise UserError(f"expected every measurement to work, {failed} failed; the reasons stand in {RESULTS}")


if __name__ == "__main__":
    run_cli(main)
