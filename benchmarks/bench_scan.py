"""Speed of the selective scan on this CPU, side by side in one run: `python -m benchmarks.bench_scan`.

Backends take turns run by run, so a machine that slows down slows all of them; medians of the ratios are printed. The
machine's exponentials per second (native/rate.c, frozen) are measured in between: share = B*KD*L*N / time / rate,
where backward = (forward + backward) - forward. Beside that yardstick, which uses the full width of the vectors, the
rate of `torch.exp` times the threads is a second one that is not ours. "plain" is a plain re-implementation of the
published CPU path (mamba_ssm's `selective_scan_ref`: all decays at once, then one step after the other). The network
is quoted in exp-equivalents (seconds x rate), by both yardsticks. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from utils.startup import prepare_process

prepare_process()  # as every entry point does, before torch starts its threads

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from model import build_model  # noqa: E402
from model.ops import available_backends, selective_scan  # noqa: E402
from model.ops.native_build import library  # noqa: E402

SHAPES = {"windows": (128, 256, 64, 16), "global": (2, 256, 4096, 32)}  # B, KD, L, N; four groups
GROUPS = 4
RESULTS = Path(__file__).resolve().parent / "results"


def exp_rate(threads: int) -> float:
    """Return float32 exponentials per second on `threads` threads: the best of five short runs."""
    found, reason = library()
    if found is None:
        raise SystemExit(f"the exp throughput is measured by the compiled kernels: {reason}")
    found.exp_rate.restype = ctypes.c_int64
    found.exp_rate.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    sink, best = torch.zeros(threads), 0.0
    for _ in range(5):
        start = time.perf_counter()
        count = found.exp_rate(5000, threads, sink.data_ptr())
        best = max(best, count / (time.perf_counter() - start))
    return best


def torch_exp_rate() -> float:
    """Return float32 exponentials per second of `torch.exp` in the first cache on one thread: a yardstick not ours."""
    numbers, out = torch.linspace(-20, 0, 4096), torch.empty(4096)  # too few for torch to use more threads
    best = 0.0
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(20):
            torch.exp(numbers, out=out)
        best = max(best, 20 * numbers.numel() / (time.perf_counter() - start))
    return best


def plain_scan(u, delta, A, B, C, D, delta_bias):
    """The published CPU path: every decay and input at once (B, KD, L, N), then a loop over L."""
    delta = F.softplus(delta + delta_bias[:, None])
    B, C = (v.repeat_interleave(u.shape[1] // GROUPS, dim=1) for v in (B, C))
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    inputs = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    h, ys = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[-1]):
        h = decay[:, :, t] * h + inputs[:, :, t]
        ys.append(torch.einsum("bdn,bdn->bd", h, C[..., t]))
    return torch.stack(ys, dim=-1) + u * D[:, None], h


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def forward(inputs: dict, backend: str) -> None:
    """One forward without gradients."""
    with torch.no_grad():
        if backend == "plain":
            plain_scan(**inputs)
        else:
            selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend)


def both(inputs: dict, backend: str) -> None:
    """One forward and backward, gradients of every input, also through the last state."""
    leaves = {k: v.detach().requires_grad_() for k, v in inputs.items()}
    y, last = selective_scan(**leaves, delta_softplus=True, return_last_state=True, backend=backend)
    torch.autograd.backward([y, last], [torch.ones_like(y), torch.ones_like(last)])


def scan_rows(name: str, repeats: int, threads: int, with_plain: bool) -> dict:
    """Measure one shape; print and return its figures."""
    B, KD, L, N = SHAPES[name]
    inputs = {
        "u": torch.randn(B, KD, L), "delta": torch.randn(B, KD, L), "A": -torch.arange(1.0, N + 1).expand(KD, N),
        "B": torch.randn(B, GROUPS, N, L), "C": torch.randn(B, GROUPS, N, L), "D": torch.ones(KD),
        "delta_bias": torch.full((KD,), -3.0),
    }  # fmt: skip
    jobs = {
        "cpp forward": lambda: forward(inputs, "cpp"),
        "torch forward": lambda: forward(inputs, "torch"),
        "cpp forward+backward": lambda: both(inputs, "cpp"),
        "torch forward+backward": lambda: both(inputs, "torch"),
    }
    if with_plain:
        jobs["plain forward"] = lambda: forward(inputs, "plain")
    for job in jobs.values():
        job()  # warm: compiles, touches memory
    seconds: dict[str, list[float]] = {job: [] for job in jobs}
    rates = []
    for _ in range(repeats):
        rates.append(exp_rate(threads))
        for job, run in jobs.items():
            seconds[job].append(timed(run))
    ratio = {}
    for kind in ("forward", "forward+backward"):
        pairs = zip(seconds[f"torch {kind}"], seconds[f"cpp {kind}"], strict=True)
        ratio[f"torch / cpp, {kind}"] = statistics.median(a / b for a, b in pairs)
    if with_plain:
        pairs = zip(seconds["plain forward"], seconds["cpp forward"], strict=True)
        ratio["plain / cpp, forward"] = statistics.median(a / b for a, b in pairs)
    work, rate = B * KD * L * N, max(rates)
    fast, full = min(seconds["cpp forward"]), min(seconds["cpp forward+backward"])
    figures = {
        "shape": [B, KD, L, N],
        "milliseconds": {job: round(1e3 * statistics.median(s), 2) for job, s in seconds.items()},
        "ratio": {k: round(v, 1) for k, v in ratio.items()},
        "exp_rate_gexp": round(rate / 1e9, 2),
        "share_forward": round(work / fast / rate, 2),
        "share_backward": round(work / (full - fast) / rate, 2),
    }
    print(f"\n{name} [{B},{KD},{L},{N}]  exp throughput {rate / 1e9:.1f} G/s on {threads} threads")
    for job, value in figures["milliseconds"].items():
        print(f"  {job:<26}{value:10.1f} ms (median of {repeats})")
    for pair, value in figures["ratio"].items():
        print(f"  {pair:<34}{value:6.1f} x")
    print(f"  share of the exp throughput: forward {figures['share_forward']}, backward {figures['share_backward']}")
    return figures


def network_rows(repeats: int, threads: int) -> dict:
    """Measure LE-Mamba tiny, 64x64, 8 bands: a forward at batch 1 and a training step at batch 4."""
    net = build_model("LEMamba", img_channel=8, condition_channel=1, out_channel=8)

    def batch(n: int) -> tuple[torch.Tensor, ...]:
        return torch.rand(n, 8, 16, 16), torch.rand(n, 8, 64, 64), torch.rand(n, 1, 64, 64)

    one, four = batch(1), batch(4)

    def infer() -> None:
        with torch.no_grad():
            net(*one)

    def step() -> None:
        net.zero_grad()
        net(*four).sum().backward()

    infer()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6  # kB -> GB
    infers, steps, rates = [], [], []
    for _ in range(repeats):
        rates.append(exp_rate(threads))
        infers.append(timed(infer))
        steps.append(timed(step))
    rate, torch_rate = max(rates), threads * torch_exp_rate()
    figures = {
        "forward_batch_1_ms": round(1e3 * statistics.median(infers), 1),
        "step_batch_4_ms": round(1e3 * statistics.median(steps), 1),
        "forward_gexp": round(min(infers) * rate / 1e9, 2),
        "step_gexp": round(min(steps) * rate / 1e9, 2),
        "forward_torch_gexp": round(min(infers) * torch_rate / 1e9, 2),
        "step_torch_gexp": round(min(steps) * torch_rate / 1e9, 2),
        "step_memory_gb": round(memory, 2),
        "exp_rate_gexp": round(rate / 1e9, 2),
        "torch_exp_rate_gexp": round(torch_rate / 1e9, 2),
    }
    print(f"\nLE-Mamba tiny, 64x64, 8 bands, {threads} threads, exp throughput {rate / 1e9:.1f} G/s")
    for name, value in figures.items():
        print(f"  {name:<22}{value:10.2f}")
    print("  gexp: seconds x exponentials a second, by our yardstick and (torch) by torch.exp; the goals of 0.7 and 8")
    print("  and the prototype's 1.0 and 11.7 were set with a yardstick that measured 6.0 G/s on two cores")
    return figures


def main() -> None:
    """Measure, print, and write the figures with the machine's name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="also the published path (seconds a run, 2 GB)")
    parser.add_argument("--no-network", action="store_true", help="the scan alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for state in available_backends().values():
        print(f"{state.name:<10}{'yes' if state.available else 'no':<4}{state.reason}")
    results = {
        "machine": platform.machine(), "processor": processor_name(), "threads": options.threads,
        "torch": torch.__version__, "backend": available_backends()["cpp"].reason,
    }  # fmt: skip
    if not options.no_network:  # first, while the process's peak memory is its own
        results["network"] = network_rows(options.repeats, options.threads)
    for name in SHAPES:
        results[name] = scan_rows(name, options.repeats, options.threads, options.plain)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "scan_cpu.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwritten: {path.relative_to(RESULTS.parent.parent)}")


def processor_name() -> str:
    """Return the processor's own name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
