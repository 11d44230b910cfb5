"""The pages of the leaderboard: one row per method with scores and cost as tables, JSON and pictures.

A result is what `lemamba.commands.board.run_job` returns: {"scores": index -> (mean, std), "cost": column ->
number, "per_sample": index -> values, "notes": lines, "arrays": gt, pan, sr … (C, H, W) of one sample}, with
"training" if it was trained for the board.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lemamba.metrics import REDUCED_NAMES
from lemamba.reporting.html import html_report
from lemamba.reporting.pictures import choose_bands, save_grid
from lemamba.reporting.scatter import save_scatter
from lemamba.reporting.tables import (
    COSTS,
    EFFORT,
    direction,
    format_value,
    heading,
    mean_of,
    print_table,
    sorted_rows,
    to_csv,
    to_latex,
    to_markdown,
)
from lemamba.reporting.viewer import PAGE_BYTES, Viewer
from lemamba.utils.atomic import write_json, write_text
from lemamba.utils.sensors import Sensor, get_sensor

_COST = (*COSTS, *EFFORT)
GROUPS = {
    "Reduced resolution": REDUCED_NAMES,
    "Full resolution": ("d_lambda_k", "d_s", "hqnr"),
    "Cost at reduced resolution": _COST,
}
FILES = (*(f"leaderboard.{kind}" for kind in ("md", "csv", "tex", "json", "html")), "grid.png", "scatter.png")
_KEPT = ("cost", "training", "notes")  # of a result, in leaderboard.json next to the scores

Results = Mapping[str, Mapping[str, Any]]


def write_board(out: Path, results: Results, failures: Mapping[str, str], facts: Mapping[str, Any], sort: str) -> None:
    """Write leaderboard.{md,csv,tex,json} and print the tables.

    Args:
        out: the folder.
        results: by method; at least one.
        failures: method -> what went wrong, in one line.
        facts: what the numbers depend on, written to the JSON (see `lemamba.commands.scores.report`); "dataset" is the
            title of the tables.
        sort: column to rank by.
    """
    table = sorted_rows({name: {**r["scores"], **r["cost"]} for name, r in results.items()}, sort)
    present = {column for row in table.values() for column in row}
    groups = {title: [c for c in group if c in present] for title, group in GROUPS.items()}
    groups = {title: group for title, group in groups.items() if group}
    columns = [column for group in groups.values() for column in group]
    failed = "".join(f"\n{name} failed: {reason}\n" for name, reason in failures.items())
    contents = {
        "leaderboard.md": "\n".join(f"{t}:\n\n{to_markdown(table, group)}" for t, group in groups.items()) + failed,
        "leaderboard.csv": to_csv(table, columns),
        "leaderboard.tex": to_latex(table, [c for c in columns if c not in _COST]),
    }
    for name, text in contents.items():
        write_text(out / name, text)
    more = {key: {name: results[name][key] for name in table if key in results[name]} for key in _KEPT}
    scores = {name: _with_samples(results[name]) for name in table}
    write_json(out / "leaderboard.json", {**facts, **more, "failures": failures, "scores": scores})
    for title, group in groups.items():
        print_table(table, f"{facts['dataset']}: {title.lower()}", group)


def _with_samples(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return index -> {"mean", "std", "per_sample"}, as all reports have it."""
    values = result["per_sample"]
    return {i: {"mean": m, "std": s, "per_sample": values[i]} for i, (m, s) in result["scores"].items()}


def draw_board(
    out: Path, results: Results, sensor: str | Sensor, sort: str, own_rgb: tuple[int, int, int] | None = None
) -> None:
    """Write grid.png (image, zoom, error of each method) and scatter.png (column `sort` against time), best first.

    `own_rgb`: 0-based bands that the data name for red, green, blue; None: the sensor's.
    """
    ranked = sorted_rows({name: r["scores"] for name, r in results.items()}, sort)
    arrays = {name: results[name]["arrays"] for name in ranked}
    first = next(iter(arrays.values()))
    save_grid(out / "grid.png", arrays, choose_bands(get_sensor(sensor), first["lms"], first["pan"], own=own_rgb))
    costs = {name: results[name]["cost"] for name in ranked}
    points = {}
    for name, cost in costs.items():
        mean = mean_of(ranked[name][sort])
        points[name] = cost["s_per_mpx"], math.nan if mean is None else mean, cost["parameters"]
    save_scatter(out / "scatter.png", points, "seconds per megapixel", heading(sort))


def write_page(
    out: Path,
    results: Results,
    failures: Mapping[str, str],
    facts: Mapping[str, Any],
    sort: str,
    own_rgb: tuple[int, int, int] | None = None,
    shown: int = 0,
) -> None:
    """Write leaderboard.html: the table, and the images of one sample with all methods together.

    Args:
        out, results, failures, facts, sort: as in `write_board`; "sensor" and "divisor" of the facts are used.
        own_rgb: as in `draw_board`.
        shown: number of the sample whose images the results hold, from 0.
    """
    table = sorted_rows({name: {**r["scores"], **r["cost"]} for name, r in results.items()}, sort)
    columns = [column for group in GROUPS.values() for column in group if any(column in row for row in table.values())]
    arrays = {name: results[name]["arrays"] for name in table}
    first = next(iter(arrays.values()))
    viewer = Viewer(1, const=facts["divisor"])
    rgb = choose_bands(get_sensor(facts["sensor"]), first["lms"], first["pan"], own=own_rgb)
    images = {role: first[role] for role in ("lms", "pan", "gt") if role in first}
    viewer.add(str(shown), images, {name: one["sr"] for name, one in arrays.items()}, rgb)
    notes = [f"{name} failed: {reason}" for name, reason in failures.items()]
    notes += [f"{name}: {note}" for name in table for note in results[name]["notes"]]
    if viewer.full:
        notes.append(f"No images: they would exceed {PAGE_BYTES / 1e6:g} MB; choose fewer methods.")
    about = {key: str(facts[key]) for key in ("dataset", "file", "sensor", "divisor") if facts.get(key) is not None}
    page = html_report(
        f"{facts['dataset']}: leaderboard",
        about | {"sorted by": heading(sort), "values": "mean ± standard deviation over samples"},
        notes,
        [heading(column) for column in columns],
        {name: [format_value(column, row.get(column)) for column in columns] for name, row in table.items()},
        {},
        viewer.samples,
        directions=[direction(column) for column in columns],
        first="method",
    )
    write_text(out / "leaderboard.html", page)
