"""The command `evaluate`: measure fused images in `.mat` files, as text, JSON, CSV, LaTeX or an HTML page.

The Python twin of `analysis_ref_batched_images` and `analysis_unref_batched_images` (and of their unbatched forms for a
folder of `output_mulExm_<i>.mat`).
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lemamba.commands.options import EvaluateOptions
from lemamba.commands.scores import NEEDED, measure
from lemamba.metrics import Meter
from lemamba.reporting.html import html_report
from lemamba.reporting.pictures import choose_bands, quick_look
from lemamba.reporting.tables import heading, to_latex
from lemamba.utils.atomic import check_writable, write_json, write_text
from lemamba.utils.device import usable_device
from lemamba.utils.errors import UserError
from lemamba.utils.formats.fused import IMAGES, open_samples
from lemamba.utils.progress import track
from lemamba.utils.sensors import get_sensor

PICTURED_SAMPLES = 20
ARROWS = {1: " ↑", -1: " ↓"}


@dataclass
class Result:
    """What was measured.

    Attributes:
        protocol: "reduced" or "full".
        numbers: the samples' numbers as MATLAB prints them: those of the files in a folder, else 1, 2, …
        samples: index -> value per sample.
        summary: index -> (mean, std).
        notes: what the reader must know to compare these values with others.
        pictures: sample -> title -> picture, see `lemamba.reporting.pictures.quick_look`.
    """

    protocol: str
    numbers: list[int]
    samples: dict[str, list[float]]
    summary: dict[str, tuple[float, float]]
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def run(options: EvaluateOptions) -> int:
    """Run the command; return the exit status."""
    if options.sensor is not None:
        get_sensor(options.sensor)
    if options.const is not None and not options.const > 0:
        raise UserError(f"expected a positive --const, given {options.const}; it is the peak of the data, e.g. 2047")
    check_writable(options.json, options.csv, options.latex, options.html)
    usable_device(options.device)
    result = evaluate(options)
    show(result, options.path.name)
    write_files(result, options)
    return 0


def choose_protocol(sample: dict[str, np.ndarray], options: EvaluateOptions) -> str:
    """Return the protocol that applies: "reduced" or "full".

    Raises:
        UserError: the file or the command line lacks something that it needs.
    """
    protocol = "full" if options.full or "gt" not in sample else "reduced"
    missing = [k for k in NEEDED[protocol] if k not in sample]
    if missing:
        present = ", ".join(sample) or "none of them"
        needs = ", ".join(NEEDED[protocol])
        raise UserError(f"{protocol} resolution needs {needs}; missing: {', '.join(missing)}; the file has {present}")
    if protocol == "full" and options.sensor is None:
        raise UserError(
            "full resolution needs the sensor's filter gains: add --sensor WV3 (or another; none = generic)"
        )
    if protocol == "reduced" and options.const is None and options.sensor is None:
        raise UserError("reduced resolution needs the peak value of the data: add --const 2047 (or --sensor WV3)")
    return protocol


def evaluate(options: EvaluateOptions) -> Result:
    """Measure every sample of the path."""
    meter, protocol = Meter(), None
    sample: dict[str, np.ndarray] = {}
    pictures: dict[str, dict[str, np.ndarray]] = {}
    numbers, samples, order = open_samples(options.path)
    for i, sample in zip(numbers, track(samples, "measure", total=len(numbers)), strict=True):
        protocol = protocol or choose_protocol(sample, options)
        absent = [role for role in NEEDED[protocol] if role not in sample]
        if absent:
            raise UserError(f"sample {i} lacks {', '.join(absent)}, which earlier ones have; make the files alike")
        images = {role: torch.from_numpy(sample[role].astype("float64"))[None] for role in NEEDED[protocol]}
        images = {role: image.to(options.device) for role, image in images.items()}
        try:
            values = measure(
                images,
                protocol,
                ratio=options.ratio,
                sensor=options.sensor,
                const=options.const,
                published=options.published,
            )
            meter.update(values)
        except UserError as error:
            raise UserError(f"sample {i}: {error}") from error
        if options.html and len(pictures) < PICTURED_SAMPLES:
            rgb = choose_bands(get_sensor(options.sensor or "none"), sample.get("lms", sample["sr"]), sample.get("pan"))
            pictures[f"sample {i}"] = quick_look({k: sample[k] for k in IMAGES if k in sample and k != "ms"}, rgb)
    if protocol is None:
        raise UserError(f'expected at least one image in "{options.path}", found none; check the file')
    columns = {name: column.tolist() for name, column in meter.per_sample().items()}
    notes = [f"The axes of the file are read as {','.join(order)}, ours are B,C,H,W."] if order else []
    notes += _notes(protocol, sample, options)
    return Result(protocol, numbers, columns, meter.compute(), notes, pictures)


def _notes(protocol: str, sample: dict[str, np.ndarray], options: EvaluateOptions) -> list[str]:
    """Return what the reader must know to compare these values with others."""
    notes = []
    const = options.const
    if const is None and protocol == "reduced":
        const = get_sensor(options.sensor or "none").divisor
    in_unit_range = const <= 1 if const is not None else sample["lms"].max() <= 1
    index = "qn" if protocol == "reduced" else "d_lambda_k"
    if in_unit_range and options.published:
        notes.append(f"{index}: published behaviour, data in [0, 1] are rounded to 0 and 1.")
    elif in_unit_range:
        notes.append(f"{index}: data in [0, 1] are multiplied by 65535 before the rounding; --published does not.")
    if protocol == "full":
        sensor = get_sensor(options.sensor or "none")
        if options.published and sensor.published_gains:
            gains = sensor.published_gains
            notes.append(f"d_lambda_k: published behaviour, {sensor.name} is measured with the {gains} gains.")
        elif sensor.note.startswith("no published gains"):
            notes.append(f"{sensor.name}: {sensor.note}.")
        notes.append("The MATLAB script prints d_lambda_k as d_lambda and hqnr as qnr_index.")
    return notes


def show(result: Result, title: str) -> None:
    """Print the table, with the digits that the MATLAB scripts print."""
    table = Table(title=f"{title} · {result.protocol} resolution", box=SIMPLE_HEAD)
    table.add_column("sample", justify="right", no_wrap=True)
    for name in result.samples:
        table.add_column(name, justify="right", no_wrap=True)
    for i, number in enumerate(result.numbers):
        table.add_row(str(number), *(f"{v[i]:.6f}" for v in result.samples.values()))
    table.add_section()
    for label, k in (("mean", 0), ("± std", 1)):
        table.add_row(label, *(f"{v[k]:.6f}" for v in result.summary.values()), style="bold" if k == 0 else None)
    console = Console()
    if not console.is_terminal:  # a pipe has no width; never truncate a value
        console = Console(width=200)
    console.print(table)
    for note in result.notes:
        console.print(note, markup=False, highlight=False)


def as_json(result: Result, options: EvaluateOptions) -> dict[str, Any]:
    """Return everything with full precision."""
    keys = ("ratio", "const", "sensor", "published")
    content = {"file": options.path.name, "protocol": result.protocol} | {k: getattr(options, k) for k in keys}
    content["samples"] = [
        {"sample": number} | {n: v[i] for n, v in result.samples.items()} for i, number in enumerate(result.numbers)
    ]
    content["summary"] = {n: {"mean": m, "std": s} for n, (m, s) in result.summary.items()}
    return content | {"notes": result.notes}


def as_csv(result: Result) -> str:
    """Return a CSV table, a line per sample, then mean and std, with full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", *result.samples])
    columns = result.samples.values()
    writer.writerows([number, *(repr(v[i]) for v in columns)] for i, number in enumerate(result.numbers))
    for k, label in enumerate(("mean", "std")):
        writer.writerow([label, *(repr(v[k]) for v in result.summary.values())])
    return text.getvalue()


