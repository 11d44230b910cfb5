"""What fusing gains and loses by batches, half precision and the compiler: `python -m benchmarks.bench_inference`.

On real images with a ground truth and trained weights, both given by path::

    python -m benchmarks.bench_inference --data test.h5 --dataset ikonos --weights log_file/demo/ikonos

Per mode: seconds per megapixel of sr, the ratio to one image at a time in float32 (the modes take turns, run by run,
and the ratio is the median over the turns: other work on the machine slows all of them), what is lost in dB of PSNR
against the ground truth, the largest difference to float32 of the clipped result (data in [0, 1]), and the seconds of
the first call beyond a usual one, which is what compiling costs. Results go to
benchmarks/results/inference_<device>.json.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from lemamba.utils.startup import prepare_process, run_cli

prepare_process()  # as every entry point does, before torch is imported
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # what an earlier run compiled would hide what compiling costs

import torch  # noqa: E402

from lemamba.engine.fusing.runner import Runner  # noqa: E402
from lemamba.engine.fusing.tiling import Tiling, default_batch  # noqa: E402
from lemamba.utils.atomic import write_json  # noqa: E402
from lemamba.utils.command_line import Parser  # noqa: E402
from lemamba.utils.errors import UserError  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Mode:
    """A way to run: precision, compiled or not, one image at a time or a batch."""

    name: str
    precision: str = "no"
    compile: bool = False
    batched: bool = True


MODES = [
    Mode("float32, one by one", batched=False),
    Mode("float32"),
    Mode("float32, compiled", compile=True),
    Mode("bf16", "bf16"),
    Mode("bf16, compiled", "bf16", compile=True),
]
GPU_MODES = [Mode("fp16", "fp16"), Mode("fp16, compiled", "fp16", compile=True)]


class Contender:
    """One mode with a network of its own: its result on all images, and the times of its turns."""

    def __init__(self, mode: Mode, model: torch.nn.Module, images: list[torch.Tensor], batch: int) -> None:
        self.mode, self.images = mode, images
        self.batch = batch if mode.batched else 1
        device = images[0].device
        tiling = Tiling(batch=self.batch, precision=mode.precision)
        self.runner = Runner(copy.deepcopy(model), device, tiling, compile=mode.compile)
        first = self.timed()[1]
        self.sr, usual = self.timed()
        self.first_call = first - usual
        self.fell_back = mode.compile and self.runner.compiled is None
        self.seconds: list[float] = []

    @torch.inference_mode()
    def timed(self) -> tuple[torch.Tensor, float]:
        """Fuse all images; return sr and the seconds."""
        device = self.images[0].device
        started = time.perf_counter()
        sr = torch.cat([self.runner(*part) for part in zip(*(x.split(self.batch) for x in self.images), strict=True)])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return sr, time.perf_counter() - started

    def turn(self) -> None:
        """Take one timed turn."""
        self.seconds.append(self.timed()[1])


def mean_psnr(sr: torch.Tensor, gt: torch.Tensor) -> float:
    """Mean PSNR (dB) of the clipped images, in double precision."""
    from lemamba.metrics import psnr

    return float(psnr(sr.double().clamp(0, 1), gt.double(), const=1).mean())


def row(contender: Contender, base: Contender, gt: torch.Tensor) -> dict:
    """Compare one mode with the first one; gt holds the images without their repetitions."""
    megapixels = base.sr[:, 0].numel() / 1e6
    sr, exact = contender.sr[: len(gt)], base.sr[: len(gt)]
    ratios = (a / b for a, b in zip(contender.seconds, base.seconds, strict=True))
    return {
        "mode": contender.mode.name,
        "batch": contender.batch,
        "seconds_per_megapixel": round(statistics.median(contender.seconds) / megapixels, 3),
        "time_ratio": round(statistics.median(ratios), 3),
        "psnr_change_db": round(mean_psnr(sr, gt) - mean_psnr(exact, gt), 6),
        "max_abs_error": float((sr.clamp(0, 1) - exact.clamp(0, 1)).abs().max()),
        "first_call_extra_s": round(contender.first_call, 1) if contender.mode.compile else None,
        "fell_back": contender.fell_back,
    }


def load(arguments: argparse.Namespace, batch: int | None, device: torch.device) -> tuple:
    """Return the network, its name, images (ms, lms, pan) repeated to whole batches, gt of each once, the batch."""
    from lemamba.commands.methods import load_method
    from lemamba.datasets.h5 import H5Dataset
    from lemamba.utils.sensors import get_dataset

    dataset = H5Dataset(arguments.data, sensor=get_dataset(arguments.dataset).sensor)
    if not dataset.facts.has_gt:
        raise UserError(f"{arguments.data} has no gt; take a test set at reduced resolution")
    model = load_method(None, arguments.weights, dataset.facts)
    batch = batch or default_batch(*dataset[0]["lms"].shape[-2:], device.type)
    count = -(-len(dataset) // batch) * batch  # an incomplete batch would tell of rounding up, not of speed
    samples = [dataset[i % len(dataset)] for i in range(count)]
    stacked = {k: torch.stack([s[k] for s in samples]).to(device) for k in ("ms", "lms", "pan", "gt")}
    return (
        model,
        str(model.model_name),
        [stacked[k] for k in ("ms", "lms", "pan")],
        stacked["gt"][: len(dataset)],
        batch,
    )


def show(results: dict) -> None:
    """Print the table."""
    print(f"{'mode':<22}{'batch':>6}{'s/Mpx':>9}{'time':>8}{'PSNR change':>15}{'max error':>12}{'first call':>12}")
    for r in results["modes"]:
        extra = "" if r["first_call_extra_s"] is None else f"+{r['first_call_extra_s']:.0f} s"
        numbers = f"{r['batch']:>6}{r['seconds_per_megapixel']:>9.2f}{r['time_ratio']:>7.2f}x"
        errors = f"{r['psnr_change_db']:>12.5f} dB{r['max_abs_error']:>12.1e}{extra:>12}"
        print(f"{r['mode']:<22}{numbers}{errors}{'  (fell back)' if r['fell_back'] else ''}")


def main() -> None:
    """Measure, print, save."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="H5 test set with gt")
    parser.add_argument("--dataset", required=True, help="its name: sensor and divisor")
    parser.add_argument("--weights", required=True, help="run or weight file of a network")
    parser.add_argument("--batch", type=int, help="images at once (default: as inference.py)")
    parser.add_argument("--repeats", type=int, default=15, help="turns (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    model, name, images, gt, batch = load(arguments, arguments.batch, device)
    modes = MODES + (GPU_MODES if device.type == "cuda" else [])
    contenders = [Contender(mode, model, images, batch) for mode in modes]
    for _ in range(arguments.repeats):
        for contender in contenders:
            contender.turn()
    cpu = device.type == "cpu"
    results = {
        "date": datetime.date.today().isoformat(),
        "device": f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
        if cpu
        else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "network": name,
        "data": f"{arguments.data.name}: {len(gt)} images of {gt.shape[-2]} x {gt.shape[-1]}, {gt.shape[1]} bands",
        "psnr_db": round(mean_psnr(contenders[0].sr[: len(gt)], gt), 4),
        "turns": arguments.repeats,
        "modes": [row(c, contenders[0], gt) for c in contenders],
    }
    show(results)
    path = RESULTS / f"inference_{device.type}.json"
    write_json(path, results)
    print(f"saved as {path.relative_to(RESULTS.parent.parent)}")


if __name__ == "__main__":
    run_cli(main)
