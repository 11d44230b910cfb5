"""Paired tests and ranks: against enumeration, formulas by hand and the values that Demšar (JMLR 2006) prints."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lemamba.reporting.ranks import save_critical_difference
from lemamba.reporting.significance import (
    Ranks,
    against,
    finite_images,
    groups,
    holm,
    mean_ranks,
    signed_rank,
    smallest,
)

QUANTILES = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}  # Table 5 (a)


def enumerated(differences) -> float:
    """The two-sided p from its definition: every choice of signs is equally likely."""
    kept = [d for d in differences if d]
    ranks = np.argsort(np.argsort(np.abs(kept))) + 1
    half = ranks.sum() / 2
    seen = abs(sum(r for r, d in zip(ranks, kept, strict=True) if d > 0) - half)
    signs = itertools.product((0, 1), repeat=len(kept))
    sums = [sum(r for r, up in zip(ranks, one, strict=True) if up) for one in signs]
    return float(np.mean([abs(s - half) >= seen for s in sums]))


@pytest.mark.parametrize("differences", [[3, -1, 4, 1.5, -5, 9, 2.6], [1, 2, 3, 4, 5], [0, 1, -2, 0, 4, 7.5], [-8.0]])
def test_signed_rank_is_the_share_of_sign_patterns_as_extreme(differences):
    other = np.linspace(20, 40, len(differences))
    assert signed_rank(other + differences, other) == pytest.approx(enumerated(differences), abs=1e-12)
    assert signed_rank(other, other + differences) == pytest.approx(enumerated(differences), abs=1e-12)


def test_equal_methods_are_not_different():
    assert signed_rank([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_holm_by_hand():
    """Sorted .005 .01 .03 .04 times 4 3 2 1, never falling: .02 .03 .06 .06; and never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_no_result_can_be_below_the_smallest_p():
    """Five images on which the reference is best everywhere, against three methods: 3 · 2 / 2^5."""
    values = {"best": [10.0, 11, 12, 13, 14], **{f"m{i}": [9.0 - i, 9.5, 8, 7, 6] for i in range(3)}}
    found = against(values, "best")
    assert smallest(5, 3) == 0.1875 and [pair.holm for pair in found.values()] == pytest.approx([0.1875] * 3)
    assert found["m0"].difference == pytest.approx(np.median([-1, -1.5, -4, -6, -8])) and "best" not in found


@pytest.mark.parametrize("k", QUANTILES)
def test_the_critical_difference_has_the_published_quantiles(k):
    values = {f"m{i}": np.random.default_rng(i).random(6).tolist() for i in range(k)}
    assert mean_ranks(values, 1).critical / math.sqrt(k * (k + 1) / 36) == pytest.approx(QUANTILES[k], abs=1.1e-3)


def test_the_published_example():
    """Demšar's four classifiers on 14 data sets: mean ranks 3.143 2.000 2.893 1.964, CD 1.25, none told apart."""
    values = {f"m{i}": np.random.default_rng(i).random(14).tolist() for i in range(4)}
    critical = mean_ranks(values, 1).critical
    assert critical == pytest.approx(1.25, abs=0.005)
    published = {"C4.5+m+cf": 1.964, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert groups(Ranks(published, 14, 0.0, critical)) == [("C4.5+m+cf", "C4.5")]


def test_ranks_and_friedman_by_hand():
    """Three methods on four images; smaller is better. Ranks 1 2 3, 1 3 2, 1.5 1.5 3, 1 2 3."""
    values = {"a": [1.0, 2, 5, 1], "b": [2.0, 4, 5, 2], "c": [3.0, 3, 6, 3]}
    found = mean_ranks(values, -1)
    assert found.mean == {"a": 4.5 / 4, "b": 8.5 / 4, "c": 11 / 4} and found.images == 4
    sums = np.array([4.5, 8.5, 11])
    statistic = 12 / (4 * 3 * 4) * (sums**2).sum() - 3 * 4 * 4
    statistic /= 1 - (2**3 - 2) / (4 * (3**3 - 3))  # one pair of ties
    assert found.friedman == pytest.approx(math.exp(-statistic / 2))  # chi-square of two degrees of freedom
    assert list(mean_ranks(values, 1).mean) == ["c", "b", "a"]
    assert math.isnan(mean_ranks({"a": [1.0], "b": [2.0]}, 1).friedman)
    assert mean_ranks({"a": [1.0], "b": [1.0], "c": [1.0]}, 1).friedman == 1.0


def test_groups_are_the_largest_ones():
    ranks = Ranks({"a": 1.0, "b": 2.0, "c": 2.5, "d": 4.25, "e": 6.0}, 9, 0.01, 1.75)
    assert groups(ranks) == [("a", "c")]  # c and d differ by the critical difference itself
    assert groups(Ranks(ranks.mean, 9, 0.01, 2.0)) == [("a", "c"), ("c", "d"), ("d", "e")]


def test_images_without_a_value_of_every_method_are_left_out():
    kept = finite_images({"a": [1.0, math.nan, 3.0, 4.0], "b": [5.0, 6.0, math.inf, 8.0]})
    assert kept["a"].tolist() == [1.0, 4.0] and kept["b"].tolist() == [5.0, 8.0]


@pytest.mark.parametrize("count", [2, 9])
def test_the_picture_is_drawn_whatever_the_names(tmp_path, count):
    values = {f"net_{i} $x^2 {{": [float(i), i + 0.5, 2.0 * i] for i in range(count)}
    save_critical_difference(tmp_path / "cd.png", mean_ranks(values, 1), "Q2n")
    assert (tmp_path / "cd.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
