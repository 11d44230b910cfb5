"""Classical methods: equal to the published toolbox, and the properties that their formulas promise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import torch
from scipy.io import loadmat

from lemamba.datasets.simulation import wald
from lemamba.datasets.simulation.sources import load_mat
from lemamba.model import build_model, list_models, model_entry
from lemamba.model.classical.c_gsa import cluster
from lemamba.model.classical.filters import binomial_low_pass
from lemamba.model.classical.mf import half_gradient
from lemamba.operators import mtf_filter, sample
from lemamba.operators.least_squares import non_negative_least_squares
from lemamba.operators.window import cut_windows
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

GOLDEN = {
    "EXP": "EXP",
    "BT-H": "BT_H",
    "GS": "GS",
    "GSA": "GSA",
    "BDSD-PC": "BDSD_PC",
    "PRACS": "PRACS",
    "MTF-GLP": "MTF_GLP",
    "MTF-GLP-FS": "MTF_GLP_FS",
    "MTF-GLP-HPM": "MTF_GLP_HPM",
    "MTF-GLP-HPM-R": "MTF_GLP_HPM_R",
    "AWLP": "AWLP",
    "MF": "MF",
}
CONTEXT = ["C-GLP", "C-GSA"]
NAMES = [*GOLDEN, "Brovey", *CONTEXT]


@pytest.fixture(scope="module")
def ikonos(shared) -> dict[str, np.ndarray]:
    return loadmat(shared("golden/classical/ikonos.mat"))


def bands_first(x: np.ndarray) -> torch.Tensor:
    x = x[..., None] if x.ndim == 2 else x
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]


def inputs(content, dtype=torch.float64):
    return tuple(bands_first(content[k]).to(dtype) for k in ("ms", "lms", "pan"))


def method(name: str, bands: int = 4, sensor: str = "none", ratio: int = 4):
    return build_model(name, img_channel=bands, condition_channel=1, out_channel=bands, ratio=ratio, sensor=sensor)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_equal_to_the_published_toolbox(name, dtype, tolerance, ikonos):
    sr = method(name, sensor="ikonos")(*inputs(ikonos, dtype))
    expected = bands_first(ikonos[GOLDEN[name]])
    assert sr.dtype == dtype
    assert (sr.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_every_classical_method_is_tested():
    in_folder = [
        n for n in list_models("pansharpening", family="classical") if "classical" in model_entry(n).path.parts
    ]
    assert sorted(NAMES) == sorted(in_folder)


def random_inputs(bands=4, h=12, w=9, ratio=4, batch=1):
    ms = torch.rand(batch, bands, h, w, dtype=torch.float64) + 0.5
    lms = torch.nn.functional.interpolate(ms, scale_factor=ratio, mode="bicubic")
    pan = lms.mean(1, keepdim=True) + 0.2 * torch.rand(batch, 1, ratio * h, ratio * w, dtype=torch.float64)
    return ms, lms, pan


def test_brovey_against_a_plain_loop():
    ms, lms, pan = random_inputs()
    expected = np.empty(lms.shape)
    for i in range(lms.shape[2]):
        for j in range(lms.shape[3]):
            pixel = lms[0, :, i, j].numpy()
            expected[0, :, i, j] = pixel * pan[0, 0, i, j].item() / (pixel.mean() + 2.2e-16)
    assert np.allclose(method("Brovey")(ms, lms, pan).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("name", CONTEXT)
def test_gains_of_segments_against_a_plain_loop(name):
    """The details of MTF-GLP-FS or GSA, which are tested above, with the gain of each pixel's own segment."""
    ms, lms, pan = random_inputs(h=16, w=16)
    ms[..., 8:] *= 3  # two kinds of ground
    lms = torch.nn.functional.interpolate(ms, scale_factor=4, mode="bicubic")
    whole = method("GSA" if name == "C-GSA" else "MTF-GLP-FS")
    window = next(w for _, w in cut_windows(ms, pan, Geometry.toolbox(4), 64, 0))
    window = dataclasses.replace(window, given=lms)
    if name == "C-GSA":
        fitted = whole.fit(lambda: iter((window,)))
        intensity = (lms * fitted.weights.view(1, -1, 1, 1)).sum(1) - fitted.intensity_mean
        detail = (pan - fitted.pan_mean)[0, 0] - intensity[0]
        low = [(intensity[0]).numpy()] * 4
        details = [detail.numpy()] * 4
    else:
        low = whole.smooth(window)[0].numpy()
        details = pan[0].numpy() - low
    context = method(name)
    label = context.fit(lambda: iter((window,))).of(lms[0]).numpy()
    assert len(np.unique(label)) == 5
    sr = context(ms, lms, pan)[0].numpy()
    for b, band in enumerate(lms[0].numpy()):
        for k in range(5):
            at = label == k
            c = np.cov(band[at], low[b][at])
            expected = band[at] + c[0, 1] / c[1, 1] * details[b][at]
            shift = (sr[b][at] - expected).mean() if name == "C-GSA" else 0  # of the intensity at MS and PAN size
            np.testing.assert_allclose(sr[b][at] - shift, expected, rtol=0, atol=1e-10)


