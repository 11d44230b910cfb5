"""Draw the pictures of README and docs from runs of the project's own methods: ``make figs``.

    python docs/draw_figures.py                     every picture, about 6 processor minutes, 3 of them a training
    python docs/draw_figures.py --only le-mamba-teaser speed

Trainings, data and fused images are kept in build/figs, so that a second run is quick. Pictures of real scenes need the
folder of shared data (``--shared``); without it they are left as they are, which is reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import draw_architecture  # noqa: E402
import draw_explanations  # noqa: E402
import draw_gallery  # noqa: E402
import draw_network  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import bench_no_training_data as quality  # noqa: E402
from benchmarks.hmif_page import draw_comparison  # noqa: E402
from benchmarks.hmif_sets import SETS  # noqa: E402
from lemamba.reporting.pictures import busiest_box, guide_rgb, save_grid, save_panels, stretch_limits, to_rgb  # noqa: E402
from lemamba.utils.atomic import write_atomically, write_text  # noqa: E402
from lemamba.utils.command_line import Parser  # noqa: E402
from lemamba.utils.sensors import get_sensor  # noqa: E402
from lemamba.utils.startup import run_cli  # noqa: E402

FIGS, WORK = ROOT / "figs", ROOT / "build/figs"
SCORES = ROOT / "benchmarks/results/no_training_data.json"
SIZES = ROOT / "benchmarks/results/sizes_cpu.json"
PAGE_INCHES, DPI = 8.3, 200  # a README is about 830 pixels wide: text of 9 points is 12 pixels high there
COLOURS = 256  # of a stored picture
OKABE_ITO = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # safe for the colour-blind
MARKS = "osD^vP*"


def with_palette(path: Path) -> None:
    """Store a picture with a palette: a third of the size, and no difference that is seen."""
    picture = Image.open(path).convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    write_atomically(path, lambda temporary: picture.save(temporary, format="png", optimize=True))


def palette_of(draw: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Return a function that draws and then stores with a palette."""

    def drawn(path: Path, shared: Path) -> None:
        draw(path, shared)
        with_palette(path)

    return drawn


def save(figure: Any, path: Path) -> None:
    """Store a figure of matplotlib; the file says nothing of when and by which release it was drawn."""
    write_atomically(path, lambda t: figure.savefig(t, format="png", dpi=DPI, metadata={"Software": None}))
    with_palette(path)


def case_of(shared: Path, name: str, protocol: str) -> quality.Case:
    """Return a scene of `benchmarks.bench_no_training_data`."""
    return next(case for case in quality.cases(shared / "data") if (case.name, case.protocol) == (name, protocol))


# Real scenes


