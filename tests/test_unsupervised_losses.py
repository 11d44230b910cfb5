"""Losses without ground truth against plain NumPy, properties, and the losses that the published codes computed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lemamba.losses.khan import Khan
from lemamba.losses.lambda_pnn import LambdaPNNLoss
from lemamba.losses.spectral import ReprojectedErgas, SpectralL1, downgrade
from lemamba.losses.structural import Structural, correlation_threshold, local_correlation
from lemamba.losses.zpnn import ZPNNLoss
from lemamba.losses.zspan import ZSPanLoss
from lemamba.metrics.q2n import q2n
from lemamba.model import build_model
from lemamba.model.convert import convert_state_dict
from lemamba.operators import interp23, mtf_kernel
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor

TOOLBOX = Geometry.toolbox(4)
GAINS = (0.3, 0.25)


def scene(side: int = 16, bands: int = 2, ratio: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return random (sr, ms, pan) in [0, 1], float64."""
    g = torch.Generator().manual_seed(3)
    shapes = ((1, bands, side, side), (1, bands, side // ratio, side // ratio), (1, 1, side, side))
    sr, ms, pan = (torch.rand(shape, generator=g, dtype=torch.float64) for shape in shapes)
    return sr, ms, pan


@pytest.mark.parametrize("gain", [0.23, 0.365])
def test_the_unit_filter_is_the_published_design(gain):
    """Frequency sampling by a plain inverse transform, a Kaiser window along one axis, clipped, of sum 1."""
    k = np.arange(41) - 20
    sigma = np.sqrt((40 / 8) ** 2 / (-2 * np.log(gain)))
    response = np.exp(-(k[:, None] ** 2 + k[None, :] ** 2) / (2 * sigma**2))
    taps = np.real(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(response)))) * np.kaiser(41, 0.5)
    expected = np.clip(taps, 0, None) / np.clip(taps, 0, None).sum()
    assert np.abs(mtf_kernel(gain, 4, unit=True).numpy() - expected).max() < 1e-15


@pytest.mark.parametrize(
    "geometry",
    [TOOLBOX, Geometry.corners(4), Geometry((2.0, 2.0), (0.0, 0.0)), Geometry((4.015, 3.97), (1.2, 1.7))],
    ids=str,
)
def test_downgrading_samples_where_ms_lies(geometry):
    """A plane passes a filter of sum 1 unchanged; at MS pixel (i, j) it must have its value at (o + i r, o + j r)."""
    H = W = 160
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in (H, W))
    plane = (0.1 + 0.003 * rows[:, None] - 0.001 * columns)[None, None].repeat(1, 2, 1, 1)
    size = [int((n - 1 - o) / r) + 1 for n, o, r in zip((H, W), geometry.offset, geometry.ratio, strict=True)]
    low = downgrade(plane, GAINS, geometry, size)
    i, j = (
        o + r * torch.arange(n, dtype=torch.float64)
        for n, o, r in zip(size, geometry.offset, geometry.ratio, strict=True)
    )
    ms = (0.1 + 0.003 * i[:, None] - 0.001 * j)[None, None].repeat(1, 2, 1, 1)
    away = 24 // int(min(geometry.ratio)) + 1  # the edge is repeated, where the plane is none
    inside = (..., slice(away, -away), slice(away, -away))
    assert (low - ms)[inside].abs().max() < 1e-12
    assert float(SpectralL1(GAINS, geometry, border=4)(plane, ms)["total"]) < 1e-12
    assert float(SpectralL1(GAINS, geometry.shifted(1, 0), border=4)(plane, ms)["total"]) == pytest.approx(0.003)


