"""Pictures for viewing: three bands stretched to 8 bits, error maps, and titled panels as PNG.

Arrays are (C, H, W), any scale; pictures are (H, W, 3) uint8. The stretch is that of a reference image, so
that images to be compared have the same brightness. matplotlib is imported when a panel is drawn: training logs
pictures without it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemamba.utils.atomic import write_atomically
from lemamba.utils.sensors import Sensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

STRETCH_PERCENT = (1.0, 99.0)
ERROR_FULL_SCALE = 0.1  # an error of this share of the reference's range reaches the end of the colour map
ERROR_COLOURS = "inferno"
SHARED_ERROR_PERCENT = 98.0
PANEL_INCHES, SCENE_INCHES, PANEL_DPI = 2.6, 3.6, 120
GRID_COLUMNS = 6
ROW_SIDE = 256  # pixels; a smaller image of a row is enlarged to at least this, one of twice as much is reduced
_ROW_DPI, _ROW_GAP, _ROW_TITLE, _ROW_BAR, _ROW_LABELS = 100, 8, 26, 14, 78  # pixels but for the first
MARK = np.array((255, 214, 0), np.uint8)  # colour of the frame around what is shown enlarged
ERROR_UNIT = "error, mean of the bands, in % of the ground truth's range (1st to 99th percentile)"
MULTISPECTRAL = 8  # bands; an image with more is a hyperspectral cube


def choose_bands(
    sensor: Sensor, lms: np.ndarray, guide: np.ndarray | None, own: tuple[int, int, int] | None = None
) -> tuple[int, int, int]:
    """Return the 0-based bands shown as red, green, blue: those that the data name, else the sensor's.

    For a hyperspectral cube of an unknown sensor: those most correlated with the three bands of its guide.

    Args:
        sensor: see `lemamba.utils.sensors`.
        lms: (C, H, W).
        guide: (P, H, W), or None.
        own: the bands that the file names, or None.
    """
    if own is not None:
        return own
    if sensor.bands is not None or len(lms) <= MULTISPECTRAL or guide is None or len(guide) != 3:
        return sensor.rgb_for(len(lms))
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant band correlates with nothing
        correlation = np.corrcoef(lms.reshape(len(lms), -1), guide.reshape(3, -1))[-3:, :-3]
    red, green, blue = (int(i) for i in np.nan_to_num(correlation, nan=-1.0).argmax(1))
    return red, green, blue


@dataclass(frozen=True)
class Stretch:
    """Brightness that pictures share.

    Attributes:
        limits: (low, high) of the three bands shown, (3, 2).
        error: the mean absolute error that reaches the end of the colour map.
    """

    limits: np.ndarray
    error: float

    @classmethod
    def of(cls, reference: np.ndarray, rgb: Sequence[int]) -> Stretch:
        """Return the stretch that shows `reference` (C, H, W) from its 1st to its 99th percentile."""
        return cls(stretch_limits(reference, rgb), ERROR_FULL_SCALE * _range(reference))


def stretch_limits(reference: np.ndarray, bands: Sequence[int]) -> np.ndarray:
    """Return the (low, high) value of each band of `bands`: the 1st and 99th percentile of `reference` (C, H, W)."""
    chosen = reference[list(bands)].reshape(len(bands), -1).astype(np.float64)
    low, high = np.percentile(chosen, STRETCH_PERCENT, axis=1)
    return np.stack((low, np.maximum(high, low + 1e-12)), axis=1)


def to_rgb(image: np.ndarray, bands: Sequence[int], limits: np.ndarray | None = None) -> np.ndarray:
    """Return three bands of `image` (C, H, W) as (H, W, 3) uint8; `limits` (3, 2) default to those of the image."""
    if limits is None:
        limits = stretch_limits(image, bands)
    chosen = image[list(bands)].astype(np.float64)
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    scaled = np.clip((chosen - low) / (high - low), 0, 1)
    return np.round(255 * scaled).astype(np.uint8).transpose(1, 2, 0)


def guide_rgb(guide: np.ndarray) -> np.ndarray:
    """Return a guide (P, H, W) as (H, W, 3) uint8: its first three bands in colour, fewer than three in grey."""
    return to_rgb(guide, (0, 1, 2) if guide.shape[0] >= 3 else (0, 0, 0))


def _range(reference: np.ndarray) -> float:
    low, high = np.percentile(reference, STRETCH_PERCENT)
    return max(float(high - low), 1e-12)


def mean_error(sr: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Return the mean absolute error over bands (H, W) of sr and gt (C, H, W)."""
    return np.abs(sr.astype(np.float64) - gt).mean(axis=0)


