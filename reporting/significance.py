"""Are methods different? Paired tests on per-image scores, and mean ranks with a critical difference.

All methods are measured on the same images, so their scores are paired. Two methods: Wilcoxon's signed-rank test, which
assumes no distribution of the scores; several against one: Holm's correction, which keeps the probability of any wrong
"different" at the level. All methods at once: mean ranks, Friedman's test, and Nemenyi's critical difference.

Sources: Wilcoxon, Biometrics Bulletin 1 (1945); Holm, Scand. J. Statist. 6 (1979); Demšar, JMLR 7 (2006).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05
Scores = Mapping[str, Sequence[float] | np.ndarray]  # by method, each (n,), in the order of the images


@dataclass(frozen=True)
class Paired:
    """One method against the reference.

    Attributes:
        p: of the two-sided test alone.
        holm: p corrected for the number of methods that are compared with the reference.
        difference: median over the images of its score minus the reference's.
    """

    p: float
    holm: float
    difference: float


@dataclass(frozen=True)
class Ranks:
    """Methods ranked image by image, the best 1; equal scores share the mean of their ranks.

    Attributes:
        mean: over the images, by method, best first.
        images: how many.
        friedman: p of "all methods are equal"; NaN for fewer than three methods.
        critical: mean ranks that differ by less are not significantly different at `ALPHA` (Nemenyi).
    """

    mean: dict[str, float]
    images: int
    friedman: float
    critical: float


def signed_rank(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test on paired values (n,); equal pairs are left out.

    All pairs equal: 1. The distribution is exact up to 50 pairs without ties, as in scipy.
    """
    differences = np.subtract(one, other, dtype=np.float64)
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down method, in the order given."""
    corrected, highest = [0.0] * len(p), 0.0
    for done, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - done) * p[i]))
        corrected[i] = highest
    return corrected


def smallest(images: int, methods: int) -> float:
    """Return the smallest corrected p that any result can have, with so many images and methods to compare."""
    return min(1.0, methods * 2.0 ** (1 - images))


def finite_images(values: Scores) -> dict[str, np.ndarray]:
    """Return the scores of the images for which every method has a finite one, by method."""
    table = np.array([list(row) for row in values.values()], dtype=np.float64)
    return dict(zip(values, table[:, np.isfinite(table).all(axis=0)], strict=True))


def against(values: Scores, reference: str) -> dict[str, Paired]:
    """Compare every other method with `reference`.

    Args:
        values: finite scores.
        reference: one of the methods.
    """
    own = np.asarray(values[reference])
    others = [name for name in values if name != reference]
    p = [signed_rank(values[name], values[reference]) for name in others]
    medians = [float(np.median(np.subtract(values[name], own))) if len(own) else math.nan for name in others]
    return {name: Paired(*row) for name, *row in zip(others, p, holm(p), medians, strict=True)}


def mean_ranks(values: Scores, direction: int) -> Ranks:
    """Rank methods image by image.

    Args:
        values: finite scores of at least two methods, each (n,), at least one image.
        direction: +1 if larger is better, -1 if smaller is.
    """
    table = np.array(list(values.values()), dtype=np.float64)
    k, n = table.shape
    means = stats.rankdata(-direction * table, axis=0).mean(axis=1)
    ranked = {name: float(mean) for mean, name in sorted(zip(means, values, strict=True))}
    equal = bool((table == table[0]).all())
    friedman = math.nan if k < 3 else 1.0 if equal else float(stats.friedmanchisquare(*table).pvalue)
    quantile = float(stats.studentized_range.ppf(1 - ALPHA, k, np.inf)) / math.sqrt(2)
    return Ranks(ranked, n, friedman, quantile * math.sqrt(k * (k + 1) / (6 * n)))


def groups(ranks: Ranks) -> list[tuple[str, str]]:
    """Return the first and the last method of each largest group whose mean ranks lie within the critical difference.

    Groups of one method are left out.
    """
    names, means = list(ranks.mean), list(ranks.mean.values())
    found: list[tuple[int, int]] = []
    for first in range(len(names)):
        last = max(i for i in range(first, len(names)) if means[i] - means[first] < ranks.critical or i == first)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return [(names[first], names[last]) for first, last in found]
