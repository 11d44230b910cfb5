"""A training small enough for tests: a toy network with dropout, data made from their keys, the real engine.

Also a program (the kill test starts it): ``python tests/tiny_training.py FOLDER [--set section.key=value …]`` trains in
FOLDER/log/p/run, resuming where there is a checkpoint, and writes FOLDER/done when it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from lemamba.engine.training.checkpoint import find_run
from lemamba.engine.training.fit import Trainer, fit
from lemamba.engine.training.job import Job, StopRequest
from lemamba.engine.training.optim import build_optimizer
from lemamba.engine.training.schedule import Schedule
from lemamba.engine.training.state import seed_all
from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts

BANDS, SIDE, RATIO = 3, 8, 4


class TinyNet(nn.Module):
    """Two convolutions with a norm and dropout: cheap, but with generator state, buffers and 1-D parameters."""

    def __init__(self, width: int = 4, drop: float = 0.3, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(BANDS + 1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.last = nn.Conv2d(width, BANDS, 3, padding=1)

    def forward(self, ms, lms, pan):
        x = torch.relu(self.norm(self.first(torch.cat([lms, pan], dim=1))))
        return lms + self.last(self.drop(x))


class KeyedData(Dataset):
    """Samples that depend on (epoch, index), as augmentation makes them; `nan_at` spoils one index."""

    facts = DataFacts(sensor="none", divisor=1.0, ratio=RATIO, bands=BANDS, guide_bands=1)

    def __init__(self, length: int, seed: int = 0, nan_at: int | None = None) -> None:
        self.length, self.seed, self.nan_at = length, seed, nan_at

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key):
        epoch, index = key
        g = torch.Generator().manual_seed(1000 * self.seed + 100 * epoch + index)
        gt = torch.rand(BANDS, SIDE, SIDE, generator=g)
        if index == self.nan_at:
            gt[0, 0, 0] = float("nan")
        ms = nn.functional.avg_pool2d(gt, RATIO)
        lms = nn.functional.interpolate(ms[None], scale_factor=RATIO)[0]
        return {"ms": ms, "lms": lms, "pan": gt.mean(0, keepdim=True), "gt": gt}


class L1(nn.Module):
    def forward(self, sr, gt):
        l1 = (sr - gt).abs().mean()
        return {"total": l1, "l1": l1}


DEFAULTS = [
    *("-e", "3", "-b", "2", "--grad_accum_steps", "2", "--clip_norm", "1", "--seed", "5"),
    *("--lr", "0.01", "--schedule", "cos_anneal", "--best_metric", "sam"),
    *("--val_n_epoch", "1", "--checkpoint_every_n", "1", "--ckpt_max_limit", "0"),
    *("--proj_name", "p", "--run_name", "run"),
]


def make_config(folder: Path, *flags: str, resume: bool = False) -> tuple[config.Config, Path | None]:
    """Resolve a configuration as `accelerate_main.py` does."""
    command = config.parse([*DEFAULTS, "--log_dir", str(folder / "log"), *flags])
    saved, checkpoint = None, None
    if resume:
        _, checkpoint = find_run("latest", folder / "log", "p", "run")
    return config.resolve(command.flags, None, saved, folder=folder), checkpoint


def make_job(folder: Path, *flags: str, resume: bool = False, train=None, valid=None, model=None):
    """Build a Job over the toy network and data."""
    settings, checkpoint = make_config(folder, *flags, resume=resume)
    seed_all(settings.train.seed)
    model = model or TinyNet()
    run = folder / "log" / "p" / "run"
    run.mkdir(parents=True, exist_ok=True)
    o = settings.optimizer
    return Job(
        config=settings,
        model=model,
        optimizer=build_optimizer(o.name, model, lr=o.lr, weight_decay=o.weight_decay, **o.args),
        schedule=Schedule(settings.schedule, o.lr, settings.train.epochs),
        loss=L1(),
        train_set=train or KeyedData(11),
        valid_set=valid or KeyedData(3, seed=9),
        folder=run,
        meta={"model": {"name": "TinyNet", "args": {}}, "data": {"ratio": RATIO}},
        resume=checkpoint,
    )


def train(job, accelerator, stop_after: int | None = None, signal: str = "SIGTERM", rank: int = 0):
    """Run `fit`; with `stop_after`, process `rank` is asked to stop as by `signal` in that step of this session."""
    with StopRequest() as stop:
        trainer = Trainer(job, accelerator, stop)
        original, last = trainer.step, trainer.counters.step + (stop_after or 0)

        def step(group):
            if trainer.counters.step + 1 == last and accelerator.process_index == rank:
                stop.name = signal
            original(group)

        if stop_after is not None:
            trainer.step = step
        try:
            return trainer.run()
        finally:
            trainer.log.close()


def run_to_end(folder: str, *flags: str) -> None:
    """Train in `folder`, from its newest checkpoint where there is one; `done` is written at the end."""
    torch.set_num_threads(1)
    root = Path(folder)
    try:
        job = make_job(root, *flags, resume=True)
    except UserError:  # no checkpoint yet: from the start
        job = make_job(root, *flags)
    outcome = fit(job, Accelerator(cpu=True))
    if outcome.reason == "finished":
        (root / "done").touch()


if __name__ == "__main__":
    run_to_end(*sys.argv[1:])
