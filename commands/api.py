"""The front door for arrays: `lemamba.fuse`, `lemamba.show`, `lemamba.load`, `lemamba.list_methods`.

Example::

    >>> import lemamba, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> ms = rng.integers(0, 2048, (4, 16, 16), dtype=np.uint16)
    >>> pan = rng.integers(0, 2048, (64, 64), dtype=np.uint16)
    >>> sr = lemamba.fuse(ms, pan, "GSA")
    >>> sr.shape, sr.dtype
    ((4, 64, 64), dtype('uint16'))
    >>> "GSA" in lemamba.list_methods("pansharpening")
    True

Legend: B images, C bands, P guide bands, h w size of ms, H W size of pan and sr, r = H / h.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lemamba.commands.adapting import STEPS, Adapting
from lemamba.commands.images import adapt_to
from lemamba.commands.methods import GENERIC, check_sizes, load_method, load_network, sizes_of, trained_on
from lemamba.datasets.pair import other_units, unit_factor, unit_means
from lemamba.datasets.writers import TASK_FAMILY
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiles import fuse as fuse_tensors
from lemamba.engine.fusing.tiles import traits_of
from lemamba.engine.fusing.tiling import OVERLAP, Tiling
from lemamba.engine.weights.files import weights_meta
from lemamba.model import list_models
from lemamba.model.classical.base import Classical
from lemamba.model.lemamba_any import LEMambaAny
from lemamba.operators import interpolate, resample
from lemamba.operators.window import Window, cut_windows
from lemamba.reporting.pictures import (
    choose_bands,
    guide_rgb,
    panels_picture,
    shared_error_maps,
    stretch_limits,
    to_rgb,
)
from lemamba.utils.device import usable_device
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.bounds import BEYOND, DIVIDED
from lemamba.utils.geometry import Geometry
from lemamba.utils.numbers import to_numbers
from lemamba.utils.progress import ProgressBar
from lemamba.utils.sensors import get_sensor

if TYPE_CHECKING:
    from PIL.Image import Image

RATIOS = (2, 3, 4, 5, 6, 7, 8, 16)
_EXACT = 2**53  # largest whole number up to which float64 holds all of them


def list_methods(task: str | None = None) -> list[str]:
    """Return the names of all networks and classical methods, sorted.

    Args:
        task: "pansharpening" or "hmif" (hyperspectral and multispectral image fusion); None = all.

    Raises:
        lemamba.utils.errors.UserError: another task.
    """
    if task not in (None, *TASK_FAMILY):
        raise UserError(
            f"expected a task of {', '.join(TASK_FAMILY)}, given {task!r}; use one of them, or none for all"
        )
    return list_models(task=task)


def load(
    weights: str | Path,
    method: str | None = None,
    *,
    bands: int | None = None,
    guide_bands: int = 1,
    ratio: int = 4,
    device: str | None = None,
) -> nn.Module:
    """Load a trained network, ready to call: ``net(ms, lms, pan) -> sr``, or to be given to `fuse`.

    The network takes and returns values in [0, 1]: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).

    Args:
        weights: "generic", which serves any sensor; run folder, ``proj/run``, .safetensors or .pth file;
            ``dlpan:FILE`` for weights of DLPan-Toolbox; ``hf:USER/NAME`` for the Hugging Face hub.
        method: name of the network, if the weights do not name it.
        bands: C; needed for weights without a description (.pth files), together with `guide_bands` and `ratio`.
        guide_bands: P.
        ratio: r.
        device: "cpu", "cuda", …; None = a GPU if there is one.

    Returns:
        The network in evaluation mode, with three dicts: `trained_on` (sensor, divisor, … of its training data; may be
        {}), `sizes` (its constructor arguments) and `described` (all that the weights say of themselves; may be {}).

    Raises:
        lemamba.utils.errors.UserError: no such weights, or they do not fit the network.
    """
    sizes = None
    if bands is not None:
        sizes = {"img_channel": bands, "condition_channel": guide_bands, "out_channel": bands, "ratio": ratio}
    network = load_network(method, str(weights), sizes).to(usable_device(device))
    network.trained_on = trained_on(str(weights))  # type: ignore[assignment]
    described = weights_meta(str(weights))
    network.described = described  # type: ignore[assignment]
    network.sizes = described.get("model", {}).get("args") or sizes or {}  # type: ignore[assignment]
    return network


def fuse(
    ms: Any,
    pan: Any,
    method: str | nn.Module | None = None,
    weights: str | Path | None = None,
    *,
    sensor: str | None = None,
    divisor: float | None = None,
    ratio: int | None = None,
    offset: float | None = None,
    tile: int | None = None,
    overlap: int = OVERLAP,
    batch_size: int | None = None,
    mixed_precision: str = "no",
    adapt_steps: int | None = None,
    device: str | None = None,
    clip: bool = True,
) -> Any:
    """Fuse a multispectral (or hyperspectral) image with a sharper guide.

    A pan in other units than ms (mean values further apart than a factor of 2) is multiplied so that their means agree,
    with a warning. The values are divided by the divisor, ms is interpolated to the size of pan (mirrored at the
    border, as for GeoTIFF scenes), the method runs, and its result is multiplied by the divisor again.

    Args:
        ms: (C, h, w) or (B, C, h, w), NumPy array or torch tensor, integers or floating point.
        pan: (H, W) or (P, H, W) for one image, (B, P, H, W) for several; r = H / h = W / w is 2 to 8 or 16.
        method: name (see `list_methods`), or a network from `load`; None = the network that the weights name.
        weights: see `load`; not needed for classical methods. Without method and weights they are "generic".
        sensor: name, e.g. "WV3": MTF gains and divisor. None = that of the training data, else "none".
        divisor: what values are divided by to reach [0, 1], e.g. 2047 for 11 bits. None = 1 for floating-point values
            within [0, 1], else that of the sensor (255 for 8-bit arrays) or of the training data. Classical methods
            do not depend on it.
        ratio: expected r; None accepts that of the arrays.
        offset: where ms pixel (0, 0) lies, in pixels of pan: None = r/2, as in the research toolboxes; (r - 1)/2 where
            the corners of both images agree, as in ordinary products.
        tile: side of tiles in pixels of sr, a multiple of r; None = whole images. Not applied to classical
            methods.
        overlap: pixels shared by neighbouring tiles, a multiple of r below `tile`.
        batch_size: images or tiles at once; None = by their size and the device.
        mixed_precision: "no" (float32), "bf16" or "fp16" (GPU only).
        device: "cpu", "cuda", …; None = that of a given network, else a GPU if there is one.
        clip: clip a network's result to 0 … divisor; classical methods are never clipped.

    Returns:
        sr, (C, H, W) or (B, C, H, W), of the kind (NumPy or torch, and its device) and the dtype of ms; integers are
        rounded and clipped to their type.

    Raises:
        lemamba.utils.errors.UserError: axes, sizes or bands that do not fit, NaN or infinite values, no divisor known,
            values that were divided before, unknown names, or weights that do not fit.
    """
    coarse, fine = _images(ms, "ms"), _images(pan, "pan")
    if isinstance(method, str) and method == GENERIC:  # a name of weights, not of a method
        method = None
    weights = (GENERIC if method is None else None) if weights is None else str(weights)
    known = {} if sensor else getattr(method, "trained_on", None) or trained_on(weights)
    facts = _facts(coarse, fine, ratio, sensor or known.get("sensor") or "none", offset)
    factors = _unit_factors(coarse, fine[..., :: facts.ratio, :: facts.ratio])
    fine = fine * factors[:, None, None, None]
    if isinstance(method, nn.Module):
        if isinstance(method, LEMambaAny):
            model: nn.Module = method.for_data(facts.bands, facts.ratio, facts.sensor)
        else:
            check_sizes("the network", getattr(method, "sizes", {}), sizes_of(facts))
            model = method if mixed_precision == "no" else copy.deepcopy(method)  # that of the caller is not cast
        device = device or next((str(parameter.device) for parameter in method.parameters()), None)
        if getattr(method, "model_name", None) in STEPS:
            model = Adapting(copy.deepcopy(method), facts, pretrained=True, steps=adapt_steps)
    else:
        model = load_method(method, weights, facts, adapt_steps)
    kind = _array(ms).dtype
    facts = replace(facts, divisor=_divisor(divisor, facts, known, kind, max(coarse.max(), fine.max()), model))
    tiling = Tiling(tile, overlap, batch_size, mixed_precision)
    training = model.training
    try:
        runner = Runner(model.eval(), usable_device(device), tiling)
        inputs = _inputs(coarse, fine, facts, torch.float64 if runner.traits.float64 else torch.float32)
        if isinstance(model, Classical):
            sr = _classical(model, inputs[0], inputs[2], facts.geometry, runner.device, factors)
        else:
            plan = runner.plan((fine.shape[2], fine.shape[3]), facts.ratio)
            if isinstance(model, Adapting):
                sr = _adapted(runner, coarse, inputs, facts, plan)
            else:
                sr = fuse_tensors(runner, *inputs, plan)
    finally:
        model.train(training)
    numbers = to_numbers(sr.double(), facts.divisor, clip=clip and runner.traits.clipped).numpy()
    return _like(ms, numbers if _array(ms).ndim == 4 else numbers[0])


def show(
    sr: Any = None,
    *,
    ms: Any = None,
    pan: Any = None,
    gt: Any = None,
    sensor: str = "none",
    rgb: tuple[int, int, int] | None = None,
) -> Image:
    """Draw the images of one scene side by side: ms | pan | sr | gt; a notebook displays the returned picture.

    All have the brightness of gt, else of ms, else of the first result: its 1st to 99th percentile in each band.

    Args:
        sr: a result (C, H, W), or several by name: ``{"EXP": …, "GSA": …}``.
        ms: (C, h, w), interpolated or not.
        pan: (H, W) or (P, H, W).
        gt: ground truth (C, H, W). A second row then shows the mean absolute error over bands of each result, on one
            scale, whose end only 2 % of the pixels exceed.
        sensor: name, for the bands that are shown as red, green and blue.
        rgb: these bands instead, counted from 0.

    Returns:
        A picture of Pillow (``.save("scene.png")`` writes it), each panel about 300 pixels wide.

    Raises:
        lemamba.utils.errors.UserError: nothing to show, axes, sizes or bands that do not fit, NaN or infinite values.
    """
    results = sr if isinstance(sr, Mapping) else {"sr": sr}
    if taken := {"ms", "pan", "gt"} & results.keys():
        raise UserError(f"expected results under names of methods, one is called {taken.pop()}; rename it")
    given = {"ms": ms, "pan": pan, **results, "gt": gt}
    images = {name: _one(image, name) for name, image in given.items() if image is not None}
    if not images:
        raise UserError("expected at least one of sr, ms, pan and gt, given none; name what is to be shown")
    guide = images.get("pan")
    first = images.get("gt", images.get("ms", next((images[n] for n in images if n != "pan"), None)))
    if first is None:
        return panels_picture([{"pan": guide_rgb(images["pan"])}])
    fused = {name: image for name, image in images.items() if name in results}
    _check_shown(images, fused)
    alike = [i for n, i in images.items() if n != "pan" and guide is not None and i.shape[1:] == guide.shape[1:]]
    bands = choose_bands(get_sensor(sensor), *((alike[0], guide) if alike else (first, None)), own=rgb)
    if not all(0 <= band < len(first) for band in bands):
        raise UserError(f"expected rgb= bands from 0 to {len(first) - 1}, given {bands}; correct them")
    limits = stretch_limits(first, bands)
    titles = {"pan": "guide"} if guide is not None and len(guide) > 1 else {}
    panels = {
        titles.get(name, name): guide_rgb(image) if name == "pan" else to_rgb(image, bands, limits)
        for name, image in images.items()
    }
    if "gt" not in images or not fused:
        return panels_picture([panels])
    errors = shared_error_maps(fused, images["gt"])
    return panels_picture([panels, {f"{name}, error": errors.get(name) for name in panels}])


def _one(image: Any, name: str) -> np.ndarray:
    """Return an image as float64 (·, ·, ·)."""
    array = _images(image, name)
    if len(array) > 1:
        raise UserError(f"expected one image, {name} holds {len(array)}; give one of them, such as {name}[0]")
    return array[0]


def _check_shown(images: Mapping[str, np.ndarray], fused: Mapping[str, np.ndarray]) -> None:
    """Refuse images of one scene that have different bands, and results and ground truth of different sizes."""
    bands = {name: len(image) for name, image in images.items() if name != "pan"}
    if len(set(bands.values())) > 1:
        raise UserError(f"expected images of equal bands, given {_listed(bands)}; bands come before rows and columns")
    sizes = {name: image.shape[1:] for name, image in images.items() if name == "gt" or name in fused}
    if len(set(sizes.values())) > 1:
        raise UserError(f"expected results and ground truth of one size, given {_listed(sizes)}; crop them alike")


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {fact}" for name, fact in facts.items())


def _array(image: Any) -> np.ndarray:
    """Return an image as a NumPy array; bfloat16, which NumPy lacks, as float32."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    return np.asarray(image)


