"""The scan on a CUDA GPU: `make gpu` or `python -m benchmarks.gpu`.

Prints, for long maps and for windows, in float32 and bfloat16, forward and forward+backward: milliseconds, the ratio to
mamba_ssm's CUDA operator where that is installed, exponentials per second against the calculated limit, and peak
memory. Two comparisons: the scan alone, and the four-direction scan of an image against cross-scan + scan + merge.
Both go through this project's own front, which computes in float32: bfloat16 includes the casts.
Where mamba_ssm is missing and nvcc is here, `--build DIST` compiles only the selective-scan sources of an unpacked
mamba-ssm source distribution. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from model.ops import available_backends, cross_selective_scan, selective_scan
from model.ops.cross_scan import sum_of_sequences, to_sequences
from utils.errors import UserError, run_cli

SHAPES = [(32, 256, 4096, 32), (2048, 256, 64, 16), (8, 512, 16384, 32)]  # B, KD, L, N; four groups
GROUPS, RANK = 4, 2
EXP_LIMIT = 4.17e12  # exponentials per second of the special-function units: the floor's unit, whatever the GPU
RESULTS = Path(__file__).resolve().parent / "results"


def build(folder: Path) -> None:
    """Compile mamba-ssm's selective-scan sources for this GPU and make them importable as selective_scan_cuda."""
    if shutil.which("nvcc") is None:
        raise UserError("expected nvcc on PATH to build mamba-ssm's operator, found none; leave out --build")
    sources = sorted(str(p) for p in (folder / "csrc" / "selective_scan").glob("selective_scan*.c*"))
    if not sources:
        raise UserError(
            f"expected {folder}/csrc/selective_scan with sources, found none; unpack mamba-ssm's sdist there"
        )
    from torch.utils.cpp_extension import load

    flags = ["-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda"]
    sys.modules["selective_scan_cuda"] = load(
        "selective_scan_cuda", sources, extra_include_paths=[str(folder / "csrc" / "selective_scan")],
        extra_cuda_cflags=flags, verbose=True,
    )  # fmt: skip


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
    """Return inputs of a four-direction scan of a square image with L pixels."""
    side, D = round(L**0.5), KD // GROUPS

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, side, side, device="cuda", dtype=dtype)

    return {
        "x": randn(B, D), "dt": randn(B, GROUPS, RANK), "Bt": randn(B, GROUPS, N), "Ct": randn(B, GROUPS, N),
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


def milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Return the median time of a run on the GPU."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
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


def table(kind: str, calls: dict[str, Callable[[dict], torch.Tensor]], make: Callable[..., dict]) -> list[dict]:
    """Measure `calls` over shapes, dtypes and directions; print and return the rows."""
    rows = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                inputs = make(*shape, dtype)
                row = {"kind": kind, "shape": list(shape), "dtype": str(dtype)[6:], "backward": backward}
                for name, call in calls.items():
                    ms, memory = measure(call, inputs, backward)
                    work = shape[0] * shape[1] * shape[2] * shape[3] * (2 if backward else 1)
                    row[name] = {
                        "ms": round(ms, 3),
                        "share_of_exp_limit": round(work / (ms / 1e3) / EXP_LIMIT, 3),
                        "memory_gb": round(memory, 3),
                    }
                rows.append(row)
                print(json.dumps(row))
    return rows


def main() -> None:
    """Measure what can be measured here and say what cannot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, help="folder of an unpacked mamba-ssm source distribution")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("expected a CUDA GPU, torch finds none; run this on a GPU machine")
    if options.build:
        build(options.build)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for state in available_backends().values():
        print(f"{state.name:<10}{'yes' if state.available else 'no':<4}{state.reason}")

    def scan(backend: str) -> Callable[[dict], torch.Tensor]:
        return lambda i: selective_scan(**i, delta_softplus=True, backend=backend)

    scans = {"triton": scan("triton")}
    crosses = {"triton": lambda i: cross_selective_scan(**i, backend="triton")[0]}
    if available_backends()["mamba_ssm"].available:
        scans["mamba_ssm"] = scan("mamba_ssm")
        crosses["mamba_ssm, separate"] = lambda i: separate(**i)
    else:
        here = importlib.util.find_spec("selective_scan_cuda") is not None
        print("no comparison with mamba_ssm:", "it does not load" if here else "it is not installed (see --build)")
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    results["rows"] = table("scan", scans, draw) + table("four directions", crosses, draw_image)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scan_gpu.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(main)
