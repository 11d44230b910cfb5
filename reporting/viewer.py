"""What the image viewer of an HTML page shows: pixel values, maps and scores per band, within a limit of bytes.

Images are (C, H, W) in the numbers of the sensor; large ones may stay in their files and are read block by block. Of
these the page has the means of f x f pixels as values, and all their pixels as pictures (`lemamba.reporting.pyramid`).
Legend: C bands, H W size, f factor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from lemamba.metrics.inputs import BLOCK
from lemamba.metrics.large import LargeImage
from lemamba.metrics.maps import angle_map, q2n_map
from lemamba.reporting.blocks import SIDE, BandSums, Image, Means, blocks, drawing, part, shrunk, shrunk_size
from lemamba.reporting.pictures import STRETCH_PERCENT
from lemamba.reporting.pixels import pack, to_steps
from lemamba.reporting.pyramid import Picture, pyramid

PAGE_BYTES = 14_850_000  # of all samples; with the rest of the page less than 15 MB
LONGEST_SIDE = 1024  # pixels; of larger images, values are averaged
VALUES_SHARE = 0.4  # of the bytes of a large image; the rest is for pictures
VALUE_BYTES = 0.3  # that a value of a large image takes at least, in steps that are still useful
CALIBRATED = 256  # side of the part that finds the steps of a large image
COARSEST_BITS, USUAL_BITS, FINEST_BITS = 5.0, 8.0, 12.0  # the range of the reference has 2^bits steps
RANGE_PERCENT = 0.1, 99.9
SCALE_PERCENT = 98.0  # of the values of a map reach the end of its colour bar
MAP_LEVELS = 64
TRIES = 6
AIM = 0.97  # of its share: the steps that give a size are found to a few percent
MAPS: dict[str, dict[str, Any]] = {  # direction: +1 if larger is better
    "error": {"name": "error", "label": "Mean |sr − gt| over bands", "unit": "", "direction": -1},
    "sam": {"name": "SAM", "label": "SAM", "unit": "°", "direction": -1},
    "q2n": {"name": "Q2n", "label": "Q2n per block", "unit": "", "direction": +1},
    "hqnr": {"name": "HQNR", "label": "HQNR per block", "unit": "", "direction": +1},
    "d_lambda_k": {"name": "D_lambda_K", "label": "D_lambda_K per block", "unit": "", "direction": -1},
    "d_s": {"name": "D_s", "label": "D_s per block", "unit": "", "direction": -1},
}
BAND_COLUMNS = ("RMSE", "PSNR", "correlation")


def reduced_maps(
    sr: np.ndarray, gt: np.ndarray, const: float | None, published: bool = False, valid: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the maps "error", "sam" and, with a peak, "q2n" of an image (C, H, W); NaN where undefined.

    Args:
        sr, gt: the fused image and the ground truth.
        const: peak; None leaves q2n out.
        published: keep the published defect of Q2n.
        valid: (H, W), False where pixels are missing.
    """
    maps = _pixel_maps(sr, gt, valid)
    return maps | _block_maps(sr, gt, const, published, valid)


def _pixel_maps(sr: np.ndarray, gt: np.ndarray, valid: np.ndarray | None) -> dict[str, np.ndarray]:
    a, b = (torch.from_numpy(np.ascontiguousarray(x, np.float64)) for x in (sr, gt))
    mask = None if valid is None else torch.from_numpy(np.ascontiguousarray(valid))
    maps = {"error": (a - b).abs().mean(0), "sam": angle_map(a, b, mask)}
    if mask is not None:
        maps["error"] = maps["error"].where(mask, math.nan)
    return {name: values.numpy() for name, values in maps.items()}


def _block_maps(
    sr: Image, gt: Image, const: float | None, published: bool, valid: Image | None
) -> dict[str, np.ndarray]:
    if const is None or min(sr.shape[-2:]) < BLOCK:
        return {}
    a, b = (
        x[0] if isinstance(x, LargeImage) else torch.from_numpy(np.ascontiguousarray(x, np.float64)) for x in (sr, gt)
    )
    mask: Any = valid
    if valid is not None:
        mask = valid[0, 0] if isinstance(valid, LargeImage) else torch.from_numpy(np.ascontiguousarray(valid))
    return {"q2n": q2n_map(a, b, const=const, published=published, mask=mask).numpy()}


