"""Statistics that classical methods gather over a scene, window by window, equal to those of the whole image.

`Moments` holds count, means, covariances and range of some features; windows are merged by the formulas of Chan, Golub
and LeVeque (1983), so that neither the order nor the size of the windows matters beyond rounding. Deviation, variance
and covariance divide by N - 1. A quotient of statistics is 0 where its denominator is 0 (a constant band has no detail
to scale).
Legend: F features, n pixels, C bands. Features of a window are (F, n), valid pixels only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lemamba.operators.window import Spread, Window
from lemamba.utils.threads import in_order

_CHUNK = 2**16  # pixels whose products are summed at once: they stay in the cache
_BINS = 2**16
_RANK = 1e-13  # singular values of a normal matrix below this share of the largest one count as 0


@dataclass
class Moments:
    """Count, means (F,), covariances (F, F), smallest and largest values (F,) of features, float64 on the CPU.

    The covariances may be those with the last feature alone, (F, 1), see `gather`.
    """

    count: int
    mean: Tensor
    covariance: Tensor
    smallest: Tensor
    largest: Tensor

    def sd(self, i: int | slice) -> Tensor:
        """Standard deviation of features."""
        return self.covariance.diagonal()[i].clamp_min(0).sqrt()

    def part(self, features: slice) -> Moments:
        """Return the moments of some of the features."""
        return Moments(
            self.count,
            self.mean[features],
            self.covariance[features, features],
            self.smallest[features],
            self.largest[features],
        )

    def second(self) -> Tensor:
        """Mean products (F, F) without subtracting means."""
        return self.covariance * ((self.count - 1) / max(self.count, 1)) + torch.outer(self.mean, self.mean)


class _Sums:
    """Moments under construction."""

    def __init__(self, with_last: bool = False) -> None:
        self._right = slice(-1, None) if with_last else slice(None)  # features with which covariances are gathered
        self.count, self.mean, self.scatter = 0, torch.zeros(0), torch.zeros(0)
        self.smallest, self.largest = torch.zeros(0), torch.zeros(0)

    def add(self, x: Tensor | Spread) -> None:
        if isinstance(x, Spread):
            unknown = torch.full_like(x.mean, float("nan"))
            if x.count:
                self._merge(x.count, x.mean, x.scatter, unknown, unknown)
            return
        for chunk in x.split(_CHUNK, dim=1):
            if chunk.shape[1]:
                self._look(chunk.to("cpu", torch.float64, copy=True))

    def _look(self, x: Tensor) -> None:
        mean, low, high = x.mean(1), x.amin(1), x.amax(1)
        centred = x.sub_(mean[:, None])
        self._merge(x.shape[1], mean, centred @ centred[self._right].T, low, high)

    def _merge(self, n: int, mean: Tensor, scatter: Tensor, low: Tensor, high: Tensor) -> None:
        if self.count:
            step = mean - self.mean
            total = self.count + n
            scatter = scatter + self.scatter + torch.outer(step, step[self._right]) * (self.count * n / total)
            mean = self.mean + step * (n / total)
            low, high = torch.minimum(low, self.smallest), torch.maximum(high, self.largest)
        self.count, self.mean, self.scatter, self.smallest, self.largest = self.count + n, mean, scatter, low, high

    def finish(self) -> Moments:
        covariance = self.scatter / max(self.count - 1, 1)
        return Moments(self.count, self.mean, covariance, self.smallest, self.largest)


def gather(
    features: Callable[[Window], tuple[Tensor | Spread, ...]], windows: Iterable[Window], *, with_last: bool = False
) -> tuple[Moments, ...]:
    """Gather the moments of several groups of features in one pass.

    Args:
        features: returns one (F, n) tensor per group, or its `Spread`, which leaves smallest and largest NaN. It may be
            called for several windows at once.
        windows: of the image.
        with_last: gather covariances with the last feature of a group only, which is less to compute.

    Returns:
        One `Moments` per group.
    """
    sums: list[_Sums] = []
    for groups in in_order(features, windows):
        sums = sums or [_Sums(with_last) for _ in groups]
        for total, group in zip(sums, groups, strict=True):
            total.add(group)
    return tuple(total.finish() for total in sums)


def quotient(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``, and 0 where y is 0."""
    zero = y == 0
    return torch.where(zero, 0.0, x / torch.where(zero, 1.0, y))


def correlation(covariance: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation from a covariance and two deviations; 0 where one of them is 0."""
    return quotient(covariance, first * second)


def solve(normal: Tensor, right: Tensor) -> Tensor:
    """Least squares from a normal matrix (K, K) and right-hand sides (K, T): the solution (K, T) of least norm."""
    scale = normal.diagonal().clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    values, vectors = torch.linalg.eigh(normal / torch.outer(scale, scale))
    kept = values > _RANK * values.amax().clamp_min(1e-300)
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return (vectors @ (inverse[:, None] * (vectors.T @ (right / scale[:, None])))) / scale[:, None]


def percentile(windows: Callable[[], Iterable[Tensor]], moments: Moments, percent: float) -> Tensor:
    """Percentile of every feature by linear interpolation between the points (i - 0.5)/n.

    Exact: the values of the two ranks concerned are found by a histogram and a second look at one of its cells.

    Args:
        windows: gives the features of every window, (F, n), as often as it is called.
        moments: of the same features.
        percent: 0 to 100.

    Returns:
        (F,) float64.
    """
    position = min(max(percent / 100 * moments.count - 0.5, 0.0), moments.count - 1.0)
    low = int(position)
    ranks = (low, min(low + 1, moments.count - 1))
    span = (moments.largest - moments.smallest).clamp_min(1e-300)

    def cells(x: Tensor) -> Tensor:
        return ((x - moments.smallest[:, None]) / span[:, None] * _BINS).long().clamp_(0, _BINS - 1)

    counts = torch.zeros(len(moments.mean), _BINS, dtype=torch.long)
    for x in windows():
        for f, row in enumerate(cells(x.double().cpu())):
            counts[f] += torch.bincount(row, minlength=_BINS)
    before = counts.cumsum(1)
    wanted = [torch.searchsorted(before, torch.full((len(before), 1), rank + 1))[:, 0] for rank in ranks]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in moments.mean]
    for x in windows():
        x = x.double().cpu()
        for f, (values, row) in enumerate(zip(x, cells(x), strict=True)):
            near = values[(row >= wanted[0][f]) & (row <= wanted[1][f])]
            kept[f].append(near.unique(return_counts=True))  # a scene may be a third water, all of one value
    result = []
    for f, parts in enumerate(kept):
        values, order = torch.cat([v for v, _ in parts]).sort()
        ends = torch.cat([n for _, n in parts])[order].cumsum(0)
        first = int(before[f, wanted[0][f] - 1]) if wanted[0][f] > 0 else 0
        below, above = (float(values[torch.searchsorted(ends, rank - first + 1)]) for rank in ranks)
        result.append(below + (position - low) * (above - below))
    return torch.tensor(result, dtype=torch.float64)
