"""Materials of drawn ground: their reflectances, and how those vary from scene to scene and from object to object.

Two libraries, both made up to resemble such surfaces (red edge and water absorption of leaves, bright dunes, snow that
darkens beyond 1000 nm); they are not measurements. `FARMLAND` is that of the scenes of `synthetic`, whose published
results rest on its values; `DRAWN` is that of `drawn`: a scene bends every spectrum of it, an object again.
Legend: K materials, N objects, S receivers (bands and PAN), L wavelengths, J ways in which an object may differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Library:
    """Reflectances of materials.

    Attributes:
        knots: wavelengths in nm.
        spectra: reflectance of each material at the knots.
        unit: value of a reflectance of 1.
    """

    knots: tuple[float, ...]
    spectra: dict[str, tuple[float, ...]]
    unit: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the materials."""
        return tuple(self.spectra)

    @property
    def index(self) -> dict[str, int]:
        """Row of each material in `reflectance`."""
        return {name: i for i, name in enumerate(self.spectra)}

    def reflectance(self, wavelengths: np.ndarray) -> np.ndarray:
        """Return the reflectances at wavelengths in nm: (K, L), 0..1; linear between the knots."""
        return np.stack([np.interp(wavelengths, self.knots, values) for values in self.spectra.values()]) / self.unit