def correlation(x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """The published correlation field, pixel by pixel: rows i - half + 1 ... i + half, zeros outside."""

    def windows(image):
        padded = np.pad(image, ((half - 1, half), (half - 1, half)))
        return np.lib.stride_tricks.sliding_window_view(padded, (2 * half, 2 * half))

    x, y = (image - windows(image).mean(axis=(-2, -1)) for image in (x, y))
    sums = [(windows(a) * windows(b)).sum(axis=(-2, -1)) for a, b in ((x, y), (x, x), (y, y))]
    return sums[0] / np.sqrt(sums[1] * sums[2])


@pytest.mark.parametrize("half", [1, 2, 8])
def test_local_correlation_pixel_by_pixel(half):
    sr, _, pan = scene(20)
    field = local_correlation(sr, pan, half).numpy()
    for band in range(2):
        expected = correlation(sr[0, band].numpy(), pan[0, 0].numpy(), half)
        assert np.abs(field[0, band] - expected).max() < 1e-11


def test_structure_counts_above_the_threshold_only():
    sr, _, pan = scene()
    apart = 1 - local_correlation(sr, pan, 2)
    limit = torch.full_like(apart, 0.8)
    expected = torch.where(apart > 0.8, apart, 0.0).mean()
    assert torch.equal(Structural(TOOLBOX)(sr, pan, limit)["total"], expected)
    assert torch.equal(Structural(TOOLBOX)(sr, pan)["total"], apart.mean())
    assert float(Structural(TOOLBOX)(pan.repeat(1, 2, 1, 1) * 0.5 + 0.1, pan, limit)["total"]) < 0.02  # zeros outside
    assert float(Structural(TOOLBOX, border=4)(sr, pan)["total"]) == pytest.approx(
        float(Structural(TOOLBOX)(sr[..., 4:-4, 4:-4], pan[..., 4:-4, 4:-4])["total"]), rel=1e-12
    )


def test_flat_windows_have_no_correlation_and_no_gradient():
    _, _, pan = scene()
    flat = torch.full((1, 2, 16, 16), 0.5, dtype=torch.float64, requires_grad=True)
    assert local_correlation(flat, pan, 2)[..., 5:11, 5:11].abs().max() == 0  # beyond, windows reach the zeros outside
    Structural(TOOLBOX)(flat, pan)["total"].backward()
    assert flat.grad.isfinite().all()
    assert flat.grad[..., 6:10, 6:10].abs().max() < 1


@pytest.mark.parametrize("shape", [(64, 32, 8), (32, 32, 4), (40, 33, 3)])
def test_khan_is_one_minus_q2n_of_whole_numbers(shape):
    h, w, bands = shape
    g = np.random.default_rng(5)
    ms = g.integers(1, 2048, (2, bands, h, w)).astype(np.float64)
    low = np.clip(ms + g.integers(-200, 200, ms.shape), 0, 2047)
    low, ms = torch.from_numpy(low), torch.from_numpy(ms)
    expected = float(1 - q2n(low, ms, const=2047.0).mean())
    assert float(Khan(rounded=True, divisor=1.0)(low, ms)["total"]) == pytest.approx(expected, rel=1e-9)
    assert float(Khan()(low, ms)["total"]) == pytest.approx(expected, rel=1e-9)
    assert float(Khan()(ms, ms)["total"]) == pytest.approx(0, abs=1e-12)


def losses(geometry: Geometry = TOOLBOX) -> dict[str, torch.nn.Module]:
    def mean(x):
        return x.mean(dim=1, keepdim=True)

    return {
        "zpnn": ZPNNLoss(GAINS, geometry, border=2),
        "lambda": LambdaPNNLoss(GAINS, geometry, rounded=False),
        "zspan": ZSPanLoss(GAINS, geometry, mean),
    }


@pytest.mark.parametrize("name", losses())
def test_gradients_are_right(name):
    sr, ms, pan = scene(52 if name == "zpnn" else 12)  # 2 (2 + 20) + 4 pixels leave one MS pixel
    loss, probe = losses()[name], torch.randn_like(sr)

    def along(t: torch.Tensor) -> torch.Tensor:
        return loss(sr + t * probe, ms, pan)["total"]

    assert torch.autograd.gradcheck(
        along, torch.zeros((), dtype=torch.float64, requires_grad=True), eps=1e-7, atol=1e-4
    )
    if name != "zpnn":
        assert torch.autograd.gradcheck(lambda x: loss(x, ms, pan)["total"], sr.clone().requires_grad_(True))


@pytest.mark.parametrize("name", losses())
def test_gradients_are_finite_for_black_and_equal_images(name):
    _, ms, pan = scene(64)
    for x in (torch.zeros(1, 2, 64, 64), interp23(ms, 4).float(), pan.repeat(1, 2, 1, 1).float()):
        x = x.clone().requires_grad_(True)
        for target in (ms.float(), torch.zeros_like(ms).float()):
            losses()[name](x, target, pan.float())["total"].backward()
            assert x.grad.isfinite().all()


def test_ergas_is_the_index_of_the_downgraded_image():
    sr, ms, _ = scene(64)
    low = downgrade(sr, GAINS, TOOLBOX, (16, 16)).numpy()
    error = ((low - ms.numpy()) ** 2).mean(axis=(2, 3)) / ms.numpy().mean(axis=(2, 3)) ** 2
    expected = 100 / 4 * np.sqrt(error.mean())
    assert float(ReprojectedErgas(GAINS, TOOLBOX)(sr, ms)["total"]) == pytest.approx(expected, rel=1e-12)


def test_an_image_smaller_than_its_border_is_refused():
    sr, ms, pan = scene(48)
    with pytest.raises(UserError, match="at least 60 x 60 pixels, given 48 x 48"):
        ZPNNLoss(GAINS, TOOLBOX)(sr, ms, pan)


@pytest.fixture(params=["zpnn", "lambdapnn"])
def published(request, shared):
    """Give (arch, published facts, arrays, weights, loss) of an adaptation by the published code."""
    facts = json.loads(shared(f"golden/zoo2/{request.param}_wv3_io.json").read_text())
    arrays = np.load(shared(f"golden/zoo2/{request.param}_wv3_io.npz"))
    gains = get_sensor("WV3").gains(8)
    if request.param == "zpnn":
        weights = torch.load(shared("weights/zoo2/zpnn/WV3_Z-PNN_model.tar"), "cpu", weights_only=True)
        return "Z-PNN", facts["adaptation_Z-PNN"], arrays, weights, ZPNNLoss(gains, TOOLBOX)
    weights = torch.load(shared("weights/zoo2/lambda_pnn/WV3_L-PNN_model.tar"), "cpu", weights_only=True)
    return "lambda-PNN", facts["adaptation"], arrays, weights, LambdaPNNLoss(gains, TOOLBOX)


def published_pair(arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (ms, lms, pan) of the published adaptation, divided by 2048."""
    ms = torch.from_numpy(arrays["adapt_ms"].astype(np.float64)).permute(2, 0, 1)[None]
    pan = torch.from_numpy(arrays["adapt_pan"].astype(np.float32))[None, None]
    return (ms / 2048).float(), (interp23(ms, 4) / 2048).float(), pan / 2048


def test_losses_and_thresholds_are_the_published_ones(published):
    """The first step's terms; a later step's would measure the optimizer too (tests/test_adapting.py)."""
    arch, facts, arrays, weights, loss = published
    ms, lms, pan = published_pair(arrays)
    threshold = correlation_threshold(lms, pan, get_sensor("WV3").gains(8)[0], TOOLBOX)
    inside = threshold[..., 8:-8, 8:-8] if arch == "Z-PNN" else threshold
    for name, value in (("mean", inside.mean()), ("min", inside.min()), ("max", inside.max())):
        assert float(value) == pytest.approx(facts["threshold_mask"][name], abs=2e-6)
    network = build_model(arch, img_channel=8, condition_channel=1, out_channel=8)
    network.load_state_dict(convert_state_dict(arch, weights))
    parts = loss(network(ms, lms, pan), ms, pan, threshold)
    expected = facts["losses_before_each_step"][0]
    for name, value in parts.items():
        wanted = expected["r_ergas" if name == "ergas" else name]
        assert value.item() == pytest.approx(wanted, rel=5e-6), name
    parts["total"].backward()
    if arch == "Z-PNN":
        for name, norm in facts["gradient_norms_of_the_first_step"].items():
            assert float(network.get_parameter(name).grad.norm()) == pytest.approx(norm, rel=1e-4), name