def band_scores(
    sr: np.ndarray, gt: np.ndarray, const: float | None, valid: np.ndarray | None = None
) -> list[list[float | None]]:
    """Return `BAND_COLUMNS` of each band; None where one is not defined. Arguments as in `reduced_maps`."""
    sums = BandSums()
    sums.add(sr, gt, valid)
    return sums.rows(len(sr), const)


def factor_of(size: tuple[int, int], values: int, room: int) -> int:
    """Return f: the smallest power of two that leaves at most `LONGEST_SIDE` pixels and so few values that they fit.

    Args:
        size: (H, W).
        values: of a pixel in all images.
        room: bytes for pictures and values; they do not count for images up to `LONGEST_SIDE`.
    """
    factor = 1
    while max(size) > LONGEST_SIDE * factor:
        factor *= 2
    if factor > 1:
        while factor < SIDE and math.prod(shrunk_size(size, factor)) * values * VALUE_BYTES > VALUES_SHARE * room:
            factor *= 2
    return factor


@dataclass
class _Sample:
    """A sample, its values reduced to means of f x f pixels.

    Attributes:
        factor: f.
        images, fused: role or method -> (C, h, w).
        valid: (h, w), True where all f x f pixels are valid, or None.
        maps: method -> name in `MAPS` -> (h, w), or one value per block.
        bands: method -> `band_scores`.
    """

    factor: int
    images: dict[str, np.ndarray]
    fused: dict[str, np.ndarray]
    valid: np.ndarray | None
    maps: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    bands: dict[str, list[list[float | None]]] = field(default_factory=dict)


