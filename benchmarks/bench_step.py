"""What the training loop costs on top of the network: `python -m benchmarks.bench_step`, side by side in one run.

Three tables. The loop: `engine.training.fit` as `accelerate_main.py` sets it up, on the demo set, whose steps are
timed in turns with the bare step (forward, loss, backward, clip, optimizer, EMA) on the same batch; the loop's
own cost is the time between two steps (loading, logging, agreeing) plus what its step takes beyond the bare one.
--grad_ckpt: LE-Mamba tiny, batch 4 of 64 x 64, each setting in a separate process, peak memory of a step beyond what
the process had before. --channels_last: FusionNet, the two layouts in turns. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lemamba.utils.startup import prepare_process

prepare_process()  # as every entry point does, before torch is imported

import torch  # noqa: E402

from lemamba.model import build_model  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------------ the loop


def loop_job(arch: str, batch: int, crop: int, steps: int, folder: Path):
    """Build a training of `steps` steps as the command line does, on a demo set made in `folder`."""
    from lemamba.commands import train as accelerate_main
    from lemamba.datasets.simulation.synthetic import write_dataset
    from lemamba.utils import config

    write_dataset(folder / "data", "demo", size=128)
    line = f"--arch {arch} --dataset demo --data_root {folder / 'data'} --crop {crop} -b {batch} -e {steps} --cpu "
    line += f"--grad_accum_steps 1 --val_n_epoch 0 --checkpoint_every_n 0 --log_dir {folder} --seed 1"
    command = config.parse(line.split())
    settings = config.resolve(command.flags)
    accelerator = accelerate_main.start_accelerator(settings)
    run = folder / "bench" / arch
    run.mkdir(parents=True)
    return accelerate_main.build_job(accelerate_main.Resolved(settings, []), accelerator, run), accelerator


class Probe:
    """Times the loop's steps; before every second one it takes a bare step with a copy of the network."""

    def __init__(self, trainer, bare: Callable[[dict], None], steps: int) -> None:
        self.trainer, self.bare, self.steps = trainer, bare, steps
        self.own_step = trainer.step
        self.within: list[float] = []
        self.between: list[float] = []
        self.bare_times: list[float] = []
        self.left = None

    def __call__(self, group: list[dict]) -> None:
        """Stand in for `Trainer.step`."""
        if self.left is not None:
            self.between.append(time.perf_counter() - self.left)
        turns = [lambda: self.within.append(timed(lambda: self.own_step(group)))]
        turns.append(lambda: self.bare_times.append(timed(lambda: self.bare(group[0]))))
        for turn in turns if len(self.within) % 2 else turns[::-1]:
            turn()
        self.trainer.time_is_up = self.trainer.time_is_up or len(self.within) >= self.steps
        self.left = time.perf_counter()


def bare_step(job) -> Callable[[dict], None]:
    """A plain torch step over a network of the same kind: what nobody can do without."""
    import copy

    from lemamba.engine.training.ema import EMA
    from lemamba.engine.training.optim import build_optimizer

    settings = job.config
    model = copy.deepcopy(job.model).train()
    o, t = settings.optimizer, settings.train
    optimizer = build_optimizer(o.name, model, lr=o.lr, weight_decay=o.weight_decay, **o.args)
    ema = EMA(model, t.ema_decay, t.ema_warmup) if t.ema_decay else None

    def step(batch: dict) -> None:
        loss = job.loss(model(batch["ms"], batch["lms"], batch["pan"]), batch["gt"])["total"]
        loss.backward()
        if t.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), t.clip_norm)
        optimizer.step()
        if ema is not None:
            ema.update(model)
        optimizer.zero_grad()

    return step