WAVELENGTHS = np.arange(400.0, 2405.0, 5.0)  # nm
FARMLAND = Library(
    (400, 480, 550, 605, 660, 725, 830, 950, 1050),
    {
        "water": (0.055, 0.050, 0.042, 0.030, 0.022, 0.015, 0.010, 0.008, 0.006),
        "shallow": (0.060, 0.080, 0.100, 0.080, 0.060, 0.035, 0.018, 0.012, 0.010),
        "grass": (0.030, 0.038, 0.085, 0.065, 0.050, 0.210, 0.400, 0.430, 0.430),
        "crop": (0.022, 0.030, 0.070, 0.045, 0.030, 0.220, 0.500, 0.510, 0.500),
        "stubble": (0.060, 0.095, 0.150, 0.190, 0.225, 0.270, 0.320, 0.350, 0.370),
        "tree": (0.018, 0.024, 0.050, 0.036, 0.028, 0.140, 0.310, 0.330, 0.330),
        "light soil": (0.080, 0.125, 0.185, 0.235, 0.270, 0.300, 0.340, 0.370, 0.390),
        "dark soil": (0.045, 0.065, 0.095, 0.125, 0.145, 0.175, 0.210, 0.240, 0.260),
        "asphalt": (0.068, 0.078, 0.088, 0.094, 0.100, 0.105, 0.112, 0.120, 0.125),
        "concrete": (0.150, 0.195, 0.235, 0.255, 0.268, 0.278, 0.290, 0.300, 0.305),
        "tile roof": (0.055, 0.070, 0.100, 0.180, 0.245, 0.275, 0.300, 0.320, 0.330),
        "grey roof": (0.110, 0.130, 0.145, 0.150, 0.155, 0.158, 0.165, 0.170, 0.170),
        "bright roof": (0.380, 0.440, 0.480, 0.500, 0.510, 0.515, 0.520, 0.515, 0.510),
        "blue roof": (0.150, 0.250, 0.215, 0.150, 0.130, 0.150, 0.200, 0.220, 0.230),
    },
)
DRAWN = Library(
    (400, 450, 500, 550, 600, 650, 680, 700, 720, 750, 800, 900, 1000, 1150, 1250, 1450, 1650, 1950, 2200, 2400),
    {  # per cent
        "deep water": (4, 4, 3.6, 2.8, 1.5, 1.1, 1, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2),
        "turbid water": (5, 6, 8, 10, 9.5, 8, 7, 6.5, 5, 4, 3.5, 2, 1.2, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3),
        "shallow water": (7, 10, 13, 13, 8, 5, 4, 3.3, 2.5, 1.5, 1.2, 0.9, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3),
        "grass": (3, 3.5, 4.5, 9, 6.5, 5, 4.5, 11, 20, 35, 41, 43, 43, 40, 40, 20, 29, 9, 15, 8),
        "crop": (2.2, 2.6, 3.5, 7.5, 4.5, 3.2, 2.8, 10, 22, 42, 49, 51, 50, 46, 45, 16, 29, 7, 12, 6),
        "dry grass": (5, 7, 10, 14, 18, 22, 23.5, 25, 27, 30, 32, 36, 39, 42, 43, 34, 40, 25, 31, 24),
        "stubble": (6, 8, 11, 15, 19, 22.5, 24, 26, 28, 30, 32, 35, 37, 41, 42, 35, 42, 28, 32, 26),
        "broadleaf": (1.8, 2.2, 3, 5.5, 3.8, 2.8, 2.6, 8, 15, 26, 31, 33, 33, 31, 30, 12, 20, 5, 9, 4),
        "conifer": (1.4, 1.7, 2.2, 3.6, 2.8, 2.3, 2.2, 5, 9, 15, 18, 19, 19, 17, 17, 7, 11, 3, 5, 3),
        "autumn leaves": (2, 3, 4.5, 9, 14, 15, 13, 19, 24, 29, 32, 35, 36, 35, 35, 19, 27, 10, 16, 9),
        "scrub": (3, 4, 5.5, 8, 8.5, 8.5, 8.2, 12, 16, 21, 24, 26, 27, 27, 28, 19, 25, 13, 18, 13),
        "dark soil": (4.5, 6, 8, 10, 12, 14, 15, 16, 17, 18.5, 20, 23, 25, 28, 29, 27, 31, 23, 27, 23),
        "light soil": (8, 11, 15, 19, 23, 26.5, 28, 29, 30, 31.5, 33, 36, 38, 41, 42, 40, 44, 35, 40, 35),
        "red soil": (4, 5, 6.5, 10, 18, 23, 25, 27, 28, 30, 31, 32, 35, 40, 41, 38, 43, 33, 37, 32),
        "sand": (13, 18, 25, 32, 38, 42, 44, 45, 46, 47, 49, 52, 54, 57, 58, 56, 60, 50, 56, 50),
        "salt": (32, 38, 43, 47, 50, 52, 53, 53, 54, 55, 56, 57, 58, 57, 56, 42, 48, 24, 35, 26),
        "grey rock": (9, 11, 13, 15, 17, 18, 18.5, 19, 19, 20, 20.5, 21, 22, 24, 25, 25, 26, 24, 24, 22),
        "red rock": (6, 7.5, 9.5, 14, 21, 25, 26.5, 28, 29, 30, 30, 30, 32, 36, 37, 36, 39, 34, 34, 30),
        "dark rock": (5, 5.5, 6, 6.5, 7, 7.3, 7.5, 7.6, 7.7, 8, 8, 8, 8.2, 9, 9.5, 10, 11, 10.5, 10, 10),
        "snow": (92, 94, 94, 94, 93, 92, 92, 91, 90, 89, 87, 82, 70, 48, 42, 8, 10, 3, 8, 5),
        "old snow": (62, 66, 68, 68, 67, 66, 65, 64, 63, 61, 58, 50, 38, 22, 18, 3, 4, 2, 3, 2),
        "asphalt": (6, 7, 8, 8.8, 9.3, 9.8, 10, 10.2, 10.4, 10.7, 11, 11.8, 12.5, 13.5, 14, 14.5, 15.5, 15.5, 16, 15.5),
        "old asphalt": (9, 11, 13, 15, 16, 17, 17.4, 17.8, 18, 18.4, 19, 20, 21, 22, 23, 23, 24, 23, 24, 22),
        "concrete": (15, 18.5, 22, 24.5, 26.5, 28, 28.5, 29, 29.3, 29.8, 30, 31, 32, 34, 35, 34, 37, 31, 34, 29),
        "gravel": (11, 14, 17, 20, 22, 24, 24.5, 25, 25.3, 26, 26.5, 28, 29, 31, 32, 31, 33, 29, 31, 27),
        "red tile": (5, 6, 8, 11, 20, 26, 27, 28, 29, 30, 30, 30, 33, 38, 40, 41, 44, 42, 43, 40),
        "brown tile": (5, 5.5, 6.5, 8.5, 12, 14, 15, 15.5, 16, 17, 17.5, 18, 20, 24, 26, 27, 30, 29, 30, 28),
        "grey roof": (11, 12.5, 14, 14.8, 15.3, 15.6, 15.7, 15.8, 16, 16.3, 16.6, 17, 17, 18, 19, 20, 21, 21, 21, 20),
        "dark roof": (4, 4.3, 4.6, 4.9, 5, 5.1, 5.2, 5.2, 5.3, 5.4, 5.5, 5.8, 6, 7, 7.5, 8, 9, 9, 9, 9),
        "white roof": (30, 55, 60, 62, 62, 62, 62, 62, 62, 61, 61, 60, 59, 56, 55, 48, 50, 38, 36, 26),
        "blue roof": (14, 25, 24, 19, 14, 12, 12, 13, 14, 17, 21, 25, 28, 33, 35, 34, 38, 33, 33, 28),
        "green roof": (5, 7, 13, 17, 12, 9, 9, 10, 12, 18, 24, 29, 32, 36, 37, 35, 39, 33, 33, 28),
        "metal": (22, 27, 31, 33, 34, 35, 35, 35.5, 36, 36, 36, 36, 38, 42, 44, 46, 49, 50, 52, 52),
        "red paint": (4, 4, 4.5, 5, 18, 38, 42, 44, 45, 46, 47, 48, 49, 50, 50, 46, 48, 40, 38, 32),
        "yellow paint": (5, 6, 18, 38, 46, 49, 50, 51, 51, 52, 53, 54, 54, 54, 53, 48, 50, 42, 40, 32),
        "artificial turf": (2, 2.5, 4, 8, 4, 3, 3, 4, 6, 9, 13, 20, 25, 33, 36, 36, 41, 36, 34, 28),
        "cloud": (68, 70, 71, 71, 71, 71, 71, 71, 71, 71, 71, 70, 69, 66, 64, 45, 50, 28, 38, 30),
    },
    unit=100.0,
)
INDEX = DRAWN.index
WAYS = 5  # J: ways in which an object's spectrum may differ from its material's
_SUN = ((400, 450, 500, 550, 600, 650, 700, 800, 900, 1000, 1250, 1650, 2200, 2400),
        (1.5, 2.0, 1.95, 1.87, 1.75, 1.6, 1.43, 1.13, 0.9, 0.74, 0.45, 0.23, 0.08, 0.06))  # fmt: skip


