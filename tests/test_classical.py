"""Classical methods: equal to the published toolbox, and the properties that their formulas promise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import torch
from scipy.io import loadmat

from lemamba.model import build_model, list_models, model_entry
from lemamba.model.classical.bdsd_pc import non_negative_least_squares
from lemamba.model.classical.filters import binomial_low_pass
from lemamba.model.classical.mf import half_gradient
from lemamba.model.classical.statistics import percentile, regress
from lemamba.utils.errors import UserError

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
NAMES = [*GOLDEN, "Brovey"]


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
    in_folder = [n for n in list_models(family="classical") if "classical" in model_entry(n).path.parts]
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
    with pytest.raises(UserError, match="GSA is defined for ratio 4, given 8"):
        method("GSA", ratio=8)
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


@pytest.mark.parametrize("percent", [0.0, 0.3, 1.0, 50.0, 99.9, 100.0])
def test_percentile_against_numpy(percent):
    x = torch.rand(2, 3, 11, 13, dtype=torch.float64)
    expected = np.percentile(x.flatten(2).numpy(), percent, axis=-1, method="hazen")
    assert np.allclose(percentile(x, percent)[..., 0, 0].numpy(), expected, rtol=1e-14)


def test_regression_against_numpy_and_with_dependent_bands():
    x, y = torch.rand(2, 5, 9, 8, dtype=torch.float64), torch.rand(2, 3, 9, 8, dtype=torch.float64)
    found = regress(y, x)
    for image in range(2):
        expected = np.linalg.lstsq(x[image].flatten(1).T.numpy(), y[image].flatten(1).T.numpy(), rcond=None)[0].T
        assert np.allclose(found[image].numpy(), expected, rtol=1e-10)
    x[:, 4] = x[:, 0]
    twin = regress(y, x)
    assert torch.allclose(twin[..., 4], twin[..., 0], rtol=1e-6)


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
