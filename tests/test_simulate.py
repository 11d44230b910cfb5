"""Wald's protocol: against an independent float64 computation, aligned grids, ground that never overlaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate, correlate1d, gaussian_filter

from lemamba.commands import parse, prepare
from lemamba.datasets.build import build_dataset
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
    sample = simulate.hyperspectral(cube, simulate.Degradation(response, ratio, simulate.gaussian_kernel(size, sigma)))
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    blurred = correlate1d(correlate1d(cube, taps, 1, mode="nearest"), taps, 2, mode="nearest")
    np.testing.assert_allclose(sample["ms"], blurred[:, ratio // 2 :: ratio, ratio // 2 :: ratio], rtol=1e-12)
    guide = np.einsum("pc,chw->phw", response / response.sum(1, keepdims=True), cube)
    np.testing.assert_allclose(sample["pan"], guide, rtol=1e-12)


@pytest.mark.parametrize(("ratio", "side", "offset"), [(4, 8, 1), (6, 7, None), (5, 4, 2), (32, 32, 15), (3, 3, 0)])
def test_any_kernel_and_offset_against_scipy(ratio, side, offset):
    """Even kernels are centred as in MATLAB's imfilter, one pixel before the middle; lms lies where ms does."""
    generator = np.random.default_rng(2)
    cube, psf = generator.random((3, 6 * ratio, 5 * ratio)), generator.random((side, side))
    observation = simulate.Degradation(np.ones((1, 3)), ratio, psf, offset)
    sample = simulate.hyperspectral(cube, observation)
    start = ratio // 2 if offset is None else offset
    for band, values in enumerate(cube):  # scipy centres an even kernel at side // 2
        filtered = correlate(values, psf / psf.sum(), mode="nearest", origin=-1 if side % 2 == 0 else 0)
        np.testing.assert_allclose(sample["ms"][band], filtered[start::ratio, start::ratio], rtol=1e-10)
    rows, columns = np.mgrid[: 12 * ratio, : 12 * ratio].astype(float)
    plane = (rows + 3 * columns)[None]
    even = simulate.Degradation(np.ones((1, 1)), ratio, np.ones((side, side)), offset)
    sample = simulate.hyperspectral(plane, even)
    inner = (slice(None), slice(4 * ratio, -4 * ratio), slice(4 * ratio, -4 * ratio))
    np.testing.assert_allclose(sample["lms"][inner], plane[inner], rtol=2e-3)
    at = even.geometry.offset[0] + ratio * np.arange(12)
    np.testing.assert_allclose(sample["ms"][0, 3:-3, 3:-3], (at[:, None] + 3 * at)[3:-3, 3:-3], rtol=1e-10)


def test_noise_has_the_asked_power():
    cube = np.random.default_rng(3).random((2, 256, 256)) * np.array([1.0, 0.1])[:, None, None]
    clean, noisy = (
        simulate.hyperspectral(cube, simulate.Degradation(np.eye(2), 2, np.ones((1, 1)), snr=snr)) for snr in (None, 20)
    )
    for role in ("ms", "pan"):
        power = ((noisy[role] - clean[role]) ** 2).mean((1, 2)) / (clean[role] ** 2).mean((1, 2))
        np.testing.assert_allclose(10 * np.log10(power), -20, atol=0.2)
    np.testing.assert_array_equal(noisy["gt"], cube)


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


@pytest.mark.parametrize("ratio", [0, 1, 65])
def test_ratio_out_of_range(ratio):
    with pytest.raises(UserError, match="ratio from 2 to 64"):
        simulate.check_ratio(ratio)


def test_nothing_to_write_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no sample fits"):
        write_h5(tmp_path / "a.h5", [], {}, "hmif")
    assert list(tmp_path.iterdir()) == []


def geotiff(path, image, left, top, pixel, nodata=None):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
    transform = rasterio.transform.from_origin(left, top, pixel, pixel)
    profile = {"crs": "EPSG:32633", "transform": transform, "nodata": nodata, "dtype": image.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", height=image.shape[1], width=image.shape[2], count=len(image), **profile
    ) as file:
        file.write(image)
    return path


