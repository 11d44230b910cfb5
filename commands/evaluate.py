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
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lemamba.commands.options import EvaluateOptions
from lemamba.commands.protocol import Settings, settle
from lemamba.commands.samples import Opened, Sample, as_large, fused_path, open_samples, with_path
from lemamba.commands.scores import (
    NEEDED,
    Observed,
    common_factor,
    dead_band_note,
    measure,
    report,
    rows,
    undefined_notes,
)
from lemamba.datasets.simulation.response import read_matrix
from lemamba.datasets.writers import write_map
from lemamba.metrics import Meter
from lemamba.metrics.hqnr_map import hqnr_blocks
from lemamba.metrics.inputs import BLOCK, check_positive, in_unit_range
from lemamba.metrics.large import LargeImage
from lemamba.metrics.q2n import scale_of
from lemamba.reporting.html import html_report
from lemamba.reporting.pictures import choose_bands
from lemamba.reporting.place import describe_place
from lemamba.reporting.tables import direction, heading, spread, to_latex
from lemamba.reporting.viewer import PAGE_BYTES, Viewer
from lemamba.utils.atomic import check_writable, write_json, write_text
from lemamba.utils.device import usable_device
from lemamba.utils.errors import UserError
from lemamba.utils.progress import ProgressBar
from lemamba.utils.sensors import get_sensor