def sunlight() -> np.ndarray:
    """Return the irradiance of the sun at `WAVELENGTHS`, (L,), W m^-2 nm^-1, rounded."""
    return np.interp(WAVELENGTHS, *_SUN)


def _bumps(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return smooth curves over the wavelengths, (count, L), of magnitude about 1."""
    centre = generator.uniform(420, 1000, (count, 1))
    centre = np.where(generator.random((count, 1)) < 0.25, generator.uniform(1000, 2400, (count, 1)), centre)
    width = generator.uniform(50, 350, (count, 1))
    return np.exp(-(((WAVELENGTHS - centre) / width) ** 2) / 2)


def draw_library(generator: np.random.Generator) -> np.ndarray:
    """Return the spectra of one scene and their variations, (K, 1 + J, L).

    Row 0 of a material is its spectrum; an object adds rows 1 to J with weights of its own.
    """
    spectra = DRAWN.reflectance(WAVELENGTHS)
    tilt = np.log(WAVELENGTHS / 700)
    for spectrum in spectra:
        bend = generator.normal(0, 0.12, 3) @ _bumps(generator, 3) + generator.normal(0, 0.08) * tilt
        spectrum *= np.exp(bend + generator.normal(0, 0.15))
    ways = np.concatenate([tilt[None], _bumps(generator, WAYS - 1)])
    return np.concatenate([spectra[:, None], spectra[:, None] * ways[None]], axis=1).clip(-0.99, 0.99)
