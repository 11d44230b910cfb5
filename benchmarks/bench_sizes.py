"""Processor time of fusing against the size of the image: `python -m benchmarks.bench_sizes`.

`lemamba.fuse` is called on a drawn pair (8 bands, ratio 4, cut from one that is repeated) in this process, with one
thread: no start of a program, no files. Processor time is not elapsed time, so other work on the machine counts little.
The least of the turns goes to benchmarks/results/sizes_cpu.json, which `make figs` draws.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import numpy as np
import torch

import lemamba
from benchmarks.bench_scan import processor_name
from lemamba.datasets.simulation.synthetic import observe
from lemamba.model import build_model
from lemamba.model.ops.scan.backends import choose
from lemamba.utils.atomic import write_json
from lemamba.utils.command_line import Parser
from lemamba.utils.progress import track
from lemamba.utils.startup import run_cli

RESULTS = Path(__file__).resolve().parent / "results/sizes_cpu.json"
BANDS, RATIO, DRAWN = 8, 4, 64  # DRAWN: side of the drawn ms
TILE = 256
LIMITS = {"Brovey": 4096, "GSA": 4096, "MTF-GLP-FS": 4096, "LEMambaAny": 512, "LEMamba": 512}  # largest side of PAN


def pair(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ms (C, side / r, side / r) and pan (1, side, side): the drawn pair, repeated."""
    ms, pan = observe(0, (DRAWN, DRAWN), "WV3", BANDS, RATIO)
    times = -(-side // (DRAWN * RATIO))
    small = side // RATIO
    return np.tile(ms, (1, times, times))[:, :small, :small], np.tile(pan, (1, times, times))[:, :side, :side]


def seconds(method: str, side: int) -> float:
    """Return the processor time of one call."""
    ms, pan = pair(side)
    given: dict[str, object] = {"method": method}
    if method == "LEMambaAny":
        given = {"weights": "generic"}
    elif method == "LEMamba":  # time does not depend on the weights
        network = build_model(method, img_channel=BANDS, condition_channel=1, out_channel=BANDS).eval()
        given = {"method": network, "tile": TILE if side > TILE else None}
    started = time.process_time()
    lemamba.fuse(ms, pan, sensor="WV3", device="cpu", **given)  # type: ignore[arg-type]
    return time.process_time() - started


def main() -> None:
    """Measure and save."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=2048, help="largest side of PAN (default %(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="turns, the least counts (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sides = [side for side in (256, 512, 1024, 2048, 4096) if side <= options.largest]
    jobs = [(name, side) for name, most in LIMITS.items() for side in sides if side <= most]
    for name in LIMITS:
        seconds(name, 256)  # kernels are compiled, caches filled
    found: dict[str, dict[str, float]] = {name: {} for name in LIMITS}
    for _ in range(options.turns):
        for name, side in track(jobs, "fusing"):
            spent = seconds(name, side) / (side**2 / 1e6)
            found[name][str(side)] = round(min(spent, found[name].get(str(side), spent)), 4)
    scan = choose(None, "cpu", torch.float32, state_grad=False)
    about = {"date": datetime.date.today().isoformat(), "device": f"{processor_name()}, 1 thread, scan {scan}"}
    write_json(RESULTS, about | {"turns": options.turns, "unit": "processor seconds per megapixel of PAN", "s": found})
    print(f"saved as {RESULTS.name}")


if __name__ == "__main__":
    run_cli(main)
