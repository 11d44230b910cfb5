"""What each step of speeding up LE-Mamba on a CPU gave: `python -m benchmarks.bench_stages`.

Every stage runs in separate processes that differ in environment variables only; the stages take turns, round by
round. One thread, processor time (not elapsed time), the first quartile of all runs: other work on the machine shares
caches and memory and so only ever adds. LE-Mamba tiny, 8 bands, 64x64. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench_scan import RESULTS, processor_name

ROOT = Path(__file__).resolve().parent.parent
_TORCH = {"LEMAMBA_LINEAR": "torch", "LEMAMBA_DEPTHWISE": "torch", "LEMAMBA_GATE": "torch"}
STAGES = {
    "scan kernel, the rest by torch": {"MALLOC_ARENA_MAX": "8", **_TORCH},  # a setting of the user's: ours are not made
    "+ freed memory is kept": _TORCH,
    "+ linear layers": _TORCH | {"LEMAMBA_LINEAR": ""},
    "+ depth-wise convolutions": {"LEMAMBA_GATE": "torch"},
    "+ gates": {},
}


def measure(repeats: int) -> dict[str, list[float]]:
    """Return milliseconds of processor time of forwards at batch 1 and training steps at batch 4, in this process."""
    import time

    from lemamba.utils.startup import keep_freed_memory

    keep_freed_memory()
    import torch

    from lemamba.model import build_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = build_model("LEMamba", img_channel=8, condition_channel=1, out_channel=8)
    one, four = ([torch.rand(n, c, s, s) for c, s in ((8, 16), (8, 64), (1, 64))] for n in (1, 4))

    def infer() -> None:
        with torch.no_grad():
            net(*one)

    def step() -> None:
        net.zero_grad()
        net(*four).sum().backward()

    def times(run: Callable[[], None], count: int) -> list[float]:
        run(), run()
        spent = []
        for _ in range(count):
            start = time.process_time()
            run()
            spent.append(1e3 * (time.process_time() - start))
        return spent

    return {"forward": times(infer, 3 * repeats), "step": times(step, repeats)}


def run_stage(settings: dict[str, str], repeats: int) -> dict[str, list[float]]:
    """Measure in a process with these environment variables and none of our others."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LEMAMBA_"))}
    kept = {k: v for k, v in os.environ.items() if k == "LEMAMBA_CACHE"}
    command = [sys.executable, "-m", "benchmarks.bench_stages", "--one", str(repeats)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=clean | kept | settings
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all stages in turns; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--repeats", type=int, default=4, help="training steps per process; three times as many forwards"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # what a child process is asked for
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    spent: dict[str, dict[str, list[float]]] = {name: {"forward": [], "step": []} for name in STAGES}
    for _ in range(options.rounds):
        for name, settings in STAGES.items():
            for kind, values in run_stage(settings, options.repeats).items():
                spent[name][kind] += values
    rows = {
        name: {k: round(statistics.quantiles(v, n=4)[0], 1) for k, v in kinds.items()} for name, kinds in spent.items()
    }
    print(f"{'one thread, processor time, quartile':<36}{'forward batch 1':>18}{'step batch 4':>16}")
    for name, row in rows.items():
        print(f"{name:<36}{row['forward']:>15.1f} ms{row['step']:>13.1f} ms")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "stages_cpu.json"
    path.write_text(json.dumps({"processor": processor_name(), "milliseconds": rows}, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
