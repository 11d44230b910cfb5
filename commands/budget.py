"""The same budget for every network: equal time or equal steps, equal settings, an equal search for the rate.

Used by `leaderboard.py --train`. Each training runs the training command in a process of its own, in
log_file/leaderboard/<data set>_<network>_<settings>_s<seed>. No single learning rate suits networks of such different
kinds, so each network chooses its own: every candidate is tried for a tenth of the budget, and the best one gets the
whole budget; if the training then diverges or stalls, the next best takes its place. What was trained is written to the
run's budget.json. A run whose file matches the budget is reused, whatever its name, so an interrupted board continues
where it stopped, in the middle of a training that has saved a checkpoint. A folder of another budget is never replaced.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from lemamba.commands.steps import command_of
from lemamba.engine.weights.files import LOG_FOLDER
from lemamba.utils.atomic import read_json, write_json
from lemamba.utils.errors import UserError

PROBE_SHARE = 0.1  # of the budget, for each candidate rate
LEARNED = 0.97  # a whole training has learnt if its validation ERGAS is below this share of the probe's
_ENDLESS = 1_000_000  # epochs: so many that only the minutes end a training
PROJECT = "leaderboard"
RECORD = "budget.json"
BEGUN = "begun.json"  # the rate and the share of the training that the folder's checkpoints are of
_NEVER_FINITE = (
    "give lower --rates, or see with prepare_data.py inspect whether a band of the validation set is 0 everywhere"
)
_LONGEST_NAME = 150  # of a run's folder; file systems allow 255 bytes


class StoppedError(UserError):
    """A training that saved and ended because it was asked to: no reason to try another rate."""


@dataclass(frozen=True)
class Budget:
    """What every network is trained with.

    Attributes:
        dataset, data_root, sensor, divisor: the training data, as options of the training command.
        minutes, epochs: the budget; exactly one is not None. `train.clock` in `config` says how minutes are counted.
        rates: candidate learning rates; no search if there is one, or none (the configuration's own).
        config: YAML file with the settings shared by all.
        seed: of weights, order and augmentation.
        sha256: of the training and validation files: other data under the same name are another budget.
        settings: what this training changes in the configuration, "section.key=value" as ``--set`` takes it.
    """

    dataset: str
    data_root: str | None
    sensor: str | None
    minutes: float | None
    epochs: int | None
    rates: tuple[float, ...]
    config: str
    seed: int
    sha256: tuple[str, ...] = ()
    divisor: float | None = None
    settings: tuple[str, ...] = ()

    def arguments(self, share: float) -> list[str]:
        """Return the command-line arguments for a share of the budget, at least one epoch."""
        if self.minutes is not None:
            return ["--max_minutes", f"{self.minutes * share:g}", "-e", str(_ENDLESS)]
        return ["-e", str(max(1, math.ceil((self.epochs or 1) * share)))]

    def used_up(self, training: Mapping[str, Any], share: float) -> bool:
        """Return whether a training that stands at {"epoch", "minutes"} has had its share of the budget."""
        if self.minutes is not None:
            return float(training.get("minutes", 0)) >= self.minutes * share - 0.001  # they are rounded
        return int(training.get("epoch", 0)) >= max(1, math.ceil((self.epochs or 1) * share))

    def facts(self) -> dict[str, Any]:
        """Return what a finished run must have been trained with to match this budget."""
        facts = asdict(self) | {"rates": list(self.rates), "sha256": list(self.sha256)}  # lists, as JSON returns them
        del facts["data_root"], facts["config"]  # the content of files matters, not their place
        if self.divisor is None:  # runs recorded before there was a choice match the same budget
            del facts["divisor"]
        changed = {"set": list(self.settings)} if self.settings else {}
        return facts | {"settings": Path(self.config).read_text(encoding="utf-8")} | changed


def train_with(name: str, budget: Budget) -> tuple[Path, dict[str, Any]]:
    """Train one network with the budget, or reuse the run that already did.

    Args:
        name: a registered network.
        budget: see `Budget`.

    Returns:
        The run's folder, and its record: {"rate", "steps", "minutes", "validation", "searched": {rate: ERGAS or None},
        "given_up": {rate: why}}.

    Raises:
        UserError: the training failed at every rate; the message is the last one.
    """
    wanted = {"network": name, **budget.facts()}
    folder = _folder_for(name, budget, wanted)
    record = read_json(folder / RECORD) or {}
    if "steps" in record:
        return folder, record
    searched = {float(rate): value for rate, value in record.get("searched", {}).items()}
    if not searched and len(budget.rates) > 1:
        searched = _search(name, budget, f"{folder.name}_probe")
    record = {"budget": wanted, "searched": {f"{rate:g}": value for rate, value in searched.items()}}
    write_json(folder / RECORD, record)  # an interrupted board need not search again
    meta, given_up = _train_whole(name, budget, folder.name, searched)
    record |= {
        "rate": meta["config"]["optimizer"]["lr"],
        "steps": meta["training"]["step"],
        "minutes": meta["training"]["minutes"],
        "validation": meta["metrics"],
        "given_up": {f"{rate:g}": why for rate, why in given_up.items()},
    }
    write_json(folder / RECORD, record)
    return folder, record


def _folder_for(name: str, budget: Budget, wanted: dict[str, Any]) -> Path:
    """Return the folder of the run with this budget, finished or begun; else one that does not exist yet."""
    project = LOG_FOLDER / PROJECT
    mine = [r.parent for r in sorted(project.glob(f"*/{RECORD}")) if (read_json(r) or {}).get("budget") == wanted]
    if mine:
        return max(mine, key=lambda folder: "steps" in (read_json(folder / RECORD) or {}))
    changed = [text.removeprefix("model.args.") for text in budget.settings]
    words = "_".join([budget.dataset, name, *changed, f"s{budget.seed}"])
    run = re.sub(r"[^\w.=+-]", "-", words)[:_LONGEST_NAME]
    names = (run if i == 1 else f"{run}_{i}" for i in count(1))
    return next(project / free for free in names if not (project / free).exists())


def _search(name: str, budget: Budget, run: str) -> dict[float, float | None]:
    """Try every rate for a share of the budget; return the validation ERGAS by rate, None if it diverged."""
    found: dict[float, float | None] = {}
    failure: UserError | None = None
    for rate in budget.rates:
        try:
            value = float(_train(name, budget, run, rate, PROBE_SHARE)["metrics"]["ergas"])
            found[rate] = value if math.isfinite(value) else None
        except StoppedError:
            raise
        except UserError as error:  # the network diverges at this rate; others may suit it
            found[rate], failure = None, error
    shutil.rmtree(LOG_FOLDER / PROJECT / run, ignore_errors=True)
    if all(value is None for value in found.values()):
        raise failure or UserError(f"training {name}: no candidate rate gave a finite validation; {_NEVER_FINITE}")
    return found


def _train_whole(
    name: str, budget: Budget, run: str, searched: dict[float, float | None]
) -> tuple[dict[str, Any], dict[float, str]]:
    """Train with the whole budget, at the best rate that keeps learning; also return the rates given up, and why."""
    if not searched:
        rate = budget.rates[0] if budget.rates else None
        return _train(name, budget, run, rate, 1.0), {}
    *better, (_, last) = sorted((value, rate) for rate, value in searched.items() if value is not None)
    given_up: dict[float, str] = {}
    for probed, rate in better:
        try:
            meta = _train(name, budget, run, rate, 1.0)
        except StoppedError:
            raise
        except UserError as error:
            given_up[rate] = str(error)
            continue
        reached = float(meta["metrics"]["ergas"])
        if reached < LEARNED * probed:
            return meta, given_up
        given_up[rate] = f"no progress: ERGAS {probed:.4f} after {PROBE_SHARE:g} of the budget, {reached:.4f} after all"
    return _train(name, budget, run, last, 1.0), given_up


def _train(name: str, budget: Budget, run: str, rate: float | None, share: float) -> dict[str, Any]:
    """Run the training command, or resume it; return the .json that it wrote next to the best weights."""
    folder = LOG_FOLDER / PROJECT / run
    begun = {"rate": rate, "share": share}
    halfway = read_json(folder / BEGUN) == begun and any(folder.glob("checkpoints/step_*"))
    write_json(folder / BEGUN, begun)
    command = command_of("train", "--arch", name, "-c", Path(budget.config).resolve())
    command += [*budget.arguments(share), "--dataset", budget.dataset, "--seed", str(budget.seed)]
    command += ["--proj_name", PROJECT, "--run_name", run]
    command += ["--resume_path", str(folder)] if halfway else ["--overwrite"]
    command += ["--lr", f"{rate:g}"] if rate is not None else []
    command += ["--data_root", str(Path(budget.data_root).resolve())] if budget.data_root else []
    command += ["--sensor", budget.sensor] if budget.sensor else []
    command += ["--divisor", f"{budget.divisor:g}"] if budget.divisor else []
    for text in budget.settings:
        command += ["--set", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"training {name} ended with status {done.returncode}: {reason}")
    last = read_json(folder / "weights" / "last.json") or {}
    if last and not budget.used_up(last.get("training", {}), share):  # a scheduler's signal ends it with status 0
        raise StoppedError(f"training {name} was stopped before its end; run the same command again to resume it")
    facts = read_json(folder / "weights" / "best.json")
    if not facts:
        raise UserError(f"training {name}: its validation was never finite, so no best weights; {_NEVER_FINITE}")
    return facts
