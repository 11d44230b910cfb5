"""Observed pairs with a known truth at PAN's resolution, drawn from one seed: ground, air and instrument.

`scenery` draws a landscape on a `canvas`, `materials` gives its objects spectra, `instrument` the bands.
The truth of a band is what an MS instrument of PAN's resolution would see: blurred by an MTF of its own, noisy, in
digital numbers. MS follows from the truth by Wald's protocol.
Legend: C bands, H W size of PAN and of the truth, h w size of MS, r ratio; S = C + 1 receivers, the bands and then PAN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lemamba.datasets.simulation import materials
from lemamba.datasets.simulation.canvas import FINE, Canvas
from lemamba.datasets.simulation.fields import Shape, crowns, fractal
from lemamba.datasets.simulation.instrument import Instrument, draw_instrument
from lemamba.datasets.simulation.scenery import LANDSCAPES, draw_landscape
from lemamba.operators import mtf_filter, resample
from lemamba.operators import sample as take_samples
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

_CHANCES = {"farmland": 16, "suburb": 16, "city": 18, "industry": 8, "woodland": 8, "mountains": 10, "coast": 9,
            "desert": 6, "winter": 4, "wetland": 5}  # fmt: skip
_ROWS = 128  # rows that are rendered at once: their arrays stay in the cache


@dataclass(frozen=True)
class DrawnPair:
    """An observed pair and its truth, float32 digital numbers from 0 to `top`.

    Attributes:
        gt: (C, H, W), the truth.
        ms: (C, h, w): gt filtered by `gains`, sampled by `geometry`, with a little noise.
        pan: (1, H, W), beside gt by up to 0.3 pixel.
        geometry: of ms under gt, exactly.
        gains: MTF gains at the Nyquist frequency of ms, one per band.
        pan_gain: gain at the Nyquist frequency of pan.
        ratio: r.
        top: largest digital number.
        landscape: name of what was drawn.
        pixel: size of a pixel of gt in metres.
        instrument: all else that was drawn of the instrument.
    """

    gt: np.ndarray
    ms: np.ndarray
    pan: np.ndarray
    geometry: Geometry
    gains: tuple[float, ...]
    pan_gain: float
    ratio: int
    top: float
    landscape: str
    pixel: float
    instrument: Instrument


def draw_pair(
    seed: int | Sequence[int],
    size: tuple[int, int],
    *,
    sensor: Instrument | None = None,
    landscape: str | None = None,
    pixel: float | None = None,
) -> DrawnPair:
    """Draw a pair.

    Args:
        seed: 0 or more, or several such numbers; the same seed and size give the same pair.
        size: (h, w) of MS, each at least 8.
        sensor: None draws one (`draw_instrument`).
        landscape: one of `LANDSCAPES`; None draws it.
        pixel: size of a pixel of PAN in metres; None draws it, mostly 0.4 to 5.

    Raises:
        UserError: an unknown landscape, a negative seed or a size below 8.
    """
    if min(size) < 8:
        raise UserError(f"expected at least 8x8 MS pixels, given {size[0]}x{size[1]}; choose a larger size")
    if landscape is not None and landscape not in LANDSCAPES:
        raise UserError(f'expected a landscape ({", ".join(LANDSCAPES)}), given "{landscape}"; choose one of them')
    if np.min(seed) < 0:
        raise UserError(f"expected a seed of 0 or more, given {seed}; correct it")
    generator = np.random.default_rng(seed)
    instrument = draw_instrument(generator)
    instrument = sensor or instrument
    chances = np.array(list(_CHANCES.values()), float)
    drawn = str(generator.choice(list(_CHANCES), p=chances / chances.sum()))
    name = landscape or drawn
    drawn_pixel = _draw_pixel(generator)
    shape = (size[0] * instrument.ratio, size[1] * instrument.ratio)
    canvas = Canvas(generator, shape, pixel or drawn_pixel)
    draw_landscape(canvas, name)
    light = _Light(generator, canvas, instrument)
    images = _render(canvas, light, instrument)
    gt, pan = _observe(generator, images, instrument)
    ms = _ms_of(generator, gt, instrument, size)
    return DrawnPair(
        gt=gt,
        ms=ms,
        pan=pan,
        geometry=instrument.geometry,
        gains=instrument.gains,
        pan_gain=instrument.pan_gain,
        ratio=instrument.ratio,
        top=instrument.top,
        landscape=name,
        pixel=canvas.pixel,
        instrument=instrument,
    )


def _draw_pixel(generator: np.random.Generator) -> float:
    """Return metres per pixel: PAN of today's satellites, their MS (a truth in Wald's protocol), and coarser ones."""
    low, high = ((0.35, 1.3), (1.3, 5.0), (5.0, 25.0))[generator.choice(3, p=(0.25, 0.57, 0.18))]
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


class _Light:
    """Sun, sky, haze and clouds as the receivers see them.

    Attributes:
        sky: share of light in full shadow, (S,).
        haze: reflectance added by the air, (S,), and its variation over the image (H, W) or None.
        cloud: reflectance of clouds, (S,).
        cover, dimming: (H, W) opacity of clouds and of their shadows, or None.
    """

    def __init__(self, generator: np.random.Generator, canvas: Canvas, instrument: Instrument) -> None:
        seen = instrument.responses * materials.sunlight()
        seen /= seen.sum(axis=1, keepdims=True)
        bluer = (550 / materials.WAVELENGTHS) ** generator.uniform(0.8, 2.5)
        self.sky = np.clip(generator.uniform(0.06, 0.22) * (seen @ bluer), 0.01, 0.6).astype(np.float32)
        air = (500 / materials.WAVELENGTHS) ** generator.uniform(1.0, 3.5)
        self.haze = (generator.uniform(0.0, 0.1) * (seen @ air)).astype(np.float32)
        self.cloud = (seen @ materials.DRAWN.reflectance(materials.WAVELENGTHS)[materials.INDEX["cloud"]]).astype(
            np.float32
        )
        self.drift = self.cover = self.dimming = None
        if generator.random() < 0.25:
            drift = fractal(generator, canvas.shape, max(canvas.shape), 16, 1.0)
            self.drift = np.clip(1 + generator.uniform(0.1, 0.6) * drift, 0.2, 3).astype(np.float32)
        if generator.random() < 0.1:
            self._clouds(generator, canvas)

    def _clouds(self, generator: np.random.Generator, canvas: Canvas) -> None:
        """Draw clouds with soft and torn edges, and their shadows at some distance."""
        size = max(canvas.shape)
        shift = np.rint(canvas.sun * size * generator.uniform(0.05, 0.25)).astype(int)  # of the shadow
        height, width = canvas.shape
        larger = (height + abs(int(shift[0])), width + abs(int(shift[1])))
        field = fractal(generator, larger, size * generator.uniform(0.3, 0.8), 1, generator.uniform(0.75, 1.1))
        limit = np.quantile(field[::8, ::8], generator.uniform(0.75, 0.98))
        cloud = np.clip((field - limit) * np.float32(generator.uniform(0.5, 3)), 0, 1) ** np.float32(1.5)
        cloud *= np.float32(generator.uniform(0.4, 1.0))
        row, column = (max(int(step), 0) for step in shift)
        self.cover = cloud[row : row + height, column : column + width]
        row, column = (max(-int(step), 0) for step in shift)
        self.dimming = cloud[row : row + height, column : column + width]


def _spectra(canvas: Canvas, instrument: Instrument) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the receivers see of each object, what its second material adds, and its tint, each (S, N) float32.

    The tint is a change of colour whose sign may differ between bands: of leaves, moisture, rust, age.
    """
    generator = canvas.generator
    library = materials.draw_library(generator)
    seen = instrument.responses * materials.sunlight()
    seen /= seen.sum(axis=1, keepdims=True)
    bands = np.einsum("kjl,sl->skj", library, seen).astype(np.float32)
    table = canvas.table()
    ways = generator.normal(0, generator.uniform(0.05, 0.2), (len(table["light"]), materials.WAYS))
    ways = ways * table["vary"][:, None]
    weights = np.concatenate([np.ones((len(ways), 1)), ways], axis=1).astype(np.float32)[table["kin"]]
    first = np.einsum("snj,nj->sn", bands[:, table["first"]], weights)
    second = np.einsum("snj,nj->sn", bands[:, table["second"]], weights)
    first, second = (np.maximum(s, 0.002) * table["light"] for s in (first, second))
    whole = first + (second - first) * table["share"]
    weights[:, 0] = 0
    weights[:, 1:] = generator.normal(0, 1, (len(ways), materials.WAYS)) * table["tint"][:, None]
    tint = np.einsum("snj,nj->sn", bands[:, table["first"]], weights)
    return whole.astype(np.float32), (second - first).astype(np.float32), tint.astype(np.float32)