def as_html(result: Result, options: EvaluateOptions) -> str:
    """Return one page with the table and the pictures of the first samples."""
    facts = {"protocol": f"{result.protocol} resolution", "ratio": str(options.ratio)}
    facts |= {"const": f"{options.const:g}"} if options.const is not None else {}
    facts |= {"sensor": get_sensor(options.sensor).name} if options.sensor is not None else {}
    notes = list(result.notes)
    if any("error" in panels for panels in result.pictures.values()):
        notes.append("Panel error: mean over bands of |sr - gt|, brightest at a tenth of the range of gt (1-99 %).")
    if len(result) > PICTURED_SAMPLES:
        notes.append(f"Pictures: the first {PICTURED_SAMPLES} of {len(result)} samples.")
    return html_report(
        options.path.name,
        facts,
        notes,
        [heading(name, ARROWS) for name in result.samples],
        {str(n): [f"{v[i]:.6f}" for v in result.samples.values()] for i, n in enumerate(result.numbers)},
        {label: [f"{v[k]:.6f}" for v in result.summary.values()] for k, label in enumerate(("mean", "std"))},
        result.pictures,
    )


def write_files(result: Result, options: EvaluateOptions) -> None:
    """Write the formats that were asked for, each whole or not at all."""
    texts: tuple[tuple[Path | None, Callable[[], str]], ...] = (
        (options.csv, lambda: as_csv(result)),
        (options.latex, lambda: to_latex({options.path.stem: result.summary})),
        (options.html, lambda: as_html(result, options)),
    )
    if options.json:
        write_json(options.json, as_json(result, options))
    for path, text in texts:
        if path:
            write_text(path, text())