def test_segments_are_those_of_least_distance():
    """As good as the best of many starts of Lloyd's loop, and the same whatever the order of the pixels."""
    generator = np.random.default_rng(0)
    pixels = np.concatenate([generator.normal(c, 0.15, (80, 3)) for c in (0.5, 1.0, 1.4, 2.0, 2.2, 3.0)])
    top, centres = cluster(torch.from_numpy(pixels.T))
    _, shuffled = cluster(torch.from_numpy(generator.permutation(pixels).T))
    torch.testing.assert_close(shuffled, centres, rtol=0, atol=0)
    rows = pixels / pixels.max(0)
    np.testing.assert_array_equal(top, pixels.max(0))

    def distances(c):
        return ((rows[:, None] - c[None]) ** 2).sum(-1)

    least = np.inf
    for _ in range(60):
        c = rows[generator.choice(len(rows), 5, replace=False)]
        for _ in range(50):
            label = distances(c).argmin(1)
            c = np.stack([rows[label == k].mean(0) if (label == k).any() else c[k] for k in range(5)])
        least = min(least, distances(c).min(1).sum())
    assert distances(centres.numpy()).min(1).sum() <= least * (1 + 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_unit_of_the_data_does_not_matter(name):
    """Data in [0, 1] and digital numbers give the same image: the division by 2047 does not matter here."""
    ms, lms, pan = random_inputs()
    one = method(name)(ms, lms, pan)
    other = method(name)(2047 * ms, 2047 * lms, 2047 * pan) / 2047
    assert torch.allclose(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_fused_image_by_image(name):
    ms, lms, pan = random_inputs(batch=2)
    pan[1] *= 3  # statistics over the batch would mix these
    together = method(name)(ms, lms, pan)
    assert torch.allclose(together[1:], method(name)(ms[1:], lms[1:], pan[1:]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if model_entry(n).traits.tileable])
def test_tileable_methods_give_the_same_on_tiles(name):
    ms, lms, pan = random_inputs(h=8, w=8)
    whole = method(name)(ms, lms, pan)
    tile = method(name)(ms[..., :4, :4], lms[..., :16, :16], pan[..., :16, :16])
    assert torch.allclose(tile, whole[..., :16, :16], rtol=1e-13)


@pytest.mark.parametrize("name", [n for n in NAMES if not model_entry(n).traits.tileable])
def test_the_others_do_not_and_say_so(name):
    ms, lms, pan = random_inputs(h=16, w=16)
    whole = method(name)(ms, lms, pan)
    tile = method(name)(ms[..., :8, :8], lms[..., :32, :32], pan[..., :32, :32])
    assert not torch.allclose(tile, whole[..., :32, :32], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_constant_images_stay_finite(name, value):
    """A black or flat crop (water, nodata) must not become NaN, and there is no detail to inject."""
    ms, lms, pan = (torch.full(s, value) for s in ((1, 4, 8, 8), (1, 4, 32, 32), (1, 1, 32, 32)))
    sr = method(name)(ms, lms, pan)
    assert sr.isfinite().all()
    assert (sr - value).abs().max() <= 0.01  # the MTF kernels sum to 0.998, not to 1


@pytest.mark.parametrize("name", NAMES)
def test_one_dead_band_leaves_the_others_finite(name):
    ms, lms, pan = random_inputs()
    ms[:, 2], lms[:, 2] = 0, 0
    assert method(name)(ms, lms, pan).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_missing_pixels_stay_local_or_are_refused(name):
    ms, lms, pan = random_inputs()
    lms[0, 1, 3, 3] = torch.nan
    if model_entry(name).traits.tileable:
        missing = method(name)(ms, lms, pan).isnan().any(dim=1)
        assert missing[0, 3, 3]
        assert missing.sum() == 1
    else:
        with pytest.raises(UserError, match="lms has 1 that are not"):
            method(name)(ms, lms, pan)


def test_undefined_ratio_and_bands_are_user_errors():
    with pytest.raises(UserError, match="MF is defined for ratio 2, 4, 8, 16, given 3"):
        method("MF", ratio=3)
    with pytest.raises(UserError, match="one PAN band, given 3"):
        build_model("GS", img_channel=31, condition_channel=3, out_channel=31)
    with pytest.raises(UserError, match="IKONOS has 4 bands, the data have 8"):
        method("MTF-GLP", bands=8, sensor="ikonos")


def test_wrong_shapes_are_a_user_error():
    ms, lms, pan = random_inputs()
    with pytest.raises(UserError, match="expected lms and pan of size"):
        method("GS", ratio=8)(ms, lms, pan)


def test_binomial_filter_equals_17_taps_inside():
    x = torch.rand(1, 1, 40, 33, dtype=torch.float64)
    taps = np.poly1d([1, 1]) ** 16
    taps = taps.coeffs / 2**16
    expected = scipy.ndimage.correlate1d(x[0, 0].numpy(), taps, axis=0, mode="reflect")
    expected = scipy.ndimage.correlate1d(expected, taps, axis=1, mode="reflect")
    found = binomial_low_pass(x)[0, 0].numpy()
    assert np.allclose(found[8:-8, 8:-8], expected[8:-8, 8:-8], rtol=1e-13)
    assert not np.allclose(found, expected, rtol=1e-6)


def test_half_gradient_against_scipy():
    x = torch.rand(1, 2, 7, 9, dtype=torch.float64)
    cross = scipy.ndimage.generate_binary_structure(2, 1)
    for band in range(2):
        image = x[0, band].numpy()
        expected = scipy.ndimage.grey_dilation(image, footprint=cross, mode="constant", cval=-np.inf)
        expected = (expected + scipy.ndimage.grey_erosion(image, footprint=cross, mode="constant", cval=np.inf)) / 2
        assert np.array_equal(half_gradient(x)[0, band].numpy(), expected)


@pytest.mark.parametrize("seed", range(20))
def test_constrained_least_squares_against_scipy(seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(14, 9)) * 10.0 ** rng.integers(-3, 4)
    b = rng.normal(size=14)
    expected, norm = scipy.optimize.nnls(A, b)
    found = non_negative_least_squares(torch.from_numpy(A), torch.from_numpy(b)).numpy()
    assert (found >= 0).all()
    assert np.allclose(found, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max())
    assert np.isclose(np.linalg.norm(A @ found - b), norm, rtol=1e-10)


GEOMETRIES = {
    "toolbox 4": Geometry.toolbox(4),
    "corners 4": Geometry.corners(4),
    "corners 3": Geometry.corners(3),
    "corners 6": Geometry.corners(6),
    "landsat": Geometry((2.0, 2.0), (0.0, 0.0)),
    "uneven": Geometry((4.015, 4.0), (1.3, 1.5)),
}


def ground(side: int) -> torch.Tensor:
    """Four bands with texture of several sizes, (1, 4, side, side)."""
    shared = sum(
        torch.nn.functional.interpolate(torch.rand(1, 1, side // k, side // k, dtype=torch.float64), size=(side, side))
        for k in (32, 8, 2)
    )
    own = torch.nn.functional.interpolate(
        torch.rand(1, 4, 6, 6, dtype=torch.float64), size=(side, side), mode="bicubic"
    )
    return shared * 0.3 + own + 0.2


def observed(geometry: Geometry, side: int = 192):
    """A pair of the ground in this geometry, and the ground."""
    truth = ground(side)
    size = tuple(int((side - 1 - o) // r) + 1 for o, r in zip(geometry.offset, geometry.ratio, strict=True))
    ms = sample(mtf_filter(truth, 0.3, geometry.ratio[0]), geometry, size)
    return ms, truth.mean(1, keepdim=True), truth


def in_windows(name: str, geometry: Geometry, ms, pan, side: int, valid=None, other_units=False) -> torch.Tensor:
    """Fuse window by window, with margins."""
    sizes = {"img_channel": ms.shape[1], "condition_channel": 1, "out_channel": ms.shape[1]}
    fuser = build_model(name, **sizes, ratio=geometry.nominal, geometry=geometry)
    fuser.other_units = other_units
    windows = lambda: (w for _, w in cut_windows(ms, pan, geometry, side, fuser.margin, valid))  # noqa: E731
    fitted, fused = fuser.fit(windows), torch.empty(1, ms.shape[1], *pan.shape[-2:], dtype=torch.float64)
    for (rows, columns), window in cut_windows(ms, pan, geometry, side, fuser.margin, valid):
        fused[..., slice(*rows), slice(*columns)] = window.crop(fuser.inject(window, fitted))
    return fused


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", NAMES)
def test_windows_equal_the_whole_image(name, geometry):
    """Statistics by accumulation and margins: neither the size of windows nor their borders show."""
    geometry = GEOMETRIES[geometry]
    if geometry.nominal not in model_entry(name).ratios:
        pytest.skip(f"{name} is not defined for ratio {geometry.nominal}")
    ms, pan, _ = observed(geometry)
    whole = in_windows(name, geometry, ms, pan, 192)
    for side in (48, 60):
        assert (in_windows(name, geometry, ms, pan, side) - whole).abs().max() <= 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_the_error_does_not_depend_on_the_geometry(name):
    """At most 1.1 times the error in the toolboxes' geometry, away from the borders."""
    inside = (slice(None), slice(None), slice(40, -40), slice(40, -40))
    for group in (("toolbox 4", "corners 4", "uneven"), ("toolbox 2", "corners 2", "landsat")):
        errors = {}
        for key in group:
            convention, _, ratio = key.partition(" ")
            geometry = getattr(Geometry, convention)(int(ratio)) if ratio else GEOMETRIES[key]
            torch.manual_seed(7)
            ms, pan, truth = observed(geometry, 320)
            fused = in_windows(name, geometry, ms, pan, 320)
            errors[key] = float(((fused - truth)[inside] ** 2).mean() ** 0.5)
        assert max(errors.values()) <= 1.1 * errors[group[0]], errors


@pytest.mark.parametrize("name", [n for n in NAMES if not model_entry(n).traits.tileable])
def test_statistics_use_valid_pixels_only(name):
    """What stands in pixels without data, and in those that filters mix with it, changes nothing far from them."""
    geometry = Geometry.corners(4)
    ms, pan, _ = observed(geometry, 384)
    valid = torch.ones(384, 384, dtype=torch.bool)
    valid[:, :192] = False
    fused = []
    for value in (0.0, 3.0):
        filled, dark = ms.clone(), pan.clone()
        filled[..., :16], dark[..., :64] = value, value
        fused.append(in_windows(name, geometry, filled, dark, 96, valid)[..., 192:])
    assert (fused[0] - fused[1]).abs().max() <= 1e-9


def unseen(geometry: Geometry, side: int = 288):
    """A pair with three of the four bands that PAN sees, the fourth being smooth; PAN without it; the ground."""
    truth = ground(side)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 1, 7, 7, dtype=torch.float64), size=(side, side), mode="bicubic"
    )
    truth[:, 3:] = truth[:, 3:] + 2 * (smooth - smooth.mean())
    size = tuple(int((side - 1 - o) // r) + 1 for o, r in zip(geometry.offset, geometry.ratio, strict=True))
    ms = sample(mtf_filter(truth[:, :3], 0.3, geometry.ratio[0]), geometry, size)
    return ms, truth.mean(1, keepdim=True), truth[:, :3].mean(1, keepdim=True), truth[:, :3]


@pytest.mark.parametrize("geometry", ["corners 4", "landsat", "uneven"])
@pytest.mark.parametrize("name", ["GSA", "Brovey"])
def test_light_that_no_band_sees_is_no_detail(name, geometry, monkeypatch):
    """Brovey's error is near that with a PAN of what the bands see; GSA's regression is disturbed by the rest."""
    geometry = GEOMETRIES[geometry]
    ms, pan, seen, truth = unseen(geometry)
    inside = (slice(None), slice(None), slice(40, -40), slice(40, -40))
    scale = float(ms.mean() / pan.mean())  # what the reader of a scene brings PAN of other units to MS's with

    def error(pan, side=288, other_units=True):
        fused = in_windows(name, geometry, ms, pan, side, other_units=other_units)
        return fused, float(((fused - truth)[inside] ** 2).mean() ** 0.5)

    fused, found = error(pan * scale)
    assert name == "GSA" or found <= 1.4 * error(seen)[1]
    for side in (60, 132):
        assert (error(pan * scale, side)[0] - fused).abs().max() <= 1e-8
    monkeypatch.setattr("lemamba.model.classical.gsa.SHARE", 2.0)
    assert found <= 0.3 * error(pan * scale, other_units=False)[1]


def test_gsa_is_as_published_where_the_bands_explain_pan(monkeypatch):
    """And the units of PAN do not matter to it."""
    geometry = GEOMETRIES["corners 4"]
    for ms, pan in (observed(geometry)[:2], unseen(geometry)[:2]):
        fused = in_windows("GSA", geometry, ms, pan, 96)
        assert (in_windows("GSA", geometry, ms, 40 * pan, 96) - fused).abs().max() <= 1e-8
    ms, pan, _ = observed(geometry)
    fused = in_windows("GSA", geometry, ms, pan, 96)
    monkeypatch.setattr("lemamba.model.classical.gsa.SHARE", 2.0)
    assert torch.equal(in_windows("GSA", geometry, ms, pan, 96), fused)


@pytest.mark.parametrize("name", ["GSA", "Brovey"])
def test_unseen_light_is_taken_from_valid_pixels_only(name):
    """What stands in pixels without data changes nothing far from them, nor does a window without any data."""
    geometry = GEOMETRIES["corners 4"]
    ms, pan, _, _ = unseen(geometry, 384)
    valid = torch.ones(384, 384, dtype=torch.bool)
    valid[:, :192] = False
    fused = []
    for value in (0.5, 3.0):
        filled, dark = ms.clone(), pan.clone()
        filled[..., :16], dark[..., :64] = value, value
        fused.append(in_windows(name, geometry, filled, dark, 96, valid, other_units=True)[..., 192:])
    assert fused[0].isfinite().all() and (fused[0] - fused[1]).abs().max() <= 1e-9


MODULATED = ("MTF-GLP-HPM", "MTF-GLP-HPM-R", "MF")


@pytest.mark.parametrize("name", MODULATED)
def test_modulation_has_no_poles_in_dark_bands(name):
    """A band that deviates by its own mean: PAN matched to it goes through 0, a quotient through any value."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(1, 1, 16, 16, generator=generator, dtype=torch.float64)
    pan = torch.nn.functional.interpolate(spread, scale_factor=4, mode="bicubic").exp()
    pan = pan + 0.2 * torch.rand(pan.shape, generator=generator, dtype=torch.float64)
    ms = torch.nn.functional.avg_pool2d(pan, 4)
    ms = torch.cat([ms, 0.01 * ms**3 / ms.max() ** 2], dim=1)  # the second is dark but for a few pixels
    lms = torch.nn.functional.interpolate(ms, scale_factor=4, mode="bilinear")
    sr = method(name, bands=2)(ms, lms, pan)
    assert (lms[:, 1].std() / lms[:, 1].mean()) > 1
    assert float(sr[:, 1].abs().max()) < 4 * float(ms[:, 1].max())
    # whatever is bright enough is as published, so a bright band does not change with a dark one next to it
    bright = method(name, bands=1)(ms[:, :1], lms[:, :1], pan)
    torch.testing.assert_close(sr[:, :1], bright, rtol=1e-9, atol=1e-12)


def test_pan_and_a_hyperspectral_image_stay_in_range(shared):
    """Jasper Ridge x4 with a PAN made of 450-900 nm: four methods reached 7e1 to 3e4, where 1 is the largest value."""
    cube = load_mat(shared("data/jasper_ridge_r198.mat"))
    nm = np.linspace(380, 2500, 224)[cube.kept - 1][::3]
    response = ((nm > 450) & (nm < 900)).astype(float)[None]
    sample = wald.hyperspectral(cube.values[::3, :64, :64], wald.Degradation(response, 4, wald.gaussian_kernel(9, 2.0)))
    ms, lms, pan, gt = (torch.from_numpy(sample[role])[None] for role in ("ms", "lms", "pan", "gt"))
    baseline = float((lms - gt).square().mean())
    for name in NAMES:
        sr = method(name, bands=66)(ms, lms, pan)
        assert float(sr.abs().max()) < (10 if name == "Brovey" else 3), name  # Brovey has PAN in other units than MS
        if name in MODULATED:
            assert float((sr - gt).square().mean()) < 0.7 * baseline, name
