"""Whether a pair shows what it is said to show, judged on some of its ground before time is spent on it.

Spectra of MS and of PAN brought down to MS pixels are compared in rings of spatial frequency. Where both show one
ground, a combination of the MS bands explains PAN; where MS is as sharp as its pixels promise, it does so with about
the same gain at all frequencies. Thresholds: on IKONOS, WorldView-2, Gaofen-2, Pleiades and Landsat 8 scenes the share
explained is 0.71 to 0.99 and the gain 0.36 to 1.25. With PAN of another place, or displaced by two MS pixels, the share
is 0.07 at most; with MS interpolated from pixels twice as large, or displaced by one MS pixel, the gain is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lemamba.datasets.own_ground import OwnGround, corners, reduced, scene_area, windows
from lemamba.datasets.pair import ScenePair
from lemamba.datasets.raster import MULTISPECTRAL, Window
from lemamba.datasets.simulation.wald import cell
from lemamba.utils.errors import UserError

RINGS = ((0.05, 0.2), (0.2, 0.3), (0.3, 0.4))  # cycles per MS pixel; 0.5 is the most that they hold
EXPLAINED = 0.2  # share of PAN, in the two lower rings, below which MS shows something else
GAIN = 0.15  # gain in the highest ring, relative to the lowest, below which MS is blurred
SIDE, WINDOWS = 64, 4  # MS pixels and number of the windows of a scene that `scene_notes` looks at
ENOUGH = 2  # tiles from which the gain in the highest ring says something


def check_content(ground: OwnGround, names: Sequence[str] = ("MS", "PAN")) -> list[str]:
    """Check the training ground; return what the user should know, one line each.

    Args:
        ground: with the windows to train on.
        names: of both images, for messages.

    Raises:
        UserError: an image or a band that holds one value, or a PAN image of other ground.
    """
    _check_values(ground, names)
    explained, gain = _agreement(ground)
    if explained < EXPLAINED:
        raise UserError(
            f"{names[0]} and {names[1]} do not show the same ground: expected MS to explain at least {EXPLAINED:.0%} "
            f"of PAN's structure, found {explained:.0%}; check which files belong together, or try --register"
        )
    return [_blurred(names[0], gain, "training teaches too little sharpness")] if gain < GAIN else []


def scene_notes(pair: ScenePair) -> list[str]:
    """Look at a scene that is to be fused, in a few windows with much structure; refuse nothing.

    Returns:
        What the user should know, one line each; nothing for several guide bands and hyperspectral images, for which
        the thresholds are not known, and for scenes of less than 32 x 32 MS pixels at ratio 4.
    """
    facts = pair.facts
    seen = pair.overview
    if facts.guide_bands > 1 or facts.bands > MULTISPECTRAL or not seen.valid.any():
        return []
    if not all(np.ptp(image[:, seen.valid], axis=1).any() for image in (seen.ms, seen.pan)):
        return []  # an image of one value: a note of the pair says so
    ground = _looked_at(pair)
    if not ground.train:
        return []
    explained, gain = _agreement(ground)
    names = [str(side.raster.path) for side in (pair.ms, pair.pan)]
    if explained < EXPLAINED:
        return [
            f"{names[0]} and {names[1]} do not seem to show the same ground: MS explains {explained:.0%} of PAN's "
            "structure, 70 % and more is usual; check which files belong together, or try --register"
        ]
    tiles = sum(len(corners(valid, ground.crop, ground.crop)) for _, valid in ground.train)
    return [_blurred(names[0], gain, "the result may lack sharpness")] if gain < GAIN and tiles >= ENOUGH else []


def _looked_at(pair: ScenePair) -> OwnGround:
    """Return the windows of a scene in which PAN varies most, degraded by the ratio, as ground to train on."""
    area, unit = scene_area(pair), cell(pair.facts.ratio)
    top, bottom, left, right = area.inner
    random = np.random.default_rng(0)
    places = windows((top, bottom, left, right), WINDOWS * SIDE**2, SIDE, unit, random)
    ground = OwnGround(pair.facts, unit)
    for window in sorted(_whole_cells(places, pair.facts.ratio, unit), key=lambda w: -_structure(pair, w))[:WINDOWS]:
        sample, valid = reduced(area, window, pair.facts)
        if len(corners(valid, unit, unit)):
            ground.train.append((sample, valid))
    return ground


def _whole_cells(places: Sequence[Window], ratio: int, unit: int) -> list[Window]:
    """Return windows cut to multiples of the ratio, without those that are smaller than a tile."""
    cut = [tuple((a, b - (b - a) % ratio) for a, b in window) for window in places]
    return [(rows, columns) for rows, columns in cut if min(b - a for a, b in (rows, columns)) >= unit]


def _structure(pair: ScenePair, window: Window) -> float:
    """Return the deviation of PAN in a window of MS pixels, by the subsampled reading; 0 where it has no data."""
    inside = [
        (place >= pair.facts.ratio * first) & (place < pair.facts.ratio * last)
        for place, (first, last) in zip(pair.pan.small[2], window, strict=True)
    ]
    seen = pair.overview.valid & inside[0][:, None] & inside[1]
    return float(pair.overview.pan[0][seen].std()) if seen.any() else 0.0


def _agreement(ground: OwnGround) -> tuple[float, float]:
    """Return which share of PAN's structure MS explains, and its gain in the highest ring relative to the lowest."""
    low, middle, high = _spectra(ground)
    bands = ground.facts.bands
    weights = np.linalg.lstsq(low[:bands, :bands], low[:bands, bands:], rcond=None)[0]
    gains = [
        float((weights * ring[:bands, bands:]).sum() / max(np.trace(ring[bands:, bands:]), 1e-300))
        for ring in (low, high)
    ]
    return _explained(low + middle, bands), gains[1] / gains[0] if gains[0] > 0 else 1.0


