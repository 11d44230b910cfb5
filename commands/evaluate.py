"""The command `evaluate`: measure fused images in files, as text, JSON, CSV, LaTeX or an HTML page.

The Python twin of `analysis_ref_batched_images` and `analysis_unref_batched_images` (and of their unbatched forms for a
folder of `output_mulExm_<i>.mat`).
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lemamba.commands.options import EvaluateOptions
from lemamba.commands.protocol import Settings, settle
from lemamba.commands.samples import Opened, Sample, as_large, fused_path, open_samples
from lemamba.commands.scores import NEEDED, Observed, dead_band_note, measure, report, rows, undefined_notes
from lemamba.datasets.simulation.response import read_matrix
from lemamba.datasets.writers import write_map
from lemamba.metrics import Meter
from lemamba.metrics.hqnr_map import hqnr_blocks
from lemamba.metrics.inputs import BLOCK, check_positive, in_unit_range
from lemamba.metrics.large import LargeImage
from lemamba.reporting.html import html_report
from lemamba.reporting.pictures import choose_bands, quick_look
from lemamba.reporting.tables import heading, spread, to_latex
from lemamba.utils.atomic import check_writable, write_json, write_text
from lemamba.utils.device import usable_device
from lemamba.utils.errors import UserError
from lemamba.utils.formats.fused import IMAGES
from lemamba.utils.progress import track
from lemamba.utils.sensors import get_sensor

PICTURED_SAMPLES = 20
DIM = 4  # data that end below this part of the peak get a note
ARROWS = {1: " ↑", -1: " ↓"}


@dataclass
class Result:
    """What was measured.

    Attributes:
        settings: how.
        names: the samples as MATLAB prints them: the numbers of the files in a folder, else 1, 2, …; or file names.
        meter: the values.
        notes: what the reader must know to compare these values with others.
        pictures: sample -> title -> picture, see `lemamba.reporting.pictures.quick_look`.
    """

    settings: Settings
    names: list[int | str]
    meter: Meter
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def protocol(self) -> str:
        """Return "reduced" or "full"."""
        return self.settings.protocol

    @property
    def samples(self) -> dict[str, list[float]]:
        """Return index -> value per sample."""
        return {name: column.tolist() for name, column in self.meter.per_sample().items()}

    @property
    def summary(self) -> dict[str, tuple[float, float]]:
        """Return index -> (mean, std)."""
        return self.meter.compute()


def run(options: EvaluateOptions) -> int:
    """Run the command; return the exit status."""
    if options.sensor is not None:
        get_sensor(options.sensor)
    if options.const is not None:
        check_positive("--const", options.const, "it is the peak of the data, e.g. 2047")
    if options.ratio is not None:
        check_positive("--ratio", options.ratio, "it is H/h, e.g. 4")
    check_writable(options.json, options.csv, options.latex, options.html, options.hqnr_map)
    if options.hqnr_map and not (options.ms and options.pan):
        raise UserError("expected --ms and --pan with --hqnr_map, as the map needs a place; give both")
    usable_device(options.device)
    result = evaluate(options)
    show(result, fused_path(options).name)
    write_files(result, options)
    return 0


def _tensors(sample: Sample, protocol: str, device: str, nodata: float | None = None) -> dict[str, torch.Tensor]:
    """Return the images that a protocol needs as (1, C, H, W), and "valid" if pixels have no data.

    Pixels are missing where all bands of gt (lms at full resolution) are `nodata`.
    """
    if any(isinstance(sample[role], LargeImage) for role in NEEDED[protocol]):
        return _large(sample, protocol, device, nodata)
    images = {
        role: torch.from_numpy(image.astype("float32" if image.dtype == np.float32 else "float64"))[None]
        for role, image in ((role, sample[role]) for role in NEEDED[protocol])
    }
    valid = sample.get("valid")
    if nodata is not None:
        marked = (sample["gt" if protocol == "reduced" else "lms"] != nodata).any(0)
        valid = marked if valid is None else valid & marked
    if valid is not None:
        images["valid"] = torch.from_numpy(valid)[None, None]
    _check_numbers(images, protocol)
    return {role: image.to(device) for role, image in images.items()}


def _check_numbers(images: dict[str, torch.Tensor], protocol: str) -> None:
    if protocol == "reduced" and in_unit_range(images["sr"]) and float(images["gt"].amax()) > 20:
        raise UserError(
            f"sr ends at {float(images['sr'].amax()):.4g} and gt at {float(images['gt'].amax()):.6g}: they are in "
            "different numbers; multiply sr by its divisor, or divide gt"
        )


def _large(sample: Sample, protocol: str, device: str, nodata: float | None) -> dict[str, torch.Tensor]:
    """Do the same for images that stay in their files."""
    if device != "cpu":
        raise UserError(f"expected --device cpu for a scene of this size, given {device}; drop it")
    images = {role: as_large(sample[role]) for role in NEEDED[protocol]}
    valid = as_large(sample["valid"]) if "valid" in sample else None
    if nodata is not None:
        reference, known = images["gt" if protocol == "reduced" else "lms"], valid

        def marked(rows: slice, columns: slice) -> torch.Tensor:
            found = (reference[0, :, rows, columns].tensor() != nodata).any(0, keepdim=True)
            return found if known is None else found & known[0, :, rows, columns]

        valid = LargeImage(marked, (1, *reference.shape[-2:]), torch.bool)
    if valid is not None:
        images["valid"] = valid
    found = cast(dict[str, torch.Tensor], images)  # they answer as tensors
    _check_numbers(found, protocol)
    return found


def _observed(options: EvaluateOptions, info: dict[str, Any]) -> Observed | None:
    """Return response and PSF of a pair: as given, else as the file says; None where neither is known."""
    given = (options.response, options.psf)
    if any(given) and not all(given):
        raise UserError("expected --response and --psf together, given one; give both (prepare_data.py estimate)")
    if options.response and options.psf:
        return torch.from_numpy(read_matrix(options.response)), torch.from_numpy(read_matrix(options.psf))
    if "response" not in info or "psf" not in info:
        return None
    return torch.from_numpy(info["response"]), torch.from_numpy(info["psf"])


def evaluate(options: EvaluateOptions) -> Result:
    """Measure every sample of the path."""
    with ExitStack() as files:
        return _evaluate(options, open_samples(options, files))


def _evaluate(options: EvaluateOptions, opened: Opened) -> Result:
    meter, settings = Meter(), None
    pictures: dict[str, dict[str, np.ndarray]] = {}
    notes, remarks, top = list(opened.notes), [], 0.0
    for name, sample in zip(opened.names, track(opened.samples, "measure", total=len(opened.names)), strict=True):
        if settings is None:
            settings, more = settle(sample, options, opened.info)
            notes += more
        absent = [role for role in NEEDED[settings.protocol] if role not in sample]
        if absent:
            raise UserError(f"sample {name} lacks {', '.join(absent)}, which earlier ones have; make the files alike")
        try:
            images = _tensors(sample, settings.protocol, options.device, options.nodata)
            how: dict[str, Any] = {"extra": options.indices, "cut": options.cut, "coregister": options.coregister}
            how["observed"] = _observed(options, opened.info)
            values = measure(images, **vars(settings), **how, geometry=opened.geometry)
        except UserError as error:
            raise UserError(f"sample {name}: {error}") from error
        meter.update(values)
        top = max(top, float(images["gt" if "gt" in images else "lms"].amax()))
        if settings.protocol == "reduced" and settings.const is not None:
            remarks.append(dead_band_note(name, images, float(values["qn"]), settings.const, settings.published))
        if options.hqnr_map:
            _write_map(options, opened, images, settings)
        large = isinstance(images["sr"], LargeImage)
        if options.html and large:
            notes.append("No pictures: the scene is measured in its files; draw one with inference.py --rgb_png.")
        elif options.html and len(pictures) < PICTURED_SAMPLES:
            row = get_sensor(settings.sensor or "none")
            rgb = choose_bands(row, sample["lms"] if "lms" in sample else sample["sr"], sample.get("pan"))
            pictures[f"sample {name}"] = quick_look({k: sample[k] for k in IMAGES if k in sample and k != "ms"}, rgb)
    if settings is None:
        raise UserError(f'expected at least one image in "{fused_path(options)}", found none; check the file')
    result = Result(settings, opened.names, meter, pictures=pictures)
    about = [] if "ms_rmse" in result.samples else _notes(settings, top)  # consistency depends on no peak and sensor
    notes += [*about, *filter(None, remarks), *undefined_notes(result.samples, opened.names)]
    return replace(result, notes=notes)


def _write_map(options: EvaluateOptions, opened: Opened, images: dict[str, torch.Tensor], settings: Settings) -> None:
    """Write HQNR, D_lambda_K and D_s of every block as a GeoTIFF."""
    assert options.hqnr_map is not None
    assert opened.place is not None  # of --ms and --pan
    blocks = hqnr_blocks(
        *(images[role] for role in ("sr", "lms", "pan")),
        ratio=settings.ratio,
        sensor=settings.sensor or "none",
        const=settings.const,
        published=settings.published,
        mask=images.get("valid"),
        geometry=opened.geometry,
    )
    write_map(options.hqnr_map, blocks.numpy(), ("HQNR", "D_lambda_K", "D_s"), BLOCK, *opened.place)


def _notes(settings: Settings, top: float) -> list[str]:
    """Return what the reader must know to compare these values with others; `top` is the largest value of the data."""
    notes = []
    const = settings.const
    index = "qn" if settings.protocol == "reduced" else "d_lambda_k"
    if const <= 1 if const is not None else top <= 1:
        if settings.published:
            notes.append(f"{index}: published behaviour, data in [0, 1] are rounded to 0 and 1.")
        else:
            notes.append(f"{index}: data in [0, 1] are multiplied by 65535 before the rounding; --published does not.")
    if const is not None and 0 < top < const / DIM:
        notes.append(f"The data end at {top:.6g}, far below the peak {const:g}: PSNR and SSIM depend on it, check it.")
    if settings.protocol == "full":
        sensor = get_sensor(settings.sensor or "none")
        if settings.published and sensor.published_gains:
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
    columns = list(result.samples.values())
    for i, sample in enumerate(result.names):
        table.add_row(str(sample), *(f"{v[i]:.6f}" for v in columns))
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
    """Return everything with full precision, see `lemamba.commands.scores.report`."""
    path, settings = fused_path(options), result.settings
    return report(
        {path.stem: rows(result.meter)},
        file=path.name,
        sensor=settings.sensor,
        divisor=settings.const,
        protocol=settings.protocol,
        ratio=settings.ratio,
        published=settings.published,
        samples=result.names,
        notes=result.notes,
    )


def as_csv(result: Result) -> str:
    """Return a CSV table, a line per sample, then mean and std, with full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", *result.samples])
    columns = list(result.samples.values())
    writer.writerows([name, *(repr(v[i]) for v in columns)] for i, name in enumerate(result.names))
    for k, label in enumerate(("mean", "std")):
        writer.writerow([label, *(repr(v[k]) for v in result.summary.values())])
    return text.getvalue()


