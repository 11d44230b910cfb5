"""Random fields for drawn ground: fractal noise, cells such as tree crowns, and waves.

Everything is NumPy on whole arrays, float32, and a fraction of a second for ten million pixels.
Legend: H W size; scales in pixels.
"""

from __future__ import annotations

import numpy as np

Shape = tuple[int, int]


def _doubled(x: np.ndarray) -> np.ndarray:
    """Double both axes by the quadratic B-spline (Chaikin's weights 3/4 and 1/4), (2n - 2, 2m - 2)."""
    for _ in range(2):
        longer = np.empty((2 * len(x) - 2, x.shape[1]), np.float32)
        quarter = 0.25 * x
        np.subtract(x[:-1], quarter[:-1], out=longer[0::2])
        longer[0::2] += quarter[1:]
        np.subtract(x[1:], quarter[1:], out=longer[1::2])
        longer[1::2] += quarter[:-1]
        x = np.ascontiguousarray(longer.T)
    return x


def fractal(
    generator: np.random.Generator, shape: Shape, largest: float, smallest: float = 1.0, roughness: float = 0.0
) -> np.ndarray:
    """Return noise with details of many sizes.

    Args:
        generator: source of all randomness.
        shape: (H, W).
        largest: about the size of the largest features.
        smallest: size of the smallest ones.
        roughness: exponent by which the amplitude grows with the size of a feature: 0 gives all octaves the same
            amplitude, 1 is smooth like mountains.

    Returns:
        (H, W) float32, mean 0 and variance 1.
    """
    octaves = max(int(round(np.log2(max(largest, smallest)))), 0)
    last = min(max(int(round(np.log2(max(smallest, 1)))), 0), octaves)
    rows, columns = (-(-n // 2**octaves) + 3 for n in shape)
    field = generator.standard_normal((rows, columns), np.float32)
    for octave in range(octaves - 1, -1, -1):
        field = _doubled(field)
        if octave >= last:
            field += np.float32(2.0 ** (roughness * (octave - octaves))) * generator.standard_normal(
                field.shape, np.float32
            )
        # Keep no more than the finer octaves need.
        rows, columns = (-(-n // 2**octave) + 3 for n in shape)
        field = field[:rows, :columns]
    field = field[: shape[0], : shape[1]]
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def grown(field: np.ndarray, shape: Shape, doublings: int) -> np.ndarray:
    """Enlarge a field by 2^doublings with smooth interpolation and cut it to `shape`."""
    field = np.pad(field, 1, mode="edge")
    first = 1
    for _ in range(doublings):
        field = _doubled(field)
        first = 2 * first - 1
    field = field[first:, first:]
    missing = [max(n - m, 0) for n, m in zip(shape, field.shape, strict=True)]
    if any(missing):
        field = np.pad(field, [(0, m) for m in missing], mode="edge")
    return field[: shape[0], : shape[1]]


def crowns(
    generator: np.random.Generator, shape: Shape, pitch: float, sun: np.ndarray, cover: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a canopy of domes that the sun lights from one side.

    Args:
        generator: source of all randomness.
        shape: (H, W).
        pitch: mean distance of crowns in pixels, at least 1.5.
        sun: direction of shadows (down, right), unit length.
        cover: radius of crowns in units of the pitch, about 0.4 (single trees) to 0.8 (closed canopy).

    Returns:
        light (H, W), brightness factor minus 1, and number (H, W), uniform in [-1, 1] and constant in a crown.
    """
    pitch = max(pitch, 1.5)
    cells = tuple(int(n / pitch) + 4 for n in shape)
    jitter = generator.uniform(-0.38, 0.38, (2, *cells)).astype(np.float32)
    inverse = (1 / (cover * generator.uniform(0.65, 1.2, cells))).astype(np.float32)
    number = generator.uniform(-1, 1, cells).astype(np.float32)
    y, x = (np.arange(n, dtype=np.float32) / np.float32(pitch) + np.float32(1.0) for n in shape)
    iy, ix = y.astype(np.int32), x.astype(np.int32)
    fy, fx = y - iy, x - ix
    best = np.full(shape, 9.0, np.float32)
    slope, kind = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for step_y in (0, 1):
        for step_x in (0, 1):
            rows, columns = (iy + step_y)[:, None], (ix + step_x)[None]
            radius = inverse[rows, columns]
            dy = ((fy - step_y)[:, None] - jitter[0][rows, columns]) * radius
            dx = ((fx - step_x)[None] - jitter[1][rows, columns]) * radius
            distance = dy * dy + dx * dx
            nearer = distance < best
            np.copyto(best, distance, where=nearer)
            np.copyto(slope, -(dy * np.float32(sun[0]) + dx * np.float32(sun[1])), where=nearer)
            np.copyto(kind, number[rows, columns], where=nearer)
    gap = np.clip((best - 1.0) * 2.5, 0, 1)
    light = (1 - gap) * (0.12 + 0.4 * np.clip(slope, -1, 1) - 0.15 * best.clip(0, 1)) - 0.55 * gap
    return light.astype(np.float32), kind


def hillshade(height: np.ndarray, sun: np.ndarray, elevation: float) -> np.ndarray:
    """Return the light on a relief divided by that on a plain, (H, W), 0 where the sun does not reach.

    Args:
        height: (H, W) in pixels.
        sun: direction of shadows (down, right), unit length.
        elevation: of the sun, radians.
    """
    slope_y, slope_x = (np.gradient(height, axis=axis).astype(np.float32) for axis in (0, 1))
    towards = slope_y * np.float32(sun[0]) + slope_x * np.float32(sun[1])
    lit = np.sin(elevation) + np.cos(elevation) * towards
    return np.clip(lit / np.sqrt(1 + slope_y**2 + slope_x**2), 0, None) / np.float32(np.sin(elevation))
