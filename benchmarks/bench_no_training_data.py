"""Quality without training data, on real scenes: `python -m benchmarks.bench_no_training_data FOLDER`.

Every scene is measured at reduced resolution, by its own ground truth where the files have one, else by Wald's protocol
with the sensor's gains and the scene's geometry, and at full resolution where the pair as observed is at hand. Methods
are entries of `METHODS`: name -> function of a `Case` that returns sr. ``--markdown FILE`` replaces the table of a
page.

    python -m benchmarks.bench_no_training_data FOLDER                                      methods without training
    python -m benchmarks.bench_no_training_data FOLDER --methods Z-PNN,adapted:2,scratch:2  that train on each pair

Methods that train see the pair that they fuse and nothing else: at reduced resolution that is the degraded pair, so
they train on the pair degraded once more. ``adapted:N`` and ``scratch:N`` are `lemamba adapt --minutes N`, from the
generic weights and from scratch. Where a method refuses a pair, its cell is empty and the reason is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor

import lemamba
from lemamba.commands.methods import load_method
from lemamba.commands.scores import measure
from lemamba.datasets.opening import Relation
from lemamba.datasets.pair import load_pair, open_pair
from lemamba.datasets.simulation.sources import Scene, load_mat
from lemamba.datasets.simulation.wald import wald
from lemamba.model import list_models
from lemamba.operators import interpolate, mtf_filter
from lemamba.operators import sample as take_samples
from lemamba.operators.window import cut_windows
from lemamba.utils.atomic import write_json
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor

INDICES = {"reduced": ("ergas", "sam", "qn"), "full": ("d_lambda_k", "d_s", "hqnr")}
HEADINGS = {"ergas": "ERGAS", "sam": "SAM", "qn": "Q2n", "d_lambda_k": "D_λ,K", "d_s": "D_S", "hqnr": "HQNR"}


@dataclass(frozen=True)
class Case:
    """One measurement: a pair (1, C, h, w), (1, 1, H, W) in digital numbers, its facts, gt (1, C, H, W) or None."""

    name: str
    ms: Tensor
    pan: Tensor
    facts: DataFacts
    gt: Tensor | None = None

    @property
    def protocol(self) -> str:
        """Return how it is measured."""
        return "full" if self.gt is None else "reduced"

    @property
    def lms(self) -> Tensor:
        """Return ms interpolated to the size of pan."""
        size = tuple(self.pan.shape[-2:])
        return interpolate(self.ms, self.facts.geometry, size, border="mirror")


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(x, np.float64))[None]


def _facts(sensor: str, divisor: float, bands: int, geometry: Geometry) -> DataFacts:
    return DataFacts(sensor, divisor, geometry.nominal, bands, 1, geometry=geometry)


def by_wald(name: str, scene: Scene, sensor: str, divisor: float) -> Iterator[Case]:
    """Yield a scene at reduced and at full resolution."""
    geometry = scene.geometry or Geometry.toolbox(scene.ratio)
    facts = _facts(sensor, divisor, len(scene.ms), geometry)
    r = facts.ratio
    ms, pan = _tensor(scene.ms), _tensor(scene.pan)
    yield _full(name, ms, pan, facts)
    H, W = (n // r * r for n in ms.shape[-2:])
    small = wald(scene.ms[:, :H, :W], scene.pan[:, : H * r, : W * r], get_sensor(sensor).gains(len(ms[0])), r, geometry)
    yield Case(name, _tensor(small["ms"]), _tensor(small["pan"]), facts, ms[..., :H, :W])


def _full(name: str, ms: Tensor, pan: Tensor, facts: DataFacts) -> Case:
    """Return a pair as observed, cut to sides that the indices at full resolution accept."""
    H, W = (n // 32 * 32 for n in pan.shape[-2:])
    r = facts.ratio
    return Case(name, ms[..., : -(-H // r), : -(-W // r)], pan[..., :H, :W], facts)


def uneven(name: str, ms_path: Path, pan_path: Path) -> Iterator[Case]:
    """Yield a pair whose ratio is not whole; reduced, it has the whole ratio next to it and common corners.

    No index is defined for such a pair at full resolution. PAN is reduced through its own MTF, and sampled where the MS
    pixels lie.
    """
    with open_pair(ms_path, pan_path) as pair:
        window = pair.window(((0, pair.size[0]), (0, pair.size[1])), 0)
    if window is None:
        return
    ms, pan = (x.double() for x in (window.ms, window.pan))
    r, row = window.geometry.nominal, get_sensor("none")
    low = mtf_filter(pan, row.pan_gain, (window.geometry.ratio[0] * window.geometry.ratio[1]) ** 0.5)
    H, W = (n // 32 * 32 for n in ms.shape[-2:])
    guide = take_samples(low, window.geometry, tuple(ms.shape[-2:]))[..., :H, :W]
    corners = Geometry.corners(r)
    reduced = take_samples(mtf_filter(ms[..., :H, :W], row.gains(ms.shape[1]), r), corners, (H // r, W // r))
    yield Case(name, reduced, guide, _facts("none", 2047, ms.shape[1], corners), ms[..., :H, :W])


def cases(folder: Path) -> Iterator[Case]:
    """Yield every case of the shared scenes."""
    for name, file, sensor, divisor in (
        ("IKONOS", "ikonos_scene.mat", "IKONOS", 2047),
        ("WorldView-2", "worldview2_west.mat", "WV2", 2047),
        ("WorldView-3 tile", "worldview3_tile.mat", "WV3", 2047),
        ("Landsat 8 (ratio 2)", "landsat8_r2.mat", "Landsat8", 65535),
    ):
        yield from by_wald(name, load_mat(folder / file), sensor, divisor)  # type: ignore[arg-type]
    aligned = Relation(aligned=True)
    for i in (0, 1):
        name, stem = f"Gaofen-2 {i}", folder / f"gf2_full_{i}"
        full = load_pair([Path(f"{stem}_ms.tif")], [Path(f"{stem}_pan.tif")], aligned)
        yield next(by_wald(name, full, "GF2", 1023))
        yield _with_gt(name, folder / f"gf2_reduced_{i}", "GF2", 1023, Geometry.corners(4))
    # every fourth pixel of the filtered gt is its ms, to a residual of 0.05 % of the variance
    yield _with_gt("QuickBird", folder / "quickbird_reduced", "QB", 2047, Geometry((4.0, 4.0), (0.0, 0.0)))
    data = read_mat(folder / "pleiades_reduced.mat")
    gt, ms = (np.moveaxis(data[key], -1, 0) for key in ("gt", "lrms"))
    facts = _facts("none", 1, 4, Geometry.toolbox(4))
    yield Case("Pléiades", _tensor(ms), _tensor(data["pan"][None]), facts, _tensor(gt))
    yield from uneven("uneven pair", folder / "uneven_ratio_ms.tif", folder / "uneven_ratio_pan.tif")


def _with_gt(name: str, stem: Path, sensor: str, divisor: float, geometry: Geometry) -> Case:
    images = []
    for role in ("ms", "pan", "gt"):
        with rasterio.open(f"{stem}_{role}.tif") as file:
            images.append(_tensor(file.read()))
    ms, pan, gt = images
    return Case(name, ms, pan, _facts(sensor, divisor, ms.shape[1], geometry), gt)


@torch.inference_mode()
def fuse_case(case: Case, name: str | None, weights: str | None = None) -> Tensor:
    """Fuse with a method that uses statistics of the whole image, as the command does for scenes."""
    method = load_method(name, weights, case.facts)
    return fuse_with(method, case)


@torch.inference_mode()
def fuse_with(method: torch.nn.Module, case: Case) -> Tensor:
    """Fuse with a method that is built."""
    method.geometry = case.facts.geometry  # type: ignore[assignment]
    ((_, window),) = cut_windows(case.ms, case.pan, case.facts.geometry, max(case.pan.shape[-2:]), method.margin)
    return window.crop(method.inject(window, method.fit(partial(iter, (window,)))))


def fuse_training(case: Case, name: str) -> Tensor:
    """Fuse with a method of the registry that trains on the pair, as in its paper, from drawn weights."""
    facts, (row, column) = case.facts, case.facts.geometry.offset
    assert row == column, f"{case.name}: lemamba.fuse takes one offset"
    known = {"sensor": facts.sensor, "divisor": facts.divisor, "offset": row}
    return torch.from_numpy(lemamba.fuse(case.ms[0].numpy(), case.pan[0].numpy(), name, **known))[None]


def fuse_adapted(case: Case, start: str, minutes: float) -> Tensor:
    """Fuse by the command `lemamba adapt`, from files made of the pair."""
    r, (row, column) = case.facts.ratio, case.facts.geometry.offset
    corners = {"ms": (row + 0.5 - r / 2, column + 0.5 - r / 2), "pan": (0.0, 0.0)}
    with tempfile.TemporaryDirectory() as name:
        for role, pixel in (("ms", r), ("pan", 1)):
            image = getattr(case, role)[0].numpy().astype("float32")
            down, right = corners[role]
            profile = {"height": image.shape[1], "width": image.shape[2], "count": len(image), "dtype": "float32"}
            grid = from_origin(500000 + right, 4000000 - down, pixel, pixel)
            with rasterio.open(f"{name}/{role}.tif", "w", "GTiff", crs="EPSG:32632", transform=grid, **profile) as file:
                file.write(image)
        folder, facts = Path(name), case.facts
        files = ("--ms", folder / "ms.tif", "--pan", folder / "pan.tif", "--out", folder / "sr.tif")
        numbers = ("--sensor", facts.sensor, "--divisor", facts.divisor, "--from", start, "--minutes", minutes)
        lemamba.run("adapt", *files, *numbers)
        with rasterio.open(folder / "sr.tif") as file:
            return _tensor(file.read())[..., : case.pan.shape[-2], : case.pan.shape[-1]]


METHODS: dict[str, Callable[[Case], Tensor]] = {
    name: partial(fuse_case, name=name) for name in ("EXP", *list_models("pansharpening", "classical"))
} | {"generic": partial(fuse_case, name=None, weights="generic")}
TRAINING = ("A-PNN-FT", "Z-PNN", "lambda-PNN", "ZS-Pan")
STARTS = {"adapted": "generic", "scratch": "scratch"}


def method_named(name: str) -> Callable[[Case], Tensor]:
    """Return the entry of `METHODS`, a method of `TRAINING`, or ``adapted:MINUTES``, ``scratch:MINUTES``."""
    start, _, minutes = name.partition(":")
    if start in STARTS:
        return partial(fuse_adapted, start=STARTS[start], minutes=float(minutes))
    return partial(fuse_training, name=name) if name in TRAINING else METHODS[name]


def scores_of(case: Case, sr: Tensor) -> dict[str, float]:
    """Return the indices of the case's protocol."""
    images = {"sr": sr, "ms": case.ms, "lms": case.lms, "pan": case.pan}
    if case.gt is not None:
        images["gt"] = case.gt
    facts = case.facts
    found = measure(
        images,
        case.protocol,
        ratio=facts.ratio,
        sensor=facts.sensor,
        const=facts.divisor,
        geometry=facts.geometry,
    )
    return {name: float(found[name]) for name in INDICES[case.protocol]}


