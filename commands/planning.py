"""What --dry_run prints: what was found, the steps, time and memory, what would be written. Nothing is written.

Times are those of one step, or one tile, that is computed here and now; the rest is multiplication.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lemamba.commands.adapting import Adapting
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair import ScenePair
from lemamba.engine.fusing.cost import held_bytes, peak_bytes
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.scene import window_boxes
from lemamba.engine.fusing.tiles import call
from lemamba.engine.training.checkpoint import check_unused
from lemamba.engine.training.nan_guard import parts_of
from lemamba.engine.training.sampler import TrainSampler
from lemamba.model.classical.base import Classical
from lemamba.utils.atomic import check_writable
from lemamba.utils.config import trackers
from lemamba.utils.facts import DataFacts

if TYPE_CHECKING:
    from lemamba.engine.training.job import Job

LARGEST = 128  # side of the image that a method is measured on, where it does not take tiles
QUICK = 4.0  # seconds in which a larger image is measured: the memory of a small one says little
_COPIES = 4  # of the weights in a checkpoint: themselves, their average, two moments


def span_of(seconds: float) -> str:
    """Return a time as one reads it: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def size_of(count: float) -> str:
    """Return a number of bytes as one reads it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:.3g} GB"


def print_plan(rows: dict[str, str]) -> None:
    """Print the rows, and that nothing was written."""
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:<{width}}  " + text.replace("\n", "\n" + " " * (width + 2)))
    print("dry run: nothing was written")


def files_text(files: dict[Path, str]) -> str:
    """Return files and what is in them, one a line; of those that exist, that they are replaced."""
    return "\n".join(
        f"{path} ({what}{', replaces the one there' if path.is_file() else ''})" for path, what in files.items()
    )


@dataclass(frozen=True)
class Measured:
    """Cost of a call: seconds; bytes that a small call before it left held; bytes beyond these at the peak."""

    seconds: float
    base: int
    peak: int


def measured(
    small: Callable[[], object], action: Callable[[], object], device: torch.device, at_first: int | None = None
) -> Measured:
    """Measure `action`, after `small`, which compiles kernels and loads libraries.

    `at_first`: memory held before anything was computed; None = now.
    Where the peak of a process cannot be reset (not on Linux), it is that of whatever took most so far.
    """
    at_first = held_bytes(device) if at_first is None else at_first
    small()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = held_bytes(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    return Measured(seconds, max(0, before - at_first), max(0, peak_bytes(device) - before))


def _memory(needed: float, bound: str = "") -> str:
    return f"{f'{bound}about {size_of(needed)}' if needed >= 1e6 else 'less than 1 MB'} besides program and data"


# ---------------------------------------------------------------------------------------------------- training


def show_training(
    job: Job, device: torch.device, world: int, *, overwrite: bool, title: dict[str, str], after: float = 0.0
) -> None:
    """Print the plan of a training that is ready to start; one step of it is computed, and the network changed.

    Args:
        job: what would be trained.
        device: where.
        world: number of processes.
        overwrite: an earlier run of this name may be replaced.
        title: rows to print first.
        after: the time of trainings that follow, as a share of this one.

    Raises:
        UserError: the folder holds a run, or cannot be written.
    """
    check_unused(job.folder, resuming=job.resume is not None or overwrite)
    check_writable(job.folder / "train.log", job.tensorboard / "events" if job.tensorboard else None)
    settings = job.config.train
    batches = len(TrainSampler(len(job.train_set), settings.batch_size, rank=0, world=world, seed=settings.seed))
    steps = math.ceil(batches / settings.grad_accum_steps)
    cost = measured(lambda: _one_batch(job, device, 1), lambda: _one_batch(job, device, settings.batch_size), device)
    epoch = cost.seconds * batches
    whole = epoch * settings.epochs * (1 + after)
    text = f"{span_of(cost.seconds * min(batches, settings.grad_accum_steps))} a step, {span_of(epoch)} an epoch"
    length = f"{settings.epochs} epochs of {steps} steps"
    if settings.max_minutes is not None and settings.max_minutes * 60 < epoch * settings.epochs:
        done = int(settings.max_minutes * 60 / max(epoch, 1e-9) * steps)
        length = f"about {done} steps in {settings.max_minutes:g} minutes, {steps} an epoch"
        text += f", {settings.max_minutes * (1 + after):g} min in all"
    else:
        text += f", {span_of(whole)} in all"
    weights = sum(4 * p.numel() for p in job.model.parameters())
    kept = settings.ckpt_max_limit or "all"
    rows = title | {
        "steps": length,
        "time": f"{text}; validating, logging and saving come on top",
        "memory": f"{_memory(cost.base + cost.peak)}, without validating",
        "would write": f"{job.folder}/: config.yaml, train.log, weights/ (2 x {size_of(weights)}), checkpoints/ "
        f"({size_of(_COPIES * weights)} each at most, {kept} kept)",
    }
    if job.tensorboard is not None and "tensorboard" in trackers(job.config.log):
        rows["TensorBoard"] = f"{job.tensorboard}/"
    if job.resume is not None:
        rows["resumes from"] = str(job.resume)
    print_plan(rows)


def _one_batch(job: Job, device: torch.device, size: int) -> None:
    """Compute forward, loss and backward of a batch of `size`; the gradients are dropped."""
    model = job.model.to(device).train()
    samples = [job.train_set[(0, index)] for index in range(size)]
    batch = {role: torch.stack([one[role] for one in samples]).to(device) for role in samples[0]}
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(job.config.train.mixed_precision)
    with torch.autocast(device.type, precision, enabled=precision is not None):
        sr = model(batch["ms"], batch["lms"], batch["pan"])
    parts_of(job.loss, sr.float(), batch)["total"].backward()
    model.zero_grad(set_to_none=True)


# ---------------------------------------------------------------------------------------------------- fusing


def show_test_set(runner: Runner, dataset: H5Dataset, files: dict[Path, str]) -> None:
    """Print the plan of fusing a test set; `files` are those that would be written, and what is in them."""
    facts, (H, W) = dataset.facts, dataset[0]["lms"].shape[-2:]
    rows = _method_rows(runner, facts)
    rows["data"] = f"{len(dataset)} images of {H} x {W} pixels in {dataset.path}; {about(facts)}"
    print_plan(rows | _cost(runner, facts, (H, W), len(dataset)) | {"would write": files_text(files)})


def show_pair(runner: Runner, pair: ScenePair, files: dict[Path, str]) -> None:
    """Print the plan of fusing a scene."""
    facts, (H, W) = pair.facts, pair.size
    rows = _method_rows(runner, facts)
    rows["data"] = f"{H} x {W} pixels; {about(facts)}"
    print_plan(rows | _cost(runner, facts, (H, W), 1, pair.block) | {"would write": files_text(files)})


def about(facts: DataFacts) -> str:
    """Return bands, ratio, sensor and divisor in one line."""
    return (
        f"{facts.bands} bands and {facts.guide_bands} of the guide, ratio {facts.ratio:g}, sensor {facts.sensor}, "
        f"divisor {facts.divisor:g}"
    )


def _method_rows(runner: Runner, facts: DataFacts) -> dict[str, str]:
    count = sum(p.numel() for p in runner.network.parameters())
    return {"method": f"{runner.model_name}{f', {count:,} parameters' if count else ''}, on {runner.device}"}


def _cost(runner: Runner, facts: DataFacts, size: tuple[int, int], images: int, block: int = 0) -> dict[str, str]:
    """Return the rows of steps, time and memory.

    Args:
        runner: the method.
        facts: of the data.
        size: (H, W) of an image.
        images: how many.
        block: of a scene, that of its file; 0 = images in memory.
    """
    network = runner.network
    if isinstance(network, Adapting):
        return {"steps": f"{network.steps} of training for each image or scene; time and memory are not estimated"}
    ratio = int(facts.ratio)
    plan = runner.plan(size, ratio)
    boxes = window_boxes(size, facts.bands, block) if block and isinstance(network, Classical) else []
    tiles = plan.boxes(size)
    if plan.tile is None or boxes:  # measured on a part, and multiplied by the pixels
        height, width = (max(ratio, min(LARGEST, side) // ratio * ratio) for side in size)
        together = 1 if boxes else min(plan.batch or 1, images)
    else:
        height, width = tiles[0][2:]
        together = min(plan.batch or 1, images * len(tiles))
    at_first, small = held_bytes(runner.device), (min(height, 8 * ratio), min(width, 8 * ratio))

    def cost_of(area: tuple[int, int]) -> Measured:
        def one() -> None:
            _fuse_drawn(runner, facts, small, 1)

        return measured(one, lambda: _fuse_drawn(runner, facts, area, together), runner.device, at_first)

    cost, whole = cost_of((height, width)), size
    if boxes:
        (top, bottom), (left, right) = boxes[0]
        whole = max(1, (bottom - top) // ratio) * ratio, max(1, (right - left) // ratio) * ratio
    times = math.isqrt(int(QUICK / max(cost.seconds, 1e-4)))
    if (plan.tile is None or boxes) and times > 1:
        height, width = min(whole[0], times * height), min(whole[1], times * width)
        cost = cost_of((height, width))
    part = height * width
    if boxes:
        calls, larger, pieces = size[0] * size[1] / part, math.prod(whole) / part, len(boxes)
        steps = f"{pieces} window{'s' if pieces > 1 else ''}"
    elif plan.tile is None:
        calls, larger = images / together * size[0] * size[1] / part, size[0] * size[1] / part
        steps = f"{images} whole image{'s' if images > 1 else ''}, {together} at once"
    else:
        calls, larger = math.ceil(images * len(tiles) / together), 1.0
        steps = f"{images * len(tiles)} tiles of {height} x {width} pixels, {together} at once"
    one = f"{span_of(cost.seconds)} for {together} x {height} x {width} pixels"
    return {
        "steps": steps,
        "time": f"about {span_of(cost.seconds * calls)} of computing ({one}); reading and writing come on top",
        "memory": _memory(cost.base + cost.peak * larger, "at most " if larger > 1 else ""),
    }


def _fuse_drawn(runner: Runner, facts: DataFacts, size: tuple[int, int], images: int) -> None:
    """Fuse drawn images of a size: the time does not depend on what they show."""
    generator, ratio = torch.Generator().manual_seed(0), int(facts.ratio)

    def drawn(bands: int, scale: int) -> torch.Tensor:
        return 0.1 + 0.8 * torch.rand(images, bands, size[0] // scale, size[1] // scale, generator=generator)

    call(runner, drawn(facts.bands, ratio), drawn(facts.bands, 1), drawn(facts.guide_bands, 1))
