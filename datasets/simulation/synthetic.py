"""Synthetic data sets, so that every command runs without a download: drawn ground seen by a modelled sensor.

Ground (`landscape`) and a spectral library (`materials`) give reflectances on the panchromatic grid; the sensor's MTF,
haze, noise and rounding to its bit depth turn them into an observed MS + PAN pair. From there on it is treated like a
real scene (Wald's protocol). Train, valid and test use three different grounds.
Legend: C bands, H W size of the MS image, r ratio; PAN is r·H by r·W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from lemamba.datasets.simulation import landscape
from lemamba.datasets.simulation.drawn import draw_pair
from lemamba.datasets.simulation.ground import Ground
from lemamba.datasets.simulation.instrument import instrument_of
from lemamba.datasets.simulation.materials import FARMLAND
from lemamba.datasets.simulation.scenery import LANDSCAPES
from lemamba.datasets.simulation.wald import crop, full_resolution, tiles, wald
from lemamba.datasets.writers import whole_set, write_h5
from lemamba.operators import decimate, mtf_filter
from lemamba.utils.atomic import check_writable
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import Sensor, files_of, get_sensor

# split -> (rows, columns) of the MS image per unit of `size`
_EXTENT = {"train": (1.0, 1.0), "valid": (0.5, 0.5), "test": (1.0, 1.0)}
_BRIGHTNESS = 1.45  # reflectance to share of the full range
_PIXEL = 0.5  # metres per pixel of PAN
_SKY = 0.16  # light in full shadow, at 600 nm
_PAN_RANGE = (450.0, 800.0)  # nm
# band centres in nm, by number of bands: WorldView-2/3 and the four-band sensors
_CENTRES = {8: (427, 478, 546, 608, 659, 724, 833, 949), 4: (480, 550, 660, 830)}


def band_centres(bands: int) -> np.ndarray:
    """Return band centres in nm (C,): those of the sensors with 4 and 8 bands, otherwise evenly over 400 to 1000."""
    return np.array(_CENTRES.get(bands) or np.linspace(400, 1000, bands), dtype=np.float64)


def _pan_reflectance() -> np.ndarray:
    """Return what a panchromatic band sees of each material: (K,), the mean over 450 to 800 nm."""
    return FARMLAND.reflectance(np.linspace(*_PAN_RANGE, 71)).mean(1)


def observe(
    seed: int | Sequence[int], shape: tuple[int, int], sensor: str | Sensor = "WV3", bands: int = 8, ratio: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Make an observed pair.

    Args:
        seed: 0 or more, or several such numbers; the same seed gives the same scene.
        shape: (H, W) of the MS image.
        sensor: gives MTF gains and the largest digital number.
        bands: C.
        ratio: r.

    Returns:
        ms (C, H, W) and pan (1, r·H, r·W), whole digital numbers from 0 to the sensor's divisor, float32.
    """
    sensor = get_sensor(sensor)
    generator = np.random.default_rng(seed)
    ground = landscape.draw_ground(generator, (shape[0] * ratio, shape[1] * ratio))
    top = sensor.divisor if sensor.divisor > 1 else 2047.0
    centres = band_centres(bands)
    library = FARMLAND.reflectance(centres).astype(np.float32)
    ms = np.empty((bands, *shape), np.float32)
    for band, gain in enumerate(sensor.gains(bands)):
        radiance = _radiance(ground, library[:, band], centres[band])
        blurred = mtf_filter(torch.from_numpy(radiance)[None, None], [gain], ratio)
        ms[band] = decimate(blurred, ratio)[0, 0].numpy()
    pan = _radiance(ground, _pan_reflectance().astype(np.float32), 625.0)
    # A Gaussian of this sigma has the gain of the panchromatic MTF at half a cycle per pixel.
    pan = gaussian_filter(pan, np.sqrt(-2 * np.log(sensor.pan_gain)) / np.pi)
    return _digitise(generator, ms, top, 0.0012), _digitise(generator, pan[None], top, 0.003)


def _radiance(ground: Ground, library: np.ndarray, wavelength: float) -> np.ndarray:
    """Return what reaches the sensor at one wavelength (nm), (H, W): lit or shadowed surfaces, and haze."""
    share = ground.mix
    surface = (library[ground.first] * (1 - share) + library[ground.second] * share) * ground.light
    blueness = (600.0 / wavelength) ** 1.6  # both skylight in the shadows and haze are blue
    lit = 1 - ground.shade * (1 - min(_SKY * blueness, 0.6))
    return (_BRIGHTNESS * (surface * lit + 0.022 * blueness**1.5)).astype(np.float32)


