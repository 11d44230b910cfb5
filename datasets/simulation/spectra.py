"""A small spectral library for synthetic scenes, and spectral responses.

The reflectances are made up to resemble such surfaces between 400 and 1000 nm (vegetation with a red edge, soils that
rise, water that falls); they are not measurements.
Legend: K materials, C bands.
"""

from __future__ import annotations

import numpy as np

_KNOTS = (400, 480, 550, 605, 660, 725, 830, 950, 1050)  # nm
_LIBRARY: dict[str, tuple[float, ...]] = {
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
}
MATERIALS: tuple[str, ...] = tuple(_LIBRARY)
PAN_RANGE = (450.0, 800.0)  # nm

# Band centres in nm, by number of bands: WorldView-2/3 and the four-band sensors.
CENTRES: dict[int, tuple[float, ...]] = {
    8: (427, 478, 546, 608, 659, 724, 833, 949),
    4: (480, 550, 660, 830),
}


def band_centres(bands: int) -> np.ndarray:
    """Return band centres in nm (C,): those of the sensors with 4 and 8 bands, otherwise evenly over 400 to 1000."""
    return np.array(CENTRES.get(bands) or np.linspace(400, 1000, bands), dtype=np.float64)


def reflectance(wavelengths: np.ndarray) -> np.ndarray:
    """Return the library at the given wavelengths in nm: (K, C), 0..1."""
    return np.stack([np.interp(wavelengths, _KNOTS, values) for values in _LIBRARY.values()])


def pan_reflectance() -> np.ndarray:
    """Return what a panchromatic band sees of each material: (K,), the mean over 450 to 800 nm."""
    return reflectance(np.linspace(*PAN_RANGE, 71)).mean(1)
