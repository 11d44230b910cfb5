"""Wald's protocol: against an independent float64 computation, aligned grids, ground that never overlaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate, correlate1d, gaussian_filter

from lemamba.datasets.simulation import wald as simulate
from lemamba.datasets.simulation.wald import tiles
from lemamba.datasets.writers import write_h5
from lemamba.operators import mtf_kernel
from lemamba.utils.errors import UserError

GAINS = (0.26, 0.28, 0.29)


@pytest.fixture(scope="module")
def pair():
    generator = np.random.default_rng(0)
    fine = gaussian_filter(generator.random((3, 256, 192)), (0, 1.5, 1.5)) * 2000
    return fine[:, 2::4, 2::4], fine.mean(0, keepdims=True)


def test_ms_is_filtered_with_repeated_borders_and_taken_at_half_the_ratio(pair):
    sample = simulate.wald(*pair, GAINS, 4)
    for band, gain in enumerate(GAINS):
        filtered = correlate(pair[0][band], mtf_kernel(gain, 4).numpy(), mode="nearest")
        np.testing.assert_allclose(sample["ms"][band], filtered[2::4, 2::4], rtol=1e-10)
    np.testing.assert_array_equal(sample["gt"], pair[0])
    assert {k: v.shape for k, v in sample.items()} == {
        "gt": (3, 64, 48),
        "ms": (3, 16, 12),
        "lms": (3, 64, 48),
        "pan": (1, 64, 48),
    }


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_the_grids_are_aligned(ratio):
    """On a plane, filters change nothing but the scale, so where a sample was taken can be read off its value."""
    rows, columns = np.mgrid[: 32 * ratio, : 28 * ratio].astype(float)
    fine = np.repeat(np.repeat(rows + 3 * columns, ratio, 0), ratio, 1)[None]
    gt = (rows + 3 * columns)[None]
    sample = simulate.wald(gt, fine, (0.3,), ratio)
    inner = (slice(None), slice(11, -11), slice(11, -11))
    total = float(mtf_kernel(0.3, ratio).sum())
    np.testing.assert_allclose(sample["ms"][inner], total * gt[:, ratio // 2 :: ratio, ratio // 2 :: ratio][inner])
    inner = (slice(None), slice(10 * ratio, -10 * ratio), slice(10 * ratio, -10 * ratio))
    np.testing.assert_allclose(sample["pan"][inner], gt[inner], rtol=1e-9)
    if ratio == 4:  # the 23 taps keep a plane only to about 1e-4 and other ratios are not centred
        np.testing.assert_allclose(sample["lms"][inner], total * gt[inner], rtol=0.02)


def test_full_resolution_keeps_what_was_observed(pair):
    sample = simulate.full_resolution(*pair, 4)
    np.testing.assert_array_equal(sample["ms"], pair[0])
    np.testing.assert_array_equal(sample["pan"], pair[1])
    np.testing.assert_allclose(sample["lms"][:, 2::4, 2::4], pair[0], rtol=1e-9)
    assert "gt" not in sample


@pytest.mark.parametrize("ratio", [4, 8])
def test_hyperspectral_against_scipy(ratio):
    generator = np.random.default_rng(1)
    cube, response = generator.random((5, 64, 32)), generator.random((3, 5))
    sigma, size = ratio / 2, 2 * ratio + 1
    sample = simulate.hyperspectral(cube, response, ratio, sigma, size)
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    blurred = correlate1d(correlate1d(cube, taps, 1, mode="nearest"), taps, 2, mode="nearest")
    np.testing.assert_allclose(sample["ms"], blurred[:, ratio // 2 :: ratio, ratio // 2 :: ratio], rtol=1e-12)
    guide = np.einsum("pc,chw->phw", response / response.sum(1, keepdims=True), cube)
    np.testing.assert_allclose(sample["pan"], guide, rtol=1e-12)


def test_boxes_of_the_acceptance_scenes():
    for columns in (320, 160):
        boxes, patch = simulate.split_boxes(320, columns, 4)
        assert patch == 64
        assert boxes == {"train": (0, 192, 0, columns), "valid": (192, 256, 0, columns), "test": (256, 320, 0, columns)}


@settings(max_examples=200, deadline=None)
@given(rows=st.integers(32, 2000), columns=st.integers(32, 2000), ratio=st.sampled_from([2, 4, 8]))
def test_boxes_never_overlap_and_hold_a_patch(rows, columns, ratio):
    if max(rows, columns) < 96:
        with pytest.raises(UserError, match="at least 96x32"):
            simulate.split_boxes(rows, columns, ratio)
        return
    boxes, patch = simulate.split_boxes(rows, columns, ratio)
    taken = np.zeros((rows, columns), int)
    for top, bottom, left, right in boxes.values():
        assert top >= 0 and bottom <= rows and left >= 0 and right <= columns
        assert bottom - top >= patch and right - left >= min(patch, 32)
        assert all(edge % ratio == 0 for edge in (top, bottom, left, right))
        taken[top:bottom, left:right] += 1
    assert taken.max() == 1
    top, bottom, left, right = boxes["test"]
    height, width = simulate.image_size(bottom - top, right - left)
    assert height % 32 == width % 32 == 0 and height <= bottom - top and width <= right - left


def test_tiles_are_paired_and_cover_the_box(pair):
    sample = simulate.wald(*pair, GAINS, 4)
    cut = list(tiles(sample, (32, 32), (16, 16), 4))
    assert len(cut) == 3 * 2
    for number, tile in enumerate(cut):
        y, x = 16 * (number // 2), 16 * (number % 2)
        for role in ("gt", "lms", "pan"):
            np.testing.assert_array_equal(tile[role], sample[role][:, y : y + 32, x : x + 32])
        np.testing.assert_array_equal(tile["ms"], sample["ms"][:, y // 4 : y // 4 + 8, x // 4 : x // 4 + 8])


@pytest.mark.parametrize("ratio", [0, 1, 3, 6])
def test_ratio_that_is_no_power_of_two(ratio):
    with pytest.raises(UserError, match="power of two"):
        simulate.check_ratio(ratio)


def test_nothing_to_write_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no sample fits"):
        write_h5(tmp_path / "a.h5", [], {}, "hmif")
    assert list(tmp_path.iterdir()) == []