def _images(image: Any, name: str) -> np.ndarray:
    """Return an image, pan if it is called so, as float64 (B, ·, ·, ·); refuse other axes, types and values."""
    array = _array(image)
    size = "h, w" if name == "ms" else "H, W"
    axes = "(H, W), (P, H, W) or (B, P, H, W)" if name == "pan" else f"(C, {size}) or (B, C, {size})"
    if array.ndim not in ((2, 3, 4) if name == "pan" else (3, 4)) or 0 in array.shape:
        raise UserError(f"expected {name} {axes}, given {array.shape}; bring the axes into this order")
    if array.dtype.kind not in "uif":
        raise UserError(f"expected {name} of integers or floating-point values, given {array.dtype}; convert it")
    if not np.isfinite(array).all():
        raise UserError(f"expected finite values, {name} holds NaN or infinite ones; fill or crop them")
    return array.astype(np.float64).reshape((1,) * (4 - array.ndim) + array.shape)


def _unit_factors(ms: np.ndarray, pan: np.ndarray) -> np.ndarray:
    """Return what each image of pan is multiplied by to have the units of ms, both (B, ·, h, w); a warning says so."""
    factors = np.ones(len(pan))
    for i, (one, guide) in enumerate(zip(ms, pan, strict=True)):
        means = unit_means(one.reshape(len(one), -1), guide.reshape(len(guide), -1))
        factors[i] = unit_factor(*means)
        if factors[i] != 1:
            warnings.warn(other_units(*means), stacklevel=3)  # at the line that calls `fuse`
    return factors


