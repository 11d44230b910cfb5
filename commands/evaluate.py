"""Measure fused images in `.mat` files: a table per sample, mean ± std, as text, JSON, CSV, LaTeX or an HTML page.

The Python twin of `analysis_ref_batched_images` and `analysis_unref_batched_images` (and of their unbatched forms for a
folder of `output_mulExm_<i>.mat`). Where the file holds `gt` the images are measured at reduced resolution, otherwise
(or with ``--full``) at full resolution from `ms`, `lms`, `pan`.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemamba.utils.command_line import Parser
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import get_sensor

if TYPE_CHECKING:
    import numpy as np

NEEDED = {"reduced": ("sr", "gt"), "full": ("sr", "ms", "lms", "pan")}
PICTURED_SAMPLES = 20


@dataclass
class Result:
    """What was measured: name -> value per sample, name -> (mean, std), and what the reader should know.

    `numbers` are the samples' numbers as MATLAB prints them: the file's own in a folder, else 1, 2, …
    """

    protocol: str
    numbers: list[int]
    samples: dict[str, list[float]]
    summary: dict[str, tuple[float, float]]
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    p = Parser(description="Measure fused images in .mat files, as the MATLAB package does.")
    p.add_argument("path", type=Path, help="a .mat with sr (B,C,H,W), or a folder of output_mulExm_<i>.mat (H,W,C)")
    p.add_argument("--ratio", type=int, default=4, help="resolution ratio (default 4)")
    p.add_argument("--const", type=float, help="peak value of the data, e.g. 2047; default: that of --sensor")
    p.add_argument("--sensor", help="WV3, WV2, QB, IKONOS, GF2, …, none: gains of the filters at full resolution")
    p.add_argument("--full", "--full_res", action="store_true", help="full resolution even where the file holds gt")
    p.add_argument("--published", action="store_true", help="keep the defects of the published scripts")
    p.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    pictures = {"html": ": one page with pictures"}
    for kind in ("json", "csv", "latex", "html"):
        p.add_argument(
            f"--{kind}", type=Path, metavar="FILE", help=f"also write the result as {kind}{pictures.get(kind, '')}"
        )
    return p


def choose_protocol(sample: dict[str, np.ndarray], options: argparse.Namespace) -> str:
    """Tell which protocol applies; raise where the file or the command line lacks something for it."""
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


def measure(options: argparse.Namespace) -> Result:
    """Measure every sample of the path."""
    from lemamba.metrics import Meter
    from lemamba.reporting.pictures import choose_bands, quick_look
    from lemamba.utils.formats.fused import IMAGES, open_samples
    from lemamba.utils.progress import track

    meter, pictures, protocol, sample = Meter(), {}, None, {}
    numbers, samples, order = open_samples(options.path)
    for i, sample in zip(numbers, track(samples, "measure", total=len(numbers)), strict=True):
        protocol = protocol or choose_protocol(sample, options)
        absent = [k for k in NEEDED[protocol] if k not in sample]
        if absent:
            raise UserError(f"sample {i} lacks {', '.join(absent)}, which earlier ones have; make the files alike")
        try:
            meter.update(_values(sample, protocol, options))
        except UserError as error:
            raise UserError(f"sample {i}: {error}") from error
        if options.html and len(pictures) < PICTURED_SAMPLES:
            shown = sample.get("lms", sample["sr"])
            rgb = choose_bands(get_sensor(options.sensor or "none"), shown, sample.get("pan"))
            pictures[f"sample {i}"] = quick_look({k: sample[k] for k in IMAGES if k in sample and k != "ms"}, rgb)
    if protocol is None:
        raise UserError(f'expected at least one image in "{options.path}", found none; check the file')
    values = {name: column.tolist() for name, column in meter.per_sample().items()}
    notes = [f"The axes of the file are read as {','.join(order)}, ours are B,C,H,W."] if order else []
    notes += _notes(protocol, sample, options)
    return Result(protocol, numbers, values, meter.compute(), notes, pictures)


def _values(sample: dict[str, np.ndarray], protocol: str, options: argparse.Namespace) -> dict:
    import torch

    from lemamba.metrics import full_resolution, reduced_resolution

    images = {k: torch.from_numpy(sample[k].astype("float64"))[None].to(options.device) for k in NEEDED[protocol]}
    if protocol == "reduced":
        const = options.const if options.const is not None else get_sensor(options.sensor).divisor
        return reduced_resolution(**images, ratio=options.ratio, const=const, published=options.published)
    fixed = {"ratio": options.ratio, "sensor": options.sensor, "const": options.const}
    return full_resolution(**images, **fixed, published=options.published)


def _notes(protocol: str, sample: dict[str, np.ndarray], options: argparse.Namespace) -> list[str]:
    """What the reader must know to compare these numbers with others."""
    notes = []
    const = options.const
    if const is None and protocol == "reduced":
        const = get_sensor(options.sensor).divisor
    in_unit_range = const <= 1 if const is not None else sample["lms"].max() <= 1
    index = "qn" if protocol == "reduced" else "d_lambda"
    if in_unit_range and options.published:
        notes.append(f"{index}: published behaviour, data in [0, 1] are rounded to 0 and 1.")
    elif in_unit_range:
        notes.append(f"{index}: data in [0, 1] are multiplied by 65535 before the rounding; --published does not.")
    if protocol == "full":
        sensor = get_sensor(options.sensor)
        if options.published and sensor.published_gains:
            gains = sensor.published_gains
            notes.append(f"d_lambda: published behaviour, {sensor.name} is measured with the {gains} gains.")
        elif sensor.note.startswith("no published gains"):
            notes.append(f"{sensor.name}: {sensor.note}.")
        notes.append("d_lambda is D_lambda_K, hqnr the script's qnr_index.")
    return notes


def show(result: Result, options: argparse.Namespace) -> None:
    """Print the table; digits as the MATLAB scripts print them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{options.path.name} · {result.protocol} resolution", box=SIMPLE_HEAD)
    table.add_column("sample", justify="right", no_wrap=True)
    for name in result.samples:
        table.add_column(name, justify="right", no_wrap=True)
    for i, number in enumerate(result.numbers):
        table.add_row(str(number), *(f"{v[i]:.6f}" for v in result.samples.values()))
    table.add_section()
    for label, k in (("mean", 0), ("± std", 1)):
        table.add_row(label, *(f"{v[k]:.6f}" for v in result.summary.values()), style="bold" if k == 0 else None)
    console = Console()
    if not console.is_terminal:  # a pipe has no width: never cut a number
        console = Console(width=200)
    console.print(table)
    for note in result.notes:
        console.print(note, markup=False, highlight=False)


