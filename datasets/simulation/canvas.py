"""A canvas of drawn ground: which object each place shows, its shadow, and the fields of texture and relief.

Objects are drawn on a grid twice as fine as the pixels, so that edges are mixed pixels as in an image. An object is a
row of a table: two materials, their mixture, and how strongly each texture shows on it. No sensor is involved.
Legend: H W size in pixels; points are (row, column), whole numbers at pixel centres; N objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lemamba.datasets.simulation.fields import Shape, grown
from lemamba.datasets.simulation.materials import INDEX

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

FINE = 2
# Columns of the table: brightness; share of the second material; how far patches, grain, stripes and crowns change the
# brightness; how far patches and stripes change the share; waves of the stripes in radians per pixel (rows, columns);
# strength of changes of colour, drawn where it is not given.
COLUMNS = ("light", "share", "patch", "grain", "stripe", "crown", "mix", "mix_stripe", "wave_y", "wave_x", "tint")


class Canvas:
    """What is drawn so far.

    Attributes:
        generator: source of all randomness.
        shape: (H, W).
        pixel: size of a pixel in metres; objects have sizes in metres.
        sun: direction of shadows (down, right), unit length.
        elevation: of the sun in radians.
        relief: (H, W) direct light on slopes divided by that on a plain, or None.
        extra_mix: (H, W) added to the share of the second material, or None.
        water: (H, W) True where there is water, or None.
        glint: (H, W) light mirrored by waves, a reflectance, or None.
        tint: largest strength of changes of colour within an object.
        canopy: pitch of crowns in pixels and their cover, for objects with a crown texture.
    """

    def __init__(self, generator: np.random.Generator, shape: Shape, pixel: float) -> None:
        """Start with bare ground: object 0."""
        self.generator, self.shape, self.pixel = generator, shape, pixel
        angle = generator.uniform(0, 2 * np.pi)
        self.sun = np.array([np.sin(angle), np.cos(angle)])
        self.elevation = float(np.radians(generator.uniform(22, 72)))
        self.relief: np.ndarray | None = None
        self.extra_mix: np.ndarray | None = None
        self.water: np.ndarray | None = None
        self.glint: np.ndarray | None = None
        self.tint = generator.uniform(0.02, 0.18)
        self.canopy = (max(generator.uniform(4, 9) / pixel, 1.5), generator.uniform(0.55, 0.85))
        self._rows: list[dict[str, np.ndarray]] = []
        self._count = 0
        fine = (FINE * shape[0], FINE * shape[1])
        # Ground and shadow, as arrays or as images to draw on: one of the lists is empty.
        self._arrays: list[np.ndarray] = [np.zeros(fine, np.int32), np.zeros(fine, np.uint8)]
        self._images: list[Image.Image] = []
        self.add("light soil", "dark soil", share=0.4, patch=0.1, grain=0.04, mix=0.2)

    @property
    def objects(self) -> np.ndarray:
        """Number of the object at each fine place, (2H, 2W) int32; writable."""
        return self._as_arrays()[0]

    @property
    def shade(self) -> np.ndarray:
        """Shadow at each fine place, (2H, 2W), 0 in the sun and 255 in full shadow; writable."""
        return self._as_arrays()[1]

    def _as_arrays(self) -> list[np.ndarray]:
        if self._images:
            self._arrays, self._images = [np.array(image) for image in self._images], []
        return self._arrays

    def _pens(self) -> list[ImageDraw.ImageDraw]:
        from PIL import Image, ImageDraw  # comes with matplotlib

        if self._arrays:
            self._arrays, self._images = [], [Image.fromarray(array) for array in self._arrays]
        return [ImageDraw.Draw(image) for image in self._images]

    def add(
        self,
        first: str | np.ndarray,
        second: str | np.ndarray | None = None,
        *,
        count: int = 1,
        vary: float = 1.0,
        kin: np.ndarray | None = None,
        **columns: float | np.ndarray,
    ) -> np.ndarray:
        """Enter objects in the table.

        Args:
            first: name of the material, or `count` indices.
            second: of the material mixed with it; None is the first.
            count: how many.
            vary: how much their spectra differ from each other, 1 for objects of different make.
            kin: numbers of objects whose spectra they share, (count,); None gives each its own.
            **columns: values of `COLUMNS`; the brightness is 1 and the rest 0 if not given.

        Returns:
            Their numbers, (count,).
        """
        row: dict[str, np.ndarray] = {
            name: np.broadcast_to(np.float32(columns.get(name, 0)), count) for name in COLUMNS
        }
        if "light" not in columns:
            row["light"] = np.ones(count, np.float32)
        if "tint" not in columns:
            row["tint"] = self.generator.uniform(0, self.tint, count).astype(np.float32)
        row["first"] = np.broadcast_to(INDEX[first] if isinstance(first, str) else first, count)
        second = first if second is None else second
        row["second"] = np.broadcast_to(INDEX[second] if isinstance(second, str) else second, count)
        row["vary"] = np.broadcast_to(np.float32(vary), count)
        numbers = np.arange(self._count, self._count + count)
        row["kin"] = numbers if kin is None else kin
        self._rows.append(row)
        self._count += count
        return numbers

    def table(self) -> dict[str, np.ndarray]:
        """Return all columns, each (N,), and `first`, `second`, `vary`, `kin`."""
        return {name: np.concatenate([row[name] for row in self._rows]) for name in self._rows[0]}

    def is_dry(self, points: np.ndarray) -> np.ndarray:
        """Return which points (N, 2) are not on water, (N,) bool."""
        if self.water is None:
            return np.ones(len(points), bool)
        row, column = (np.clip(np.rint(points[:, i]).astype(int), 0, self.shape[i] - 1) for i in (0, 1))
        return ~self.water[row, column]

    def pixels(self, metres: float, least: float = 0.0) -> float:
        """Return a length in pixels, at least `least`."""
        return max(metres / self.pixel, least)

    def fine(self, field: np.ndarray) -> np.ndarray:
        """Enlarge a field (H, W) smoothly to the fine grid."""
        return grown(field, (FINE * self.shape[0], FINE * self.shape[1]), 1)

    def cover(self, where: np.ndarray, number: int) -> None:
        """Show one object where the mask (2H, 2W) says."""
        np.copyto(self.objects, np.int32(number), where=where)
        np.copyto(self.shade, np.uint8(0), where=where)

    def polygons(self, corners: np.ndarray, numbers: np.ndarray) -> None:
        """Draw N polygons, (N, V, 2); later ones cover earlier ones and their shadows."""
        ground, shade = self._pens()
        for points, number in zip(_to_fine(corners), np.asarray(numbers).tolist(), strict=True):
            ground.polygon(points, fill=number)
            shade.polygon(points, fill=0)

    def blocks(self, corners: np.ndarray, numbers: np.ndarray, heights: np.ndarray, halves: np.ndarray) -> None:
        """Draw N buildings with their shadows, one after the other.

        Args:
            corners: (N, 4, 2), around the building.
            numbers: objects of the roofs, (N,).
            heights: in pixels, (N,).
            halves: object of the roof's half between corners 0 and 1, (N,); the same as `numbers` for a flat roof.
        """
        ground, shade = self._pens()
        shift = self.sun * (heights / np.tan(self.elevation))[:, None]
        shadows = _to_fine(_swept(corners, shift))
        middles = (corners[:, [1, 0]] + corners[:, [2, 3]]) / 2
        slopes = _to_fine(np.concatenate([corners[:, :2], middles], axis=1))
        dark = self.generator.integers(215, 256, len(corners)).tolist()
        rows = zip(shadows, _to_fine(corners), slopes, numbers.tolist(), halves.tolist(), dark, strict=True)
        for shadow, roof, slope, number, half, darkness in rows:
            shade.polygon(shadow, fill=darkness)
            ground.polygon(roof, fill=number)
            shade.polygon(roof, fill=0)
            if half != number:
                ground.polygon(slope, fill=half)

    def trees(self, points: np.ndarray, radii: np.ndarray, crowns: np.ndarray, lit: np.ndarray) -> None:
        """Draw N crowns with their shadows.

        Args:
            points: centres, (N, 2).
            radii: in pixels, (N,).
            crowns: objects of the crowns, (N,).
            lit: objects of their sunny sides, (N,).
        """
        ground, shade = self._pens()
        radii = np.maximum(radii, 0.45)
        length = radii * min(1.3 / np.tan(self.elevation), 3.0)
        parts = (
            _circles(points + self.sun * length[:, None], radii),
            _circles(points, radii),
            _circles(points - self.sun * (0.3 * radii)[:, None], 0.62 * radii),
        )
        rows = zip(*parts, crowns.tolist(), lit.tolist(), (radii > 1).tolist(), strict=True)
        for shadow, crown, side, number, bright, large in rows:
            shade.ellipse(shadow, fill=225)
            ground.ellipse(crown, fill=number)
            shade.ellipse(crown, fill=0)
            if large:
                ground.ellipse(side, fill=bright)

    def discs(self, points: np.ndarray, radii: np.ndarray, numbers: np.ndarray) -> None:
        """Draw N discs without shadows."""
        ground, shade = self._pens()
        for box, number in zip(_circles(points, radii), numbers.tolist(), strict=True):
            ground.ellipse(box, fill=number)
            shade.ellipse(box, fill=0)


def _to_fine(points: np.ndarray) -> list[list[float]]:
    """Return polygons (N, V, 2) as lists x, y, x, y, … on the fine grid."""
    return (FINE * points[..., ::-1] + (FINE - 1) / 2).reshape(len(points), 2 * points.shape[1]).tolist()


def _circles(points: np.ndarray, radii: np.ndarray) -> list[list[float]]:
    """Return the boxes x, y, x, y of circles on the fine grid."""
    centres = FINE * points[:, ::-1] + (FINE - 1) / 2
    reach = FINE * radii[:, None]
    return np.concatenate([centres - reach, centres + reach], axis=1).tolist()


def _swept(corners: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the outline of convex quadrangles moved along their shift, (N, 8, 2)."""
    edges = np.roll(corners, -1, axis=1) - corners
    turn = np.sign(edges[:, :1, 0] * edges[:, 1:2, 1] - edges[:, :1, 1] * edges[:, 1:2, 0])
    outwards = turn * (edges[..., 1] * shift[:, None, 0] - edges[..., 0] * shift[:, None, 1])
    ahead = outwards > 0  # edges that the shift pushes forward
    behind = np.roll(ahead, 1, axis=1)
    moved = np.stack([behind, ahead], axis=2)[..., None] * shift[:, None, None]
    return (corners[:, :, None] + moved).reshape(len(corners), 8, 2)
