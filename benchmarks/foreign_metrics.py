"""Why does my number differ? The indices of this project next to those of other implementations, on the same images.

    python -m benchmarks.foreign_metrics              print the tables
    python -m benchmarks.foreign_metrics --markdown   also write them into docs/why_numbers_differ.md

Measured on a scene drawn by this file, and on golden IKONOS images where the shared material is found. torchmetrics,
sewar and scikit-image are called where installed; the others are written from their formulas
(`foreign_definitions`, and `plain_numpy_metrics` for DLPan-Toolbox).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import foreign_definitions as foreign
from benchmarks import plain_numpy_metrics as plain
from benchmarks.parity_cases import ROOT, shared_golden
from lemamba import metrics
from lemamba.utils.atomic import write_text
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.sensors import get_sensor
from lemamba.utils.startup import run_cli

PAGE = ROOT / "docs/why_numbers_differ.md"
LIBRARIES = ("torchmetrics", "sewar", "scikit-image")
SENSOR, RATIO, CONST, PAN_GAIN = "IKONOS", 4, 2047, 0.17
EQUAL = 1e-12  # relative; what rounding alone may differ
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """One image with reference, sr and gt, and one without, fused, ms, lms (C, …) and pan (H, W); float64, 0 … 2047."""

    sr: Array
    gt: Array
    fused: Array
    ms: Array
    lms: Array
    pan: Array


# The images


def drawn_scene(seed: int = 14) -> Images:
    """Four bands of blurred noise at several scales: gt of 120 x 104 (no multiple of 32), PAN of 128 x 128."""
    random = np.random.RandomState(seed)  # its stream is frozen, that of newer generators is not

    def field(sigma: float) -> Array:
        x = ndimage.gaussian_filter(random.standard_normal((128, 128)), sigma, mode="wrap")
        return x / x.std()

    coarse, fine, edges = field(9), field(1.5), np.sign(field(5))
    scales = np.array([[300, 60, 20, 30], [380, 80, 30, 60], [420, 110, 40, 90], [600, -150, 60, 140]])
    truth = np.stack([m + a * coarse + b * fine + c * edges + 8 * field(0.5) for m, a, b, c in scales])
    truth = np.clip(np.round(truth), 1, CONST)
    pan = np.round(np.tensordot([0.2, 0.3, 0.3, 0.2], truth, 1))
    gains = get_sensor(SENSOR).gains(4)
    ms = np.stack([plain.mtf_fft(x, g, RATIO)[2::RATIO, 2::RATIO] for x, g in zip(truth, gains, strict=True)]).round()
    lms = np.stack([plain.interp23(x, RATIO) for x in ms])
    fused = _in_range(lms + 0.8 * (pan - ndimage.gaussian_filter(pan, 2)))
    sr = _in_range(
        0.6 * truth + 0.4 * ndimage.gaussian_filter(truth, (0, 1, 1)) + 12 * random.standard_normal(truth.shape)
    )
    return Images(sr[:, :120, :104], truth[:, :120, :104], fused, ms, _in_range(lms), pan)


def _in_range(x: Array) -> Array:
    """Clip to 0 … 2047, in steps of 1/64: exact in float32, and one sample of 64 is a tie when rounded."""
    return np.clip(np.round(64 * x) / 64, 0, CONST)


def golden_scene() -> Images | None:
    """Return the first golden IKONOS images, 256 x 256, or None where the shared material is absent."""
    folder = shared_golden()
    if folder is None:
        return None
    reduced, full = (read_mat(folder / f"{name}_ikonos.mat") for name in ("red", "full"))
    first = [np.asarray(f[n][0], dtype=np.float64) for f, n in ((reduced, "sr"), (reduced, "gt"))]
    first += [np.asarray(full[n][0], dtype=np.float64) for n in ("sr", "ms", "lms", "pan")]
    return Images(*first[:5], first[5][0])


# The libraries


def _batch(x: Array) -> torch.Tensor:
    """(C, H, W) or (H, W) as a batch of one, (1, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(x)).reshape(1, -1, *x.shape[-2:])


def _last(x: Array) -> Array:
    """Bands last, as sewar and scikit-image want them."""
    return np.ascontiguousarray(np.moveaxis(x, 0, -1))


