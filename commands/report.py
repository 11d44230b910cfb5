"""The command `report`: one HTML page of one or several training runs, by what they left in their folders."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lemamba.commands import parse
from lemamba.commands.evaluate import PICTURED_SAMPLES, Result, evaluate
from lemamba.commands.fuse import OUT
from lemamba.commands.options import EvaluateOptions, ReportOptions
from lemamba.commands.runs import named
from lemamba.commands.samples import Sample, open_samples
from lemamba.engine.training.history import Run, curves, differences, find_runs, read_run, validation_pictures
from lemamba.engine.weights.card import CARD
from lemamba.reporting.html import html_report
from lemamba.reporting.pictures import choose_bands
from lemamba.reporting.run_page import PICTURE_BYTES, cards_section, curve_panels, pictures_section, settings_section
from lemamba.reporting.tables import direction, format_value, heading
from lemamba.reporting.viewer import PAGE_BYTES, Viewer
from lemamba.utils import config
from lemamba.utils.atomic import check_writable, write_text
from lemamba.utils.errors import UserError
from lemamba.utils.progress import track
from lemamba.utils.sensors import get_sensor

DEFAULTS = "default"
CURVE_BYTES = 1_000_000  # of the page, for curves and model cards


@dataclass(frozen=True)
class Tested:
    """Fused images of a run, and what they were measured.

    Attributes:
        run: name of the run.
        path: of the images.
        options: with which they were measured.
        result: the scores.
    """

    run: str
    path: Path
    options: EvaluateOptions
    result: Result


def run(options: ReportOptions) -> int:
    """Run the command; return the exit status."""
    runs = chosen(options)
    if options.out is None and len(runs) > 1:
        raise UserError(f"expected --out FILE.html for {len(runs)} runs, given none; name the page")
    out = options.out or runs[0].folder / "report.html"
    check_writable(out)
    notes: list[str] = []
    tests = [test for one in track(runs, "measure") for test in tests_of(one, notes)]
    write_text(out, page_of(runs, tests, notes))
    print(f"page:     {out}")
    return 0


def chosen(options: ReportOptions) -> list[Run]:
    """Return the runs that are named: folders, proj/run, parts of names or patterns, each run once.

    Raises:
        UserError: a name that no run fits.
    """
    found: dict[Path, Run] = {}
    for text in options.runs:
        own = next((r for p in (Path(text), options.log_dir / text) if (r := read_run(p)) is not None), None)
        for one in [own] if own is not None else named(find_runs(options.log_dir), (text,)):
            found.setdefault(one.folder.resolve(), one)
    return list(found.values())


def tests_of(one: Run, notes: list[str]) -> Iterator[Tested]:
    """Measure the images that `lemamba fuse` wrote with a run's weights, where it writes them unless --out is given."""
    place = f"*/{glob.escape(one.name)}"
    paths = sorted((*OUT.glob(f"{place}/data_*_ref.mat"), *OUT.glob(f"{place}/data_*_unref.mat")))
    weights = one.folder / "weights" / ("best.json" if one.best else "last.json")
    for path in paths:
        options = parse("evaluate", [str(path)])
        try:
            yield Tested(one.name, path, options, evaluate(options))
        except UserError as error:
            notes.append(f"{path}: not measured: {error}")
            continue
        if weights.is_file() and weights.stat().st_mtime > path.stat().st_mtime:
            notes.append(f"{path} is older than the weights of {one.name}: fuse again for scores of these weights.")


def page_of(runs: Sequence[Run], tests: Sequence[Tested], notes: Sequence[str]) -> str:
    """Return the page."""
    names = [one.name for one in runs]
    viewer, more = pictures_of(tests)
    columns, rows = score_table(runs, tests)
    known = {one.name: curves(one.folder) for one in runs}
    remarks = [*notes, *more]
    if not any(known.values()):
        remarks.append("No curves: these runs have logged no values yet.")
    if not tests:
        remarks.append(
            f"No scores on test data: fuse them, e.g. python inference.py --weights {names[0]} --dataset NAME; "
            f"looked in {OUT}/*/{names[0]}."
        )
    remarks += [f"{test.run}, {test.path.name}: {note}" for test in tests for note in test.result.notes]
    title, settings = settings_of(runs)
    sections = [
        settings_section(settings, [*([DEFAULTS] if len(runs) == 1 else []), *names], title),
        pictures_section({one.name: validation_pictures(one) for one in runs}),
        cards_section(
            {one.name: text for one in runs if (text := _text_of(one.folder / "weights" / CARD)) is not None}
        ),
    ]
    return html_report(
        names[0] if len(runs) == 1 else f"{len(runs)} training runs",
        {"valid.": "validation scores of the best weights", "test": "scores of the fused test images"},
        remarks,
        [text for text, _ in columns],
        rows,
        {},
        viewer.samples,
        directions=[sign for _, sign in columns],
        first="run",
        curves=[panel for panel in curve_panels(known) if panel["lines"]],
        sections="\n".join(filter(None, sections)),
    )


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def score_table(runs: Sequence[Run], tests: Sequence[Tested]) -> tuple[list[tuple[str, int]], dict[str, list[str]]]:
    """Return the columns (heading, direction) and the cells of each run: what it is, its cost and its scores."""
    cells: dict[str, dict[tuple[str, int], str]] = {}
    for one in runs:
        row = cells[one.name] = {("network", 0): str(one.settings.get("model.arch", "?"))}
        row |= {("data", 0): str(one.settings.get("data.dataset", "?")), ("state", 0): one.state}
        row |= {
            (f"valid. {heading(name)}", direction(name) or -(name == "loss")): format_value(name, (value,))
            for name, value in one.scores.items()
        }
        for test in (test for test in tests if test.run == one.name):
            row |= {
                (f"test {heading(name)}", direction(name)): format_value(name, value)
                for name, value in test.result.summary.items()
            }
        row |= {(name, 0): str(value) for name, value in one.cost.items()}
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    return columns, {name: [row.get(column, "–") for column in columns] for name, row in cells.items()}


