"""The pages of the leaderboard: one row per method with scores and cost as tables, JSON and pictures.

A result is what `lemamba.commands.board.run_job` returns: {"scores": index -> (mean, std), "cost": column ->
number, "per_sample": index -> values, "notes": lines, "arrays": gt, pan, sr … (C, H, W) of one sample}, with
"training" if it was trained for the board. `merge_seeds` makes one of several that differ in their seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.metrics import REDUCED_NAMES
from lemamba.reporting.pictures import choose_bands, save_grid
from lemamba.reporting.ranks import save_critical_difference
from lemamba.reporting.scatter import save_scatter
from lemamba.reporting.significance import ALPHA, Ranks, against, finite_images, mean_ranks, smallest
from lemamba.reporting.tables import (
    COSTS,
    EFFORT,
    direction,
    heading,
    mean_of,
    print_table,
    print_texts,
    sorted_rows,
    spread,
    to_csv,
    to_latex,
    to_markdown,
)
from lemamba.utils.atomic import read_json, write_json, write_text
from lemamba.utils.sensors import Sensor, get_sensor

_COST = (*COSTS, *EFFORT)
GROUPS = {
    "Reduced resolution": REDUCED_NAMES,
    "Full resolution": ("d_lambda_k", "d_s", "hqnr"),
    "Cost at reduced resolution": _COST,
}
RANKS = "critical_difference.png"
FILES = (*(f"leaderboard.{kind}" for kind in ("md", "csv", "tex", "json")), "grid.png", "scatter.png", RANKS)
_KEPT = ("cost", "training", "seeds", "notes")  # of a result, in leaderboard.json next to the scores

Results = Mapping[str, Mapping[str, Any]]


def merge_seeds(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return one result for runs of one row that differ in their seed.

    The score of an image is its mean over the seeds; "scores" becomes index -> (mean, std over images, std over the
    seeds' means), both deviations with n - 1. Time and memory are means, the pictures those of the first run.

    Args:
        runs: title -> result, each with "seed". A single one is returned as it is.
    """
    results = list(runs.values())
    first = dict(results[0])
    seed = first.pop("seed", None)
    if len(results) == 1:
        return first | ({} if seed is None else {"seeds": [seed]})
    scores, per_sample, per_seed = {}, {}, {}
    for index in first["scores"]:
        table = np.array([result["per_sample"][index] for result in results], dtype=np.float64)  # (seeds, images)
        means = table.mean(axis=1)
        with np.errstate(invalid="ignore"):  # an infinite PSNR has no deviation
            of_images = table.mean(axis=0)
            std = float(of_images.std(ddof=1)) if table.shape[1] > 1 else 0.0
            scores[index] = float(means.mean()), std, float(means.std(ddof=1))
        per_sample[index], per_seed[index] = of_images.tolist(), means.tolist()
    costs = [result["cost"] for result in results]
    cost = {k: _mean([c[k] for c in costs]) for k in first["cost"]}
    notes = [f"{title}: {note}" for title, result in runs.items() for note in result["notes"]]
    merged = {**first, "scores": scores, "per_sample": per_sample, "per_seed": per_seed, "cost": cost, "notes": notes}
    if "training" in first:
        merged["training"] = {title: result["training"] for title, result in runs.items()}
    return merged | {"seeds": [result["seed"] for result in results]}


def _mean(values: list[Any]) -> Any:
    """Return the mean of numbers; what is the same in all, None included, stays as it is."""
    return values[0] if all(value == values[0] for value in values) else sum(values) / len(values)


def made_by(out: Path) -> str | None:
    """Return the command that made the board in a folder, None if there is none."""
    report = read_json(out / "leaderboard.json")
    return None if report is None else str(report.get("command", "unknown")) if isinstance(report, dict) else "unknown"


def write_board(
    out: Path,
    results: Results,
    failures: Mapping[str, str],
    facts: Mapping[str, Any],
    sort: str,
    reference: str | None = None,
) -> None:
    """Write leaderboard.{md,csv,tex,json} and print the tables.

    Args:
        out: the folder.
        results: by label; at least one.
        failures: label -> what went wrong, in one line.
        facts: what the numbers depend on, written to the JSON (see `lemamba.commands.scores.report`); "dataset" is the
            title of the tables.
        sort: column to rank by.
        reference: the row that the paired tests compare with the others; None = the best of `sort`.
    """
    table = sorted_rows({name: {**r["scores"], **r["cost"]} for name, r in results.items()}, sort)
    present = {column for row in table.values() for column in row}
    groups = {title: [c for c in group if c in present] for title, group in GROUPS.items()}
    groups = {title: group for title, group in groups.items() if group}
    columns = [column for group in groups.values() for column in group]
    titles = {title: _with_spread(title, group, results) for title, group in groups.items()}
    known = reference if reference is not None and reference in results else next(iter(table))
    tests = paired_tests(results, [c for c in columns if c not in _COST], known)
    compared, said = describe_tests(tests, list(table))
    failed = "".join(f"\n{name} failed: {reason}\n" for name, reason in failures.items())
    tables = "\n".join(f"{titles[t]}:\n\n{to_markdown(table, group)}" for t, group in groups.items())
    contents = {
        "leaderboard.md": tables + _as_markdown(compared, said) + failed,
        "leaderboard.csv": to_csv(table, columns),
        "leaderboard.tex": to_latex(
            table, [c for c in columns if c not in _COST], "; ".join(titles[t] for t in groups if "±" in titles[t])
        ),
    }
    for name, text in contents.items():
        write_text(out / name, text)
    more: dict[str, Any] = {key: {name: results[name][key] for name in table if key in results[name]} for key in _KEPT}
    scores = {name: _with_samples(results[name]) for name in table}
    ranks = ranks_of(results, sort)
    more |= {"tests": tests, "ranks": {"index": sort, **vars(ranks)} if ranks else {}}
    write_json(out / "leaderboard.json", {**facts, **more, "failures": failures, "scores": scores})
    for title, group in groups.items():
        print_table(table, f"{facts['dataset']}: {titles[title][0].lower()}{titles[title][1:]}", group)
    if compared:
        print_texts(compared, "corrected p of the paired tests", list(next(iter(compared.values()))), "method")
    if said:
        print(said)


