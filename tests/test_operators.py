"""Shared operators against the published outputs, direct sums and properties."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
import torch
from scipy import ndimage, signal
from torch.autograd import gradcheck

from benchmarks import plain_numpy_metrics as plain
from lemamba.operators import decimate, imresize, interp23, mtf_filter, mtf_kernel, ssim_map

IKONOS_GAINS = (0.26, 0.28, 0.29, 0.28)


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(shape, dtype=dtype)


def close(a, b, tolerance: float = 1e-12) -> None:
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (a, b))
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


@pytest.fixture(scope="module")
def ikonos(shared):
    arrays = scipy.io.loadmat(shared("golden/classical/ikonos.mat"))
    return {k: torch.from_numpy(np.moveaxis(arrays[k], -1, 0).copy())[None] for k in ("gt", "ms", "lms")}


def test_filter_and_decimation_give_the_published_ms(ikonos):
    close(decimate(mtf_filter(ikonos["gt"], IKONOS_GAINS, 4), 4), ikonos["ms"])


def test_interpolation_gives_the_published_lms(ikonos):
    close(interp23(ikonos["ms"], 4), ikonos["lms"])


@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize("gain", [0.11, 0.3, 0.365])
def test_kernel_equals_the_fourier_design(gain, ratio):
    close(mtf_kernel(gain, ratio), plain.mtf_kernel(gain, ratio), 1e-15)


def test_kernel_is_symmetric_and_not_normalised():
    for ratio, low, high in ((4, 0.998, 0.999), (8, 0.991, 0.996)):
        sums = [float(mtf_kernel(g, ratio).sum()) for g in (0.22, 0.28, 0.365)]
        assert all(low - 5e-4 < s < high + 5e-4 for s in sums), sums
    k = mtf_kernel(0.3, 4)
    assert torch.equal(k, k.T)
    close(k, k.flip(0), 1e-17)


def test_kernel_cannot_be_changed_from_outside():
    before = mtf_kernel(0.3, 4).clone()
    mtf_kernel(0.3, 4).zero_()
    assert torch.equal(mtf_kernel(0.3, 4), before)


def test_span_stretches_the_frequency_axis():
    """The ideal low-pass of the classical methods takes the gain 0.3 at 1/r of an axis of 41, not 40, samples."""
    response = np.real(np.fft.fft2(np.fft.ifftshift(mtf_kernel(0.3, 4, span=41).numpy() / plain_window())))
    assert response[0, 5] > 0.3 > response[0, 6]
    exact = 0.3 ** ((5 / (41 / 8)) ** 2)
    assert response[0, 5] == pytest.approx(exact, rel=1e-6)


def plain_window() -> np.ndarray:
    k = np.arange(41) - 20
    window = np.interp(np.hypot(k[:, None], k[None]), np.arange(21), np.kaiser(41, 0.5)[20:], right=0)
    return np.where(window == 0, 1, window)


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (60, 41), (262, 257)])
def test_filter_equals_the_direct_sum(size):
    x = rand(2, 2, *size) * 2047
    gains = (0.17, 0.34)
    y = mtf_filter(x, gains, 4)
    for b, gain in enumerate(gains):
        close(y[1, b], ndimage.correlate(x[1, b].numpy(), mtf_kernel(gain, 4).numpy(), mode="nearest"))


def test_filter_takes_one_gain_for_all_and_refuses_a_wrong_number():
    x = rand(1, 3, 20, 20)
    close(mtf_filter(x, 0.3, 4), mtf_filter(x, (0.3, 0.3, 0.3), 4))
    with pytest.raises(ValueError, match="2 gains for 3 bands"):
        mtf_filter(x, (0.3, 0.3), 4)
    with pytest.raises(ValueError, match="gain"):
        mtf_filter(x, 1.0, 4)


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 20)])
def test_interpolation_equals_zero_insertion_and_returns_the_samples(ratio, size):
    x = rand(2, 1, *size)
    y = interp23(x, ratio)
    if min(size) > 11:  # scipy's wrap needs images longer than the taps
        close(y[1, 0], plain.interp23(x[1, 0].numpy(), ratio))
    assert torch.equal(decimate(y, ratio), x)


def test_interpolation_refuses_other_ratios():
    for ratio in (3, 0, 2.5, 6):
        with pytest.raises(ValueError, match="power of two"):
            interp23(rand(1, 1, 8, 8), ratio)


def naive_axis(x: np.ndarray, scale: float, kernel, width: float) -> np.ndarray:
    """Resize axis 0 sample by sample from the definition."""
    n, stretch, rows = len(x), min(scale, 1.0), []
    for i in range(int(np.ceil(n * scale - 1e-9))):
        centre = (i + 0.5) / scale - 0.5
        p = np.arange(np.floor(centre - width / stretch) - 1, np.ceil(centre + width / stretch) + 2)
        w = kernel(np.abs(stretch * (centre - p)))
        q = p.astype(int) % (2 * n)
        rows.append((w / w.sum()) @ x[np.where(q < n, q, 2 * n - 1 - q)])
    return np.array(rows)


def cubic(t: np.ndarray) -> np.ndarray:
    return np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0))


@pytest.mark.parametrize("scale", [0.25, 0.125, 1 / 3, 0.7, 2, 4])
@pytest.mark.parametrize(
    ("method", "kernel", "width"), [("bicubic", cubic, 2), ("bilinear", lambda t: np.fmax(0, 1 - t), 1)]
)
def test_imresize_equals_its_definition(scale, method, kernel, width):
    x = rand(1, 1, 70, 24)
    expected = naive_axis(naive_axis(x[0, 0].numpy(), scale, kernel, width).T, scale, kernel, width).T
    close(imresize(x, scale, method)[0, 0], expected)


def test_the_size_is_not_led_astray_by_the_rounding_of_the_scale():
    """In floating point 50 times 1.1 is above 55; still the image has 55 rows."""
    assert 50 * 1.1 > 55
    assert imresize(rand(1, 1, 50, 20), 1.1).shape == (1, 1, 55, 22)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_nearest_shrinking_is_decimation(ratio):
    x = rand(1, 2, 32, 48)
    assert torch.equal(imresize(x, 1 / ratio, "nearest"), decimate(x, ratio))


def test_imresize_keeps_constants_and_refuses_nonsense():
    close(imresize(torch.full((1, 1, 37, 41), 7.0, dtype=torch.float64), 0.25), np.full((1, 1, 10, 11), 7.0))
    with pytest.raises(ValueError, match="method"):
        imresize(rand(1, 1, 8, 8), 0.5, "lanczos")
    with pytest.raises(ValueError, match="positive"):
        imresize(rand(1, 1, 8, 8), 0.0)


def test_decimate_takes_the_middle_sample():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert decimate(x, 4).flatten().tolist() == [18, 22, 50, 54]
    with pytest.raises(ValueError, match="ratio"):
        decimate(x, 0)


def test_ssim_map_equals_two_dimensional_windows():
    x, y = rand(1, 2, 40, 33), rand(1, 2, 40, 33)
    k = np.arange(-5, 6)
    window = np.exp(-(k[:, None] ** 2 + k[None] ** 2) / 4.5)
    window /= window.sum()

    def smooth(a):
        return signal.convolve2d(a, window, mode="valid")

    for b in range(2):
        p, q = x[0, b].numpy(), y[0, b].numpy()
        mp, mq = smooth(p), smooth(q)
        vp, vq, vpq = smooth(p * p) - mp**2, smooth(q * q) - mq**2, smooth(p * q) - mp * mq
        expected = (2 * mp * mq + 1e-4) * (2 * vpq + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
        close(ssim_map(x, y)[0, b], expected)
    close(ssim_map(x, x), np.ones((1, 2, 30, 23)))
    with pytest.raises(ValueError, match="at least 11"):
        ssim_map(x[..., :10], y[..., :10])


OPERATORS = {
    "mtf_filter": lambda x: mtf_filter(x, 0.3, 4),
    "interp23": lambda x: interp23(x, 4),
    "shrink": lambda x: imresize(x, 0.25),
    "enlarge": lambda x: imresize(x, 2, "bilinear"),
    "decimate": lambda x: decimate(x, 2),
    "ssim_map": lambda x: ssim_map(x, x.flip(-1)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients(name):
    x = rand(1, 2, 12, 16).requires_grad_()
    assert gradcheck(OPERATORS[name], (x,), fast_mode=True)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_lower_precision_agrees_and_survives_autocast(name, dtype, tolerance):
    x = rand(1, 2, 24, 32).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = OPERATORS[name](x)
    assert y.dtype in (dtype, torch.float32)
    close(y.double(), OPERATORS[name](x.double()), tolerance)


@pytest.mark.parametrize("name", OPERATORS)
def test_weights_cached_in_inference_mode_serve_training(name):
    x = rand(1, 1, 13, 19, dtype=torch.float32)  # a size no other test uses: the caches are cold
    with torch.inference_mode():
        OPERATORS[name](x)
    x.requires_grad_()
    OPERATORS[name](x).sum().backward()
    assert torch.isfinite(x.grad).all()
