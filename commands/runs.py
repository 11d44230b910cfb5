"""The command `runs`: list, filter and compare training runs by what they left in their folders."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from lemamba.commands.options import RunsOptions
from lemamba.engine.training.history import Curve, Run, curves, differences, find_runs
from lemamba.engine.training.validate import minimised
from lemamba.reporting.curves import save_curves
from lemamba.reporting.tables import format_value, heading, print_texts
from lemamba.utils.atomic import check_writable, write_json, write_text
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.safe_yaml import parse_yaml

CURVES = ("train/total", "valid/ergas")
SCORES = ("psnr", "ergas", "sam")  # in the list; --compare shows all


def run(options: RunsOptions) -> int:
    """Run the command; return the exit status."""
    check_writable(options.curves, options.json, options.csv)
    if options.curve and not options.curves:
        raise UserError("expected --curves FILE.png with --curve, given none; name the picture")
    chosen = ordered(select(find_runs(options.log_dir), options), options.sort)
    rows = {one.name: row_of(one) for one in chosen}
    if options.compare:
        for title, table in comparison(chosen).items():
            print_texts(table, title, list(rows))
    else:
        columns = list(next(iter(rows.values())))
        print_texts(rows, f"{len(rows)} run{'s' if len(rows) > 1 else ''} in {options.log_dir}", columns, "run")
    if options.json:
        write_json(options.json, as_json(chosen))
    if options.csv:
        write_text(options.csv, as_csv(rows))
    if options.curves:
        drawn = curves_of(chosen, options.curve or CURVES)
        save_curves(options.curves, drawn)
        print(f"curves:   {options.curves} ({', '.join(drawn)})")
    return 0


def select(runs: Sequence[Run], options: RunsOptions) -> list[Run]:
    """Return the runs that the options mean.

    Raises:
        UserError: a pattern that no run fits, a setting that no run has, or nothing left.
    """
    if not runs:
        raise UserError(f"no run in {options.log_dir.resolve()}; train one, or give --log_dir")
    fitting = named(runs, options.patterns) if options.patterns else runs
    wanted = [_condition(text, runs) for text in options.where]
    chosen = [
        one
        for one in fitting
        if all(key in one.settings and value in (one.settings[key], one.value(key)) for key, value in wanted)
        and options.state in (None, one.state)
    ]
    if not chosen:
        raise UserError(f"none of {len(runs)} runs fits all conditions; drop some of --where, --state and the names")
    return chosen


def named(runs: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """Return the runs whose names fit one of the patterns, or contain it.

    Raises:
        UserError: a pattern that no run fits.
    """
    names = [one.name for one in runs]
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in names):
            raise UserError(f"no run fits {pattern!r}{nearest(pattern, names)}; there are {len(runs)}: lemamba runs")
    return [one for one in runs if any(_fits(one.name, pattern) for pattern in patterns)]


def _fits(name: str, pattern: str) -> bool:
    return pattern in name or fnmatchcase(name, pattern)


def _condition(text: str, runs: Sequence[Run]) -> tuple[str, Any]:
    """Read --where KEY=VALUE; the value is written as in a configuration."""
    key, equals, value = text.partition("=")
    known = {key for one in runs for key in one.settings}
    if not equals:
        raise UserError(f"--where: expected KEY=VALUE, given {text!r}; e.g. model.arch=PNN")
    if key not in known:
        raise UserError(f"--where: no run has a setting {key}{nearest(key, known)}; config.yaml of a run lists them")
    return key, parse_yaml(value, f"--where {key}")


def ordered(runs: Sequence[Run], column: str) -> list[Run]:
    """Sort runs: the latest first, by name, or by a score, the best first and those without it last.

    Raises:
        UserError: neither of these.
    """
    if column == "latest":
        return list(runs)
    if column == "name":
        return sorted(runs, key=lambda one: one.name)
    known = sorted({name for one in runs for name in one.scores})
    if column not in known:
        raise UserError(f"--sort: expected latest, name or one of {', '.join(known)}, given {column!r}")
    sign = 1 if minimised(column) else -1
    return sorted(runs, key=lambda one: _last_if_nan(sign * one.scores.get(column, math.nan)))


def _last_if_nan(value: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(value) else (False, value)


def row_of(one: Run) -> dict[str, str]:
    """Return a run's line of the list."""
    settings, cost, scores = one.settings, one.cost, one.scores
    variant = settings.get("model.variant") if any(key.startswith("model.variants.") for key in settings) else None
    row = {
        "network": " ".join(str(word) for word in (settings.get("model.arch", "?"), variant) if word),
        "data": str(settings.get("data.dataset", "?")),
        "seed": str(settings.get("train.seed", "?")),
        "state": one.state,
        "epochs": f"{cost.get('epoch', 0)}/{settings.get('train.epochs', '?')}",
        "steps": f"{cost['step']:,}" if "step" in cost else "–",
        "minutes": f"{cost['minutes']:.1f}" if "minutes" in cost else "–",
    }
    row |= {heading(name): format_value(name, (scores[name],)) if name in scores else "–" for name in SCORES}
    return row | {"changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(one.changed))}


def comparison(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, str]]]:
    """Return title -> row -> run -> text: the settings that differ, the scores and the cost."""
    settings = differences({one.name: one.settings for one in runs})
    scores = list(dict.fromkeys(name for one in runs for name in one.scores))
    costs = list(dict.fromkeys(name for one in runs for name in one.cost))
    tables = {
        "settings that differ": {key: {r: str(value) for r, value in row.items()} for key, row in settings.items()},
        "validation scores of the best weights": {
            heading(n): {o.name: format_value(n, (o.scores[n],)) for o in runs if n in o.scores} for n in scores
        },
        "cost": {n: {o.name: str(o.cost[n]) for o in runs if n in o.cost} for n in costs},
    }
    if not settings:
        print("note: no setting differs between these runs")
    return {title: table for title, table in tables.items() if table}


def as_csv(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return the list as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *next(iter(rows.values()))])
    writer.writerows([name, *("" if cell == "–" else cell for cell in row.values())] for name, row in rows.items())
    return text.getvalue()


def as_json(runs: Sequence[Run]) -> dict[str, Any]:
    """Return everything that is known of the runs, and in which settings they differ."""
    about = {
        one.name: {
            "folder": str(one.folder),
            "state": one.state,
            "settings": one.settings,
            "scores": one.scores,
            "cost": one.cost,
            "weights": one.best.get("sha256"),
        }
        for one in runs
    }
    return {"runs": about, "differences": differences({one.name: one.settings for one in runs})}


def curves_of(runs: Sequence[Run], wanted: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """Return curve -> run -> points.

    Raises:
        UserError: a name that no run has a curve of.
    """
    found = {one.name: curves(one.folder) for one in runs}
    known = sorted({name for own in found.values() for name in own})
    chosen: dict[str, dict[str, Curve]] = {}
    for name in wanted:
        full = next((k for k in known if name in (k, k.rpartition("/")[2])), None)
        if full is None:
            have = f"they have {', '.join(known)}" if known else "they have logged none"
            raise UserError(f"--curve: no run has a curve {name}{nearest(name, known)}; {have}")
        chosen[full] = {run: own[full] for run, own in found.items() if full in own}
    return chosen