def part_of(
    case: quality.Case, corner: Sequence[int], part: int, edge: int
) -> tuple[quality.Case, tuple[slice, slice]]:
    """Return a square part of a scene with an edge around it, and where in it the part lies; all in PAN pixels."""
    r = case.facts.ratio
    ends = [(max(0, c - edge), min(n, c + part + edge)) for c, n in zip(corner, case.pan.shape[-2:], strict=True)]
    (top, bottom), (left, right) = ends
    ms = case.ms[..., top // r : bottom // r, left // r : right // r]
    row, column = (slice(c - first, c - first + part) for c, (first, _) in zip(corner, ends, strict=True))
    return quality.Case(case.name, ms, case.pan[..., top:bottom, left:right], case.facts), (row, column)


def teaser(path: Path, shared: Path) -> None:
    """MS, PAN and what the generic weights make of them, on a part of the IKONOS scene at full resolution."""
    near, inner = part_of(case_of(shared, "IKONOS", "full"), (904, 688), 256, 64)
    ms, sr = near.ms[0].numpy(), quality.fuse_case(near, None, "generic")[0].numpy()
    rgb = get_sensor(near.facts.sensor).rgb_for(len(sr))
    limits = stretch_limits(ms, rgb)
    panels = {
        "given: multispectral image, 4 m": to_rgb(ms, rgb, limits)[16:-16, 16:-16],
        "given: panchromatic image, 1 m": guide_rgb(near.pan[0].numpy())[inner],
        "LE-Mamba, generic weights: 1 m": to_rgb(sr, rgb, limits)[inner],
    }
    save_panels(path, [panels], inches=PAGE_INCHES / 3, dpi=DPI)
    with_palette(path)


def details(path: Path, shared: Path) -> None:
    """What methods without training make of pairs as observed: the busiest part of each scene."""
    names = ("IKONOS", "WorldView-2", "WorldView-3 tile", "Landsat 8 (ratio 2)", "Gaofen-2 0")
    methods = {"interpolated": "EXP", "C-GLP": "C-GLP", "MTF-GLP-HPM": "MTF-GLP-HPM", "generic weights": "generic"}
    part, edge = 96, 96  # PAN pixels that are shown, and fused around them
    rows: list[dict[str, np.ndarray | None]] = []
    for name in names:
        case = case_of(shared, name, "full")
        r = case.facts.ratio
        corner = [s.start // r * r for s in busiest_box(case.pan[0].numpy(), part)]
        near, inner = part_of(case, corner, part, edge)
        rgb = get_sensor(case.facts.sensor).rgb_for(near.ms.shape[1])
        fused = {title: quality.METHODS[method](near)[0].numpy() for title, method in methods.items()}
        limits = stretch_limits(fused["interpolated"][(..., *inner)], rgb)
        row: dict[str, np.ndarray | None] = {"PAN": guide_rgb(near.pan[0].numpy())[inner]}
        rows.append(row | {title: to_rgb(image, rgb, limits)[inner] for title, image in fused.items()})
    save_panels(path, rows, names, inches=PAGE_INCHES / 5, dpi=DPI)
    with_palette(path)


def pansharpening(path: Path, shared: Path) -> None:
    """Methods on the WorldView-2 scene at reduced resolution, where the truth is known: image, detail, error."""
    case, rows = case_of(shared, "WorldView-2", "reduced"), slice(96, 256)
    assert case.gt is not None
    titles = {"EXP": "interpolation", "GSA": "GSA", "MTF-GLP-HPM": "MTF-GLP-HPM", "generic": "LE-Mamba, generic"}
    shown = {}
    for name, title in titles.items():
        sr = quality.METHODS[name](case)
        arrays = {"sr": sr, "gt": case.gt, "pan": case.pan}
        ergas = quality.scores_of(case, sr)["ergas"]
        shown[f"{title}\nERGAS {ergas:.2f}"] = {role: x[0, :, rows].numpy() for role, x in arrays.items()}
    save_grid(path, shown, get_sensor("WV2").rgb_for(8), inches=(PAGE_INCHES - 0.2) / 6, dpi=DPI)


# Drawn scenes


def hmif_images(methods: str, shared: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Measure methods on the drawn set in CAVE's layout, x8; return method -> first fused image (C, H, W) and row.

    A network is trained for three minutes of processor time. What is in build/figs is not measured again.
    """
    work, rows = WORK / "hmif", WORK / "hmif/rows.json"
    words = ["--sets", "cavelike_x8", "--methods", methods, "--minutes", "3", "--rates", "2e-3"]
    words += ["--work", str(work), "--results", str(rows), "--shared", str(shared)]
    subprocess.run([sys.executable, "-m", "benchmarks.bench_hmif", *words], cwd=ROOT, check=True)
    found = {}
    for row in json.loads(rows.read_text(encoding="utf-8")).values():
        if "scores" in row:
            found[row["method"]] = (np.load(work / f"fused/cavelike_x8/{row['method']}_{row['seed']}.npy"), row)
    return found


def hmif(path: Path, shared: Path) -> None:
    """Image, error and spectra of methods on a drawn hyperspectral scene."""
    found, one = hmif_images("EXP,GSA-HS,FUSE,CNMF,LEMamba", shared), SETS["cavelike_x8"]
    with h5py.File(one.files(WORK / "hmif/data")["test"]) as file:
        truth, wavelengths = np.asarray(file["GT"][0]), np.asarray(file.attrs["wavelengths"])
    titles = {"EXP": "interpolation", "GSA-HS": "GSA-HS", "LEMamba": "LE-Mamba, 3 min", "FUSE": "FUSE", "CNMF": "CNMF"}
    images = {f"{title}\nSAM {found[n][1]['scores']['sam'][0]:.2f}°": found[n][0] for n, title in titles.items()}
    draw_comparison(path, one, truth, images, wavelengths)


# Measurements as pictures


def scenes(path: Path, _: Path) -> None:
    """ERGAS without training data: every method on every real scene, divided by that of interpolation."""
    from matplotlib.figure import Figure

    table: dict[str, dict[str, float]] = {}
    for key, values in json.loads(SCORES.read_text(encoding="utf-8")).items():
        method, scene, protocol = key.split("|")
        if protocol == "reduced" and method in quality.METHODS:
            table.setdefault(scene, {})[method] = values["ergas"]
    figure = Figure(figsize=(PAGE_INCHES, 4.4), layout="constrained")
    axis = figure.subplots()
    named = {"generic": "LE-Mamba, generic weights", "MTF-GLP-HPM-R": "MTF-GLP-HPM-R", "C-GLP": "C-GLP", "GSA": "GSA"}
    for y, row in enumerate(table.values()):
        others = [row[m] / row["EXP"] for m in row if m not in ("EXP", *named)]
        axis.plot(others, [y] * len(others), "|", color="0.55", ms=11, label="" if y else "eleven other methods")
        for method, colour, mark in zip(named, OKABE_ITO, MARKS, strict=False):
            label = "" if y else named[method]
            front = {"ms": 8, "zorder": 4, "mec": "white"} if mark == "o" else {"ms": 7}  # seen among the others
            axis.plot(row[method] / row["EXP"], y, mark, color=colour, label=label, **front)
    axis.axvline(1, color="black", lw=1)
    axis.set_yticks(range(len(table)), list(table))
    axis.invert_yaxis()
    axis.set_xlim(0.25, 2.05)
    axis.set_xlabel(
        "ERGAS at reduced resolution, divided by that of interpolation (left of 1 is better; up to 2 shown)"
    )
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="lower right", fontsize=9)
    save(figure, path)


def speed(path: Path, _: Path) -> None:
    """Processor time per megapixel against the size of the image."""
    from matplotlib.figure import Figure

    data = json.loads(SIZES.read_text(encoding="utf-8"))
    figure = Figure(figsize=(PAGE_INCHES, 4.2), layout="constrained")
    axis = figure.subplots()
    named = {"LEMambaAny": "LE-Mamba, generic weights", "LEMamba": "LE-Mamba tiny"}
    for (name, row), colour, mark in zip(data["s"].items(), OKABE_ITO, MARKS, strict=False):
        axis.plot(
            [int(side) for side in row], list(row.values()), f"{mark}-", color=colour, label=named.get(name, name)
        )
    sides = sorted({int(side) for row in data["s"].values() for side in row})
    axis.set(xscale="log", yscale="log", xlabel="side of PAN, pixels", ylabel="processor seconds per megapixel of PAN")
    axis.set_xticks(sides, [str(side) for side in sides])
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axis.grid(alpha=0.3)
    axis.set_title(f"8 bands, ratio 4; {data['device']}, {data['date']}", fontsize=9)
    axis.legend(fontsize=9)
    save(figure, path)


FIGURES: dict[str, tuple[str, Callable[[Path, Path], None], bool]] = {  # name -> file, function, needs real scenes
    "architecture": ("architecture.svg", lambda path, _: draw_architecture.write(path), False),
    "le-mamba-architecture": (
        "le-mamba-architecture.svg",
        lambda path, _: write_text(path, draw_network.le_mamba()),
        False,
    ),
    **{
        Path(file).stem: (Path(file).name, lambda path, _, draw=draw: write_text(path, draw()), False)
        for file, draw in draw_explanations.DRAWINGS.items()
    },
    "le-mamba-teaser": ("le-mamba-teaser.png", teaser, True),
    "le-mamba-pansharpening": ("le-mamba-pansharpening.png", pansharpening, True),
    "le-mamba-HMIF": ("le-mamba-HMIF.png", hmif, False),
    "no_training_details": ("no_training_details.png", details, True),
    "no_training_data": ("no_training_data.png", scenes, False),
    "speed": ("speed.png", speed, False),
    "gallery_pan": ("gallery_pan.png", palette_of(draw_gallery.draw_pan), False),
    "gallery_published": ("gallery_published.png", palette_of(draw_gallery.draw_published), True),
    "gallery_hmif": ("gallery_hmif.png", palette_of(draw_gallery.draw_cubes), True),
    "gallery": ("../docs/gallery.md", lambda path, _: write_text(path, "\n".join(draw_gallery.page()) + "\n"), False),
}


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(FIGURES), choices=FIGURES, help="names (default all)")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of the shared data")
    return parser.parse_args()


def main() -> None:
    """Draw."""
    options = read_options()
    for name in options.only:
        file, function, real = FIGURES[name]
        if real and not (options.shared / "data").is_dir():
            print(f"figs/{file}: left as it is, there is no folder {options.shared / 'data'} (--shared)")
            continue
        function(FIGS / file, options.shared)
        print(f"figs/{file}")


if __name__ == "__main__":
    run_cli(main)
