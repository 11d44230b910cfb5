"""What a training is handed (`Job`, everything in it built by the caller) and what it hands back (`Outcome`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from lemamba.engine.training.schedule import Schedule
from lemamba.engine.training.state import Counters
from lemamba.engine.training.validate import MeterLike, MetricFunction
from lemamba.utils.config import Config


@dataclass
class Job:
    """What `fit` needs, all built.

    Attributes:
        config: the resolved configuration.
        model: the network, on any device.
        optimizer: over its parameters.
        schedule: of the learning rate.
        loss: (sr, gt) → {"total", …}.
        train_set: gives samples for keys (epoch, index).
        valid_set: the same; never the test file.
        metrics: (sr, gt) → {name: (B,)}, sr and gt in [0, 1].
        metric_names: what `metrics` returns, so that a wrong best_metric is found at the start.
        make_meter: builds an accumulator over batches and ranks.
        folder: ``log_file/<proj>/<run>``.
        tensorboard: folder, or None.
        meta: {"model": {"name", "args"}, "data": …, "files": …, "facts": …}: makes a weight file and its card complete.
        rgb: bands shown as red, green, blue.
        facts: lines of the table at the start.
        resume: checkpoint folder to go on from, or None.
    """

    config: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss: nn.Module
    train_set: Dataset
    valid_set: Dataset
    metrics: MetricFunction
    metric_names: tuple[str, ...]
    make_meter: Callable[[], MeterLike]
    folder: Path
    tensorboard: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    rgb: tuple[int, int, int] = (0, 1, 2)
    facts: dict[str, str] = field(default_factory=dict)
    resume: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How `fit` ended: "finished" or the name of the signal; the counters; the last validation's means."""

    reason: str
    counters: Counters
    metrics: dict[str, float]