def relative_error(sr: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Return `mean_error` (H, W) as a share of the 1-99 % range of gt."""
    return mean_error(sr, gt) / _range(gt)


def error_map(sr: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Return `relative_error` for drawing (H, W): 1 = a tenth or more."""
    return np.clip(relative_error(sr, gt) / ERROR_FULL_SCALE, 0, 1)


def shared_error_maps(results: Mapping[str, np.ndarray], gt: np.ndarray) -> dict[str, np.ndarray]:
    """Return the error maps (H, W) of several results (C, H, W) on one scale, to compare them.

    Only the largest 2 % of all errors reach the end of the scale, 1: on a fixed scale all maps of a hard scene would
    be bright and all maps of an easy one dark.
    """
    end = shared_error_end(results, gt)
    return {name: np.clip(relative_error(sr, gt) / end, 0, 1) for name, sr in results.items()}


def shared_error_end(results: Mapping[str, np.ndarray], gt: np.ndarray) -> float:
    """Return the `relative_error` at the end of the scale of `shared_error_maps`."""
    errors = np.stack([relative_error(sr, gt) for sr in results.values()])
    return max(float(np.percentile(errors, SHARED_ERROR_PERCENT)), 1e-12)


def marked(picture: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """Return a copy of a picture (H, W, 3) with a frame around a box."""
    width = max(1, round(picture.shape[1] / 160))  # still seen when the picture is a few centimetres wide
    copy, inner = picture.copy(), tuple(slice(side.start + width, side.stop - width) for side in box)
    copy[box] = MARK
    copy[inner] = picture[inner]
    return copy


def quick_look(
    images: Mapping[str, np.ndarray], rgb: Sequence[int], stretch: Stretch | None = None
) -> dict[str, np.ndarray]:
    """Return the panels lms | pan | sr | gt | error of one image; those without data are left out.

    Args:
        images: any of lms, pan, sr, gt, each (C, H, W).
        rgb: 0-based bands for red, green, blue.
        stretch: the brightness of all; None = that of gt, else of lms.

    Returns:
        title -> picture: (H, W, 3) uint8, or (H, W) in [0, 1] for the error map. A pan of several bands is titled
        "guide".
    """
    reference = images.get("gt", images.get("lms"))
    if stretch is None and reference is not None:
        stretch = Stretch.of(reference, rgb)
    limits = None if stretch is None else stretch.limits
    panels: dict[str, np.ndarray] = {}
    if "lms" in images:
        panels["lms"] = to_rgb(images["lms"], rgb, limits)
    if "pan" in images:
        panels["pan" if len(images["pan"]) == 1 else "guide"] = guide_rgb(images["pan"])
    for name in ("sr", "gt"):
        if name in images:
            panels[name] = to_rgb(images[name], rgb, limits)
    if stretch is not None and "sr" in images and "gt" in images:
        panels["error"] = np.clip(mean_error(images["sr"], images["gt"]) / stretch.error, 0, 1)
    return panels


def panel_row(panels: Mapping[str, np.ndarray], end: float, label: str) -> np.ndarray:
    """Draw panels in a row, with titles and the colour bar of the error map; every pixel is a square of whole pixels.

    Args:
        panels: title -> picture as from `quick_look`, all of one size.
        end: the error at the end of the colour map.
        label: of the colour bar, with the unit.

    Returns:
        Picture (H', W', 3) uint8.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    colours = colormaps[ERROR_COLOURS]
    drawn = {t: _resized(p if p.ndim == 3 else colours(p, bytes=True)[..., :3]) for t, p in panels.items()}
    high, wide = next(iter(drawn.values())).shape[:2]
    size = (
        _ROW_GAP + len(drawn) * (wide + _ROW_GAP) + _ROW_BAR + _ROW_LABELS,
        high + _ROW_TITLE + _ROW_GAP,
    )
    figure = Figure(figsize=(size[0] / _ROW_DPI, size[1] / _ROW_DPI), dpi=_ROW_DPI)
    canvas = FigureCanvasAgg(figure)
    left = _ROW_GAP
    for title in drawn:
        figure.text((left + wide / 2) / size[0], (high + _ROW_GAP + 7) / size[1], title, ha="center", fontsize=10)
        left += wide + _ROW_GAP
    bar = figure.add_axes((left / size[0], _ROW_GAP / size[1], _ROW_BAR / size[0], high / size[1]))
    figure.colorbar(ScalarMappable(Normalize(0, end), colours), cax=bar, extend="max", extendfrac=0.03)
    bar.set_ylabel(label, fontsize=8)
    bar.tick_params(labelsize=8)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    for i, panel in enumerate(drawn.values()):
        left = _ROW_GAP + i * (wide + _ROW_GAP)
        picture[_ROW_TITLE : _ROW_TITLE + high, left : left + wide] = panel
    return picture


def _resized(picture: np.ndarray) -> np.ndarray:
    """Enlarge (H, W, 3) uint8 by a whole factor to `ROW_SIDE` or more, or reduce it by one to less than twice that."""
    side = max(picture.shape[:2])
    if side < ROW_SIDE:
        factor = -(-ROW_SIDE // side)
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    factor = side // ROW_SIDE if side >= 2 * ROW_SIDE else 1
    high, wide = (n // factor for n in picture.shape[:2])
    blocks = picture[: high * factor, : wide * factor].reshape(high, factor, wide, factor, 3)
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


def busiest_box(image: np.ndarray, side: int) -> tuple[slice, slice]:
    """Return the box of `side` pixels with the steepest edges of `image` (C, H, W): where methods differ most.

    Values beyond the 1st and 99th percentile count as these, so that one bright roof does not decide.
    """
    mean = image.mean(axis=0, dtype=np.float64)
    mean = np.clip(mean, *np.percentile(mean, STRETCH_PERCENT))
    edges = np.hypot(*np.gradient(mean)) if min(mean.shape) > 1 else mean
    side = min(side, *mean.shape)
    step = max(1, side // 4)
    boxes = [
        (slice(r, r + side), slice(c, c + side))
        for r in range(0, mean.shape[0] - side + 1, step)
        for c in range(0, mean.shape[1] - side + 1, step)
    ]
    return max(boxes, key=lambda box: edges[box].mean())


def save_grid(path: Path, methods: Mapping[str, Mapping[str, np.ndarray]], rgb: Sequence[int], **size: float) -> None:
    """Draw image, enlarged detail and error map of every method, at most six in a row, after PAN and ground truth.

    Args:
        path: of the PNG.
        methods: name -> {"sr", "gt", "pan"} of the same sample, (C, H, W).
        rgb: 0-based bands for red, green, blue.
        **size: `inches` and `dpi`, see `save_panels`.
    """
    first = next(iter(methods.values()))
    gt, box = first["gt"], busiest_box(first["gt"], max(24, first["gt"].shape[-1] // 4))
    limits = stretch_limits(gt, rgb)
    pan = first["pan"]
    cells = {"PAN" if pan.shape[0] == 1 else "guide": guide_rgb(pan)}
    cells["ground truth"] = to_rgb(gt, rgb, limits)
    cells |= {name: to_rgb(arrays["sr"], rgb, limits) for name, arrays in methods.items()}
    results = {name: arrays["sr"] for name, arrays in methods.items()}
    errors = shared_error_maps(results, gt)
    names = list(cells)
    rows: list[Row] = []
    columns = math.ceil(len(names) / math.ceil(len(names) / GRID_COLUMNS))  # rows of equal length, as far as possible
    for start in range(0, len(names), columns):
        block = names[start : start + columns]
        rows.append({name: marked(cells[name], box) for name in block})
        rows.append({name: cells[name][box] for name in block})
        rows.append({name: errors.get(name) for name in block})
    titles = ["image", "detail", "error"] * (len(rows) // 3)
    save_panels(path, rows, titles, scale=(100 * shared_error_end(results, gt), ERROR_UNIT), **size)


def save_scene(path: Path, ms: np.ndarray, pan: np.ndarray, rgb: Sequence[int], infrared: int) -> None:
    """Draw an observed pair: true colour, colour infrared and panchromatic side by side.

    Args:
        path: of the PNG.
        ms: (C, h, w).
        pan: (1, H, W).
        rgb: 0-based bands for red, green, blue.
        infrared: 0-based band shown as red in the second panel.
    """
    red, green, _ = rgb
    panels = {"MS, true colour": to_rgb(ms, rgb), "MS, colour infrared": to_rgb(ms, (infrared, red, green))}
    save_panels(path, [panels | {"PAN": guide_rgb(pan)}], inches=SCENE_INCHES)


def label_scale(bar: Any, end: float, unit: str) -> None:
    """Label a colour bar of a map in [0, 1] with round numbers of what it shows; `end` is the value at 1."""
    from matplotlib.ticker import MaxNLocator

    values = [value for value in MaxNLocator(7).tick_values(0, end) if 0 <= value <= end]
    bar.set_ticks([value / end for value in values], labels=[f"{value:g}" for value in values])
    bar.ax.tick_params(labelsize=8)
    bar.set_label(unit, fontsize=8)


Row = Mapping[str, np.ndarray | None]


def save_panels(
    path: Path,
    rows: Sequence[Row],
    titles: Sequence[str] = (),
    inches: float = PANEL_INCHES,
    dpi: float = PANEL_DPI,
    scale: tuple[float, str] | None = None,
) -> None:
    """Draw rows of titled panels into one PNG file, which is written whole or not at all.

    Args:
        path: of the PNG; its folder is created.
        rows: one mapping title -> picture per row, as from `quick_look`; None leaves the place empty. A title that
            stands directly above, too, is not repeated.
        titles: one label per row, to its left.
        inches: side of a panel; a picture with more pixels than fit is averaged, a smaller one is shown pixel by pixel.
        dpi: pixels of the file per inch.
        scale: value at the end of the colour map of (H, W) pictures and its unit: draws a colour bar below.
    """
    figure = _panels(rows, titles, inches, dpi, scale)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi))


def panels_picture(rows: Sequence[Row], titles: Sequence[str] = (), inches: float = PANEL_INCHES) -> Image:
    """Return what `save_panels` draws as a picture of Pillow, which notebooks display."""
    from PIL.Image import open as read

    stream = io.BytesIO()
    _panels(rows, titles, inches, PANEL_DPI, None).savefig(stream, format="png", dpi=PANEL_DPI)
    return read(stream)


def _panels(
    rows: Sequence[Row], titles: Sequence[str], inches: float, dpi: float, scale: tuple[float, str] | None
) -> Figure:
    from matplotlib.figure import Figure  # the object-oriented interface: no global state, no display

    columns = max(len(row) for row in rows)
    above = [[], *map(list, rows)]
    heads = [["" if above[r][c : c + 1] == [t] else t for c, t in enumerate(row)] for r, row in enumerate(rows)]
    height = inches * len(rows) + 0.25 * sum(map(any, heads)) + (0.6 if scale else 0)
    figure = Figure(figsize=(inches * columns + (0.2 if titles else 0), height), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    mapped: Any = None
    for r, row in enumerate(rows):
        for c, axis in enumerate(axes[r]):
            axis.set_xticks([])
            axis.set_yticks([])
            if titles and c == 0:
                axis.set_ylabel(titles[r], fontsize=9)
            picture = list(row.values())[c] if c < len(row) else None
            if picture is None:
                axis.spines[:].set_visible(False)  # the label of the row stays
                continue
            axis.set_title(heads[r][c], fontsize=9)
            smooth = "antialiased" if max(picture.shape[:2]) > inches * dpi else "nearest"
            # the colour map is used for (H, W) only
            image = axis.imshow(picture, cmap=ERROR_COLOURS, vmin=0, vmax=1, interpolation=smooth)
            mapped = image if picture.ndim == 2 else mapped
    if scale and mapped:
        end, unit = scale
        bar = figure.colorbar(mapped, ax=axes, location="bottom", aspect=50, fraction=0.05, pad=0.01, extend="max")
        label_scale(bar, end, unit)
    return figure