def measured(case: Case, method: Callable[[Case], Tensor]) -> dict[str, float]:
    """Return the indices of a method and the seconds that it took; nothing where it refuses the pair."""
    started = time.perf_counter()
    try:
        sr = method(case)
    except UserError as error:
        print(f"{case.name}, {case.protocol}: {error}")
        return {}
    seconds = time.perf_counter() - started
    return scores_of(case, sr) | {"seconds": seconds}


# method -> (scene, protocol) -> index -> value; nothing where the method refused the pair
Table = dict[str, dict[tuple[str, str], dict[str, float]]]


def compare(table: Table, name: str) -> list[str]:
    """Return lines that compare a method with the best classical one of each scene."""
    lines, ratios, hqnr = [], [], []
    others = [m for m in list_models("pansharpening", "classical") if m != "EXP"]
    for case in table[name]:
        mine = table[name][case]
        if case[1] == "full":
            hqnr.append((mine["hqnr"], max(table[m][case]["hqnr"] for m in others)))
            continue
        best = min(table[m][case]["ergas"] for m in others)
        best_q = max(table[m][case]["qn"] for m in others)
        ratios.append(mine["ergas"] / best)
        lines.append(
            f"{case[0]}: ERGAS {mine['ergas']:.3f} against {best:.3f}, Q2n {mine['qn']:.3f} against {best_q:.3f}"
        )
    mean = math.exp(float(np.mean(np.log(ratios))))
    lines.append(f"geometric mean of ERGAS over that of the best classical method: {mean:.3f}")
    means = {m: np.mean([table[m][c]["hqnr"] for c in table[m] if c[1] == "full"]) for m in (name, *others)}
    top = max(others, key=lambda m: means[m])
    lines.append(f"mean HQNR: {means[name]:.4f}; best classical method: {means[top]:.4f} ({top})")
    return lines