def loop_row(arch: str, batch: int, crop: int, steps: int) -> dict:
    """Train `steps` steps and compare."""
    from lemamba.engine.training.fit import Trainer
    from lemamba.engine.training.job import StopRequest

    with tempfile.TemporaryDirectory() as folder, StopRequest() as stop:
        job, accelerator = loop_job(arch, batch, crop, steps, Path(folder))
        bare = bare_step(job)
        trainer = Trainer(job, accelerator, stop)
        trainer.step = probe = Probe(trainer, bare, steps)
        trainer.train_epoch()
        while not trainer.time_is_up:
            trainer.counters.epoch, trainer.counters.batch = trainer.counters.epoch + 1, 0
            trainer.train_epoch()
        trainer.log.close()
    warm = max(2, steps // 10)
    bare_s, own = statistics.median(probe.bare_times[warm:]), statistics.median(probe.within[warm:])
    # in pairs, so that a machine that slows down slows both; between steps the mean, as epochs begin there too
    extra = statistics.median(a - b for a, b in zip(probe.within[warm:], probe.bare_times[warm:], strict=True))
    between = statistics.mean(sorted(probe.between[warm:])[: int(0.98 * len(probe.between))])
    return {
        "network": arch,
        "batch": f"{batch} of {crop} x {crop}",
        "bare_samples_per_second": round(batch / bare_s, 1),
        "loop_samples_per_second": round(batch / (bare_s + extra + between), 1),
        "step_ms": {"bare": round(1e3 * bare_s, 2), "loop": round(1e3 * own, 2), "between": round(1e3 * between, 2)},
        "own_cost_percent": round(100 * (extra + between) / bare_s, 2),
        "steps": len(probe.within) - warm,
    }


# ------------------------------------------------------------------------------------------ options


def one_step(model: torch.nn.Module, batch: int, side: int = 64, layout=torch.contiguous_format) -> Callable[[], None]:
    """Return a training step on random data, 8 bands."""
    sizes = {"ms": (8, side // 4), "lms": (8, side), "pan": (1, side)}
    images = [torch.rand(batch, c, n, n).to(memory_format=layout) for c, n in sizes.values()]

    def step() -> None:
        model.zero_grad()
        model(*images).square().mean().backward()

    return step


def memory_of_a_step(checkpointing: bool) -> None:
    """Print peak memory of the first step and the median time of the next five (run in a separate process)."""
    torch.manual_seed(0)
    model = build_model("LEMamba", img_channel=8, condition_channel=1, out_channel=8).train()
    model.set_grad_checkpointing(checkpointing)
    small = one_step(model, 1, 16)
    small()  # libraries are loaded, kernels compiled
    step = one_step(model, 4)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = statistics.median(timed(step) for _ in range(5))
    print(json.dumps({"step_memory_mib": round((peak - before) / 2**20), "step_ms": round(1e3 * seconds)}))


def checkpoint_rows() -> dict:
    """Run both settings, each in a separate process."""
    rows = {}
    for name in ("plain", "grad_ckpt"):
        command = [sys.executable, "-m", "benchmarks.bench_step", "--memory", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    return rows


def layout_row(repeats: int) -> dict:
    """Time FusionNet in both memory formats, in turns."""
    steps = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        torch.manual_seed(0)
        model = build_model("FusionNet", img_channel=8, condition_channel=1, out_channel=8).train()
        steps[name] = one_step(model.to(memory_format=layout), 8, layout=layout)
        steps[name]()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(timed(step))
    pairs = zip(seconds["contiguous"], seconds["channels_last"], strict=True)
    return {f"{name}_ms": round(1e3 * statistics.median(s), 1) for name, s in seconds.items()} | {
        "ratio": round(statistics.median(a / b for a, b in pairs), 2)
    }


def show(results: dict) -> None:
    """Print the tables."""
    print(f"\n{'loop':<12}{'batch':<14}{'bare':>10}{'loop':>10} samples/s   own cost")
    for row in results["loop"]:
        rates = f"{row['bare_samples_per_second']:>10}{row['loop_samples_per_second']:>10}"
        print(f"{row['network']:<12}{row['batch']:<14}{rates}{'':13}{row['own_cost_percent']:.2f} %")
    print("\nLE-Mamba tiny, batch 4, 64 x 64   memory of a step      time")
    for name, row in results["grad_ckpt"].items():
        print(f"  {name:<32}{row['step_memory_mib']:>10} MiB{row['step_ms']:>8} ms")
    print("\nFusionNet, batch 8, 64 x 64")
    for name, value in results["channels_last"].items():
        print(f"  {name:<20}{value}")


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each loop (default %(default)s)")
    parser.add_argument("--memory", choices=("plain", "grad_ckpt"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        memory_of_a_step(arguments.memory == "grad_ckpt")
        return
    results = {
        "date": datetime.date.today().isoformat(),
        "device": f"CPU, {torch.get_num_threads()} threads, {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "loop": [
            loop_row("LEMamba", 4, 32, arguments.steps),
            loop_row("FusionNet", 8, 64, arguments.steps),
        ],
        "grad_ckpt": checkpoint_rows(),
        "channels_last": layout_row(15),
    }
    show(results)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "step_cpu.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\nsaved as {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