def as_html(result: Result, options: EvaluateOptions) -> str:
    """Return one page with the table and the pictures of the first samples."""
    settings, columns = result.settings, list(result.samples.values())
    facts = {"protocol": f"{settings.protocol} resolution", "ratio": str(settings.ratio)}
    facts |= {"const": f"{settings.const:g}"} if settings.const is not None else {}
    facts |= {"sensor": get_sensor(settings.sensor).name} if settings.sensor is not None else {}
    notes = list(result.notes)
    if any("error" in panels for panels in result.pictures.values()):
        notes.append("Panel error: mean over bands of |sr - gt|, brightest at a tenth of the range of gt (1-99 %).")
    if len(result) > PICTURED_SAMPLES:
        notes.append(f"Pictures: the first {PICTURED_SAMPLES} of {len(result)} samples.")
    return html_report(
        fused_path(options).name,
        facts,
        notes,
        [heading(name, ARROWS) for name in result.samples],
        {str(n): [f"{v[i]:.6f}" for v in columns] for i, n in enumerate(result.names)},
        {label: [f"{v[k]:.6f}" for v in result.summary.values()] for k, label in enumerate(("mean", "std"))},
        result.pictures,
    )


def write_files(result: Result, options: EvaluateOptions) -> None:
    """Write the formats that were asked for, each whole or not at all."""
    texts: tuple[tuple[Path | None, Callable[[], str]], ...] = (
        (options.csv, lambda: as_csv(result)),
        (options.latex, lambda: to_latex({fused_path(options).stem: result.summary}, note=spread(len(result)))),
        (options.html, lambda: as_html(result, options)),
    )
    if options.json:
        write_json(options.json, as_json(result, options))
    for path, text in texts:
        if path:
            write_text(path, text())
