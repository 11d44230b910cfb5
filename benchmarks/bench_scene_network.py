"""LE-Mamba tiny on a scene: `python -m benchmarks.bench_scene_network`.

1. One tile of 256 x 256, on one thread and on two, in turns: layers one after the other (`LEMAMBA_BLOCK=torch`), fused
   for inference, and a frozen loop of multiplications with additions, whose rate is the machine's peak. The floor is
   the tile's FLOPs divided by that rate. Processor time of all threads, medians, ratios within a turn: other work on
   the machine slows all of them.
2. Tiles and overlaps of a synthetic scene: how far the result is from that of the whole scene, in dB (peak 1), how far
   the worst pixel, and seconds of processor time per megapixel of a large scene, which is that per megapixel computed
   times (tile / (tile - overlap))^2. The network is trained for a few hundred steps on other ground first.
3. `inference.py` on a pair of GeoTIFF files of 1024 x 1024 pixels of PAN, four bands, tiles as by default: the share of
   the processor time of all threads, reading and writing included, that is not the network's. One thread computes.

Results go to benchmarks/results/scene_network_cpu.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lemamba.utils.startup import prepare_process, run_cli

prepare_process()  # as every entry point does, before torch is imported

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.bench_scan import RESULTS, processor_name  # noqa: E402
from benchmarks.bench_scene import make_pair  # noqa: E402
from benchmarks.yardsticks import flops_per_second  # noqa: E402
from lemamba.commands import fuse as fuse_command  # noqa: E402
from lemamba.commands import parse  # noqa: E402
from lemamba.datasets.simulation.synthetic import observe  # noqa: E402
from lemamba.engine.fusing.tiles import fuse  # noqa: E402
from lemamba.engine.fusing.tiling import Tiling  # noqa: E402
from lemamba.engine.weights.files import save_weights  # noqa: E402
from lemamba.model import build_model  # noqa: E402
from lemamba.model.ops.native.block import VARIABLE  # noqa: E402
from lemamba.utils.atomic import write_json  # noqa: E402
from lemamba.utils.sensors import get_sensor  # noqa: E402

BANDS, RATIO, TILE = 8, 4, 256
WAYS = {"layers one after the other": "torch", "fused for inference": "cpp"}
TILINGS = (
    *((256, 32), (128, 32), (192, 32), (96, 32), (64, 32)),
    *((128, 64), (128, 16), (256, 64), (192, 64), (64, 16), (96, 16), (256, 16)),
)
FILE_SIDE = 1024


def scene(seed: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ms, lms and pan of a synthetic WorldView-3 scene of `side` PAN pixels, in [0, 1]."""
    sensor = get_sensor("WV3")
    ms, pan = observe([seed, 0], (side // RATIO, side // RATIO), sensor, BANDS, RATIO)
    ms, pan = (torch.as_tensor(x, dtype=torch.float32)[None] / sensor.divisor for x in (ms, pan))
    return ms, nn.functional.interpolate(ms, scale_factor=RATIO, mode="bicubic"), pan


def trained(steps: int) -> nn.Module:
    """Train LE-Mamba tiny at reduced resolution on a scene of its own (averages of RATIO x RATIO pixels)."""
    torch.manual_seed(0)
    net = build_model("LEMamba", img_channel=BANDS, condition_channel=1, out_channel=BANDS)
    gt, _, pan = scene(1, 1024)
    pan = nn.functional.avg_pool2d(pan, RATIO)
    ms = nn.functional.avg_pool2d(gt, RATIO)
    lms = nn.functional.interpolate(ms, scale_factor=RATIO, mode="bicubic")
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    crop = 48
    for _ in range(steps):
        corners = torch.randint(0, gt.shape[-1] - crop + 1, (2, 2)).tolist()
        one, two, three = (torch.cat([x[..., r : r + crop, c : c + crop] for r, c in corners]) for x in (gt, lms, pan))
        optimiser.zero_grad()
        (net(two, two, three) - one).abs().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        schedule.step()
    return net.eval()


def spent(call: Callable[[], object]) -> float:
    """Return the seconds of processor time, of all threads, that a call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure_tile(net: nn.Module, turns: int) -> dict:
    """Part 1."""
    inputs = scene(0, TILE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(*inputs)
    flops, rows = counter.get_total_flops(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        rates = []
        for turn in range(turns + 1):
            rate = flops_per_second()
            for name, way in WAYS.items():
                os.environ[VARIABLE] = way
                with torch.inference_mode():
                    took = spent(lambda: net(*inputs))
                if turn:
                    seconds[name].append(took)
            if turn:
                rates.append(rate)
        os.environ.pop(VARIABLE)
        for name, values in seconds.items():
            multiples = [s * rate / flops for s, rate in zip(values, rates, strict=True)]
            first = seconds[next(iter(WAYS))]
            rows.append(
                {
                    "threads": threads,
                    "way": name,
                    "cpu_seconds": round(statistics.median(values), 3),
                    "ratio": round(statistics.median(b / a for a, b in zip(first, values, strict=True)), 3),
                    "times_the_floor": round(statistics.median(multiples), 2),
                    "times_the_floor_quartiles": [round(q, 2) for q in statistics.quantiles(multiples, n=4)[::2]],
                    "peak_gflops_per_core": round(statistics.median(rates) / 1e9, 1),
                }
            )
            print(rows[-1], flush=True)
    return {"gflops": round(flops / 1e9, 2), "tflops_per_megapixel": round(flops / TILE**2 / 1e6, 3), "rows": rows}


def measure_seams(net: nn.Module, side: int) -> Iterator[dict]:
    """Part 2, row by row; the first is the whole scene."""
    inputs = scene(0, side)
    with torch.inference_mode():
        net(*scene(2, TILE))
        start = time.process_time()
        whole = net(*inputs)
    yield {"tile": side, "cpu_seconds_per_megapixel": round((time.process_time() - start) / side**2 * 1e6, 2)}
    for tile, overlap in TILINGS:
        if tile >= side:
            continue
        tiling = Tiling(tile=tile, overlap=overlap)
        start = time.process_time()
        sr = fuse(net, *inputs, tiling)
        took = (time.process_time() - start) / (len(tiling.boxes((side, side))) * tile**2)
        error = sr - whole
        yield {
            "tile": tile,
            "overlap": overlap,
            "agreement_db": round(float(-10 * error.square().mean().log10()), 1),
            "largest_difference": round(float(error.abs().max()), 5),
            "cpu_seconds_per_megapixel": round(took * (tile / (tile - overlap)) ** 2 * 1e6, 2),
        }


def measure_file(side: int) -> dict:
    """Part 3: seconds of processor time inside and outside the network, of one run of the command."""
    sizes = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}
    inside = 0.0
    starts: list[float] = []

    def before(module: nn.Module, _inputs: object) -> None:
        if type(module).__name__ == "LEMamba":
            starts.append(time.thread_time())

    def after(module: nn.Module, _inputs: object, _output: object) -> None:
        nonlocal inside
        if type(module).__name__ == "LEMamba":
            inside += time.thread_time() - starts.pop()

    hooks = (
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after),
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ms, pan = make_pair(folder, side)
        described = {"model": {"name": "LEMamba", "args": {**sizes, "ratio": RATIO}}}
        described |= {"data": {"sensor": "GF2", "divisor": 2047.0}}
        save_weights(folder / "net.safetensors", build_model("LEMamba", **sizes).state_dict(), described)
        paths = {"weights": folder / "net.safetensors", "ms": ms, "pan": pan, "out": folder / "sr.tif"}
        named = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
        options = parse("fuse", [*named, "--device", "cpu"])
        start = time.process_time()
        fuse_command.run(options)
        all_of_it = time.process_time() - start
    for hook in hooks:
        hook.remove()
    share = 100 * (1 - inside / all_of_it)
    return {"side": side, "cpu_seconds": round(all_of_it, 2), "outside_network_percent": round(share, 2)}


def save(**parts: object) -> None:
    """Add parts to the results, which keep what they hold of others."""
    path = RESULTS / "scene_network_cpu.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    head = {"date": datetime.date.today().isoformat(), "processor": processor_name(), "torch": torch.__version__}
    write_json(path, known | head | parts)


def main() -> None:
    """Measure, print, save after every part and every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("tile", "scene", "file"), help="only this part (default: all)")
    parser.add_argument("--turns", type=int, default=9, help="turns of part 1 (default %(default)s)")
    parser.add_argument("--side", type=int, default=768, help="side of the scene of part 2 (default %(default)s)")
    parser.add_argument("--steps", type=int, default=150, help="training steps before part 2 (default %(default)s)")
    options = parser.parse_args()
    if options.part in (None, "tile"):
        save(tile=measure_tile(trained(0), options.turns))
    if options.part in (None, "file"):
        row = measure_file(FILE_SIDE)
        print(row, flush=True)
        save(file=row)
    if options.part in (None, "scene"):
        rows = []
        for row in measure_seams(trained(options.steps), options.side):
            print(row, flush=True)
            rows.append(row)
            save(scene={"side": options.side, "training_steps": options.steps, "rows": rows})


if __name__ == "__main__":
    run_cli(main)
