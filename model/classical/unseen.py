"""Light that PAN sees and no band of MS: smooth differences of PAN and intensity, which are no details.

PAN may reach beyond the bands at hand, as one that sees near infrared does beyond red, green and blue. What the bands
do not explain of it is then largely smooth, and component substitution would add it to every band. Its means over cells
of `CELL` x `CELL` MS pixels, interpolated linearly, are subtracted from PAN.
Legend: C bands, F features, R x K cells. Cell (i, k) has MS pixel (3 i + 1, 3 k + 1) of the image in its middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.model.classical.base import Windows
from lemamba.model.classical.statistics import Moments
from lemamba.operators.window import Window
from lemamba.utils.threads import in_order

CELL = 3
# Of what the bands leave of PAN. Eight real scenes have 0.05 to 0.50 with all bands, IKONOS without near infrared 0.74.
# GSA's ERGAS fell or stayed in each with any share; below this one the method is left as published.
SHARE = 0.4


@dataclass(frozen=True)
class Smooth:
    """Means over the cells of an image, float64.

    Attributes:
        value: (R, K).
        seen: (R, K), 1 where the middle of the cell has data, else 0.
    """

    value: Tensor
    seen: Tensor

    def at(self, window: Window) -> Tensor:
        """Interpolate at the PAN pixels of a window without its margins, (1, 1, H, W); 0 where no cell has data."""
        (rows, i), (columns, k) = (self._weights(window, axis) for axis in (0, 1))
        seen = self.seen[i, k]
        total, weight = (rows @ x @ columns.T for x in (self.value[i, k] * seen, seen))
        return torch.where(weight > 0, total / weight.clamp_min(1e-12), 0.0)[None, None].to(window.pan)

    def _weights(self, window: Window, axis: int) -> tuple[Tensor, slice]:
        """Return linear weights (H, n) of n cells along an axis, and which cells."""
        span, count = window.inner[axis], self.value.shape[axis]
        pixels = torch.arange(window.pan.shape[axis - 2], dtype=torch.float64)[span]
        at = (pixels - window.geometry.offset[axis]) / window.geometry.ratio[axis] + window.first_ms[axis]
        place = ((at - CELL // 2) / CELL).clamp(0, count - 1)
        low = int(place[0])
        cells = slice(low, min(int(place[-1]) + 2, count))
        return (1 - (place[:, None] - torch.arange(low, cells.stop)).abs()).clamp_min(0), cells


def cell_means(window: Window, image: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Average an image on the MS pixels of a window over the cells whose middle lies inside the margins.

    Args:
        window: with margins of an MS pixel at least.
        image: (1, F, h, w).

    Returns:
        Means (F, R, K) in float64, which of the middles have data (R, K), and which cell of the whole is the first.
    """
    first, counts, parts, middles = [], [], [], []
    for axis, inner in enumerate(window.inner_ms):
        start = inner.start + (CELL // 2 - window.first_ms[axis] - inner.start) % CELL
        count = max(0, -(-(inner.stop - start) // CELL))
        first.append((window.first_ms[axis] + start) // CELL)
        counts.append(count)
        parts.append(slice(start - CELL // 2, start - CELL // 2 + CELL * count))
        middles.append(slice(start - inner.start, start - inner.start + CELL * count, CELL))
    if 0 in counts:
        return image.new_zeros(image.shape[1], 0, 0, dtype=torch.float64), torch.zeros(0, 0), (0, 0)
    means = F.avg_pool2d(image[..., parts[0], parts[1]], CELL)[0]
    seen = torch.ones(means.shape[-2:])
    if window.valid_ms is not None:
        seen = window.valid_ms[middles[0], middles[1]]
    return means.to("cpu", torch.float64), seen.to("cpu", torch.float64), (first[0], first[1])


def smooth_share(pixels: Moments, cells: Moments, weights: Tensor) -> float:
    """Return which share of the variance that weighted bands leave of PAN its means over cells have.

    Args:
        pixels, cells: moments of [bands, low-pass PAN] at MS pixels and of their means over cells.
        weights: (C,).
    """
    left = torch.cat((-weights, weights.new_ones(1)))
    whole = float(left @ pixels.covariance @ left)
    return float(left @ cells.covariance @ left) / whole if whole > 0 and cells.count > 1 else 0.0


def smooth_of(windows: Windows, image: Callable[[Window], Tensor]) -> Smooth:
    """Gather the means over the cells of a whole image; `image` gives its MS pixels (1, 1, h, w) in a window."""
    found = list(in_order(lambda window: cell_means(window, image(window)), windows()))
    size = [max(first[axis] + seen.shape[axis] for _, seen, first in found) for axis in (0, 1)]
    smooth = Smooth(torch.zeros(*size, dtype=torch.float64), torch.zeros(*size, dtype=torch.float64))
    for means, seen, (i, k) in found:
        place = slice(i, i + seen.shape[0]), slice(k, k + seen.shape[1])
        smooth.value[place], smooth.seen[place] = means[0], seen
    return smooth