def _textures(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the fields of texture, each (H, W) float32.

    They are a brightness factor, what is added to the share of the second material, and the tint's strength.
    """
    generator, shape = canvas.generator, canvas.shape
    table = canvas.table()
    objects = np.ascontiguousarray(canvas.objects[::FINE, ::FINE])

    def of(name: str) -> np.ndarray:
        return np.take(table[name].astype(np.float32), objects)

    patches = fractal(generator, shape, canvas.pixels(generator.uniform(40, 400), 12), 1, generator.uniform(0.0, 0.6))
    strength = float(np.exp(generator.normal(0.7, 0.4)))
    bright = 1 + strength * of("patch") * patches
    grain: np.ndarray = generator.standard_normal(shape, np.float32)
    if canvas.pixel < 2:
        grain = 0.6 * grain + 0.8 * fractal(generator, shape, 4, 1, 0.4)
    bright += strength * of("grain") * grain
    share = of("mix") * fractal(
        generator, shape, canvas.pixels(generator.uniform(20, 200), 8), 1, generator.uniform(0.1, 0.6)
    )
    if (table["stripe"] > 0).any() or (table["mix_stripe"] > 0).any():
        y, x = (np.arange(n, dtype=np.float32) for n in shape)
        wave = np.sin(of("wave_y") * y[:, None] + of("wave_x") * x[None] + 0.3 * patches)
        bright += of("stripe") * wave
        share += of("mix_stripe") * wave
    if (table["crown"] > 0).any():
        pitch, cover = canvas.canopy
        light, kind = crowns(generator, shape, pitch, canvas.sun, cover)
        crown = of("crown")
        bright += crown * (light + 0.12 * kind)
        share += (crown * 0.3) * kind
    if canvas.extra_mix is not None:
        water = np.isin(table["first"], [materials.INDEX[n] for n in ("deep water", "turbid water", "shallow water")])
        share += canvas.extra_mix * np.take(water.astype(np.float32), objects)
    tint = fractal(generator, shape, generator.uniform(4, 40), 1, generator.uniform(0.0, 0.4))
    return np.maximum(bright, 0.1), share, tint


def _render(canvas: Canvas, light: _Light, instrument: Instrument) -> np.ndarray:
    """Return the reflectance that reaches the receivers, (S, H, W): means over FINE x FINE places of each pixel."""
    whole, added, tinted = _spectra(canvas, instrument)
    bright, share, tint = _textures(canvas)
    objects, shade = canvas.objects, canvas.shade
    lit_of = (1 - np.arange(256) / 255.0).astype(np.float32) / FINE**2
    images = np.empty((len(whole), *canvas.shape), np.float32)
    for top in range(0, canvas.shape[0], _ROWS):
        rows = slice(top, min(top + _ROWS, canvas.shape[0]))
        fine = [(slice(FINE * rows.start + i, FINE * rows.stop, FINE), slice(j, None, FINE))
                for i in range(FINE) for j in range(FINE)]  # fmt: skip
        shown = [np.ascontiguousarray(objects[f]) for f in fine]
        suns = [np.take(lit_of, shade[f]) for f in fine]
        sun = sum(suns[1:], suns[0])
        relief = canvas.relief[rows] if canvas.relief is not None else None
        dimming = light.dimming[rows] if light.dimming is not None else None
        for s, image in enumerate(images):
            below = np.zeros_like(sun)
            plain = np.zeros_like(sun)
            for places, weight in zip(shown, suns, strict=True):
                values = np.take(whole[s], places)
                plain += values
                below += values * weight
            plain *= np.float32(1 / FINE**2)
            mixed = np.take(added[s], shown[0]) * share[rows] + np.take(tinted[s], shown[0]) * tint[rows]
            floor = np.float32(0.25) * plain  # a mixture never leaves a material darker than this
            ambient = np.maximum(plain * bright[rows] + mixed, floor)
            direct = np.maximum(below * bright[rows] + mixed * sun, floor * sun)
            if relief is not None:
                direct *= relief
            if dimming is not None:
                direct *= 1 - dimming
            result = light.sky[s] * ambient + (1 - light.sky[s]) * direct
            if canvas.glint is not None:
                result += canvas.glint[rows]
            result += light.haze[s] * (light.drift[rows] if light.drift is not None else np.float32(1))
            if light.cover is not None:
                result += light.cover[rows] * (light.cloud[s] - result)
            image[rows] = result
    return images


def _observe(
    generator: np.random.Generator, images: np.ndarray, instrument: Instrument
) -> tuple[np.ndarray, np.ndarray]:
    """Blur, shift, scale, add noise and round: the truth (C, H, W) and pan (1, H, W)."""
    gains = (*instrument.truth_gains, instrument.pan_gain)
    shifts = (*instrument.band_shifts, instrument.pan_shift)
    noise = (instrument.truth_snr,) * instrument.bands + (instrument.pan_snr,)
    for s, image in enumerate(images):
        _blur(image, gains[s])
        if np.any(shifts[s]):
            image[:] = _shifted(image, shifts[s])
        bright = float(np.quantile(image[::4, ::4], 0.995))
        full = instrument.top - instrument.floor
        image *= np.float32(instrument.fill[s] * full / max(bright, 1e-4))
        image += np.float32(instrument.floor)
        _add_noise(generator, image, noise[s], instrument, float(image[::4, ::4].mean()))
        np.clip(np.rint(image, out=image), 0, instrument.top, out=image)
    return images[:-1], images[-1:]


def _blur(image: np.ndarray, gain: float) -> None:
    """Bring an image of mean values over FINE = 2 places to a gain at the Nyquist frequency, in place."""
    passes = 1 if gain > 0.3 else 2  # two passes of three taps have the shape of a Gaussian
    once = min(gain / np.cos(np.pi / 4), 1.0) ** (1 / passes)
    outer = np.float32((1 - once) / 4)  # taps outer, 1 - 2 outer, outer
    for view in (image, image.T) * passes:
        padded = np.concatenate([view[:1], view, view[-1:]])
        view *= 1 - 2 * outer
        view += outer * (padded[:-2] + padded[2:])


def _shifted(image: np.ndarray, shift: Sequence[float]) -> np.ndarray:
    """Return the image read at places moved by `shift` pixels; the border is mirrored."""
    rows, columns = ((float(s), 1.0, n) for s, n in zip(shift, image.shape, strict=True))
    return resample(torch.from_numpy(image)[None], rows, columns)[0].numpy()


def _add_noise(
    generator: np.random.Generator, image: np.ndarray, snr: float, instrument: Instrument, mean: float
) -> None:
    """Add noise whose variance grows with the signal, in place."""
    level = max(mean - instrument.floor, 1e-6)
    signal = np.maximum(image - np.float32(instrument.floor), 0) * np.float32(1 / level)
    spread = np.sqrt(np.float32(instrument.read_share) + np.float32(1 - instrument.read_share) * signal)
    image += generator.standard_normal(image.shape, np.float32) * spread * np.float32(level / snr)


def _ms_of(generator: np.random.Generator, gt: np.ndarray, instrument: Instrument, size: Shape) -> np.ndarray:
    """Return ms (C, h, w): the truth filtered and sampled, in most draws exactly as Wald's protocol gives it."""
    filtered = mtf_filter(torch.from_numpy(gt)[None], instrument.gains, instrument.ratio)
    ms = take_samples(filtered, instrument.geometry, size)[0].numpy().copy()
    if np.isfinite(instrument.ms_snr):
        for band in ms:
            _add_noise(generator, band, instrument.ms_snr, instrument, float(band.mean()))
        np.rint(ms, out=ms)
    return np.clip(ms, 0, instrument.top)