def run(*arguments):
    return prepare.run(parse("prepare", ["simulate", *map(str, arguments)]))


@pytest.mark.parametrize("marked", ["both", "ms", "pan", "--nodata"])
def test_samples_with_missing_pixels_are_left_out(tmp_path, capsys, marked):
    """A collar marked in one file is missing in both; no sample holds a dark pixel, and a line counts them."""
    generator = np.random.default_rng(0)
    ms = generator.integers(500, 2000, (4, 320, 192)).astype(np.uint16)
    pan = generator.integers(500, 2000, (1, 1280, 768)).astype(np.uint16)
    ms[:, :, :16], pan[..., :64] = 0, 0
    mark = {"both": (0, 0), "ms": (0, None), "pan": (None, 0), "--nodata": (None, None)}[marked]
    paths = (
        geotiff(tmp_path / "m.tif", ms, 0, 0, 2.0, nodata=mark[0]),
        geotiff(tmp_path / "p.tif", pan, 0, 0, 0.5, nodata=mark[1]),
    )
    base = ["--ms", paths[0], "--pan", paths[1], "--sensor", "none", "--divisor", "2047", "--name", "c"]
    assert run(*base, "--out", tmp_path / "o", *(["--nodata", "0"] if marked == "--nodata" else [])) == 0
    assert "samples left out, in which data are missing" in capsys.readouterr().out
    for split in ("train", "valid", "test"):
        for sample in build_dataset("c", split, root=tmp_path / "o"):
            assert min(float(sample[role].min()) for role in ("gt", "pan")) > 0.2
    if marked == "--nodata":
        run(*base, "--out", tmp_path / "x")
        assert "give --nodata 0" in capsys.readouterr().out


@pytest.mark.parametrize("ratio", [2, 3, 4, 6])
@pytest.mark.parametrize("move", [0.0, 0.5, 0.3])
def test_simulated_samples_have_the_geometry_of_the_scene(tmp_path, ratio, move):
    """On a plane, values say where pixels lie: pan and lms on gt's grid, ms at the offset that the file names."""
    size = 128 // ratio * ratio
    rows, columns = np.mgrid[: size * ratio, : size * ratio].astype(float)
    plane = (1e4 + 10 * rows + 3 * columns)[None].astype(np.float32)
    offset = (ratio - 1) / 2 + move
    at = offset + ratio * np.arange(size)
    ms = (1e4 + 10 * at[:, None] + 3 * at)[None].repeat(4, 0).astype(np.float32)
    ms_path = geotiff(tmp_path / "m.tif", ms, 1000 + move, 5000 - move, float(ratio))
    pan_path = geotiff(tmp_path / "p.tif", plane, 1000, 5000, 1.0)
    arguments = ["--sensor", "none", "--divisor", "1e5", "--name", "g", "--test_only", "--out", tmp_path]
    assert run("--ms", ms_path, "--pan", pan_path, *arguments) == 0
    data = build_dataset("g", "test", root=tmp_path)
    first = offset - np.ceil(offset - ratio / 2 - 1e-6)  # in the cell of PAN pixels that an MS pixel belongs to
    np.testing.assert_allclose(data.facts.geometry.offset, (first, first), atol=1e-4)
    sample = {role: value.double().numpy() for role, value in data[0].items()}
    gt, total = sample["gt"], float(mtf_kernel(0.3, ratio).sum())
    middle = (slice(None), slice(40, -40), slice(40, -40))  # out of reach of the borders
    step = float(gt[0, 1, 0] - gt[0, 0, 0])
    assert np.abs(sample["pan"] - gt)[middle].max() < 0.05 * step
    assert np.abs(sample["lms"] - total * gt)[middle].max() < 0.05 * step
    at = first + ratio * np.arange(gt.shape[1] // ratio)
    ours = total * (gt[0, 0, 0] + step * (at[:, None] + 0.3 * at))
    inner = slice(-(-24 // ratio), len(at) - -(-24 // ratio))
    assert np.abs(sample["ms"][0] - ours)[inner, inner].max() < 0.05 * step
