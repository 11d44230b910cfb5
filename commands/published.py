"""Published tables, made again: the rows of one test image, each fused by a command and measured in the paper's way."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lemamba.commands.methods import load_method
from lemamba.commands.recipes import Expected, check_scene, indices
from lemamba.commands.scores import measure
from lemamba.commands.steps import run_step
from lemamba.datasets.writers import write_h5
from lemamba.operators import imresize, interpolate
from lemamba.reporting.tables import heading
from lemamba.utils.atomic import read_json, write_json
from lemamba.utils.config import CONFIG_FOLDER, from_mapping
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.geometry import Geometry
from lemamba.utils.progress import track
from lemamba.utils.safe_yaml import read_yaml

Images = dict[str, Tensor]
FOLDER = CONFIG_FOLDER / "tables"
EXTRA_INDICES = ("cc",)  # beyond those that are always measured


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        label: name of the row.
        arch, weights: what fuses it, as for `lemamba fuse`; both "" for a published method that the project does not
            have.
        adapt: arguments of `lemamba adapt`, which makes the weights; "" = none.
        published: index -> what the paper prints, as text: its digits count.
        expect: index -> what this project should find; {} = `published` with half a unit of its last digit.
        why: the reason for any difference.
    """

    label: str
    arch: str = ""
    weights: str = ""
    adapt: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    expect: dict[str, Any] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper on one test image.

    Attributes:
        title, source: of the table.
        scene, sha256: name and hash of the MATLAB file of the image.
        keys: role ("ms", "pan", "gt") -> variable of the file, (H, W, C) in [0, `const`].
        ratio, sensor: of the image; lms is made by bicubic interpolation.
        const: peak of PSNR.
        cut: pixels at each border that are not measured.
        rows: of the table.
        name: of the file.
    """

    title: str
    source: str
    scene: str
    sha256: str
    keys: dict[str, str]
    ratio: int
    sensor: str
    const: float
    cut: int
    rows: tuple[Row, ...] = ()
    name: str = ""


def known_tables() -> dict[str, Path]:
    """Return the shipped tables: name -> file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_table(path: Path) -> PublishedTable:
    """Read a table; missing, unknown or wrong values are a `UserError`."""
    values = read_yaml(path)
    rows = [from_mapping(Row, row, f"{path}: rows") for row in values.pop("rows", None) or []]
    if not rows:
        raise UserError(f"{path}: rows missing; add what is compared")
    for row in rows:
        indices(
            {name: {"value": float(v), "band": 0.0} for name, v in row.published.items()},
            f"{path}: {row.label}.published",
        )
        indices(row.expect, f"{path}: {row.label}.expect")
    table = from_mapping(PublishedTable, {**values, "name": path.stem}, str(path))
    return dataclasses.replace(table, rows=tuple(rows))


def read_image(table: PublishedTable, scene: Path) -> Images:
    """Return the test image: role -> (1, C, H, W) float64; lms is made of ms."""
    content = read_mat(scene)
    missing = [key for key in table.keys.values() if key not in content]
    if missing:
        raise UserError(f'"{scene}": expected the variables {", ".join(table.keys.values())}, {missing[0]} is missing')
    images = {}
    for role, key in table.keys.items():
        image = np.asarray(content[key], np.float64)
        images[role] = torch.from_numpy(np.moveaxis(image if image.ndim == 3 else image[..., None], -1, 0).copy())[None]
    return images | {"lms": imresize(images["ms"], table.ratio)}


def reproduce(table: PublishedTable, scene: Path | None, out: Path) -> bool:
    """Fuse and measure every row that can be, print the table; return whether all agree.

    Results are measured as they are computed: neither rounded nor clipped.
    """
    check_scene(table.name, table.scene, table.sha256, scene)
    assert scene is not None
    folder = out / table.name
    data = folder / "test.h5"
    images = read_image(table, scene)
    if not data.is_file():
        facts = {"sensor": table.sensor, "divisor": table.const, "ratio": table.ratio, "origin": table.scene}
        write_h5(data, [{role: image[0].numpy() for role, image in images.items()}], facts, "pansharpening")
    ours = [row for row in table.rows if row.arch or row.weights or row.adapt]
    found = {}
    for row in track(ours, "fusing"):
        weights = str(_adapted(row, folder, data)) if row.adapt else row.weights
        found[row.label] = _measure(row.arch, weights, table, images)
    return compare(table, found)


def _adapted(row: Row, folder: Path, data: Path) -> Path:
    """Adapt to the image and return the folder of the weights; what the same command has made is used again."""
    out = folder / "adapted.mat"
    record = folder / "adapted.json"
    if not (out.is_file() and read_json(record) == row.adapt):
        run_step(row.label, "adapt", *shlex.split(row.adapt), "--data", data, "--out", out, "--overwrite")
        write_json(record, row.adapt)
    return folder / "adapted_adapted"


def _measure(arch: str, weights: str, table: PublishedTable, images: Images) -> dict[str, float]:
    bands = images["ms"].shape[1]
    method = load_method(arch or None, weights or None, DataFacts(table.sensor, table.const, table.ratio, bands, 1))
    with torch.inference_mode():
        if weights:  # how the paper enlarges ms is part of its classical rows only
            size = tuple(images["pan"].shape[-2:])
            images = images | {"lms": interpolate(images["ms"], Geometry.toolbox(table.ratio), size, border="mirror")}
        exact = method.traits.float64  # type: ignore[union-attr]
        sr = method(*(images[role].to(torch.float64 if exact else torch.float32) for role in ("ms", "lms", "pan")))
    rows_kept, columns_kept = (slice(table.cut, n - table.cut) for n in sr.shape[-2:])
    pair = {role: image[..., rows_kept, columns_kept] for role, image in (("sr", sr.double()), ("gt", images["gt"]))}
    rows = measure(pair, "reduced", ratio=table.ratio, const=table.const, extra=EXTRA_INDICES)
    return {index: float(values[0]) for index, values in rows.items()}


def expected(row: Row) -> dict[str, Expected]:
    """Return what this project should find for a row."""
    if row.expect:
        return {name: target for name, target in indices(row.expect, row.label).items() if target is not None}
    return {name: Expected(float(text), 0.5000001 * 10 ** -digits(text)) for name, text in row.published.items()}


def digits(printed: object) -> int:
    """Return the decimals of a printed number."""
    return len(str(printed).partition(".")[2])


def compare(table: PublishedTable, found: dict[str, dict[str, float]]) -> bool:
    """Print published next to found numbers, and which of these are not in their bands; return whether all are."""
    names = list(dict.fromkeys(name for row in table.rows for name in (*row.published, *row.expect)))
    shown = Table("", *(heading(name) for name in names), title=table.title)
    good, notes = True, []
    for row in table.rows:
        if row.published:
            printed = (str(row.published.get(name, "")) for name in names)
            shown.add_row(f"{row.label}, published", *printed, end_section=row.label not in found)
        if row.label not in found:
            continue
        wanted, cells = expected(row), []
        for name in names:
            number = found[row.label][name]
            inside = name not in wanted or wanted[name].met_by(number)
            good &= inside
            shown_digits = digits(row.published.get(name, "0.000"))
            cells.append(f"{number:.{shown_digits}f}" + ("" if inside else " [red]outside[/]"))
        shown.add_row(f"{row.label}, here", *cells, end_section=True)
        if row.why:
            notes.append(f"{row.label}: {row.why}")
    Console(highlight=False, width=120).print(shown)
    print(f"source: {table.source}", *notes, sep="\n")
    return good