def _with_spread(title: str, group: Sequence[str], results: Results) -> str:
    """Add what the deviations of a group of columns are over."""
    counts = {len(r["per_sample"][c]) for r in results.values() for c in group if c in r["per_sample"]}
    seeds = sorted({len(r["seeds"]) for r in results.values() if "per_seed" in r})
    return f"{title}, {spread(max(counts), seeds)}" if counts else title


def _with_samples(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return index -> {"mean", "std", "per_sample"}, as all reports have it; of several seeds, theirs as well."""
    rows = {}
    for index, (mean, std, *over_seeds) in result["scores"].items():
        rows[index] = {"mean": mean, "std": std, "per_sample": result["per_sample"][index]}
        if over_seeds:
            rows[index] |= {"std_seeds": over_seeds[0], "per_seed": result["per_seed"][index]}
    return rows


def paired_tests(results: Results, indices: Sequence[str], reference: str) -> dict[str, Any]:
    """Compare every row with `reference` on the images, index by index; see `lemamba.reporting.significance`.

    Returns:
        {"against": label, "indices": {index: {"images", "smallest_p", "methods": {label: {"p", "p_holm",
        "median_difference"}}}}}; {} if there is nothing to compare with. Images for which a row has no finite value
        are left out of an index.
    """
    found: dict[str, Any] = {}
    for index in indices:
        rows = {label: r["per_sample"][index] for label, r in results.items() if index in r["per_sample"]}
        if reference not in rows or len(rows) < 2:
            continue
        values = finite_images(rows)
        images = len(values[reference])
        methods = {
            label: {"p": pair.p, "p_holm": pair.holm, "median_difference": pair.difference}
            for label, pair in against(values, reference).items()
        }
        found[index] = {"images": images, "smallest_p": smallest(images, len(methods)), "methods": methods}
    return {"against": reference, "indices": found} if found else {}


def describe_tests(tests: Mapping[str, Any], order: Sequence[str]) -> tuple[dict[str, dict[str, str]], str]:
    """Return the table of `paired_tests`, label -> heading -> corrected p, and a line that says what it is.

    The table is empty where no difference could count as one, since there are too few images.

    Args:
        tests: see `paired_tests`.
        order: of the labels.
    """
    if not tests:
        return {}, ""
    indices = tests["indices"]
    labels = [label for label in order if any(label in found["methods"] for found in indices.values())]
    best = min(indices.values(), key=lambda found: found["smallest_p"])
    if best["smallest_p"] >= ALPHA:
        count = f"{best['images']} images and {len(labels)} other row{'' if len(labels) == 1 else 's'}"
        return {}, (
            f"Paired tests against {tests['against']}: with {count}, p after Holm's correction is at least "
            f"{best['smallest_p']:.2g} whatever the scores, so no difference can count as one at {ALPHA:g}. "
            "Use more images, or compare fewer methods."
        )
    table = {
        label: {heading(index): _verdict(index, found["methods"].get(label)) for index, found in indices.items()}
        for label in labels
    }
    fewer = [f"{heading(i)} {found['images']}" for i, found in indices.items() if found["images"] < best["images"]]
    counts = f" ({', '.join(fewer)})" if fewer else ""
    return table, (
        f"Paired tests against {tests['against']}: p of Wilcoxon's signed-rank test on the scores of {best['images']} "
        f"images{counts}, two-sided, corrected by Holm for {len(labels)} other rows; "
        f"below {ALPHA:g} it says what the method is."
    )


def _as_markdown(table: Mapping[str, Mapping[str, str]], line: str) -> str:
    if not table:
        return f"\n{line}\n" if line else ""
    columns = list(next(iter(table.values())))
    lines = ["", line, "", "| method | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += ["| " + " | ".join([name.replace("|", r"\|"), *row.values()]) + " |" for name, row in table.items()]
    return "\n".join(lines) + "\n"


def _verdict(index: str, pair: Mapping[str, float] | None) -> str:
    if pair is None:
        return "–"
    better = pair["median_difference"] * direction(index) > 0
    return f"{pair['p_holm']:.2g}" + ((" better" if better else " worse") if pair["p_holm"] < ALPHA else "")


def ranks_of(results: Results, index: str) -> Ranks | None:
    """Rank the rows by an index, image by image; None for a single row or if no image has a value of every row."""
    rows = finite_images({label: r["per_sample"][index] for label, r in results.items() if index in r["per_sample"]})
    if len(rows) < 2 or not len(next(iter(rows.values()))):
        return None
    return mean_ranks(rows, direction(index))


def draw_board(
    out: Path, results: Results, sensor: str | Sensor, sort: str, own_rgb: tuple[int, int, int] | None = None
) -> None:
    """Write grid.png (image, zoom, error of each method) and scatter.png (column `sort` against time), best first.

    With two rows or more also critical_difference.png (mean ranks by `sort`); that of an earlier board is removed.
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
    ranks = ranks_of(results, sort)
    (out / RANKS).unlink(missing_ok=True)
    if ranks is not None:
        save_critical_difference(out / RANKS, ranks, heading(sort))