class Viewer:
    """Collects samples until the page is full.

    Attributes:
        samples: JSON texts, one per sample, see `add`.
        full: a sample was left out because the page would get too large.
    """

    def __init__(
        self, count: int, *, const: float | None = None, published: bool = False, limit: int = PAGE_BYTES
    ) -> None:
        """Expect `count` samples, which share `limit` bytes; `const` is the peak of their data."""
        self.samples: list[str] = []
        self.full = False
        self._left, self._count = limit, count
        self._const, self._published = const, published
        self._bits = USUAL_BITS  # a sample is mostly like the one before

    def add(
        self,
        name: str,
        images: Mapping[str, Image],
        fused: Mapping[str, Image],
        rgb: Sequence[int],
        *,
        maps: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        valid: Image | None = None,
        wavelengths: Sequence[float] | None = None,
        place: Mapping[str, Any] | None = None,
        ratio: int = 1,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> bool:
        """Add a sample; return False, and add no more, if it does not fit.

        Args:
            name: as in the table of scores.
            images: any of lms, pan, gt; arrays (C, H, W), or `LargeImage` (1, C, H, W).
            fused: method -> sr, likewise.
            rgb: 0-based bands for red, green, blue.
            maps: method -> name in `MAPS` -> (H, W) or one value per block; None: `reduced_maps`, if there is a gt.
            valid: (H, W) or `LargeImage` (1, 1, H, W), False where pixels are missing.
            wavelengths: of the bands in nm.
            place: where the image lies, see `lemamba.reporting.place.describe_place`.
            ratio: H / h; lms has no finer details than ms.
            on_progress: called with the part that is done, 0 to 1.
        """
        if self.full:
            return False
        share = int(AIM * self._left) // max(self._count - len(self.samples), 1)
        everything = {**images, **{f"sr {method}": one for method, one in fused.items()}}
        size = cast(tuple[int, int], tuple(next(iter(fused.values())).shape[-2:]))
        factor = factor_of(size, sum(one.shape[-3] for one in everything.values()), share)
        tiled = factor > 1
        sample = self._reduced(images, fused, valid, factor, maps, lambda f: on_progress(f / 2 if tiled else f))
        about: dict[str, Any] = {"name": name, "factor": factor, "size": list(size), "rgb": list(rgb)}
        about |= {"bands": sample.bands, "peak": self._const, "place": place}
        about |= {"wavelengths": None if wavelengths is None else list(map(float, wavelengths))}
        about |= _packed_maps(sample.maps, size, factor)
        values_room = int((VALUES_SHARE if tiled else 1) * share) - len(_as_text(about))
        self._bits, packed = _packed_images(sample, values_room, self._bits)
        about |= packed
        if tiled:
            room = share - len(_as_text(about))
            pictures = _pictures(everything, sample, rgb, valid, ratio)
            levels = factor.bit_length() - 1
            about["tiles"] = pyramid(pictures, levels, room, lambda f: on_progress((1 + f) / 2))
        text = _as_text(about)
        if len(text) > self._left:
            self.full = True
            return False
        self.samples.append(text)
        self._left -= len(text)
        return True

    def _reduced(
        self,
        images: Mapping[str, Image],
        fused: Mapping[str, Image],
        valid: Image | None,
        factor: int,
        maps: Mapping[str, Mapping[str, np.ndarray]] | None,
        on_progress: Callable[[float], None],
    ) -> _Sample:
        """Read all images once, block by block, and return their means, maps and scores."""
        size = cast(tuple[int, int], tuple(next(iter(fused.values())).shape[-2:]))
        gt = images.get("gt")
        known = None if maps is None else {m: {n: np.asarray(x) for n, x in one.items()} for m, one in maps.items()}
        means = {role: Means(one.shape[-3], size, factor) for role, one in images.items()}
        results = {method: Means(one.shape[-3], size, factor) for method, one in fused.items()}
        mask = None if valid is None else Means(1, size, factor)
        pixel = {m: {n: Means(1, size, factor) for n in ("error", "sam")} for m in fused}
        sums = {method: BandSums() for method in fused}
        grid = list(blocks(size))
        for done, block in enumerate(grid):
            own = None if valid is None else part(valid, *block).reshape([s.stop - s.start for s in block])
            pixels = {role: part(one, *block) for role, one in images.items()}
            for role, image in pixels.items():
                means[role].add(block, image)
            if mask is not None and own is not None:
                mask.add(block, own[None].astype(np.float32))
            for method, one in fused.items():
                sr = part(one, *block)
                results[method].add(block, sr)
                if gt is None:
                    continue
                sums[method].add(sr, pixels["gt"], own)
                for name, values in _pixel_maps(sr, pixels["gt"], own).items() if known is None else ():
                    pixel[method][name].add(block, values[None])
            on_progress((done + 1) / len(grid))
        sample = _Sample(
            factor,
            {role: one.image for role, one in means.items()},
            {method: one.image for method, one in results.items()},
            None if mask is None else mask.image[0] == 1,
        )
        if known is not None:
            sample.maps = {
                m: {n: x if x.shape != size else shrunk(x, factor) for n, x in o.items()} for m, o in known.items()
            }
        elif gt is not None:
            how = self._const, self._published, valid
            sample.maps = {
                m: {n: one.image[0] for n, one in pixel[m].items()} | _block_maps(fused[m], gt, *how) for m in fused
            }
        if gt is not None:
            sample.bands = {m: one.rows(fused[m].shape[-3], self._const) for m, one in sums.items()}
        return sample


def _pictures(
    images: Mapping[str, Image], sample: _Sample, rgb: Sequence[int], valid: Image | None, ratio: int
) -> dict[str, Picture]:
    """Return how the page draws the large images, by the keys of its panels, in the stretch that it starts with."""
    reference = sample.images.get("gt", sample.images.get("lms", next(iter(sample.fused.values()))))
    size = cast(tuple[int, int], tuple(next(iter(images.values())).shape[-2:]))
    limits = _limits(reference, rgb, sample.valid)
    pictures = {}
    for key, image in images.items():
        bands, own, finest = list(rgb), limits, 0
        if key == "pan":
            bands = [0, 0, 0] if image.shape[-3] < 3 else [0, 1, 2]
            own = _limits(sample.images["pan"], bands, sample.valid)
        if key == "lms":
            finest = max(ratio, 1).bit_length() - 1
        pictures[key] = Picture(drawing(image, bands, own, valid), size, finest)
    return pictures


def _limits(image: np.ndarray, bands: Sequence[int], valid: np.ndarray | None) -> np.ndarray:
    """Return the ends of the stretch of three bands, (3, 2)."""
    chosen = image[list(bands)]
    known = np.isfinite(chosen).all(0) if valid is None else np.isfinite(chosen).all(0) & valid
    if not known.any():
        return np.array([[0.0, 1.0]] * 3)
    low, high = np.percentile(chosen[:, known].astype(np.float64), STRETCH_PERCENT, axis=1)
    return np.stack((low, np.maximum(high, low + 1e-12)), axis=1)


def _as_text(values: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a <script> element."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _range(image: np.ndarray) -> tuple[float, float]:
    known = image[np.isfinite(image)].astype(np.float64)
    if not known.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(known, RANGE_PERCENT))
    return low, high if high > low else low + max(abs(low), 1.0)


def _packed_images(sample: _Sample, spare: int, bits: float) -> tuple[float, dict[str, Any]]:
    """Return the images in about the finest steps that `spare` bytes allow, first tried with `bits`, and their bits."""
    order = ("gt", "lms", "pan")
    images: dict[str, np.ndarray] = {role: sample.images[role] for role in order if role in sample.images}
    size = next(iter(sample.fused.values())).shape[-2:]
    if sample.factor > 1 and min(size) > CALIBRATED:  # packing it again and again would take minutes
        middle = tuple(slice((side - CALIBRATED) // 2, (side + CALIBRATED) // 2) for side in size)
        cut: dict[str, np.ndarray] = {role: image[(slice(None), *middle)] for role, image in images.items()}
        results = {method: image[(slice(None), *middle)] for method, image in sample.fused.items()}
        valid = None if sample.valid is None else sample.valid[middle]
        bits, _ = _fitted(cut, results, valid, spare * CALIBRATED**2 // math.prod(size), bits)
    return _fitted(images, sample.fused, sample.valid, spare, bits)


def _fitted(
    images: Mapping[str, np.ndarray],
    fused: Mapping[str, np.ndarray],
    valid: np.ndarray | None,
    spare: int,
    bits: float,
) -> tuple[float, dict[str, Any]]:
    values = sum(image.size for image in (*images.values(), *fused.values()))
    packed: dict[str, Any] = {}
    for _ in range(TRIES):
        packed = _at(bits, images, fused, valid)
        room = spare - len(_as_text(packed))
        if 0 <= room < values / 40 or bits == (COARSEST_BITS if room < 0 else FINEST_BITS):
            return bits, packed
        # A bit more takes at most a sixth of a byte in base64, a bit less saves somewhat less than that.
        bits = min(max(bits + (6 if room > 0 else 9) * room / max(values, 1), COARSEST_BITS), FINEST_BITS)
    return bits, packed


def _at(
    bits: float, images: Mapping[str, np.ndarray], fused: Mapping[str, np.ndarray], valid: np.ndarray | None
) -> dict[str, Any]:
    first = next((role for role in ("gt", "lms") if role in images), None)
    reference = images[first] if first else next(iter(fused.values()))
    low, high = _range(reference)
    step = (high - low) / 2**bits
    same = [image for role, image in images.items() if role != "pan"] + list(fused.values())
    if step < 1 and all(bool((image == np.rint(image)).all()) for image in same):
        step, low = 1.0, math.floor(low)  # exact
    base = to_steps(reference, low, step, valid)
    packed: dict[str, Any] = {}
    for role, image in images.items():
        if role == "pan":
            bottom, top = _range(image)
            fine = (top - bottom) / 2**bits
            packed[role] = pack(to_steps(image, bottom, fine, valid), bottom, fine)
        else:
            packed[role] = pack(to_steps(image, low, step, valid), low, step, None if role == first else base)
    results = {m: pack(to_steps(x, low, step, valid), low, step, base if first else None) for m, x in fused.items()}
    return {"reference": first, "images": packed, "fused": results}


def _packed_maps(maps: Mapping[str, Mapping[str, np.ndarray]], size: tuple[int, int], factor: int) -> dict[str, Any]:
    """Return the maps, and the ends of the colour bar of each, the same for all methods; "block": pixels of a value."""
    names = [name for name in MAPS if any(name in one for one in maps.values())]
    scales: dict[str, list[float]] = {}
    packed: dict[str, dict[str, Any]] = {method: {} for method in maps}
    for name in names:
        shown = {m: one[name] for m, one in maps.items()}
        known = np.concatenate([image[np.isfinite(image)] for image in shown.values()])
        if not known.size:
            continue
        scales[name] = _scale(known, MAPS[name]["direction"])
        low, high = scales[name]
        step = (high - low) / MAP_LEVELS
        for method, image in shown.items():
            block = factor if image.shape == shrunk_size(size, factor) else BLOCK
            packed[method][name] = pack(to_steps(image[None], low, step), low, step) | {"block": block}
    return {"maps": packed, "scales": scales}


def _scale(known: np.ndarray, direction: int) -> list[float]:
    if direction > 0:
        return [min(float(np.percentile(known, 100 - SCALE_PERCENT)), 1 - 1e-6), 1.0]
    return [0.0, max(float(np.percentile(known, SCALE_PERCENT)), 1e-9)]
