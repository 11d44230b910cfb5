"""What runs left in their folders: settings, scores, cost and curves, for comparing them. Nothing is written.

A run is a folder ``<log_dir>/<proj>/<run>`` with a config.yaml (see `lemamba.engine.training.checkpoint`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemamba.engine.training.checkpoint import LOCK_NAME
from lemamba.engine.training.curves import JSONL, PICTURE_TAG, POSITION, read_curves
from lemamba.utils.atomic import read_json
from lemamba.utils.errors import UserError
from lemamba.utils.safe_yaml import read_yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# settings that name a run or its place and do not change what is learnt
_NAMES = ("log.", "data.root", "train.device", "train.rank_wait", "train.ckpt_max_limit")
_STEP_LINE = re.compile(r" epoch \d+/\d+ step (\d+) (.*?) lr (\S+) norm (\S+) (\S+) samples/s$")
_VALID_LINE = re.compile(r" validation after epoch \d+: (.*)$")

PICTURES = 8  # of the validations, read for a page
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: of the run.
        name: ``proj/run``.
        settings: "section.key" -> value of its configuration.
        best, last: the .json of its weights, {} where there are none yet.
        state: "training", "finished", or "stopped" (before its end, whatever the reason).
        changed: time of the last change, seconds since 1970.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    best: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    state: str = "stopped"
    changed: float = 0.0

    @property
    def scores(self) -> dict[str, float]:
        """Validation scores of the best weights, {} if there are none."""
        return {name: float(value) for name, value in (self.best or self.last).get("metrics", {}).items()}

    @property
    def cost(self) -> dict[str, Any]:
        """Parameters, FLOPs, epochs, steps, minutes and device, as far as they are known."""
        facts, training = self.last.get("facts", {}), self.last.get("training", {})
        known = {key: facts.get(key) for key in ("parameters", "FLOPs", "device")}
        known |= {key: training.get(key) for key in ("epoch", "step", "minutes")}
        return {key: value for key, value in known.items() if value is not None}

    def value(self, key: str) -> Any:
        """Return a setting; one that the configuration leaves to the data, such as data.ratio, from the weights."""
        found = self.settings.get(key)
        section, _, name = key.partition(".")
        return self.last.get("data", {}).get(name) if found is None and section == "data" else found


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as "section.key" -> value; the chosen variant stands for all of them."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{name}.")
        elif not isinstance(value, Mapping):
            values[name] = value
    return values


def differences(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings in which runs differ: key -> run -> value, None where a run has none.

    Names, places and devices are left out: they do not change what is learnt.

    Args:
        settings: run -> what `flat` returns.
    """
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    found = {}
    for key in keys:
        row = {run: values.get(key) for run, values in settings.items()}
        first, *others = row.values()
        if not key.startswith(_NAMES) and any(value != first for value in others):
            found[key] = row
    return found


def find_runs(log_folder: Path) -> list[Run]:
    """Return all runs below a folder, the latest first; a folder that cannot be read is left out.

    Raises:
        UserError: no such folder.
    """
    if not log_folder.is_dir():
        raise UserError(f"expected a folder of runs, {log_folder.resolve()} does not exist; give --log_dir")
    runs = [read_run(path.parent) for path in log_folder.glob("*/*/config.yaml")]
    return sorted((run for run in runs if run is not None), key=lambda run: -run.changed)


def read_run(folder: Path) -> Run | None:
    """Return one run, None if its configuration cannot be read."""
    try:
        settings = flat(read_yaml(folder / "config.yaml"))
        files = [folder / "config.yaml", folder / "train.log", *folder.glob("weights/*.json")]
        changed = max(file.stat().st_mtime for file in files if file.exists())
    except (UserError, OSError, ValueError):
        return None
    best, last = (_facts(folder / f"weights/{name}.json") for name in ("best", "last"))
    name = "/".join(folder.resolve().parts[-2:])
    state = "training" if in_use(folder) else "finished" if is_finished(settings, last) else "stopped"
    return Run(folder, name, settings, best, last, state, changed)


def _facts(path: Path) -> dict[str, Any]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def is_finished(settings: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Return whether the last weights have all epochs, or all minutes, of the configuration."""
    training, minutes = last.get("training", {}), settings.get("train.max_minutes")
    if minutes is not None and training.get("minutes", 0) >= minutes - 0.001:  # they are rounded
        return True
    return bool(training) and training.get("epoch", 0) >= settings.get("train.epochs", math.inf)


def in_use(folder: Path) -> bool:
    """Return whether a process is training in the folder; False where files cannot be locked."""
    if fcntl is None:
        return False
    try:
        with (folder / LOCK_NAME).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def curves(folder: Path) -> dict[str, Curve]:
    """Return "train/total", "valid/ergas" … -> [(step, value), …] of a run, {} if it has written none.

    They are read from metrics.jsonl where there is one, else from train.log. Of a step that was repeated after a kill,
    the later value counts.
    """
    if (folder / JSONL).is_file():
        lines = read_curves(folder)
        rows = [(row["step"], _numbers({k: v for k, v in row.items() if k not in POSITION})) for row in lines]
    else:
        rows = list(_from_log(folder / "train.log"))
    found: dict[str, dict[int, float]] = {}
    for step, values in rows:
        for name, value in values.items():
            found.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def _from_log(path: Path) -> Iterable[tuple[int, dict[str, float]]]:
    step = 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        if training := _STEP_LINE.search(line):
            step = int(training[1])
            words = training[2].split()
            values = _numbers({f"train/{n}": v for n, v in zip(words[::2], words[1::2], strict=False)})
            yield step, values | _numbers({"loop/lr": training[3], "loop/grad_norm": training[4]})
        elif valid := _VALID_LINE.search(line):
            words = valid[1].split()
            yield step, _numbers({f"valid/{n}": v for n, v in zip(words[::2], words[1::2], strict=False)})


def validation_pictures(run: Run) -> list[tuple[int, bytes]]:
    """Return (step, PNG) of some pictures of a run's validations, the last one among them; [] if it has stored none.

    They are in its TensorBoard files, which the working folder must hold as it did in training.
    """
    folder = Path(str(run.settings.get("log.tensorboard_dir", "runs"))) / run.name
    if not any(folder.glob("events.out.tfevents.*")):
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": PICTURES, "scalars": 1, "tensors": 1})
    events.Reload()
    if PICTURE_TAG not in events.Tags()["images"]:
        return []
    return sorted((event.step, event.encoded_image_string) for event in events.Images(PICTURE_TAG))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep what can be read as a number."""
    found = {}
    for name, value in values.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            continue
    return found