def as_json(result: Result, options: argparse.Namespace) -> dict[str, Any]:
    """Gather everything with full precision."""
    keys = ("ratio", "const", "sensor", "published")
    content = {"file": options.path.name, "protocol": result.protocol} | {k: getattr(options, k) for k in keys}
    content["samples"] = [
        {"sample": number} | {n: v[i] for n, v in result.samples.items()} for i, number in enumerate(result.numbers)
    ]
    content["summary"] = {n: {"mean": m, "std": s} for n, (m, s) in result.summary.items()}
    return content | {"notes": result.notes}


def as_csv(result: Result) -> str:
    """Write a line per sample, then mean and std, with full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", *result.samples])
    columns = result.samples.values()
    writer.writerows([number, *(repr(v[i]) for v in columns)] for i, number in enumerate(result.numbers))
    for k, label in enumerate(("mean", "std")):
        writer.writerow([label, *(repr(v[k]) for v in result.summary.values())])
    return text.getvalue()


def as_html(result: Result, options: argparse.Namespace) -> str:
    """Write one page with the table and the pictures of the first samples."""
    from lemamba.reporting.html import html_report
    from lemamba.reporting.tables import DIRECTION, TITLE

    arrow = {1: " ↑", -1: " ↓"}
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
        [TITLE.get(n, n) + arrow.get(DIRECTION.get(n, 0), "") for n in result.samples],
        {str(n): [f"{v[i]:.6f}" for v in result.samples.values()] for i, n in enumerate(result.numbers)},
        {label: [f"{v[k]:.6f}" for v in result.summary.values()] for k, label in enumerate(("mean", "std"))},
        result.pictures,
    )


def write_files(result: Result, options: argparse.Namespace) -> None:
    """Write the formats that were asked for, each under a temporary name first."""
    from lemamba.reporting.tables import to_latex
    from lemamba.utils.atomic import write_json, write_text

    texts = {
        "csv": lambda: as_csv(result),
        "latex": lambda: to_latex({options.path.stem: result.summary}),
        "html": lambda: as_html(result, options),
    }
    if options.json:
        write_json(options.json, as_json(result, options))
    for kind, write in texts.items():
        target = getattr(options, kind)
        if target:
            text = write()
            write_text(target, text)


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, show, write."""
    options = build_parser().parse_args(argv)
    from lemamba.utils.atomic import check_writable
    from lemamba.utils.device import usable_device

    if options.sensor is not None:
        get_sensor(options.sensor)
    if options.const is not None and not options.const > 0:
        raise UserError(f"expected a positive --const, given {options.const}; it is the peak of the data, e.g. 2047")
    check_writable(options.json, options.csv, options.latex, options.html)
    usable_device(options.device)
    result = measure(options)
    show(result, options)
    write_files(result, options)
