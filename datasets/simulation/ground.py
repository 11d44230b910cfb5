"""The ground of a synthetic scene as maps, and the objects on it: blocks, houses, trees and their shadows.

The result does not depend on a sensor: per pixel two materials and their mixture, a brightness and a shadow.
Legend: H W size in panchromatic pixels (about half a metre); angles in radians; points are (row, column).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from lemamba.datasets.simulation.materials import FARMLAND

INDEX = FARMLAND.index
_SUN = np.array([0.78, 0.63])  # direction of shadows (down, right), unit length
_ROOFS = ("tile roof", "tile roof", "tile roof", "grey roof", "grey roof", "bright roof", "blue roof")


@dataclass
class Ground:
    """Maps of the ground, all (H, W).

    Attributes:
        first: index of the main material in `FARMLAND`.
        second: index of the one mixed with it.
        mix: share of the second, 0..1.
        light: brightness factor around 1 (texture, slopes of roofs).
        shade: 1 in full shadow, 0 in the sun.
    """

    first: np.ndarray
    second: np.ndarray
    mix: np.ndarray
    light: np.ndarray
    shade: np.ndarray

    def paint(self, where: tuple, first: str, second: str | None = None, mix: float = 0.0) -> None:
        """Cover the pixels `where` (an index of the arrays); their texture and shadow are reset."""
        self.first[where] = INDEX[first]
        self.second[where] = INDEX[second or first]
        self.mix[where] = mix
        self.light[where] = 1.0
        self.shade[where] = 0.0


def smooth_noise(generator: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Return noise of unit variance whose features are about `scale` pixels wide, (H, W)."""
    coarse = torch.from_numpy(generator.standard_normal([int(np.ceil(n / scale)) + 4 for n in shape], np.float32))
    grown = functional.interpolate(coarse[None, None], scale_factor=scale, mode="bicubic")[0, 0].numpy()
    top, left = ((g - n) // 2 for g, n in zip(grown.shape, shape, strict=True))
    noise = grown[top : top + shape[0], left : left + shape[1]]
    return noise / noise.std()


def to_image(angle: float, points: np.ndarray) -> np.ndarray:
    """Turn plan coordinates (…, 2) back into rows and columns."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, -s], [s, c]])


def _rectangle(ground: Ground, centre: np.ndarray, size: tuple, angle: float, margin: float = 0.0) -> tuple | None:
    """Return the pixels of a rotated rectangle and their coordinates along its sides; None outside the image."""
    shape = ground.light.shape
    reach = np.hypot(*size) / 2 + margin + 1
    low = np.clip(np.floor(centre - reach).astype(int), 0, shape)
    high = np.clip(np.ceil(centre + reach).astype(int) + 1, 0, shape)
    if (high <= low).any():
        return None
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    dy, dx = y - centre[0], x - centre[1]
    u = np.cos(angle) * dy - np.sin(angle) * dx
    v = np.sin(angle) * dy + np.cos(angle) * dx
    inside = (np.abs(u) <= size[0] / 2) & (np.abs(v) <= size[1] / 2)
    return (y[inside], x[inside]), u[inside], v[inside]


def shadow(ground: Ground, centre: np.ndarray, size: tuple, angle: float, height: float) -> None:
    """Darken the shadow of a block that is `height` pixels high."""
    for step in np.arange(1.0, height + 1, 1.5):
        found = _rectangle(ground, centre + _SUN * step, size, angle)
        if found is not None:
            ground.shade[found[0]] = np.maximum(ground.shade[found[0]], 0.92)


def block(ground: Ground, centre: np.ndarray, size: tuple, angle: float, roof: str, light: float) -> None:
    """Cover a rotated rectangle with a roof."""
    found = _rectangle(ground, centre, size, angle)
    if found is not None:
        ground.paint(found[0], roof, "grey roof", 0.1)
        ground.light[found[0]] = light


def house(
    generator: np.random.Generator, ground: Ground, centre: np.ndarray, size: tuple, angle: float, ridge_along: bool
) -> None:
    """Draw one house: yard, shadow, and a roof whose two halves face the sun differently."""
    yard = str(generator.choice(["concrete", "grass", "light soil", "asphalt"]))
    found = _rectangle(ground, centre, (size[0] + 9, size[1] + 9), angle)
    if found is None:
        return
    ground.mix[found[0]], ground.second[found[0]] = 0.6, INDEX[yard]
    shadow(ground, centre, size, angle, generator.uniform(5, 12))
    roof = str(generator.choice(_ROOFS))
    light = generator.uniform(0.75, 1.2)
    block(ground, centre, size, angle, roof, light)
    inner = _rectangle(ground, centre, size, angle)
    if inner is None:
        return
    where, u, v = inner
    if roof in ("tile roof", "blue roof", "grey roof"):
        slope = np.sign(v if ridge_along else u) * generator.uniform(0.1, 0.22)
        ground.light[where] *= 1 - slope
    for _ in range(generator.integers(0, 4)):  # chimneys, windows, plant
        spot = centre + generator.uniform(-0.35, 0.35, 2) * min(size)
        block(ground, spot, (2.5, 3.5), angle, "asphalt" if generator.random() < 0.5 else "bright roof", 1.0)


def is_dry(bank: np.ndarray, spot: np.ndarray, margin: float) -> bool:
    """Return whether a point lies in the image and at least `margin` pixels from the water."""
    y, x = np.round(spot).astype(int)
    return 0 <= y < bank.shape[0] and 0 <= x < bank.shape[1] and bank[y, x] > margin


def tree(generator: np.random.Generator, ground: Ground, centre: np.ndarray, radius: float) -> None:
    """Draw an uneven crown, brighter towards the sun, and its shadow."""
    shape = ground.light.shape
    low = np.clip((centre - radius - 1).astype(int), 0, shape)
    high = np.clip((centre + 2 * radius + 2).astype(int), 0, shape)
    if (high <= low).any():
        return
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    fallen = np.hypot(y - centre[0] - _SUN[0] * radius * 0.9, x - centre[1] - _SUN[1] * radius * 0.9) < radius
    ground.shade[y[fallen], x[fallen]] = np.maximum(ground.shade[y[fallen], x[fallen]], 0.8)
    dy, dx = y - centre[0], x - centre[1]
    crown = np.hypot(dy, dx) < radius
    where = y[crown], x[crown]
    ground.paint(where, "tree", "grass", generator.uniform(0, 0.35))
    lit = -(dy[crown] * _SUN[0] + dx[crown] * _SUN[1]) / radius
    ground.light[where] = generator.uniform(0.8, 1.15) * (1 + 0.35 * lit + generator.normal(0, 0.09, lit.shape))