def _digitise(generator: np.random.Generator, image: np.ndarray, top: float, noise: float) -> np.ndarray:
    """Add signal-dependent noise and round to whole digital numbers, 0 to `top`."""
    spread = noise * np.sqrt(0.3 + np.clip(image, 0, None))
    noisy = image + spread * generator.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.round(noisy * top), 0, top).astype(np.float32)


def write_dataset(
    folder: Path,
    name: str = "demo",
    *,
    size: int = 288,
    seed: int = 0,
    sensor: str | Sensor = "WV3",
    ratio: int = 4,
    landscape: str | None = None,
    show: Callable[[np.ndarray, np.ndarray], object] | None = None,
) -> dict[str, int]:
    """Write the four H5 files of a synthetic data set.

    Args:
        folder: where `train_<name>.h5` and the others go.
        name: name of the data set.
        size: side of the training ground in MS pixels, at least 128; validation ground is half, test ground as large.
        seed: 0 or more.
        sensor: a sensor with a known number of bands.
        ratio: H/h.
        landscape: None is that of this module; else one of `scenery.LANDSCAPES`, or "any" for one drawn per ground.
        show: called at the end with the test ground's ms (C, h, w) and pan (1, H, W).

    Returns:
        file name -> number of samples: train patches 64x64 with stride 16, valid 64x64, four test images.
    """
    sensor = get_sensor(sensor)
    if size < 128 or size % 32:
        raise UserError(f"expected a size that is a multiple of 32 and at least 128, given {size}; choose another")
    if ratio not in (2, 4, 8):
        raise UserError(f"expected ratio 2, 4 or 8, given {ratio}; choose another")
    if seed < 0:
        raise UserError(f"expected a seed of 0 or more, given {seed}; correct it")
    if sensor.bands not in _CENTRES:
        raise UserError(f"expected a sensor of 4 or 8 bands, given {sensor.name}; choose e.g. WV3 or IKONOS")
    if landscape not in (None, "any", *LANDSCAPES):
        raise UserError(f'expected a landscape (any, {", ".join(LANDSCAPES)}), given "{landscape}"; choose one of them')
    files = files_of("pansharpening", name)
    check_writable(*(folder / file for file in files.values()))  # all of them, before the first is written
    with whole_set(folder) as written:
        for number, split in enumerate(_EXTENT):
            rows, columns = (int(share * size) // 32 * 32 for share in _EXTENT[split])
            ground_seed = [seed, number]
            pair, shown = _pair(ground_seed, (rows, columns), sensor, ratio, landscape)
            attributes = {
                "source": "synthetic",
                "sensor": sensor.name,
                "divisor": sensor.divisor,
                "gains": sensor.gains(sensor.bands),
                "wavelengths": band_centres(sensor.bands),
                "ratio": ratio,
                "offset": ratio // 2,
                "seed": ground_seed,
            }
            attributes |= {"landscape": shown} if shown else {}
            for file, samples in _files(split, files, pair, sensor, ratio):
                written[file] = write_h5(folder / file, samples, attributes, "pansharpening")
        if show is not None:
            show(*pair)
    return written


def _pair(
    seed: list[int], shape: tuple[int, int], sensor: Sensor, ratio: int, landscape: str | None
) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """Return ms and pan of one ground, and the name of the landscape if it is one of the wider generator."""
    bands = sensor.bands or len(sensor.ms_gains)
    if landscape is None:
        return observe(seed, shape, sensor, bands, ratio), ""
    chosen = None if landscape == "any" else landscape
    instrument = instrument_of(sensor, bands, ratio)
    drawn = draw_pair(seed, shape, sensor=instrument, landscape=chosen, pixel=_PIXEL)
    return (np.round(drawn.ms), drawn.pan), drawn.landscape


def _files(
    split: str, files: dict[str, str], pair: tuple, sensor: Sensor, ratio: int
) -> Iterator[tuple[str, Iterator]]:
    """Yield the file names of a split and their samples."""
    ms, pan = pair
    sample = wald(ms, pan, sensor.gains(len(ms)), ratio)
    if split != "test":
        stride = 16 if split == "train" else 64
        yield files[split], tiles(sample, (64, 64), (stride, stride), ratio)
        return
    side = ms.shape[1] // 64 * 32  # four images
    yield files["test"], tiles(sample, (side, side), (side, side), ratio)
    start = (ms.shape[1] - side) // 2  # four full-resolution images from the middle: a quarter of the ground
    middle = (start, start + side, start, start + side)
    full = full_resolution(crop(ms, middle), crop(pan, middle, ratio), ratio)
    half = ratio * side // 2
    yield files["test_full"], tiles(full, (half, half), (half, half), ratio)
