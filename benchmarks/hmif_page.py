"""The page of `benchmarks.bench_hmif`: a table per set between two marks, and one picture per set.

A picture shows three bands, the error maps on one scale, and the spectra of marked pixels; of the methods plain
interpolation, the best two by ERGAS, LE-Mamba and the best other network, as far as their images are on this machine.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.bench_no_training_data import write_table
from benchmarks.hmif_sets import SETS, HmifSet
from lemamba.reporting.pictures import (
    ERROR_COLOURS,
    ERROR_UNIT,
    label_scale,
    shared_error_end,
    shared_error_maps,
    stretch_limits,
    to_rgb,
)
from lemamba.utils.atomic import write_atomically

INDICES = {"sam": ("SAM", 3), "ergas": ("ERGAS", 3), "psnr": ("PSNR", 2), "ssim": ("SSIM", 4), "qn": ("Q2n", 4)}
BETTER = {"sam": min, "ergas": min, "psnr": max, "ssim": max, "qn": max}
SHOWN = 5  # methods in a picture
WIDTH, DPI = 8.3, 200  # of a picture: inches, and pixels per inch
MARKS = (("#FFD600", "o"), ("#00E5FF", "s"), ("#FF80DF", "D"))  # seen on any ground, and told apart without colours
LINES = ("-", "--", "-.", ":", (0, (5, 1)))

Group = dict[tuple[str, str], list[dict[str, Any]]]  # (method, minutes of its budget) -> rows, one per seed


def groups(rows: dict[str, dict[str, Any]], one: HmifSet) -> Group:
    """Return the measured rows of a set by method and budget, best ERGAS first."""
    found: Group = defaultdict(list)
    for key, row in rows.items():
        name, method, _, minutes = key.split("|")
        if name == one.name and "scores" in row:
            found[method, minutes].append(row)
    return dict(sorted(found.items(), key=lambda item: mean(item[1], "ergas")))


def mean(seeds: list[dict[str, Any]], index: str) -> float:
    """Return the mean of an index over the seeds."""
    return float(np.mean([row["scores"][index][0] for row in seeds]))


def table(found: Group) -> str:
    """Return the table of a set."""
    best = {index: choose(mean(seeds, index) for seeds in found.values()) for index, choose in BETTER.items()}
    heads = [title for title, _ in INDICES.values()]
    lines = [f"| method | {' | '.join(heads)} | s/Mpx | MiB | parameters | training |", "|---|" + "---:|" * 9]
    for (method, _), seeds in found.items():
        cells = [_number(seeds, index, best[index]) for index in INDICES]
        first = seeds[0]
        cells += [_seconds(seeds), f"{first['peak_mib']:.0f}"]
        cells += [f"{first['parameters']:,}" if first.get("parameters") else "–", _training(seeds)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _number(seeds: list[dict[str, Any]], index: str, best: float) -> str:
    values, digits = [row["scores"][index][0] for row in seeds], INDICES[index][1]
    text = f"{np.mean(values):.{digits}f}"
    text = f"**{text}**" if float(np.mean(values)) == best else text
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


def _seconds(seeds: list[dict[str, Any]]) -> str:
    found = float(np.mean([row["cpu_s_per_mpx"] for row in seeds]))
    return f"{found:.0f}" if found >= 10 else f"{found:.1f}"


def _training(seeds: list[dict[str, Any]]) -> str:
    records = [row["training"] for row in seeds if "training" in row]
    if not records:
        return "–"
    steps = sorted(record["steps"] for record in records)
    count = f"{steps[0]}" if steps[0] == steps[-1] else f"{steps[0]}–{steps[-1]}"
    many = f", {len(records)} seeds" if len(records) > 1 else ""
    return f"{records[0]['minutes']:.2g} min, {count} steps, rate {records[0]['rate']:g}{many}"


def failures(rows: dict[str, dict[str, Any]], one: HmifSet) -> str:
    """Return a line for each method that gave no result."""
    failed = [
        f"- {row['method']}: {row['failed']}" for row in rows.values() if row["set"] == one.name and "failed" in row
    ]
    return "\n".join([*failed, ""]) if failed else ""


def shown_methods(ranked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the methods in the picture, of rows in the order of the table; the next best fill it up."""
    learned = [row for row in ranked if "training" in row]
    wanted = [row for row in ranked if row["method"] == "EXP"] + ranked[:2]
    wanted += [row for row in learned if row["method"] == "LEMamba"][:1]
    wanted += [row for row in learned if not row["method"].startswith("LEMamba")][:1]
    wanted += [row for row in ranked if "training" not in row]
    return list({id(row): row for row in wanted}.values())[:SHOWN]