def settings_of(runs: Sequence[Run]) -> tuple[str, dict[str, dict[str, str]]]:
    """Return a heading and the settings that differ: of one run from its defaults, of several among them."""
    settings: dict[str, Mapping[str, Any]] = {one.name: one.settings for one in runs}
    title = "Settings that differ between the runs"
    if len(runs) == 1:
        title = "Settings that differ from the defaults"
        settings = {DEFAULTS: _defaults(runs[0])} | settings
    found = differences(settings)
    return title, {key: {name: _word(value) for name, value in row.items()} for key, row in found.items()}


def _word(value: Any) -> str:
    return "–" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def _defaults(one: Run) -> dict[str, Any]:
    """Return the settings of a run of the same network for which nothing else is given."""
    arch = str(one.settings.get("model.arch", ""))
    try:
        plain = config.to_dict(config.resolve({"model": {"arch": arch}} if arch else {}))
    except UserError:  # a network of one's own that is not here any more
        plain = config.to_dict(config.Config())
    return config.flat(plain)


def pictures_of(tests: Sequence[Tested]) -> tuple[Viewer, list[str]]:
    """Return the fused images of the runs, side by side where they are of one test set, and notes on the others."""
    if not tests:
        return Viewer(0), []
    first = next((test for test in tests if test.result.protocol == "reduced"), tests[0])
    settings = first.result.settings
    how: dict[str, Any] = {"const": settings.const, "published": settings.published}
    viewer = Viewer(min(PICTURED_SAMPLES, len(first.result)), **how, limit=PAGE_BYTES - PICTURE_BYTES - CURVE_BYTES)
    others = {test.run: test for test in reversed(tests) if test.run != first.run and _same_kind(test, first)}
    left_out = set()
    with ExitStack() as files:
        opened = open_samples(first.options, files)
        further = {run: open_samples(test.options, files).samples for run, test in reversed(others.items())}
        for name, sample in zip(opened.names[:PICTURED_SAMPLES], opened.samples, strict=False):
            fused = {first.run: sample["sr"]}
            for run, samples in further.items():
                other = next(samples)
                if _of_one_image(sample, other):
                    fused[run] = other["sr"]
                else:
                    left_out.add(run)
            _add(viewer, str(name), sample, fused, settings.sensor, settings.ratio)
    runs = {test.run for test in tests}
    left_out |= runs - {first.run} - set(others)
    notes = [f"Images of {', '.join(sorted(left_out))} are of other test data than those shown."] if left_out else []
    if viewer.full or len(viewer.samples) < len(first.result):
        limit = f"; more would exceed {PAGE_BYTES / 1e6:g} MB" if viewer.full else ""
        notes.append(f"Images: the first {len(viewer.samples)} of {len(first.result)} samples{limit}.")
    return viewer, notes


def _same_kind(test: Tested, first: Tested) -> bool:
    return test.result.protocol == first.result.protocol and len(test.result) == len(first.result)


def _of_one_image(one: Sample, other: Sample) -> bool:
    """Return whether both samples have the same inputs."""
    roles = [role for role in ("gt", "lms", "pan") if role in one]
    return all(role in other and np.array_equal(one[role], other[role]) for role in roles)


def _add(
    viewer: Viewer, name: str, sample: Sample, fused: Mapping[str, np.ndarray], sensor: str | None, ratio: int
) -> None:
    images: dict[str, np.ndarray] = {role: sample[role] for role in ("lms", "pan", "gt") if role in sample}
    rgb = choose_bands(get_sensor(sensor or "none"), next(iter(images.values())), images.get("pan"))
    viewer.add(name, images, fused, rgb, ratio=ratio)
