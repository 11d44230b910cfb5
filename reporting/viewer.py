"""What the image viewer of an HTML page shows: pixel values, maps and scores per band, within a limit of bytes.

Images are (C, H, W) in the numbers of the sensor. Legend: C bands, H W size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lemamba.metrics.inputs import BLOCK
from lemamba.metrics.maps import angle_map, q2n_map
from lemamba.reporting.pixels import pack, to_steps

PAGE_BYTES = 14_850_000  # of all samples; with the rest of the page less than 15 MB
LONGEST_SIDE = 1024  # pixels; larger images are averaged
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
    a, b = (torch.from_numpy(np.ascontiguousarray(x, np.float64)) for x in (sr, gt))
    mask = None if valid is None else torch.from_numpy(np.ascontiguousarray(valid))
    maps = {"error": (a - b).abs().mean(0), "sam": angle_map(a, b, mask)}
    if mask is not None:
        maps["error"] = maps["error"].where(mask, math.nan)
    if const is not None and min(a.shape[-2:]) >= BLOCK:
        maps["q2n"] = q2n_map(a, b, const=const, published=published, mask=mask)
    return {name: values.numpy() for name, values in maps.items()}


def band_scores(
    sr: np.ndarray, gt: np.ndarray, const: float | None, valid: np.ndarray | None = None
) -> list[list[float | None]]:
    """Return `BAND_COLUMNS` of each band; None where one is not defined. Arguments as in `reduced_maps`."""
    rows: list[list[float | None]] = []
    for a, b in zip(sr, gt, strict=True):
        x, y = (np.asarray(band if valid is None else band[valid], np.float64).ravel() for band in (a, b))
        rmse = float(np.sqrt(np.mean((x - y) ** 2))) if x.size else math.nan
        psnr = 20 * math.log10(const / rmse) if const is not None and rmse > 0 else None
        spread = float(x.std() * y.std()) if x.size else 0.0
        correlation = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else None
        rows.append([rmse if math.isfinite(rmse) else None, psnr, correlation])
    return rows


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
        images: Mapping[str, np.ndarray],
        fused: Mapping[str, np.ndarray],
        rgb: Sequence[int],
        *,
        maps: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        valid: np.ndarray | None = None,
        wavelengths: Sequence[float] | None = None,
    ) -> bool:
        """Add a sample; return False, and add no more, if it does not fit.

        Args:
            name: as in the table of scores.
            images: any of lms, pan, gt.
            fused: method -> sr.
            rgb: 0-based bands for red, green, blue.
            maps: method -> name in `MAPS` -> (H, W) or one value per block; None: `reduced_maps`, if there is a gt.
            valid: (H, W), False where pixels are missing.
            wavelengths: of the bands in nm.
        """
        if self.full:
            return False
        gt = images.get("gt")
        if maps is None and gt is not None:
            how = self._const, self._published, valid
            maps = {method: reduced_maps(sr, gt, *how) for method, sr in fused.items()}
        bands = {} if gt is None else {m: band_scores(sr, gt, self._const, valid) for m, sr in fused.items()}
        size = next(iter(fused.values())).shape[-2:]
        factor = -(-max(size) // LONGEST_SIDE)
        about: dict[str, Any] = {"name": name, "factor": factor, "rgb": list(rgb), "bands": bands}
        about |= {"peak": self._const, "wavelengths": None if wavelengths is None else list(map(float, wavelengths))}
        about |= _packed_maps(maps or {}, size, factor)
        share = int(AIM * self._left) // max(self._count - len(self.samples), 1)
        spare = share - len(_as_text(about))
        self._bits, packed = _packed_images(images, fused, valid, factor, spare, self._bits)
        text = _as_text(about | packed)
        if len(text) > self._left:
            self.full = True
            return False
        self.samples.append(text)
        self._left -= len(text)
        return True


def _as_text(values: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a <script> element."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Return means of factor x factor pixels of (..., H, W); rows and columns that do not fill a block are left out."""
    if factor == 1:
        return image
    H, W = (side // factor for side in image.shape[-2:])
    cut = image[..., : H * factor, : W * factor].astype(np.float64)
    return cut.reshape(*image.shape[:-2], H, factor, W, factor).mean(axis=(-3, -1))


def _range(image: np.ndarray) -> tuple[float, float]:
    known = image[np.isfinite(image)].astype(np.float64)
    if not known.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(known, RANGE_PERCENT))
    return low, high if high > low else low + max(abs(low), 1.0)


def _packed_images(
    images: Mapping[str, np.ndarray],
    fused: Mapping[str, np.ndarray],
    valid: np.ndarray | None,
    factor: int,
    spare: int,
    bits: float,
) -> tuple[float, dict[str, Any]]:
    """Return the images in about the finest steps that `spare` bytes allow, first tried with `bits`, and their bits."""
    if valid is not None:
        valid = _shrunk(valid, factor) == 1
    shrunk = {role: _shrunk(images[role], factor) for role in ("gt", "lms", "pan") if role in images}
    results = {method: _shrunk(image, factor) for method, image in fused.items()}
    values = sum(image.size for image in (*shrunk.values(), *results.values()))
    packed: dict[str, Any] = {}
    for _ in range(TRIES):
        packed = _at(bits, shrunk, results, valid)
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
    """Return the maps, and the ends of the colour bar of each, the same for all methods."""
    names = [name for name in MAPS if any(name in one for one in maps.values())]
    scales: dict[str, list[float]] = {}
    packed: dict[str, dict[str, Any]] = {method: {} for method in maps}
    for name in names:
        shown = {m: one[name] if one[name].shape != size else _shrunk(one[name], factor) for m, one in maps.items()}
        known = np.concatenate([image[np.isfinite(image)] for image in shown.values()])
        if not known.size:
            continue
        scales[name] = _scale(known, MAPS[name]["direction"])
        low, high = scales[name]
        step = (high - low) / MAP_LEVELS
        for method, image in shown.items():
            block = 1.0 if maps[method][name].shape == size else BLOCK / factor
            packed[method][name] = pack(to_steps(image[None], low, step), low, step) | {"block": block}
    return {"maps": packed, "scales": scales}


def _scale(known: np.ndarray, direction: int) -> list[float]:
    if direction > 0:
        return [min(float(np.percentile(known, 100 - SCALE_PERCENT)), 1 - 1e-6), 1.0]
    return [0.0, max(float(np.percentile(known, SCALE_PERCENT)), 1e-9)]
