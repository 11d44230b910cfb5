"""Where MS pixels lie under PAN pixels, as one value that travels with the data. No torch here.

MS pixel (i, j) has its centre at PAN index ``(offset[0] + i * ratio[0], offset[1] + j * ratio[1])``; indices count
pixel centres from 0. Three conventions are common at ratio r:

- corner-aligned, offset (r - 1)/2: the corners of both images agree, as in ordinary products (WorldView, Pleiades,
  Sentinel-2);
- the research toolboxes, offset r/2: MATLAB's ``imresize(…, 'nearest')`` and the 23-tap interpolation;
- Landsat 8 and 9, offset 0 at ratio 2: the first pixel centres agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lemamba.utils.errors import UserError

Pair = tuple[float, float]
LARGEST_RATIO = 64.0


def _pair(value: float | Pair) -> Pair:
    return (float(value), float(value)) if isinstance(value, int | float) else (float(value[0]), float(value[1]))


@dataclass(frozen=True)
class Geometry:
    """Ratio and offset in PAN pixels, each as (rows, columns).

    Attributes:
        ratio: PAN pixels per MS pixel, at least 1.
        offset: PAN index of the centre of MS pixel (0, 0).

    Raises:
        UserError: a ratio below 1 or above 64, or a value that is not finite.
    """

    ratio: Pair
    offset: Pair

    def __post_init__(self) -> None:
        """Validate."""
        finite = all(map(math.isfinite, (*self.ratio, *self.offset)))
        if not finite or not all(1 <= r <= LARGEST_RATIO for r in self.ratio):
            raise UserError(
                f"expected ratios from 1 to {LARGEST_RATIO:g} and finite offsets, given ratio {self.ratio} and offset "
                f"{self.offset}"
            )

    @classmethod
    def toolbox(cls, ratio: float | Pair) -> Geometry:
        """Return the convention of the research toolboxes: offset r/2."""
        rows, columns = _pair(ratio)
        return cls((rows, columns), (rows / 2, columns / 2))

    @classmethod
    def corners(cls, ratio: float | Pair) -> Geometry:
        """Return the convention of ordinary products: the corners agree, offset (r - 1)/2."""
        rows, columns = _pair(ratio)
        return cls((rows, columns), ((rows - 1) / 2, (columns - 1) / 2))

    @property
    def nominal(self) -> int:
        """The whole ratio that is nearest: what a method is built with."""
        return max(1, round(math.sqrt(self.ratio[0] * self.ratio[1])))

    @property
    def whole(self) -> bool:
        """Whether every MS pixel lies on a PAN pixel: whole ratios and offsets."""
        return all(float(v).is_integer() for v in (*self.ratio, *self.offset))

    @property
    def doubles(self) -> bool:
        """Whether the published 23-tap interpolation reaches it: one power of two as ratio, whole offsets."""
        r = int(self.ratio[0])
        return self.whole and self.ratio[0] == self.ratio[1] and r & (r - 1) == 0

    def shifted(self, rows: float, columns: float) -> Geometry:
        """Return the geometry after MS has moved by so many PAN pixels."""
        return Geometry(self.ratio, (self.offset[0] + rows, self.offset[1] + columns))

    def window(self, ms_first: tuple[int, int], pan_first: tuple[int, int]) -> Geometry:
        """Return the geometry of two windows that begin at these MS and PAN pixels."""
        rows, columns = (o + i * r - p for o, i, r, p in zip(self.offset, ms_first, self.ratio, pan_first, strict=True))
        return Geometry(self.ratio, (rows, columns))

    def ms_index(self, pan_index: float, axis: int) -> float:
        """Return where a PAN index lies, in MS pixels, along an axis (0 rows, 1 columns)."""
        return (pan_index - self.offset[axis]) / self.ratio[axis]

    def __str__(self) -> str:
        """Return ratio and offset in words."""

        def one(pair: Pair) -> str:
            return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g} x {pair[1]:g}"

        return f"ratio {one(self.ratio)}, offset {one(self.offset)} PAN pixels"