def _torchmetrics(name: str, *images: Array, **options: Any) -> float:
    function = getattr(importlib.import_module("torchmetrics.functional.image"), name)
    return float(function(*map(_batch, images), **options))


def _sewar(name: str, *images: Array, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that float64 and float32 meet, which it has made itself
        return getattr(importlib.import_module("sewar"), name)(*images, **options)


def _skimage(name: str, gt: Array, sr: Array, **options: Any) -> float:
    axis = {"channel_axis": 0} if name == "structural_similarity" else {}
    return float(getattr(importlib.import_module("skimage.metrics"), name)(gt, sr, **axis, **options))


def sewar_gaussian() -> dict[str, Any]:
    """Options by which sewar's ssim takes the window of Wang et al.; its default is a box."""
    kind = importlib.import_module("sewar.utils").Filter.GAUSSIAN
    return {"fltr_specs": {"fltr": kind, "ws": 11, "sigma": 1.5}}


def installed(library: str) -> str | None:
    """Return the version of an installed library, or None."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


# The table


@dataclass(frozen=True)
class Row:
    """Another implementation of an index.

    Attributes:
        index: ours, a key of `metrics.INDICES`.
        who: the implementation and its setting.
        measure: computes its number.
        why: what differs; "" where the definitions are the same.
        tolerance: relative difference that the same definition may have, None where another number is expected.
        unit: factor from our number to its unit, for SAM in radians and the like.
    """

    index: str
    who: str
    measure: Callable[[Images], float]
    why: str = ""
    tolerance: float | None = None
    unit: float = 1.0

    @property
    def library(self) -> str | None:
        """The package that must be installed, None for a formula."""
        name = self.who.split(",")[0]
        return name if name in LIBRARIES else None


def _per_band(x: Images) -> float:
    bands = zip(x.sr, x.gt, strict=True)
    return float(np.mean([_torchmetrics("peak_signal_noise_ratio", s, g, data_range=float(CONST)) for s, g in bands]))


def _cut(measure: Callable[..., float], cut: int, *options: float) -> Callable[[Images], float]:
    return lambda x: measure(foreign.cut_border(x.sr, cut), foreign.cut_border(x.gt, cut), *options)


def _tm_d_s(x: Images) -> float:
    repeat = partial(np.broadcast_to, shape=x.fused.shape)
    low = np.broadcast_to(plain.shrink(x.pan, RATIO), x.ms.shape)
    return _torchmetrics("spatial_distortion_index", x.fused, x.ms, repeat(x.pan), low)


def _tm_qnr(x: Images) -> float:
    return (1 - _torchmetrics("spectral_distortion_index", x.fused, x.ms)) * (1 - _tm_d_s(x))


def _d_s(quality: foreign.BandQuality, x: Images, pan_low: Array) -> float:
    return foreign.spatial_distortion(quality, x.fused, x.ms, x.pan, pan_low)


def _py_pansharpening_qnr(x: Images) -> float:
    q = foreign.q_box(32)
    spatial = _d_s(q, x, foreign.pan_by_mtf(x.pan, PAN_GAIN, RATIO))
    return (1 - foreign.spectral_distortion(q, x.fused, x.ms)) * (1 - spatial)


def _dlpan_full(name: str) -> Callable[[Images], float]:
    gains = get_sensor(SENSOR).gains(4)
    return lambda x: plain.full_resolution(x.fused, x.lms, x.pan, RATIO, gains)[name]


TM_UQI = "its universal_image_quality_index: Gaussian window 11 × 11"
RADIANS = float(np.pi / 180)


def _dlpan_rows() -> list[Row]:
    """DLPan-Toolbox by formula: equal without cut; its demos cut 21 pixels, others 30."""
    measures: dict[str, tuple[Callable[..., float], tuple[float, ...]]] = {
        "sam": (plain.sam, ()),
        "ergas": (plain.ergas, (RATIO,)),
        "scc": (plain.scc, ()),
        "qn": (plain.q2n, (CONST,)),
        "qave": (plain.qave, ()),
    }
    rows = []
    for index, (measure, options) in measures.items():
        whole = lambda x, m=measure, o=options: m(x.sr, x.gt, *o)  # noqa: E731
        rows.append(Row(index, "DLPan-Toolbox, no cut", whole, tolerance=1e-10))
        rows += [
            Row(index, f"DLPan-Toolbox, cut {cut}", _cut(measure, cut, *options), f"a border of {cut} pixels is cut")
            for cut in (21, 30)
        ]
    return rows


def _pixel_rows() -> list[Row]:
    """SAM, ERGAS and PSNR."""
    cube = "one MSE over all bands instead of the mean of the bands' PSNR"
    const = float(CONST)
    return [
        Row(
            "sam",
            "torchmetrics",
            lambda x: _torchmetrics("spectral_angle_mapper", x.sr, x.gt),
            "radians: times 180/π",
            EQUAL,
            RADIANS,
        ),
        Row(
            "sam",
            "sewar",
            lambda x: float(_sewar("sam", _last(x.gt), _last(x.sr))),
            "radians: times 180/π",
            EQUAL,
            RADIANS,
        ),
        Row(
            "ergas",
            "torchmetrics, ratio=4",
            lambda x: _torchmetrics("error_relative_global_dimensionless_synthesis", x.sr, x.gt, ratio=RATIO),
            tolerance=EQUAL,
        ),
        Row(
            "ergas",
            "sewar, r=0.25",
            lambda x: float(_sewar("ergas", _last(x.gt), _last(x.sr), r=1 / RATIO)),
            tolerance=EQUAL,
        ),
        Row(
            "ergas",
            "sewar, r=4",
            lambda x: float(_sewar("ergas", _last(x.gt), _last(x.sr), r=RATIO)),
            "its r is 1/ratio: 16 times too large",
        ),
        Row("psnr", "torchmetrics, band by band", _per_band, "computed in float32", tolerance=1e-6),
        Row(
            "psnr",
            "torchmetrics",
            lambda x: _torchmetrics("peak_signal_noise_ratio", x.sr, x.gt, data_range=const),
            cube,
        ),
        Row("psnr", "sewar", lambda x: float(_sewar("psnr", _last(x.gt), _last(x.sr), MAX=const)), cube),
        Row(
            "psnr",
            "scikit-image",
            lambda x: _skimage("peak_signal_noise_ratio", x.gt, x.sr, data_range=const),
            cube,
        ),
        Row("psnr", "py_pansharpening", lambda x: foreign.psnr_cube(x.sr, x.gt, const), cube),
    ]


def _window_rows() -> list[Row]:
    """SCC, Q, SSIM and Q2n."""
    const = float(CONST)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    laplacian = "another index: centred correlation of a Laplacian, in windows of 8 × 8"
    ssim = "structural_similarity"
    return [
        Row(
            "scc",
            "torchmetrics",
            lambda x: _torchmetrics("spatial_correlation_coefficient", x.sr, x.gt),
            laplacian,
        ),
        Row("scc", "sewar", lambda x: float(_sewar("scc", _last(x.gt), _last(x.sr))), laplacian),
        Row(
            "scc",
            "py_pansharpening",
            lambda x: foreign.pearson(x.sr, x.gt),
            "another index: correlation of the images (CC), not of their edges",
        ),
        Row(
            "qave",
            "py_pansharpening, block_size=32",
            lambda x: foreign.over_bands(foreign.q_box(32), x.sr, x.gt),
            tolerance=1e-10,
        ),
        Row(
            "qave",
            "py_pansharpening",
            lambda x: foreign.over_bands(foreign.q_box(8), x.sr, x.gt),
            "box of 8 × 8 instead of 32 × 32",
        ),
        Row(
            "qave",
            "torchmetrics",
            lambda x: _torchmetrics("universal_image_quality_index", x.sr, x.gt),
            "Gaussian window 11 × 11 instead of a box of 32 × 32",
        ),
        Row(
            "qave",
            "sewar, ws=32",
            lambda x: float(_sewar("uqi", _last(x.gt), _last(x.sr), ws=32)),
            "a defect of sewar: means where the formula has sums, Q comes out near 1",
        ),
        Row("qave", "sewar", lambda x: float(_sewar("uqi", _last(x.gt), _last(x.sr))), "the same defect, box of 8 × 8"),
        Row(
            "qave",
            "fr-pansh-eval-tool",
            lambda x: foreign.over_bands(foreign.q_naples, x.sr, x.gt),
            "one row and one column of windows more, over mirrored samples",
        ),
        Row(
            "ssim",
            "scikit-image, gaussian_weights, sigma=1.5, use_sample_covariance=False",
            lambda x: _skimage(ssim, x.gt, x.sr, data_range=const, **gaussian),
            tolerance=EQUAL,
        ),
        Row(
            "ssim",
            "sewar, Gaussian",
            lambda x: float(_sewar("ssim", _last(x.gt), _last(x.sr), MAX=const, **sewar_gaussian())[0]),
            tolerance=EQUAL,
        ),
        Row(
            "ssim",
            "torchmetrics, data_range=2047",
            lambda x: _torchmetrics("structural_similarity_index_measure", x.sr, x.gt, data_range=const),
            "windows over the border too, mirrored",
        ),
        Row(
            "ssim",
            "torchmetrics",
            lambda x: _torchmetrics("structural_similarity_index_measure", x.sr, x.gt),
            "mirrored border, and the range is that of the images, not the peak",
        ),
        Row("ssim", "scikit-image", lambda x: _skimage(ssim, x.gt, x.sr, data_range=const), "box of 7 × 7"),
        Row(
            "ssim",
            "sewar",
            lambda x: float(_sewar("ssim", _last(x.gt), _last(x.sr), MAX=const)[0]),
            "box of 11 × 11",
        ),
        Row(
            "qn",
            "sewar, rounded half away",
            lambda x: float(_sewar("q2n", *(_last(np.floor(i + 0.5)) for i in (x.gt, x.sr)))),
            "images rounded before the call",
            tolerance=1e-10,
        ),
        Row(
            "qn",
            "sewar, np.round",
            lambda x: float(_sewar("q2n", *(_last(np.round(i)) for i in (x.gt, x.sr)))),
            "NumPy rounds ties to even, MATLAB away from zero",
        ),
        Row(
            "qn",
            "sewar",
            lambda x: float(_sewar("q2n", _last(x.gt), _last(x.sr))),
            "not rounded to integers",
        ),
        Row(
            "qn",
            "fr-pansh-eval-tool",
            lambda x: foreign.q2n_naples(x.sr, x.gt),
            "not rounded, or cut to integers where it pads, without repeating the edge",
        ),
        Row(
            "qn",
            "hyperspectral_pansharpening_toolbox",
            lambda x: foreign.q2n_hs(x.sr, x.gt),
            "ties to even; height and width padded by each other's amount",
        ),
    ]


def _full_rows() -> list[Row]:
    """Indices without reference."""
    spectral, spatial = "spectral_distortion_index", foreign.spectral_distortion
    defect = "the defect of its uqi, and ms at its own size"
    return [
        *(Row(name, "DLPan-Toolbox", _dlpan_full(name), tolerance=1e-10) for name in ("d_lambda_k", "d_s", "hqnr")),
        Row(
            "d_lambda_k",
            "hyperspectral_pansharpening_toolbox",
            lambda x: foreign.d_lambda_k_at_ms(x.fused, x.ms, RATIO, get_sensor(SENSOR).gains(4)),
            "compared at the size of ms instead of that of PAN",
        ),
        Row(
            "d_lambda",
            "torchmetrics, ms",
            lambda x: _torchmetrics(spectral, x.fused, x.ms),
            f"{TM_UQI}; ms at its own size",
        ),
        Row("d_lambda", "torchmetrics, lms", lambda x: _torchmetrics(spectral, x.fused, x.lms), TM_UQI),
        Row(
            "d_lambda",
            "sewar, ms",
            lambda x: float(_sewar("d_lambda", _last(x.ms), _last(x.fused))),
            defect,
        ),
        Row(
            "d_lambda",
            "py_pansharpening",
            lambda x: spatial(foreign.q_box(32), x.fused, x.ms),
            "sliding windows instead of distinct blocks; ms at its own size",
        ),
        Row(
            "d_lambda",
            "LGTEUN, D_lambda_torch",
            lambda x: spatial(foreign.q_whole, x.fused, x.ms),
            "the image is one window; ms at its own size",
        ),
        Row("d_s", "torchmetrics, bicubic pan_lr", _tm_d_s, f"{TM_UQI}; ms and PAN at the size of ms"),
        Row(
            "d_s",
            "sewar",
            lambda x: float(_sewar("d_s", x.pan, _last(x.ms), _last(x.fused))),
            "the defect of its uqi, PAN by a box of 7 × 7 and Pillow",
        ),
        Row(
            "d_s",
            "py_pansharpening",
            lambda x: _d_s(foreign.q_box(32), x, foreign.pan_by_mtf(x.pan, PAN_GAIN, RATIO)),
            "sliding windows; PAN by an MTF filter, at the size of ms",
        ),
        Row(
            "d_s",
            "LGTEUN, D_s_torch",
            lambda x: _d_s(foreign.q_whole, x, plain.shrink(x.pan, RATIO)),
            "the image is one window; ms and PAN at the size of ms (PAN bicubic here)",
        ),
        Row(
            "d_s",
            "hyperspectral_pansharpening_toolbox, D_sR",
            lambda x: foreign.d_s_regression(x.fused, x.pan),
            "another index: PAN's variance that no sum of bands explains",
        ),
        Row("qnr", "torchmetrics, ms, bicubic pan_lr", _tm_qnr, "follows"),
        Row(
            "qnr",
            "sewar",
            lambda x: float(_sewar("qnr", x.pan, _last(x.ms), _last(x.fused))),
            "follows",
        ),
        Row("qnr", "py_pansharpening", _py_pansharpening_qnr, "follows"),
    ]


def rows() -> list[Row]:
    """All rows, index by index, in the order of our tables; those with the same definition first."""
    order = list(metrics.INDICES)
    found = [*_dlpan_rows(), *_pixel_rows(), *_window_rows(), *_full_rows()]
    return sorted(found, key=lambda row: (order.index(row.index), row.tolerance is None))


def ours(x: Images) -> dict[str, float]:
    """All our indices of the images."""
    sr, gt, fused, ms, lms, pan = map(_batch, (x.sr, x.gt, x.fused, x.ms, x.lms, x.pan))
    found = metrics.reduced_resolution(sr, gt, ratio=RATIO, const=CONST)
    found |= metrics.full_resolution(fused, ms, lms, pan, ratio=RATIO, sensor=SENSOR)
    return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True)
class Measured:
    """A row with our number, in its unit, and its own."""

    row: Row
    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        """Relative to ours."""
        return self.theirs / self.ours - 1

    def cells(self) -> list[str]:
        """Return the cells of the table: index, implementation, ours, theirs, difference, cause."""
        heading = metrics.INDICES[self.row.index].heading
        numbers = [f"{value:.5g}" for value in (self.ours, self.theirs)]
        return [heading, self.row.who, *numbers, self._gap(), self.row.why]

    def _gap(self) -> str:
        """Return the difference in words: none beyond rounding, in dB, a factor, a percentage, or a small number."""
        if self.row.tolerance is not None and abs(self.difference) <= self.row.tolerance:
            return f"equal to {self.row.tolerance:.0e}"
        if metrics.INDICES[self.row.index].unit == "dB":
            return f"{self.theirs - self.ours:+.2f} dB"
        if self.difference >= 1:
            return f"× {1 + self.difference:.2f}"
        return f"{100 * self.difference:+.2g} %" if abs(self.difference) >= 1e-4 else f"{self.difference:+.1e}"


# Cases in which an index behaves as few expect


def edge_cases(x: Images) -> list[tuple[str, str]]:
    """Return what our index is in cases of which papers say nothing: [(case, number)]."""
    random = np.random.RandomState(0)
    noise = [random.standard_normal((4, 256, 256)) for _ in range(2)]
    bright = [random.random_sample((4, 64, 64)) for _ in range(2)]
    sr, gt = x.sr[:, :64, :64], x.gt[:, :64, :64]
    one, all_blocks, same = (flat_band(sr, gt, side, shift) for side, shift in ((32, 3), (64, 3), (32, 0)))
    known = sr.copy()
    known[0] = gt[0]
    lines = [
        ("SCC of two unrelated images of Gaussian noise round 0, 256 × 256 (π/4 = 0.7854)", _our(metrics.scc, *noise)),
        (
            "SCC of two unrelated images of noise in 0…1, 64 × 64: the zeros outside add an edge",
            _our(metrics.scc, *bright),
        ),
        ("Q2n of 64 × 64 pixels, four blocks", _our(metrics.q2n, sr, gt, const=CONST)),
        ("… one band of gt flat in one block, of sr 3 higher there", _our(metrics.q2n, *one, const=CONST)),
        ("… one band of gt flat in one block, of sr the same", _our(metrics.q2n, *same, const=CONST)),
        ("… one band of gt flat everywhere, of sr 3 higher", _our(metrics.q2n, *all_blocks, const=CONST)),
        ("PSNR with one of four bands equal, mean of bands", _our(metrics.psnr, known, gt, const=CONST)),
        ("… one MSE over all bands", foreign.psnr_cube(known, gt, CONST)),
    ]
    return [(case, f"{value:.4f}") for case, value in lines]


def flat_band(sr: Array, gt: Array, side: int, shift: float) -> tuple[Array, Array]:
    """Return both images with band 0 flat in the first `side` x `side` pixels, 500 in gt and 500 + shift in sr."""
    sr, gt = sr.copy(), gt.copy()
    gt[0, :side, :side], sr[0, :side, :side] = 500, 500 + shift
    return sr, gt


def _our(index: Callable[..., torch.Tensor], sr: Array, gt: Array, **options: float) -> float:
    return float(index(_batch(sr), _batch(gt), **options))


HEADER = ["index", "implementation", "ours", "theirs", "difference", "cause"]
RIGHT = ("ours", "theirs", "difference")


def measure(x: Images) -> list[Measured]:
    """Measure all rows whose library is installed."""
    own = ours(x)
    chosen = [row for row in rows() if row.library is None or installed(row.library)]
    return [Measured(row, own[row.index] * row.unit, row.measure(x)) for row in chosen]


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; columns of numbers are set right."""
    rule = ["---:" if name in RIGHT else "---" for name in header]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def versions() -> str:
    """Return the sentence on the page that names the versions."""
    return "Measured with " + ", ".join(f"{name} {installed(name)}" for name in LIBRARIES) + "."


def section(text: str, name: str, content: str | None = None) -> str:
    """Return what stands between the markers `name` of a page, or the page with `content` there."""
    pattern = re.compile(rf"(<!-- {name}: begin[^>]*-->\n)(.*?)(<!-- {name}: end -->)", flags=re.S)
    found = pattern.search(text)
    if found is None:
        raise UserError(
            f"expected the markers '<!-- {name}: begin -->' and '… end' in {PAGE.name}, found none; add them"
        )
    return found[2].rstrip() if content is None else f"{text[: found.end(1)]}{content}\n{text[found.start(3) :]}"


def write_page(tables: dict[str, str], page: Path = PAGE) -> None:
    """Write the tables between their markers; a table that was not measured stays as it is."""
    missing = [name for name in LIBRARIES if installed(name) is None]
    if missing:
        raise UserError(f"expected {', '.join(missing)} installed, else rows are lost; pip install {' '.join(missing)}")
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = section(text, name, table)
    write_text(page, text)


def page_tables() -> dict[str, str]:
    """Measure what `--markdown` writes: the drawn scene, and the golden one where it is found."""
    x = drawn_scene()
    tables = {
        "drawn scene": f"{versions()}\n\n{markdown(HEADER, [m.cells() for m in measure(x)])}",
        "edge cases": markdown(("case", "ours"), edge_cases(x)),
    }
    golden = golden_scene()
    if golden is not None:  # the causes are the same
        tables["golden scene"] = markdown(HEADER[:-1], [m.cells()[:-1] for m in measure(golden)])
    return tables


def main() -> int:
    """Print the tables; with --markdown write them too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help=f"write the tables into docs/{PAGE.name}")
    options = parser.parse_args()
    tables = page_tables()
    for name, table in tables.items():
        print(f"{name}\n\n{table}\n")
    if options.markdown:
        write_page(tables)
        print(f"written to docs/{PAGE.name}")
    return 0


if __name__ == "__main__":
    run_cli(main)
