"""Drawn pairs with a known truth: repeatable, within range, varied, and MS follows from the truth by its geometry."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import correlate, map_coordinates, shift

from lemamba.datasets.simulation import materials
from lemamba.datasets.simulation.canvas import Canvas
from lemamba.datasets.simulation.drawn import _blur, draw_pair
from lemamba.datasets.simulation.fields import crowns, fractal, hillshade
from lemamba.datasets.simulation.instrument import RATIOS, draw_instrument
from lemamba.datasets.simulation.scenery import LANDSCAPES
from lemamba.operators import mtf_kernel
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import _TOPS


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def pairs():
    return [draw_pair([5, seed], (14, 12)) for seed in range(60)]


def test_the_same_seed_gives_the_same_pair():
    one, same, other = (draw_pair(seed, (16, 20)) for seed in (3, 3, 4))
    for name in ("gt", "ms", "pan"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert one.geometry == same.geometry and one.gains == same.gains and one.landscape == same.landscape
    assert one.gt.shape != other.gt.shape or not np.array_equal(one.gt, other.gt)


def test_shapes_ranges_and_digital_numbers(pairs):
    for pair in pairs:
        bands, r = pair.instrument.bands, pair.ratio
        assert pair.gt.shape == (bands, 14 * r, 12 * r)
        assert pair.ms.shape == (bands, 14, 12) and pair.pan.shape == (1, 14 * r, 12 * r)
        assert len(pair.gains) == bands and pair.geometry.ratio == (r, r)
        for image in (pair.gt, pair.ms, pair.pan):
            assert image.dtype == np.float32 and np.isfinite(image).all()
            assert image.min() >= 0 and image.max() <= pair.top
        for image in (pair.gt, pair.pan):
            np.testing.assert_array_equal(image, np.round(image))
            assert image.std() > 0, "ground is not flat"


@pytest.mark.parametrize("seed", range(8))
def test_ms_is_the_filtered_truth_at_the_places_of_the_geometry(seed):
    """Against a direct sum with the kernel and a cubic spline between pixels, away from the border."""
    sensor = replace(draw_instrument(generator(seed)), ms_snr=np.inf)
    pair = draw_pair(seed, (24, 22), sensor=sensor)
    rows, columns = (o + pair.ratio * np.arange(n) for o, n in zip(pair.geometry.offset, (24, 22), strict=True))
    for band in range(pair.instrument.bands):
        kernel = mtf_kernel(pair.gains[band], pair.ratio).numpy()
        low = correlate(pair.gt[band].astype(np.float64), kernel, mode="nearest")
        expected = map_coordinates(low, np.meshgrid(rows, columns, indexing="ij"), order=3)[4:-4, 4:-4]
        error = pair.ms[band][4:-4, 4:-4] - expected
        assert np.abs(error).max() < 0.02 * expected.std() + 1e-3 * pair.top


def test_noise_of_ms_is_as_strong_as_drawn():
    quiet = replace(draw_instrument(generator(1), bands=4, ratio=4), ms_snr=np.inf, top=65535.0)
    loud = replace(quiet, ms_snr=100.0)
    one, two = (draw_pair(1, (64, 64), sensor=sensor) for sensor in (quiet, loud))
    np.testing.assert_array_equal(one.gt, two.gt)
    for calm, noisy in zip(one.ms - quiet.floor, two.ms - quiet.floor, strict=True):
        assert (noisy - calm).std() == pytest.approx(calm.mean() / 100, rel=0.1)


def explained(target, features):
    """Share of the variance of `target` that a linear combination of `features` explains."""
    design = np.stack([f.ravel() for f in features] + [np.ones(target.size)], 1)
    fit = design @ np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    return 1 - np.var(target.ravel() - fit) / np.var(target)


def test_pan_sees_the_ground_of_the_truth_up_to_its_shift():
    for seed in range(4):
        drawn = draw_instrument(generator(seed), bands=8, ratio=4)
        sensor = replace(drawn, pan_shift=(0.0, 0.0), band_shifts=np.zeros((8, 2)), pan_snr=300.0, truth_snr=300.0)
        sensor = replace(sensor, truth_gains=(sensor.pan_gain,) * 8)
        there = draw_pair(seed, (32, 32), sensor=sensor, landscape="city")
        aside = draw_pair(seed, (32, 32), sensor=replace(sensor, pan_shift=(0.3, 0.0)), landscape="city")
        inside = np.s_[4:-4, 4:-4]
        best = explained(there.pan[0][inside], there.gt[:, 4:-4, 4:-4])
        assert best > 0.9
        assert explained(aside.pan[0][inside], aside.gt[:, 4:-4, 4:-4]) < best
        # Read 0.3 rows further down, so the image has moved up.
        moved, expected = aside.pan[0][inside], shift(there.pan[0], (-0.3, 0), order=5)[inside]
        unlike = [1 - np.corrcoef(moved.ravel(), x.ravel())[0, 1] for x in (expected, there.pan[0][inside])]
        assert unlike[0] < 0.12 * unlike[1]


def test_instruments_are_of_all_kinds_and_within_their_ranges():
    drawn = [draw_instrument(generator(seed)) for seed in range(600)]
    bands = np.array([one.bands for one in drawn])
    assert set(bands) == set(range(1, 14)) and {4, 8} == set(np.argsort(np.bincount(bands))[-2:])
    ratios = np.array([one.ratio for one in drawn])
    assert set(ratios) == set(RATIOS) and (ratios == 4).mean() > 0.5
    assert {one.pan_kind for one in drawn} == {"wide", "visible and near infrared", "visible", "narrow"}
    assert {one.top for one in drawn} <= set(_TOPS) and len({one.top for one in drawn}) == len(_TOPS)
    for convention in (Geometry.toolbox, Geometry.corners):
        assert any(one.geometry == convention(one.ratio) for one in drawn)
    assert any(one.geometry.offset == (0, 0) for one in drawn)
    assert any(not float(2 * one.geometry.offset[0]).is_integer() for one in drawn)
    for one in drawn:
        assert min(one.gains) >= 0.15 and max(one.gains) <= 0.4
        assert np.hypot(*one.pan_shift) <= 0.3 + 1e-9
        assert one.centres.min() > 390 and one.centres.max() < 2400
        np.testing.assert_allclose(one.responses.sum(axis=1), 1)
    missed = [one.responses[:-1, one.responses[-1] < 1e-3 * one.responses[-1].max()].sum(1).max() for one in drawn]
    assert np.mean(np.array(missed) > 0.9) > 0.3, "PAN often does not see one of the bands at all"


def test_landscapes_and_sizes_of_pixels_vary(pairs):
    assert {pair.landscape for pair in pairs} == set(LANDSCAPES)
    pixels = [pair.pixel for pair in pairs]
    assert min(pixels) < 1 and max(pixels) > 5


@pytest.mark.parametrize("name", LANDSCAPES)
def test_every_landscape_at_every_scale(name):
    sensor = draw_instrument(generator(0), bands=4, ratio=4)
    for seed, pixel in enumerate((0.4, 2.0, 20.0)):
        pair = draw_pair(seed, (20, 28), sensor=sensor, landscape=name, pixel=pixel)
        assert pair.landscape == name and pair.pixel == pixel
        assert (pair.gt.std(axis=(1, 2)) > 0.01 * pair.gt.mean(axis=(1, 2))).all()


@pytest.mark.parametrize(("gain", "shape"), [(0.6, (12, 14)), (0.3, (11, 13)), (0.05, (12, 12))])
def test_blur_has_its_gain_at_the_nyquist_frequency(gain, shape):
    """Together with the mean over two places half a pixel apart, whose gain there is cos(pi / 4)."""
    for axis in (0, 1):
        sign = (-1.0) ** np.indices(shape)[axis]
        image = (100 + sign).astype(np.float32)
        _blur(image, gain)
        middle = np.take(image - 100, 5, axis=axis)
        np.testing.assert_allclose(np.abs(middle) * np.cos(np.pi / 4), gain, atol=2e-4)


def test_materials_are_physical_and_scenes_differ():
    library = materials.DRAWN.reflectance(materials.WAVELENGTHS)
    assert library.shape == (len(materials.DRAWN.names), len(materials.WAVELENGTHS))
    assert library.min() > 0 and library.max() < 1
    at = {nm: int((nm - 400) / 5) for nm in (670, 860, 1650)}
    for leaf in ("grass", "crop", "broadleaf", "conifer"):
        spectrum = library[materials.INDEX[leaf]]
        assert spectrum[at[860]] > 4 * spectrum[at[670]]
    snow = library[materials.INDEX["snow"]]
    assert snow[at[1650]] < 0.2 * snow[at[860]]
    scenes = [materials.draw_library(generator(seed))[:, 0] for seed in range(2)]
    assert np.abs(np.log(scenes[0] / scenes[1])).mean() > 0.1


def test_relief_is_light_by_the_angle_of_incidence():
    sun, elevation = np.array([0.6, 0.8]), 0.5
    y, x = np.indices((6, 7), dtype=np.float32)
    np.testing.assert_allclose(hillshade(0 * y, sun, elevation), 1, rtol=1e-6)
    a, b = 0.3, -0.2  # slopes
    to_sun = np.array([-sun[0] * np.cos(elevation), -sun[1] * np.cos(elevation), np.sin(elevation)])
    normal = np.array([-a, -b, 1]) / np.sqrt(a * a + b * b + 1)
    np.testing.assert_allclose(hillshade(a * y + b * x, sun, elevation), to_sun @ normal / to_sun[2], rtol=1e-4)


def test_a_block_throws_its_shadow_away_from_the_sun():
    canvas = Canvas(generator(0), (60, 60), 1.0)
    canvas.sun, canvas.elevation = np.array([0.0, 1.0]), np.radians(45)
    roof = canvas.add("grey roof")
    corners = np.array([[[19.5, 19.5], [19.5, 29.5], [39.5, 29.5], [39.5, 19.5]]])
    canvas.blocks(corners, roof, np.array([12.0]), roof)
    shade = canvas.shade[::2, ::2] > 128
    assert (canvas.objects[::2, ::2] == roof[0]).sum() == pytest.approx(200, rel=0.12)
    assert shade[22:38, 32:40].all() and not shade[22:38, 44:].any() and not shade[:, :30].any()
    assert not shade[:18].any() and not shade[42:].any()


def test_noise_has_unit_variance_and_its_roughness():
    rough, smooth = (fractal(generator(0), (128, 200), 32, 1, roughness) for roughness in (0.0, 1.0))
    for field in (rough, smooth):
        assert field.shape == (128, 200) and abs(field.mean()) < 1e-3 and field.std() == pytest.approx(1, abs=1e-3)
    assert np.diff(smooth, axis=0).std() < 0.3 * np.diff(rough, axis=0).std()


def test_crowns_are_brighter_towards_the_sun():
    light, number = crowns(generator(0), (120, 120), 20.0, np.array([0.0, 1.0]), 0.6)
    assert light.shape == number.shape == (120, 120) and np.abs(number).max() <= 1
    dark, bright = light < -0.2, light > 0.2
    # Within a crown (pixels of one number) the bright side lies to the left, where the sun is.
    sides = []
    for value in np.unique(number[40:80, 40:80]):
        crown = number == value
        if (crown & dark).sum() > 20 and (crown & bright).sum() > 20:
            sides.append(np.nonzero(crown & bright)[1].mean() < np.nonzero(crown & dark)[1].mean())
    assert sides and np.mean(sides) > 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_pair(0, (7, 8)), "at least 8x8"),
        (lambda: draw_pair(0, (8, 8), landscape="moon"), "moon"),
        (lambda: draw_pair(-1, (8, 8)), "seed"),
        (lambda: draw_instrument(generator(), bands=14), "14"),
        (lambda: draw_instrument(generator(), ratio=8), "8"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
