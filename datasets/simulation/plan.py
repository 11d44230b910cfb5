"""Plans of drawn ground: parcels and the lines between them, in turned and bent coordinates.

A plan has its origin at the middle of the image. Its rectangles become slightly bent quadrangles on the image.
Legend: H W size in pixels; points are (row, column); rectangles are top, left, bottom, right; N rectangles.
"""

from __future__ import annotations

import numpy as np

from lemamba.datasets.simulation.fields import Shape


class Plan:
    """A turn and gentle bends.

    Attributes:
        reach: the image lies within this distance of the origin, in plan coordinates.
    """

    def __init__(self, generator: np.random.Generator, shape: Shape, bend: float) -> None:
        """Draw the turn; `bend` is the largest change of direction in radians."""
        self.shape = shape
        angle = generator.uniform(-np.pi, np.pi)
        self._turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._waves = []
        for _ in range(3):
            length = generator.uniform(0.4, 2.0) * max(shape)
            direction = generator.uniform(0, 2 * np.pi)
            wave = 2 * np.pi / length * np.array([np.sin(direction), np.cos(direction)])
            self._waves.append((wave, generator.uniform(0, 2 * np.pi, 2), bend * length / (2 * np.pi) / 1.7))
        self.reach = float(np.hypot(*shape) / 2 * 1.02 + sum(wave[2] for wave in self._waves) + 2)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Turn plan coordinates (…, 2) into rows and columns."""
        moved = points + 0.0
        for wave, phases, size in self._waves:
            moved = moved + size * np.sin((points @ wave)[..., None] + phases)
        return moved @ self._turn + (np.array(self.shape) - 1) / 2

    def outline(self, rectangles: np.ndarray, parts: int = 6) -> np.ndarray:
        """Return the rectangles (N, 4) as bent polygons on the image, (N, 4 · parts, 2)."""
        top, left, bottom, right = rectangles.T[:, :, None]
        share = np.arange(parts) / parts
        rows = np.concatenate([top + 0 * share, top + (bottom - top) * share, bottom + 0 * share,
                               bottom + (top - bottom) * share], axis=1)  # fmt: skip
        columns = np.concatenate([left + (right - left) * share, right + 0 * share, right + (left - right) * share,
                                  left + 0 * share], axis=1)  # fmt: skip
        return self.to_image(np.stack([rows, columns], axis=2))

    def corners(self, centres: np.ndarray, sizes: np.ndarray, angles: np.ndarray | float = 0.0) -> np.ndarray:
        """Return rectangles on the image, (N, 4, 2): centres and sizes (N, 2) in the plan, turned by angles (N,)."""
        signs = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
        offsets = signs[None] * sizes[:, None]
        c, s = np.cos(angles), np.sin(angles)
        turned = np.stack(
            [offsets[..., 0].T * c - offsets[..., 1].T * s, offsets[..., 0].T * s + offsets[..., 1].T * c]
        )
        return self.to_image(centres[:, None] + turned.transpose(2, 1, 0))

    def direction(self, points: np.ndarray) -> np.ndarray:
        """Return the unit vector on the image (N, 2) along which the first plan coordinate grows."""
        step = self.to_image(points + np.array([1.0, 0.0])) - self.to_image(points)
        return step / np.linalg.norm(step, axis=1, keepdims=True)

    def seen(self, rectangles: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Return which rectangles (N, 4) may touch the image, (N,) bool."""
        middle = self.to_image((rectangles[:, :2] + rectangles[:, 2:]) / 2)
        reach = np.hypot(*(rectangles[:, 2:] - rectangles[:, :2]).T) * 0.6 + margin
        return ((middle > -reach[:, None]) & (middle < np.array(self.shape) - 1 + reach[:, None])).all(axis=1)

    def divide(
        self, generator: np.random.Generator, rectangles: np.ndarray, size: float, stop: float = 0.3, slim: float = 0.5
    ) -> tuple[np.ndarray, np.ndarray]:
        """Split rectangles at random until their longer side is about `size`.

        Args:
            generator: source of all randomness.
            rectangles: (N, 4).
            size: pixels; sides up to twice this may stay, with chance `stop` at each step.
            stop: see `size`.
            slim: 0.5 splits in halves, smaller values let parts be that share of the whole.

        Returns:
            parts (M, 4), and cuts (K, 6): 1 where the first coordinate is cut, its value, first and last value along
            the cut, how many splits were before it, and the length of the cut side.
        """
        done, cuts, depth = [np.zeros((0, 4))], [np.zeros((0, 6))], 0
        while len(rectangles):
            rectangles = rectangles[self.seen(rectangles)]
            sides = rectangles[:, 2:] - rectangles[:, :2]
            longest = sides.max(axis=1)
            ready = (longest < size) | ((longest < 2 * size) & (generator.random(len(longest)) < stop))
            done.append(rectangles[ready])
            rectangles, sides = rectangles[~ready], sides[~ready]
            across = sides[:, 0] > sides[:, 1] * generator.uniform(0.9, 1.1, len(sides))
            share = generator.uniform(slim, 1 - slim, len(sides)) if slim < 0.5 else np.full(len(sides), 0.5)
            low = np.where(across, rectangles[:, 0], rectangles[:, 1])
            at = low + share * np.where(across, sides[:, 0], sides[:, 1])
            first, second = rectangles.copy(), rectangles.copy()
            row = np.arange(len(rectangles))
            first[row, np.where(across, 2, 3)] = at
            second[row, np.where(across, 0, 1)] = at
            along = np.where(across[:, None], rectangles[:, [1, 3]], rectangles[:, [0, 2]])
            cuts.append(np.column_stack([across, at, along, np.full(len(at), depth), sides.max(axis=1)]))
            rectangles = np.concatenate([first, second])
            depth += 1
        return np.concatenate(done), np.concatenate(cuts)

    def whole(self) -> np.ndarray:
        """Return one rectangle that covers the image, (1, 4)."""
        return np.array([[-self.reach, -self.reach, self.reach, self.reach]])

    def strips(self, cuts: np.ndarray, widths: np.ndarray, parts: int = 12) -> np.ndarray:
        """Return cuts (K, 6) as strips of some width on the image, (K, 4 · parts, 2)."""
        across, at, low, high = cuts[:, 0] > 0, cuts[:, 1], cuts[:, 2], cuts[:, 3]
        half = widths / 2
        lying = np.stack([at - half, low - half, at + half, high + half], axis=1)
        standing = np.stack([low - half, at - half, high + half, at + half], axis=1)
        return self.outline(np.where(across[:, None], lying, standing), parts)


def inset(rectangles: np.ndarray, margin: np.ndarray | float) -> np.ndarray:
    """Return the rectangles (N, 4) without a margin on each side; slim ones vanish and are left out."""
    margin = np.broadcast_to(np.asarray(margin, float), len(rectangles))[:, None]
    smaller = rectangles + margin * np.array([1, 1, -1, -1])
    return smaller[(smaller[:, 2:] - smaller[:, :2] > 0.5).all(axis=1)]