PICTURED_SAMPLES = 20
MEASURED = 0.5  # of the time of a sample, where it is drawn as well
MIDDLE = 256  # pixels of a large image, by which bands are chosen
OTHER_NUMBERS = 3.3  # times the reference in all bands: another number of bits, not what a method does
COARSE = 20  # largest value below which rounding changes an image
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
        pictures: of an HTML page, see `lemamba.reporting.viewer.Viewer`.
    """

    settings: Settings
    names: list[int | str]
    meter: Meter
    notes: list[str] = field(default_factory=list)
    pictures: Viewer = field(default_factory=lambda: Viewer(0))

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
    options = with_path(options)
    if options.hqnr_map and not (options.ms or options.pan):
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
    """Refuse sr in other numbers than gt (lms at full resolution): divided, or of other bits."""
    role = "gt" if protocol == "reduced" else "lms"
    sr, reference = images["sr"], images[role]
    if sr.shape != reference.shape:
        return  # refused as such
    tops = float(sr.amax()), float(reference.amax())
    divided = [in_unit_range(one) and top > 20 for one, top in ((sr, tops[1]), (reference, tops[0]))]
    factor = None if any(divided) else common_factor(sr, reference, images.get("valid"))
    if any(divided) or (factor is not None and not 1 / OTHER_NUMBERS < factor < OTHER_NUMBERS):
        advice = f"multiply sr by its divisor, or divide {role}" if divided[0] else "bring them to one scale"
        raise UserError(
            f"sr ends at {tops[0]:.4g} and {role} at {tops[1]:.6g}: they are in different numbers; {advice}"
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
    options = with_path(options)
    with ExitStack() as files:
        opened = open_samples(options, files)
        with ProgressBar("measure", len(opened.names)) as bar:
            return _evaluate(options, opened, bar)


def _evaluate(options: EvaluateOptions, opened: Opened, bar: ProgressBar) -> Result:
    meter, settings = Meter(), None
    if options.published and not (options.ms or options.pan):
        opened.geometry = None  # the published scripts know the toolboxes' convention only
    pictures = Viewer(0)
    notes, remarks, top = list(opened.notes), [], 0.0
    for done, (name, sample) in enumerate(zip(opened.names, opened.samples, strict=True)):
        if settings is None:
            settings, more = settle(sample, options, opened.info)
            notes += more
            count = min(PICTURED_SAMPLES, len(opened.names))
            pictures = Viewer(count, const=settings.const, published=settings.published)
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
            _write_map(options, opened, sample, images, settings)
        if options.html and len(pictures.samples) < PICTURED_SAMPLES:
            start = done + MEASURED
            bar.update(start, "pictures")
            shown = partial(_advance, bar, start, 1 - MEASURED)
            _add_pictures(pictures, str(name), sample, images, settings, opened, shown)
        bar.update(done + 1, "measuring")
    if settings is None:
        raise UserError(f'expected at least one image in "{fused_path(options)}", found none; check the file')
    result = Result(settings, opened.names, meter, pictures=pictures)
    about = [] if "ms_rmse" in result.samples else _notes(settings, top)  # consistency depends on no peak and sensor
    notes += [*about, *filter(None, remarks), *undefined_notes(result.samples, opened.names)]
    return replace(result, notes=notes)


def _advance(bar: ProgressBar, start: float, length: float, part: float) -> None:
    bar.update(start + length * part)


def _write_map(
    options: EvaluateOptions, opened: Opened, sample: Sample, images: dict[str, torch.Tensor], settings: Settings
) -> None:
    """Write HQNR, D_lambda_K and D_s of every block as a GeoTIFF."""
    assert options.hqnr_map is not None
    blocks = _hqnr_blocks(opened, images, settings)
    write_map(options.hqnr_map, blocks, ("HQNR", "D_lambda_K", "D_s"), BLOCK, *sample["place"])  # of --ms and --pan


def _hqnr_blocks(opened: Opened, images: dict[str, torch.Tensor], settings: Settings) -> np.ndarray:
    return hqnr_blocks(
        *(images[role] for role in ("sr", "lms", "pan")),
        ratio=settings.ratio,
        sensor=settings.sensor or "none",
        const=settings.const,
        published=settings.published,
        mask=images.get("valid"),
        geometry=opened.geometry,
    ).numpy()


def _add_pictures(
    viewer: Viewer,
    name: str,
    sample: Sample,
    images: dict[str, torch.Tensor],
    settings: Settings,
    opened: Opened,
    on_progress: Callable[[float], None],
) -> None:
    """Add what the page shows of a sample."""
    method = "sr"
    rgb = choose_bands(
        get_sensor(settings.sensor or "none"),
        _middle(sample["lms" if "lms" in sample else "sr"]),
        _middle(sample["pan"]) if "pan" in sample else None,
    )
    full = settings.protocol == "full"
    roles = ("lms", "pan") if full else ("lms", "pan", "gt")
    maps = None
    if full:
        one_pan = sample["pan"].shape[-3] == 1
        names = ("hqnr", "d_lambda_k", "d_s")
        on_cpu = {k: v if isinstance(v, LargeImage) else v.cpu() for k, v in images.items()}
        blocks = _hqnr_blocks(opened, on_cpu, settings) if one_pan else ()
        maps = {method: dict(zip(names, blocks, strict=False))}
    valid: Any = images.get("valid")
    if valid is not None and not isinstance(valid, LargeImage):
        valid = valid[0, 0].cpu().numpy()
    crs, transform = sample.get("place", (None, None))
    wavelengths, sr = np.ravel(opened.info.get("wavelengths", ())), sample["sr"]
    viewer.add(
        name,
        {role: sample[role] for role in roles if role in sample},
        {method: sr},
        rgb,
        maps=maps,
        valid=valid,
        wavelengths=wavelengths.tolist() if wavelengths.size == sr.shape[-3] else None,
        place=describe_place(crs, transform, sr.shape[-2:]),
        ratio=settings.ratio,
        on_progress=on_progress,
    )


def _middle(image: np.ndarray | LargeImage) -> np.ndarray:
    """Return an image (C, H, W), of a large one a part in the middle: enough to choose bands."""
    if not isinstance(image, LargeImage):
        return image
    rows, columns = (
        slice(side // 2 - min(side, MIDDLE) // 2, side // 2 + min(side, MIDDLE) // 2) for side in image.shape[-2:]
    )
    return image[0, :, rows, columns].tensor().numpy()


def _notes(settings: Settings, top: float) -> list[str]:
    """Return what the reader must know to compare these values with others; `top` is the largest value of the data."""
    notes = []
    const = settings.const
    index = "qn" if settings.protocol == "reduced" else "d_lambda_k"
    peak = top if const is None else const
    factor = float(scale_of(peak, published=False))
    if factor != 1 and settings.published:
        notes.append(f"{index}: published behaviour, data in [0, 1] are rounded to 0 and 1.")
    elif factor != 1:
        notes.append(
            f"{index}: data in [0, 1] are multiplied by {factor:.5g} before the rounding; --published does not."
        )
    elif top < COARSE:
        notes.append(f"{index}: it rounds to whole numbers, and the data end at {top:.6g}; divide them by their peak.")
    elif top > 65535:
        notes.append(f"{index}: it clips at 65535, and the data end at {top:.6g}; divide them.")
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
    """Return one page with the table and the images of the first samples."""
    settings, columns = result.settings, list(result.samples.values())
    facts = {"protocol": f"{settings.protocol} resolution", "ratio": str(settings.ratio)}
    facts |= {"const": f"{settings.const:g}"} if settings.const is not None else {}
    facts |= {"sensor": get_sensor(settings.sensor).name} if settings.sensor is not None else {}
    notes = list(result.notes)
    shown = len(result.pictures.samples)
    if 0 < shown < len(result) or result.pictures.full:
        limit = f"; more would exceed {PAGE_BYTES / 1e6:g} MB" if result.pictures.full else ""
        notes.append(f"Images: the first {shown} of {len(result)} samples{limit}.")
    return html_report(
        fused_path(options).name,
        facts,
        notes,
        [heading(name, ARROWS) for name in result.samples],
        {str(n): [f"{v[i]:.6f}" for v in columns] for i, n in enumerate(result.names)},
        {label: [f"{v[k]:.6f}" for v in result.summary.values()] for k, label in enumerate(("mean", "std"))},
        result.pictures.samples,
        directions=[direction(name) for name in result.samples],
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
