"""What a training run is given (`Job`), how it is asked to stop (`StopRequest`) and what it returns (`Outcome`)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lemamba.engine.training.sampler import TrainSampler
from lemamba.engine.training.schedule import Schedule
from lemamba.engine.training.state import Counters
from lemamba.engine.training.validate import metric_names
from lemamba.utils.config import Config
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts


class Samples(Protocol):
    """A set of samples {"ms", "lms", "pan", "gt"}, addressed by (epoch, index)."""

    @property
    def facts(self) -> DataFacts:
        """Sensor, divisor, ratio and bands."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int], /) -> dict[str, Tensor]: ...


@dataclass
class Job:
    """Everything `fit` works with, already built.

    Attributes:
        config: the resolved configuration.
        model: the network, on any device.
        optimizer: over its parameters.
        schedule: of the learning rate.
        loss: (sr, gt) → {"total", …}; one with ``takes_batch`` is given the whole batch instead of gt.
        train_set: training samples.
        valid_set: validation samples; never the test file.
        folder: ``log_file/<proj>/<run>``.
        tensorboard: folder, or None.
        meta: {"model": {"name", "args"}, "data": …, "files": …, "facts": …}: makes a weight file and its card complete.
        rgb: bands shown as red, green, blue.
        facts: rows of the table logged at the start.
        settings: the configuration by dotted key, with the network's arguments, for trackers.
        resume: checkpoint folder to resume from, or None.
        launch: the command that trains, to which ``--resume_path`` is added in the log.
        measure: network in evaluation mode -> scores, instead of the indices over `valid_set`; None = those.
        on_progress: called with the share of the training that is done and the scores of the last validation ({} before
            the first); the log then goes to the file alone.
    """

    config: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss: nn.Module
    train_set: Samples
    valid_set: Samples
    folder: Path
    tensorboard: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    rgb: tuple[int, int, int] = (0, 1, 2)
    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    resume: Path | None = None
    launch: str = "python accelerate_main.py"
    measure: Callable[[nn.Module], dict[str, float]] | None = None
    on_progress: Callable[[float, dict[str, float]], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """How `fit` ended.

    Attributes:
        reason: "finished" or the name of the signal.
        counters: where the training stands.
        metrics: scores of the final weights; {} where they were not validated.
    """

    reason: str
    counters: Counters
    metrics: dict[str, float]


def check(job: Job, world: int) -> None:
    """Check set sizes and the metric's name before anything is written.

    Args:
        job: what is to be trained.
        world: number of processes.

    Raises:
        UserError: a batch larger than the training set, an empty validation set, or an unknown best_metric.
    """
    settings = job.config.train
    known = ("loss", *metric_names(job.config.log.log_metric))
    if settings.best_metric not in known:
        raise UserError(
            f"--best_metric: expected one of {', '.join(known)}, given {settings.best_metric!r} "
            "(--log_metric adds more)"
        )
    if len(job.valid_set) == 0:
        raise UserError("expected at least one validation sample, the validation set is empty; simulate one")
    TrainSampler(len(job.train_set), settings.batch_size, rank=0, world=world, seed=settings.seed)


class StopRequest:
    """``with StopRequest() as stop: …``: SIGTERM, SIGINT, SLURM's SIGUSR1 and SIGHUP set ``stop.name`` to their name.

    The loop finishes its step, saves and ends. The first signal restores its own previous handler, so a second one of
    the same kind stops at once. SIGHUP comes when a terminal is closed; under nohup it is ignored. Outside the main
    thread (a notebook's worker), where Python cannot handle signals, nothing is caught.
    """

    def __init__(self) -> None:
        self.name = ""
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        wanted = [getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, n)]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            wanted.remove(signal.SIGHUP)
        try:
            for number in wanted:
                self._old[number] = signal.signal(number, self._catch)
        except ValueError:
            self._old = {}
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._old[number])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