def draw(path: Path, one: HmifSet, found: Group, work: Path) -> bool:
    """Draw the picture of a set; False where no fused image is on this machine."""
    with h5py.File(one.files(work / "data")["test"]) as file:
        truth, wavelengths = np.asarray(file["GT"][0]), np.asarray(file.attrs["wavelengths"])
    rows = [seeds[0] for seeds in found.values()]
    kept = {id(row): work / "fused" / one.name / f"{row['method']}_{row['seed']}.npy" for row in rows}
    images = {}
    for row in shown_methods([row for row in rows if kept[id(row)].is_file()]):
        trained = f", {row['training']['minutes']:.2g} min" if "training" in row else ""
        images[f"{row['method']}{trained}\nSAM {row['scores']['sam'][0]:.2f}°"] = np.load(kept[id(row)])
    if images:
        draw_comparison(path, one, truth, images, wavelengths)
    return bool(images)


def draw_comparison(
    path: Path, one: HmifSet, truth: np.ndarray, images: dict[str, np.ndarray], wavelengths: np.ndarray
) -> None:
    """Draw truth and results in colour with their errors, and below the spectra of the marked pixels.

    Args:
        path: of the PNG, 8.3 inches wide.
        one: the set; it says what is shown as red, green and blue, and which pixels are marked.
        truth: (C, H, W).
        images: title -> result (C, H, W).
        wavelengths: (C,), nm.
    """
    from matplotlib.figure import Figure  # the object-oriented interface: no global state, no display

    bands = [int(np.abs(wavelengths - nm).argmin()) for nm in one.shown]
    limits, errors = stretch_limits(truth, bands), shared_error_maps(images, truth)
    columns = len(images) + 1
    side = WIDTH / columns
    height = 2 * side * truth.shape[1] / truth.shape[2]
    figure = Figure(figsize=(WIDTH, height + 4.1), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[height + 1.2, 2.9])
    grid = above.subplots(2, columns, squeeze=False)
    for c, (name, image) in enumerate({"ground truth": truth, **images}.items()):
        for axis, picture in zip(grid[:, c], (to_rgb(image, bands, limits), errors.get(name)), strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if picture is None:
                axis.set_axis_off()
                continue
            shown = axis.imshow(picture, cmap=ERROR_COLOURS, vmin=0, vmax=1, interpolation="nearest")
        grid[0, c].set_title(name, fontsize=9)
    for (row, column), (colour, mark) in zip(one.marks, MARKS, strict=False):
        grid[0, 0].plot(column, row, mark, mfc="none", mec=colour, ms=8, mew=1.8)
    bar = above.colorbar(shown, ax=grid, location="bottom", aspect=50, fraction=0.04, pad=0.01, extend="max")
    label_scale(bar, 100 * shared_error_end(images, truth), ERROR_UNIT)
    plots = below.subplots(1, len(one.marks), squeeze=False)[0]
    for axis, (row, column), (colour, mark) in zip(plots, one.marks, MARKS, strict=False):
        for (name, image), line in zip(images.items(), LINES, strict=False):
            axis.plot(wavelengths, image[:, row, column], linestyle=line, lw=1.2, label=name.partition("\n")[0])
        axis.plot(wavelengths, truth[:, row, column], "k.", ms=4, label="ground truth")
        axis.margins(y=0.2)  # room for the mark
        axis.plot(0.06, 0.92, mark, mfc="none", mec=colour, ms=8, mew=1.8, transform=axis.transAxes)
        axis.set_title(f"pixel ({row}, {column})", fontsize=9)
        axis.set_xlabel("nm", fontsize=8)
        axis.tick_params(labelsize=8)
    plots[0].set_ylabel("value in [0, 1]", fontsize=8)
    below.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))


def write_page(page: Path, rows: dict[str, dict[str, Any]], work: Path) -> None:
    """Replace the tables of the page, and draw the pictures whose images are on this machine."""
    parts = []
    for one in SETS.values():
        found = groups(rows, one)
        if not found:
            continue
        picture = page.parent.parent / "figs" / f"hmif_{one.name}.png"
        parts.append(f"### {one.title}\n\n{table(found)}\n{failures(rows, one)}")
        if one.files(work / "data")["test"].is_file():
            draw(picture, one, found, work)
        if picture.is_file():
            parts.append(f"![{one.title}](../figs/{picture.name})\n")
    write_table(page, "\n".join(parts))