def _blurred(name: str, gain: float, so: str) -> str:
    return (
        f"{name} is blurred or displaced: its finest details follow PAN's with {max(0.0, gain):.0%} of the strength "
        f"that its pixel size promises, so {so}; if it was enlarged, give the original, if it is displaced, --register"
    )


def _check_values(ground: OwnGround, names: Sequence[str]) -> None:
    for role, name in (("gt", names[0]), ("pan", names[1])):
        seen = np.concatenate([sample[role].numpy()[:, valid] for sample, valid in ground.train], axis=1)
        flat = np.flatnonzero(np.ptp(seen, axis=1) <= 1e-6 * np.abs(seen).max(1))
        if len(flat) == len(seen):
            raise UserError(f"{name}: expected an image, all its pixels with data hold one value; give another file")
        if len(flat):
            listed = ", ".join(str(band + 1) for band in flat)
            raise UserError(
                f"{name}: expected bands with content, band {listed} holds one value everywhere; leave it out "
                "(gdal_translate -b) or fuse without training: lemamba fuse"
            )


def _spectra(ground: OwnGround) -> list[np.ndarray]:
    """Return for each ring the real cross-spectra (C + P, C + P) of the bands of gt and pan, summed over all tiles."""
    side = ground.crop
    taper = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1])
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    rings = [(frequency >= low) & (frequency < high) for low, high in RINGS]
    total = [np.zeros(2 * (ground.facts.bands + ground.facts.guide_bands,)) for _ in rings]
    for sample, valid in ground.train:
        image = np.concatenate([sample["gt"].numpy(), sample["pan"].numpy()]).astype(np.float64)
        for y, x in corners(valid, side, side):
            tile = image[:, y : y + side, x : x + side]
            values = np.fft.rfft2((tile - tile.mean((1, 2), keepdims=True)) * taper)
            for i, ring in enumerate(rings):
                total[i] += np.real(values[:, ring] @ values[:, ring].conj().T)
    return total


def _explained(spectra: np.ndarray, bands: int) -> float:
    """Return which share of the power of pan a combination of the bands of gt explains."""
    own, cross = spectra[:bands, :bands], spectra[:bands, bands:]
    fitted = np.linalg.lstsq(own, cross, rcond=None)[0]
    power = float(np.trace(spectra[bands:, bands:]))
    return float((fitted * cross).sum() / power) if power > 0 else 1.0
