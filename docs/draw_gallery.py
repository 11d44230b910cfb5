"""The gallery, docs/gallery.md: every method on one page, by running it. Part of `docs/draw_figures.py`.

Methods that need no training fuse drawn scenes whose truth is known. Networks run with the weights that their authors
published, where a file was available, on an image of the sensor that these were trained for. Others are listed with the
reason: a network after seconds of training would show the training, not the network.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import lemamba
from benchmarks import bench_no_training_data as quality
from benchmarks.hmif_sets import draw_cube
from lemamba.datasets.simulation import wald
from lemamba.datasets.simulation.drawn import draw_pair
from lemamba.datasets.simulation.instrument import instrument_of
from lemamba.datasets.simulation.response import nikon_d700
from lemamba.model import list_models, model_entry
from lemamba.reporting.pictures import (
    ERROR_UNIT,
    busiest_box,
    guide_rgb,
    save_panels,
    shared_error_end,
    shared_error_maps,
    stretch_limits,
    to_rgb,
)
from lemamba.utils.atomic import write_atomically
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.progress import track
from lemamba.utils.sensors import get_sensor

COLUMNS, INCHES, DPI = 7, 1.18, 200
KEPT = Path(__file__).resolve().parent.parent / "build/figs/gallery"  # fused images
DLPAN = {"PNN": "pnn", "PanNet": "pannet", "FusionNet": "fusionnet", "DiCNN": "dicnn1", "DRPNN": "drpnn"}
PUBLISHED = {  # method -> published file below weights/ of the shared folder, trained on WorldView-3
    "A-PNN": "zoo2/zpnn/WV3_A-PNN-TA-FR_model.tar",
    "A-PNN-FT": "zoo2/zpnn/WV3_A-PNN-TA-FR_model.tar",
    "ADKNet": "zoo2/adknet/ADKNet4pansharpening.pth",
    "ADWM-FusionNet": "zoo2/adwm/BWNET_FusionNet_WV3.pth",
    "ADWM-LAGConv": "zoo2/adwm/BWNET_LAGConv_WV3.pth",
    "ADWM-LGPNet": "zoo2/adwm/BWNET_LGPNet_WV3.pth",
    "CANNet": "zoo2/cannet/cannet_wv3.pth",
    "FusionMamba": "zoo2/fusionmamba/420.pth",
    "lambda-PNN": "zoo2/lambda_pnn/WV3_L-PNN_model.tar",
    **{name: f"dlpan/WV3/{file}.pth" for name, file in {**DLPAN, "MSDCNN": "msdcnn"}.items()},
    "TDNet": "zoo2/tdnet/tdnet_pretrained.pth",
    "U2Net": "zoo2/u2net/200000_iter.pth",
    "Z-PNN": "zoo2/zpnn/WV3_Z-PNN_model.tar",
}
PUBLISHED_CAVE = {  # the same for CAVE at ratio 4
    "BAM": "zoo2/bam/HISR_CAVE_NET_1150.pth",
    "PSRT": "zoo2/psrt/cave_x4_best.pth.tar",
}
REASONS = {
    "LEMamba": "no published file was available; trained here in [le-mamba-HMIF.png](../figs/le-mamba-HMIF.png) and "
    "[results.md](results.md)",
    "Fusformer": "the only published file that was available was trained to return the interpolated image",
}


@dataclass(frozen=True)
class Sheet:
    """One picture of the gallery: its file, its heading on the page, what was done, and its methods."""

    file: str
    title: str
    about: str
    methods: tuple[str, ...]


def sheets() -> list[Sheet]:
    """Return the pictures with their methods; nothing is run."""
    pan = (*list_models("pansharpening", "classical"), "LEMambaAny", "ZS-Pan")
    cube = (*list_models("hmif", "classical"), "SpectraLift", *PUBLISHED_CAVE)
    return [
        Sheet(
            "gallery_pan.png",
            "Pansharpening without training data",
            "A drawn suburb with the bands and MTF gains of WorldView-3 (8 bands, 192×192 pixels of PAN, ratio 4): a "
            "detail in true colours, and the error on a common scale. LEMambaAny has its generic weights; ZS-Pan "
            "trained on the image itself.",
            pan,
        ),
        Sheet(
            "gallery_published.png",
            "Networks with published weights",
            "The WorldView-3 tile of Z-PNN's repository (third-party, not part of this project) at full resolution: a "
            "detail, by networks with their authors' weights for that sensor. There is no ground truth, so the number "
            "is HQNR, of the whole tile (128×128 pixels, a small base for it). A-PNN-FT, Z-PNN and lambda-PNN train on "
            "the tile itself, from their authors' weights. The files are of different ages and trainings: "
            "[what is known of them](methods.md#published-weights-compared).",
            tuple(PUBLISHED),
        ),
        Sheet(
            "gallery_hmif.png",
            "Hyperspectral image and RGB guide",
            "A drawn scene of 31 bands with the RGB of a Nikon D700 (96×96 pixels, ratio 4, Gaussian of sigma 2). "
            "SpectraLift trained on the pair itself; BAM and PSRT have their authors' weights for CAVE, whose images "
            "are neither drawn nor blurred as here.",
            cube,
        ),
    ]


def not_shown() -> dict[str, str]:
    """Return why the other methods have no picture."""
    shown = {method for sheet in sheets() for method in sheet.methods}
    words = {"-": "no published weights are known", "names only": "no published file was available to run"}
    found = {}
    for name in list_models():
        if name not in shown:
            found[name] = REASONS.get(name) or words.get(model_entry(name).published_weights, words["names only"])
    return found


def _case(name: str, images: dict[str, np.ndarray], sensor: str, divisor: float, guides: int = 1) -> quality.Case:
    ms, pan = (torch.from_numpy(np.asarray(images[role], np.float64))[None] for role in ("ms", "pan"))
    gt = torch.from_numpy(np.asarray(images["gt"], np.float64))[None] if "gt" in images else None
    facts = DataFacts(sensor, divisor, 4, ms.shape[1], guides, geometry=Geometry.toolbox(4))  # type: ignore[arg-type]
    return quality.Case(name, ms, pan, facts, gt)


def drawn_pan() -> quality.Case:
    """Return the drawn pair of the first sheet."""
    sensor = instrument_of(get_sensor("WV3"), 8, 4)
    pair = draw_pair(5, (48, 48), sensor=sensor, landscape="suburb", pixel=0.5)
    return _case("drawn", {"ms": pair.ms, "pan": pair.pan, "gt": pair.gt}, "WV3", 2047)


def drawn_cube() -> quality.Case:
    """Return the drawn cube of the third sheet."""
    degradation = wald.Degradation(nikon_d700(np.linspace(400, 700, 31)), 4, wald.gaussian_kernel(9, 2.0))
    return _case("drawn", wald.hyperspectral(draw_cube(1000, 96), degradation), "CAVE", 1, 3)


def fuse(case: quality.Case, method: str, weights: str | None) -> np.ndarray:
    """Fuse (C, H, W) with a method and its weights; what was fused before is read from build/figs."""
    kept = KEPT / f"{case.name}_{case.facts.sensor}_{method}.npy"
    if kept.is_file():
        return np.load(kept)
    if method == "LEMambaAny":
        weights = "generic"
    sr = lemamba.fuse(
        case.ms[0].numpy(),
        case.pan[0].numpy(),
        method,
        weights,
        sensor=case.facts.sensor,
        divisor=case.facts.divisor,
        device="cpu",
    )
    write_atomically(kept, lambda temporary: temporary.write_bytes(_npy(sr)))
    return sr


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def draw(path: Path, case: quality.Case, methods: dict[str, str | None]) -> None:
    """Run methods (name -> weights) on a case and draw a sheet: details, and below each its error where gt is known."""
    index = "hqnr" if case.gt is None else "ergas"
    results = {}
    for name in track(list(methods), path.stem):
        sr = fuse(case, name, methods[name])
        value = quality.scores_of(case, torch.from_numpy(sr)[None].double())[index]
        results[f"{name}\n{index.upper()} {value:.{3 if case.gt is None else 2}f}"] = sr
    reference = (case.lms if case.gt is None else case.gt)[0].numpy()
    rgb = get_sensor(case.facts.sensor).rgb_for(len(reference))
    limits, box = stretch_limits(reference, rgb), busiest_box(case.pan[0].numpy(), 96 if case.gt is not None else 128)
    details = {"PAN" if len(case.pan[0]) == 1 else "guide": guide_rgb(case.pan[0].numpy())[box]}
    details["MS, interpolated" if case.gt is None else "ground truth"] = to_rgb(reference, rgb, limits)[box]
    details |= {title: to_rgb(sr, rgb, limits)[box] for title, sr in results.items()}
    errors, scale = {}, None
    if case.gt is not None:
        errors = {title: error[box] for title, error in shared_error_maps(results, reference).items()}
        scale = (100 * shared_error_end(results, reference), ERROR_UNIT)
    titles, rows = list(details), []
    for start in range(0, len(titles), COLUMNS):
        block = titles[start : start + COLUMNS]
        rows.append({title: details[title] for title in block})
        if errors:
            rows.append({title: errors.get(title) for title in block})
    save_panels(path, rows, inches=INCHES, dpi=DPI, scale=scale)


def draw_pan(path: Path, _: Path) -> None:
    """Draw the first sheet."""
    draw(path, drawn_pan(), dict.fromkeys(sheets()[0].methods))


def draw_published(path: Path, shared: Path) -> None:
    """Draw the second sheet."""
    tile = next(c for c in quality.cases(shared / "data") if (c.name, c.protocol) == ("WorldView-3 tile", "full"))
    weights = {name: str(shared / "weights" / file) for name, file in PUBLISHED.items()}
    draw(path, tile, {name: f"dlpan:{w}" if "/dlpan/" in w else w for name, w in weights.items()})


def draw_cubes(path: Path, shared: Path) -> None:
    """Draw the third sheet."""
    published = {name: str(shared / "weights" / file) for name, file in PUBLISHED_CAVE.items()}
    draw(path, drawn_cube(), {name: published.get(name) for name in sheets()[2].methods})


def page() -> Iterator[str]:
    """Yield the lines of docs/gallery.md."""
    yield "# Gallery: every method on one page\n"
    yield _wrapped(
        'Made by running the methods: `make figs ONLY="gallery_pan gallery_published gallery_hmif gallery"`. The '
        "images or weights of the second picture and of two networks of the third are third-party (`--shared`). One "
        "small image each: the pictures show what results look like, not which method is best; for that see "
        "[results.md](results.md), [no_training_data.md](no_training_data.md) and [hmif_results.md](hmif_results.md). "
        "What the methods are, and their papers: [methods.md](methods.md)."
    )
    for sheet in sheets():
        yield f"## {sheet.title}\n\n{_wrapped(sheet.about)}\n![{sheet.title}](../figs/{sheet.file})\n"
        yield _wrapped(f"{len(sheet.methods)} methods: {', '.join(sheet.methods)}.")
    yield "## Not shown\n\nA network after seconds of training would show the training, not the network.\n"
    yield "| method | why |\n| --- | --- |"
    for name, reason in not_shown().items():
        yield f"| {name} | {reason} |"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False) + "\n"