def _inputs(ms: np.ndarray, pan: np.ndarray, facts: DataFacts, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ms, lms, pan) divided by the divisor; lms is made from ms mirrored at its border.

    For networks, ms is resampled to where they know it from their training, see `lemamba.datasets.pair.NetworkGrid`.
    """

    def scaled(image: np.ndarray) -> Tensor:
        return torch.from_numpy(image / facts.divisor).to(dtype)

    small, r = scaled(ms), facts.ratio
    lms = interpolate(small, facts.geometry, (pan.shape[2], pan.shape[3]), border="mirror")
    moved = [(t - o) / r for t, o in zip(Geometry.toolbox(r).offset, facts.geometry.offset, strict=True)]
    if dtype == torch.float32 and any(moved):
        small = resample(small, *((m, 1.0, n) for m, n in zip(moved, ms.shape[2:], strict=True)))
    return small, lms.contiguous(), scaled(pan)


def _only(window: Window) -> list[Window]:
    return [window]


def _adapted(
    runner: Runner, ms: np.ndarray, inputs: tuple[Tensor, Tensor, Tensor], facts: DataFacts, tiling: Tiling
) -> Tensor:
    """Fuse image by image with a method that trains on each; `ms` is where `facts.geometry` says, not resampled."""
    fused = []
    with ProgressBar("fusing", len(ms)) as bar:
        for i, (image, lms, pan) in enumerate(zip(ms, *inputs[1:], strict=True)):
            own = torch.from_numpy(image[None] / facts.divisor)
            adapt_to(runner, own, lms[None], pan[None], facts.geometry, bar, i)
            fused.append(fuse_tensors(runner, inputs[0][i : i + 1], lms[None], pan[None], tiling))
    return torch.cat(fused)


@torch.inference_mode()
def _classical(
    method: Classical, ms: Tensor, pan: Tensor, geometry: Geometry, device: torch.device, factors: np.ndarray
) -> Tensor:
    """Fuse image by image, each as one window, as the command does for scenes."""
    method.geometry = geometry
    fused = []
    for image, guide, factor in zip(ms.to(device), pan.to(device), factors, strict=True):
        method.other_units = factor != 1
        ((_, window),) = cut_windows(image[None], guide[None], geometry, max(guide.shape[-2:]), method.margin)
        fused.append(window.crop(method.inject(window, method.fit(partial(_only, window)))))
    return torch.cat(fused).cpu()


def _like(ms: Any, numbers: np.ndarray) -> Any:
    """Return float64 numbers in the dtype of `ms`, as a tensor on its device if it is one."""
    dtype = _array(ms).dtype
    if dtype.kind in "ui":
        info = np.iinfo(dtype)
        numbers = np.clip(np.rint(numbers), max(info.min, -_EXACT), min(info.max, _EXACT))
    numbers = numbers.astype(dtype)
    return torch.from_numpy(numbers).to(ms.device, ms.dtype) if isinstance(ms, Tensor) else numbers


def _facts(ms: np.ndarray, pan: np.ndarray, ratio: int | None, sensor: str, offset: float | None) -> DataFacts:
    """Return the facts about images (B, ·, ·, ·), the divisor excepted; refuse sizes and bands that do not fit."""
    (images, bands, h, w), (guides, guide_bands, H, W) = ms.shape, pan.shape
    if images != guides:
        raise UserError(f"expected as many images in pan as in ms, given {guides} and {images}; pair them")
    found = H // h
    if (found * h, found * w) != (H, W) or found not in RATIOS:
        raise UserError(
            f"expected pan 2 to 8 or 16 times as large as ms, given {H} x {W} and {h} x {w}; bands come before rows "
            "and columns, and both images must show the same ground"
        )
    if ratio not in (None, found):
        raise UserError(f"expected ratio {ratio}, the sizes say {found}; correct the ratio or the images")
    row = get_sensor(sensor)
    if row.bands not in (None, bands):
        raise UserError(f"expected {row.bands} bands for sensor {row.name}, ms has {bands}; name the right sensor")
    geometry = None if offset is None else Geometry((found, found), (offset, offset))
    return DataFacts(row.name, 1.0, found, bands, guide_bands, geometry=geometry)  # type: ignore[arg-type]


def _divisor(
    given: float | None, facts: DataFacts, known: dict[str, Any], kind: np.dtype, largest: float, model: nn.Module
) -> float:
    """Return what the values are divided by; `largest` is their maximum, `known` describes the training data."""
    if given is not None:
        if not (math.isfinite(given) and given > 0):
            raise UserError(f"expected a positive divisor, given {given:g}; correct it")
        return float(given)
    if kind.kind == "f" and largest <= 1:
        return 1.0
    row, divisor = get_sensor(facts.sensor), known.get("divisor")
    if facts.sensor != "none" and divisor in (None, row.divisor):
        divisor = row.divisor_for(kind)
    if not traits_of(model).clipped:  # its result does not depend on the divisor
        return float(divisor or 1)
    if divisor is None:
        raise UserError(
            f"expected a divisor for {kind} values up to {largest:g}, none is known; give sensor= or divisor= (2047 "
            "for 11 bits)"
        )
    if 0 < largest <= DIVIDED < divisor:
        raise UserError(
            f"the values end at {largest:.4g} and would be divided by {divisor:g}; give divisor=1 if they are divided "
            "already"
        )
    if largest > BEYOND * divisor:
        remark = f"the values reach {largest:g} and are divided by {divisor:g}: is that the right divisor?"
        warnings.warn(remark, stacklevel=3)  # at the line that calls `fuse`
    return float(divisor)
