"""Speed of the selective scan on this CPU, side by side in one run: `python -m benchmarks.bench_scan`.

Backends take turns run by run, so a machine that slows down slows all of them; medians of the ratios are printed. The
machine's exponentials per second (yardsticks.py: a loop of ours, and the C library's expf) are measured in between:
share = B*KD*L*N / time / rate, where backward = (forward + backward) - forward. "plain" is a plain re-implementation
of the published CPU path (mamba_ssm's `selective_scan_ref`: all decays at once, then one step after the other). The
network is quoted in exp-equivalents (seconds x rate), by both yardsticks. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from lemamba.utils.startup import prepare_process

prepare_process()  # as every entry point does, before torch starts its threads

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from benchmarks.yardsticks import exp_rates  # noqa: E402
from lemamba.model import build_model  # noqa: E402
from lemamba.model.ops import available_backends, selective_scan  # noqa: E402

SHAPES = {"windows": (128, 256, 64, 16), "global": (2, 256, 4096, 32)}  # B, KD, L, N; four groups
GROUPS = 4
RESULTS = Path(__file__).resolve().parent / "results"


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


def best(rates: list[dict[str, float]]) -> dict[str, float]:
    """Return the highest rate of each yardstick."""
    return {name: max(rate[name] for rate in rates) for name in rates[0]}


def giga(values: dict[str, float]) -> dict[str, float]:
    """Return the values in 1e9, for people."""
    return {name: round(value / 1e9, 2) for name, value in values.items()}


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
        rates.append(exp_rates(threads))
        for job, run in jobs.items():
            seconds[job].append(timed(run))
    ratio = {}
    for kind in ("forward", "forward+backward"):
        pairs = zip(seconds[f"torch {kind}"], seconds[f"cpp {kind}"], strict=True)
        ratio[f"torch / cpp, {kind}"] = statistics.median(a / b for a, b in pairs)
    if with_plain:
        pairs = zip(seconds["plain forward"], seconds["cpp forward"], strict=True)
        ratio["plain / cpp, forward"] = statistics.median(a / b for a, b in pairs)
    work, rate = B * KD * L * N, best(rates)
    fast, full = min(seconds["cpp forward"]), min(seconds["cpp forward+backward"])
    figures = {
        "shape": [B, KD, L, N],
        "milliseconds": {job: round(1e3 * statistics.median(s), 2) for job, s in seconds.items()},
        "ratio": {k: round(v, 1) for k, v in ratio.items()},
        "exp_rate_gexp": giga(rate),
        "share_forward": {k: round(work / fast / r, 2) for k, r in rate.items()},
        "share_backward": {k: round(work / (full - fast) / r, 2) for k, r in rate.items()},
    }
    print(f"\n{name} [{B},{KD},{L},{N}], {threads} threads")
    for job, value in figures["milliseconds"].items():
        print(f"  {job:<26}{value:10.1f} ms (median of {repeats})")
    for pair, value in figures["ratio"].items():
        print(f"  {pair:<34}{value:6.1f} x")
    for k, r in figures["exp_rate_gexp"].items():
        shares = figures["share_forward"][k], figures["share_backward"][k]
        print(f"  share of {r} G exponentials a second ({k}): forward {shares[0]}, backward {shares[1]}")
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
        rates.append(exp_rates(threads))
        infers.append(timed(infer))
        steps.append(timed(step))
    rate = best(rates)
    figures = {
        "forward_batch_1_ms": round(1e3 * statistics.median(infers), 1),
        "step_batch_4_ms": round(1e3 * statistics.median(steps), 1),
        "step_memory_gb": round(memory, 2),
        "exp_rate_gexp": giga(rate),
        "forward_gexp": giga({k: min(infers) * r for k, r in rate.items()}),
        "step_gexp": giga({k: min(steps) * r for k, r in rate.items()}),
    }
    print(f"\nLE-Mamba tiny, 64x64, 8 bands, {threads} threads")
    for name, value in figures.items():
        print(f"  {name:<22}{value}")
    print("  gexp: seconds x exponentials a second; the goals, 0.7 and 8, and the prototype's 1.0 and 11.7 belong to a")
    print("  yardstick that gave 6.0 G/s on two cores")
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
