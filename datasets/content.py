"""Whether a pair shows what it is said to show, judged on the ground that is trained on, before time is spent on it.

Spectra of MS and of PAN brought down to MS pixels are compared in rings of spatial frequency. Where both show one
ground, a combination of the MS bands explains PAN; where MS is as sharp as its pixels promise, it does so with about
the same gain at all frequencies. Thresholds: on IKONOS, WorldView-2, Gaofen-2, Pleiades and Landsat 8 scenes the share
explained is 0.71 to 0.99 and the gain 0.36 to 1.25. With PAN of another place, or displaced by two MS pixels, the share
is 0.07 at most; with MS interpolated from pixels twice as large, or displaced by one MS pixel, the gain is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lemamba.datasets.own_ground import OwnGround, corners
from lemamba.utils.errors import UserError

RINGS = ((0.05, 0.2), (0.2, 0.3), (0.3, 0.4))  # cycles per MS pixel; 0.5 is the most that they hold
EXPLAINED = 0.2  # share of PAN, in the two lower rings, below which MS shows something else
GAIN = 0.15  # gain in the highest ring, relative to the lowest, below which MS is blurred


def check_content(ground: OwnGround, names: Sequence[str] = ("MS", "PAN")) -> list[str]:
    """Check the training ground; return what the user should know, one line each.

    Args:
        ground: with the windows to train on.
        names: of both images, for messages.

    Raises:
        UserError: an image or a band that holds one value, or a PAN image of other ground.
    """
    _check_values(ground, names)
    low, middle, high = _spectra(ground)
    bands = ground.facts.bands
    explained = _explained(low + middle, bands)
    if explained < EXPLAINED:
        raise UserError(
            f"{names[0]} and {names[1]} do not show the same ground: expected MS to explain at least {EXPLAINED:.0%} "
            f"of PAN's structure, found {explained:.0%}; check which files belong together, or try --register"
        )
    weights = np.linalg.lstsq(low[:bands, :bands], low[:bands, bands:], rcond=None)[0]
    gains = [float((weights * ring[:bands, bands:]).sum() / np.trace(ring[bands:, bands:])) for ring in (low, high)]
    if gains[1] < GAIN * gains[0]:
        return [
            f"{names[0]} is blurred or displaced: its finest details follow PAN's with "
            f"{max(0.0, gains[1] / gains[0]):.0%} of the strength that its pixel size promises, so training teaches "
            "too little sharpness; if it was enlarged, give the original, if it is displaced, --register"
        ]
    return []


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
                "(gdal_translate -b) or fuse without training: lemamba fuse --arch GSA"
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
    return float((fitted * cross).sum() / np.trace(spectra[bands:, bands:]))