def markdown(table: Table) -> str:
    """Return one table per protocol: methods by scenes, the indices of a scene in one cell."""
    parts = []
    for protocol, indices in INDICES.items():
        scenes = [case for case in next(iter(table.values())) if case[1] == protocol]
        if not scenes:
            continue
        parts.append(f"**{protocol} resolution: {' / '.join(HEADINGS[i] for i in indices)}**\n")
        parts.append("| method | " + " | ".join(scene for scene, _ in scenes) + " | s |")
        parts.append("|---|" + "---|" * len(scenes) + "---:|")
        for name, rows in table.items():
            start, _, minutes = name.partition(":")
            title = f"{start}, {minutes} min" if minutes else name
            found = [rows[case] for case in scenes]
            cells = [" / ".join(f"{row[i]:.3f}" for i in indices) if row else "–" for row in found]
            timed = all("seconds" in row for row in found if row)  # scores of earlier versions have no time
            seconds = f"{sum(row['seconds'] for row in found if row):.0f}" if timed else "–"
            parts.append(f"| {title} | " + " | ".join(cells) + f" | {seconds} |")
        parts.append("")
    return "\n".join(parts)


BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"


def write_table(page: Path, text: str) -> None:
    """Replace the table between the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", default="all", help="names separated by commas (default: those without training)")
    parser.add_argument("--protocol", choices=tuple(INDICES), help="only this (default: both)")
    parser.add_argument("--scenes", default="", help="names separated by commas (default: all)")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FILE", help="weights of any size")
    parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
    parser.add_argument("--known", type=Path, help="JSON file of scores: those there are not measured again")
    options = parser.parse_args()
    names = [*METHODS] if options.methods == "all" else options.methods.split(",")
    methods = {name: method_named(name) for name in names}
    for given in options.weights:
        name, _, file = given.partition("=")
        methods[name] = partial(fuse_case, name=None, weights=file)
    known = json.loads(options.known.read_text()) if options.known and options.known.is_file() else {}
    table: Table = {name: {} for name in methods}
    for case in cases(options.folder):
        named = not options.scenes or case.name in options.scenes.split(",")
        if not named or options.protocol not in (None, case.protocol):
            continue
        for name, method in methods.items():
            key = f"{name}|{case.name}|{case.protocol}"
            if key not in known:
                known[key] = measured(case, method)
                if options.known:
                    write_json(options.known, known)
            found = table[name][case.name, case.protocol] = known[key]
            print(f"{case.name:<20} {case.protocol:<8} {name:<14}", *(f"{k} {v:.4f}" for k, v in found.items()))
    text = markdown(table)
    print(text)
    if options.methods == "all":
        print("\ngeneric:", *compare(table, "generic"), sep="\n")
    if options.markdown:
        write_table(options.markdown, text)


if __name__ == "__main__":
    main()
