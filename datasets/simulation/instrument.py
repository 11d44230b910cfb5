"""Instruments drawn at random: bands, responses, sharpness, noise, digital numbers and the way MS lies under PAN.

Ranges follow the sensors in `utils/sensors.py` and go a little beyond them.
Legend: C bands, L wavelengths of `materials.WAVELENGTHS`, r ratio. Gains are modulations at the Nyquist frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemamba.datasets.simulation.materials import WAVELENGTHS
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import Sensor

MOST_BANDS = 13
RATIOS = (2, 3, 4, 5, 6)
_COUNT_CHANCES = {1: 2, 2: 2, 3: 8, 4: 40, 5: 4, 6: 6, 7: 3, 8: 24, 9: 2, 10: 3, 11: 2, 12: 2, 13: 2}  # per cent
_VISIBLE = {  # centre and full width in nm
    4: ((485, 70), (555, 80), (660, 70), (830, 110)),
    8: ((427, 45), (478, 60), (546, 75), (608, 42), (659, 60), (724, 40), (833, 120), (949, 95)),
}
_PAN_KINDS = ("wide", "visible and near infrared", "visible", "narrow")


@dataclass(frozen=True)
class Instrument:
    """What turns ground into an observed pair.

    Attributes:
        responses: (C + 1, L), bands and then PAN; each row sums to 1.
        centres: centre of each band in nm, (C,).
        pan_kind: one of "wide", "visible and near infrared", "visible", "narrow".
        gains: of the bands at the Nyquist frequency of MS, C of them.
        truth_gains: of the bands of the truth at its own Nyquist frequency (that of PAN's grid), C of them.
        pan_gain: of PAN at its own Nyquist frequency.
        ratio: r.
        geometry: nominal; the truth has exactly this one.
        pan_shift: rows and columns in PAN pixels by which PAN lies beside the truth.
        band_shifts: the same for each band of the truth, (C, 2).
        truth_snr, pan_snr, ms_snr: signal over noise at mid brightness, of truth, PAN and what MS has of its own.
        read_share: share of the noise variance at mid brightness that does not depend on the signal.
        top: largest digital number.
        fill: share of the range that bright ground reaches, per receiver (C + 1,).
        floor: digital number of no light.
    """

    responses: np.ndarray
    centres: np.ndarray
    pan_kind: str
    gains: tuple[float, ...]
    truth_gains: tuple[float, ...]
    pan_gain: float
    ratio: int
    geometry: Geometry
    pan_shift: tuple[float, float]
    band_shifts: np.ndarray
    truth_snr: float
    pan_snr: float
    ms_snr: float
    read_share: float
    top: float
    fill: np.ndarray
    floor: float

    @property
    def bands(self) -> int:
        """Number of bands, C."""
        return len(self.centres)


def draw_instrument(generator: np.random.Generator, bands: int | None = None, ratio: int | None = None) -> Instrument:
    """Draw an instrument.

    Args:
        generator: source of all randomness.
        bands: 1 to 13; None draws it, mostly 4 or 8.
        ratio: 2 to 6; None draws it, mostly 4.

    Raises:
        UserError: a number of bands or a ratio outside these ranges.
    """
    if bands is not None and not 1 <= bands <= MOST_BANDS:
        raise UserError(f"expected 1 to {MOST_BANDS} bands, given {bands}; correct it")
    if ratio is not None and ratio not in RATIOS:
        raise UserError(f"expected a ratio from 2 to 6, given {ratio}; correct it")
    chances = np.array(list(_COUNT_CHANCES.values()), float)
    drawn_bands = int(generator.choice(list(_COUNT_CHANCES), p=chances / chances.sum()))
    drawn_ratio = int(generator.choice(RATIOS, p=(0.12, 0.08, 0.68, 0.06, 0.06)))
    bands, ratio = bands or drawn_bands, ratio or drawn_ratio
    centres, widths = _draw_bands(generator, bands)
    kind, pan = _draw_pan(generator)
    narrow = [_response(c, w, generator.uniform(2, 6)) for c, w in zip(centres, widths, strict=True)]
    gains = np.clip(generator.uniform(0.18, 0.38) + generator.normal(0, 0.015, bands), 0.15, 0.4)
    truth_gains, pan_gain = _draw_sharpness(generator, gains)
    shift = 0.3 * np.sqrt(generator.random()) * (generator.random() < 0.85)
    angle = generator.uniform(0, 2 * np.pi)
    band_shifts = generator.normal(0, 0.05, (bands, 2)).clip(-0.15, 0.15) * (generator.random() < 0.6)
    top = float(generator.choice([255, 1023, 2047, 4095, 10000, 16383, 65535], p=(0.1, 0.15, 0.4, 0.1, 0.1, 0.05, 0.1)))
    return Instrument(
        responses=np.stack([*narrow, pan]),
        centres=centres,
        pan_kind=kind,
        gains=tuple(map(float, gains)),
        truth_gains=truth_gains,
        pan_gain=pan_gain,
        ratio=ratio,
        geometry=_draw_geometry(generator, ratio),
        pan_shift=(float(shift * np.sin(angle)), float(shift * np.cos(angle))),
        band_shifts=band_shifts,
        truth_snr=_log_uniform(generator, 20, 300),
        pan_snr=_log_uniform(generator, 20, 300),
        ms_snr=_log_uniform(generator, 100, 1000) if generator.random() < 0.3 else np.inf,
        read_share=generator.uniform(0.05, 0.5),
        top=top,
        fill=np.clip(generator.uniform(0.12, 0.65) * np.exp(generator.normal(0, 0.25, bands + 1)), 0.1, 0.9),
        floor=float(np.round(generator.uniform(0, 0.08) * top)) if generator.random() < 0.4 else 0.0,
    )


def instrument_of(sensor: Sensor, bands: int, ratio: int) -> Instrument:
    """Return a plain instrument with the gains, the range and about the bands of a sensor of the table.

    It is registered, of the toolboxes' geometry, and its truth is sharp.

    Args:
        sensor: of 4 or 8 bands.
        bands: C.
        ratio: r.
    """
    centres, widths = np.array(_VISIBLE[bands], float).T
    pan = _response(625.0, 350.0, 6)
    return Instrument(
        responses=np.stack([*(_response(c, w, 4) for c, w in zip(centres, widths, strict=True)), pan]),
        centres=centres,
        pan_kind="visible and near infrared",
        gains=sensor.gains(bands),
        truth_gains=(0.65,) * bands,
        pan_gain=sensor.pan_gain,
        ratio=ratio,
        geometry=Geometry.toolbox(ratio),
        pan_shift=(0.0, 0.0),
        band_shifts=np.zeros((bands, 2)),
        truth_snr=150.0,
        pan_snr=150.0,
        ms_snr=np.inf,
        read_share=0.2,
        top=sensor.divisor if sensor.divisor > 1 else 2047.0,
        fill=np.full(bands + 1, 0.5),
        floor=0.0,
    )


def _log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def _response(centre: float, width: float, power: float) -> np.ndarray:
    """Return a band's response, from round (power 2) to a box with soft edges (6); its sum is 1."""
    response = np.exp(-np.log(2) * np.abs(2 * (WAVELENGTHS - centre) / width) ** power)
    return response / response.sum()


def _draw_bands(generator: np.random.Generator, bands: int) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and widths in nm: like sensors of today, or anywhere between 415 and 2350 nm."""
    if bands in _VISIBLE and generator.random() < 0.85:
        centres, widths = np.array(_VISIBLE[bands], float).T
        centres = centres + generator.normal(0, 8, bands)
        widths = widths * np.exp(generator.normal(0, 0.15, bands))
    elif bands == 3 and generator.random() < 0.7:
        centres, widths = np.array(_VISIBLE[4][:3] if generator.random() < 0.6 else _VISIBLE[4][1:], float).T
        centres = centres + generator.normal(0, 10, 3)
    else:
        end = generator.choice([950, 1700, 2350], p=(0.5, 0.1, 0.4))
        visible = generator.uniform(415, 900, bands)
        anywhere = generator.uniform(415, end, bands)
        centres = np.sort(np.where(generator.random(bands) < 0.6, visible, anywhere))
        widths = generator.uniform(15, 110, bands) * np.where(centres > 1000, 1.5, 1)
    if generator.random() < 0.15:  # red first, as some products have it
        order = np.arange(bands)
        order[:3] = order[:3][::-1]
        centres, widths = centres[order], widths[order]
    return centres, widths


def _draw_pan(generator: np.random.Generator) -> tuple[str, np.ndarray]:
    """Return a kind of panchromatic band and its response, uneven within its range."""
    kind = str(generator.choice(_PAN_KINDS, p=(0.3, 0.35, 0.25, 0.1)))
    low, high = {
        "wide": (generator.uniform(420, 480), generator.uniform(850, 930)),
        "visible and near infrared": (generator.uniform(440, 500), generator.uniform(740, 830)),
        "visible": (generator.uniform(470, 520), generator.uniform(650, 700)),
        "narrow": (generator.uniform(500, 560), generator.uniform(590, 660)),
    }[kind]
    edge = generator.uniform(5, 30)
    rise, fall = ((1 + np.tanh((WAVELENGTHS - e) / edge)) / 2 for e in (low, high))
    slope = np.exp(generator.normal(0, 0.5) * (WAVELENGTHS - (low + high) / 2) / (high - low))
    response = rise * (1 - fall) * slope
    return kind, response / response.sum()


def _draw_sharpness(generator: np.random.Generator, gains: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Return the gains of the truth and of PAN on their common grid.

    In 42 of 100 draws as Wald's protocol leaves them: the truth is an observed MS image with its own MTF, and PAN was
    reduced by a bicubic filter, which halves it at the Nyquist frequency. Otherwise with a truth that is softer than
    that, as observed, or of any sharpness.
    """
    kind = generator.random()
    if kind < 0.42:
        truth, pan = gains, generator.uniform(0.36, 0.55)
    elif kind < 0.7:  # images that were resampled, or of an instrument less sharp than its pixels
        truth, pan = gains * _log_uniform(generator, 0.02, 0.7), generator.uniform(0.36, 0.68)
    elif kind < 0.85:
        truth, pan = gains, generator.uniform(0.1, 0.3)
    else:
        truth, pan = generator.uniform(0.1, 0.55) + gains - gains.mean(), generator.uniform(0.1, 0.55)
    return tuple(float(g) for g in np.clip(truth, 0.005, 0.65)), float(pan)


def _draw_geometry(generator: np.random.Generator, ratio: int) -> Geometry:
    """Return one of the usual conventions or, in one of four draws, any offset up to a PAN pixel from the second."""
    kind = generator.choice(["toolbox", "corners", "first", "any"], p=(0.4, 0.25, 0.1, 0.25))
    if kind == "toolbox":
        return Geometry.toolbox(ratio)
    if kind == "corners":
        return Geometry.corners(ratio)
    if kind == "first":
        return Geometry((float(ratio),) * 2, (0.0, 0.0))
    return Geometry.corners(ratio).shifted(*generator.uniform(-1, 1, 2))
