"""The indices that are measured on request, against NumPy written from their formulas; ratios, cut, blocks, tiles."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage
from torch import Tensor

from benchmarks import bench_metrics
from benchmarks import plain_numpy_metrics as plain
from lemamba import metrics
from lemamba.metrics import tiles as tiles_module
from lemamba.metrics.block_q import band_quality
from lemamba.metrics.d_s import low_pass_pan
from lemamba.metrics.qave import slide
from lemamba.operators import mtf_filter
from lemamba.operators.mtf import mtf_window
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor

Array = np.ndarray


def scene(C: int, H: int, W: int, *, seed: int = 0, peak: float = 2047.0) -> Tensor:
    """Smooth structure and noise in [0, peak], (1, C, H, W) float64."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, C, H // 8 + 2, W // 8 + 2, generator=g, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(H, W), mode="bilinear")
    noise = torch.randn(1, C, H, W, generator=g, dtype=torch.float64)
    return (peak * (0.8 * smooth + 0.05 * noise + 0.1)).clamp(0, peak)


def fused(gt: Tensor, *, seed: int = 1, noise: float = 0.03) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return gt + noise * gt.amax() * torch.randn(gt.shape, generator=g, dtype=torch.float64)


def full_scene(C: int, H: int, W: int, ratio: int, *, seed: int = 0) -> dict[str, Tensor]:
    lms = scene(C, H, W, seed=seed)
    pan = fused(lms.mean(dim=1, keepdim=True), seed=seed + 1)
    ms = lms[..., ratio // 2 :: ratio, ratio // 2 :: ratio]
    return {"sr": fused(lms, seed=seed + 2), "ms": ms, "lms": lms, "pan": pan}


def measured(sr: Tensor, gt: Tensor, *, const: float = 2047, **options) -> dict[str, float]:
    values = metrics.reduced_resolution(sr, gt, ratio=4, const=const, **options)
    return {k: float(v[0]) for k, v in values.items()}


def measured_full(images: dict[str, Tensor], *, ratio: int = 4, sensor: str = "none", **options) -> dict[str, float]:
    values = metrics.full_resolution(**images, ratio=ratio, sensor=sensor, **options)
    return {k: float(v[0]) for k, v in values.items()}


def khan(values: dict[str, float]) -> float:
    """D_lambda_K, from HQNR = (1 - D_lambda_K)(1 - D_s)."""
    return 1 - values["hqnr"] / (1 - values["d_s"])


# Reduced resolution: formulas in NumPy, images (C, H, W)


def numpy_reduced(sr: Array, gt: Array, const: float) -> dict[str, float]:
    mse = ((sr - gt) ** 2).mean()
    p, q = (np.maximum(i, 0) / np.maximum(i, 0).sum(axis=0) + np.spacing(1) for i in (sr, gt))
    return {
        "rmse": math.sqrt(mse),
        "cc": float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(sr, gt, strict=True)])),
        "psnr_cube": 20 * math.log10(const) - 10 * math.log10(mse),
        "uiqi": float(np.mean([sliding_q(a, b, 8) for a, b in zip(sr, gt, strict=True)])),
        "sid": float(((p * np.log(p / q)).sum(axis=0) + (q * np.log(q / p)).sum(axis=0)).mean()),
        "dd": float(np.abs(sr - gt).sum() / sr.size),
        "rase": 100 / gt.mean() * math.sqrt(np.mean([((a - b) ** 2).mean() for a, b in zip(sr, gt, strict=True)])),
    }


def sliding_q(x: Array, y: Array, side: int) -> float:
    """Q with plain moments of each window (Wang and Bovik, equation 2)."""
    a, b = (sliding_window_view(i, (side, side)).reshape(-1, side * side) for i in (x, y))
    ma, mb = a.mean(axis=1), b.mean(axis=1)
    cov = ((a - ma[:, None]) * (b - mb[:, None])).mean(axis=1)
    return float((4 * cov * ma * mb / ((a.var(axis=1) + b.var(axis=1)) * (ma**2 + mb**2))).mean())


@pytest.mark.parametrize(("C", "H", "W"), [(1, 40, 33), (4, 64, 50), (31, 32, 41)])
def test_extra_reduced_indices_equal_their_formulas(C, H, W):
    gt = scene(C, H, W, seed=C) + 5
    sr = fused(gt)
    ours = measured(sr, gt, extra="all")
    expected = numpy_reduced(sr[0].numpy(), gt[0].numpy(), 2047)
    assert list(ours) == [*metrics.REDUCED_NAMES, *expected]
    assert {k: ours[k] for k in expected} == pytest.approx(expected, rel=1e-10)


def test_they_equal_other_libraries():
    gt = scene(4, 64, 50) + 5
    sr = fused(gt)
    image = pytest.importorskip("torchmetrics.functional.image")
    peak = image.peak_signal_noise_ratio(sr, gt, data_range=2047.0)
    assert float(metrics.psnr_cube(sr, gt, const=2047)) == pytest.approx(float(peak), rel=1e-6)
    full_ref = pytest.importorskip("sewar.full_ref")
    theirs = full_ref.rmse(*(i[0].permute(1, 2, 0).numpy() for i in (gt, sr)))
    assert float(metrics.rmse(sr, gt)) == pytest.approx(theirs, rel=1e-12)


def test_equal_images_get_the_ideal_values():
    gt = scene(4, 40, 40) + 5
    values = measured(gt, gt, extra="all")
    assert values["psnr_cube"] == math.inf
    assert all(values[k] == 0 for k in ("rmse", "dd", "rase", "sid"))
    assert values["cc"] == pytest.approx(1, abs=1e-14) and values["uiqi"] == pytest.approx(1, abs=1e-14)


def test_edge_cases_of_the_extra_indices():
    gt = scene(3, 40, 40) + 5
    sr = fused(gt)
    flat = sr.clone()
    flat[:, 1] = 0.1
    assert math.isnan(float(metrics.cc(flat, gt))) and math.isnan(float(metrics.cc(gt, flat)))
    black = torch.zeros_like(gt)
    assert math.isnan(float(metrics.sid(black, gt))) and float(metrics.rase(gt, black)) == math.inf
    half = gt.clone()
    half[..., :20] = 0
    assert float(metrics.sid(sr, half)) == pytest.approx(float(metrics.sid(sr[..., 20:], gt[..., 20:])), rel=1e-12)
    assert math.isfinite(float(metrics.sid(sr - 1000, gt)))  # negative samples
    assert float(metrics.sid(7 * sr, gt)) == pytest.approx(float(metrics.sid(sr, gt)), rel=1e-9)
    assert float(metrics.cc(3 * sr + 40, gt)) == pytest.approx(float(metrics.cc(sr, gt)), rel=1e-12)
    assert float(metrics.psnr_cube(sr, gt, const=2047)) <= float(metrics.psnr(sr, gt, const=2047))


def test_the_mask_and_the_cut_of_extra_indices_equal_a_crop():
    gt = scene(4, 96, 64) + 5
    sr = fused(gt)
    mask = torch.zeros(1, 1, 96, 64, dtype=torch.bool)
    mask[..., :64, :] = True
    masked, cropped = measured(sr, gt, mask=mask, extra="all"), measured(sr[..., :64, :], gt[..., :64, :], extra="all")
    names = [*metrics.EXTRA.keys() & masked.keys(), "sam", "ergas", "psnr", "ssim", "qave", "qn"]
    assert {k: masked[k] for k in names} == pytest.approx({k: cropped[k] for k in names}, rel=1e-11)
    inside = (..., slice(4, -5), slice(4, -5))  # MATLAB's I(5:end-5, 5:end-5)
    assert measured(sr, gt, cut=5, extra="all") == measured(sr[inside], gt[inside], extra="all")


def test_a_cut_of_21_gives_the_numbers_of_the_toolbox(shared):
    """DLPan-Toolbox in Octave on the first IKONOS image, flag_cut_bounds = 1 and dim_cut = 21."""
    scipy_io = pytest.importorskip("scipy.io")
    arrays = scipy_io.loadmat(shared("golden/metrics/red_ikonos.mat"))
    sr, gt = (torch.from_numpy(arrays[k][:1]) for k in ("sr", "gt"))
    ours = measured(sr, gt, cut=21)
    expected = {"sam": 3.6132, "ergas": 2.444066, "scc": 0.909861, "qn": 0.851653, "qave": 0.835596}
    assert {k: ours[k] for k in expected} == pytest.approx(expected, abs=6e-7, rel=1e-5)


# Full resolution


def numpy_d_rho(sr: Array, pan: Array, side: int) -> float:
    scores = []
    for band in sr:
        a, b = (sliding_window_view(i, (side, side)).reshape(-1, side * side) for i in (band, pan))
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        scores.append(((a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))).mean())
    return 1 - float(np.mean(scores))


def numpy_d_sr(sr: Array, pan: Array) -> float:
    bands, target = sr.reshape(len(sr), -1).T, pan.ravel()
    weights = np.linalg.lstsq(bands, target, rcond=None)[0]
    return float(np.var(target - bands @ weights, ddof=1) / np.var(target, ddof=1))


def numpy_reduced_to_ms(sr: Array, gains: tuple[float, ...], ratio: int) -> Array:
    bands = []
    for band, gain in zip(sr, gains, strict=True):
        kernel = plain.mtf_kernel(gain, ratio)
        low = ndimage.correlate(band, kernel / kernel.sum(), mode="nearest")
        bands.append(low[ratio // 2 :: ratio, ratio // 2 :: ratio])
    return np.stack(bands)


def block_pairs(x: Array, side: int) -> Array:
    """Mean Q of all band pairs over distinct blocks."""
    C, H, W = x.shape
    result = np.zeros((C, C))
    for i in range(C):
        for j in range(C):
            scores = []
            for top in range(0, H, side):
                for left in range(0, W, side):
                    a, b = (x[k, top : top + side, left : left + side].ravel() for k in (i, j))
                    c = np.cov(a, b)
                    ma, mb = a.mean(), b.mean()
                    scores.append(4 * c[0, 1] * ma * mb / ((c[0, 0] + c[1, 1]) * (ma**2 + mb**2)))
            result[i, j] = np.mean(scores)
    return result


@pytest.mark.parametrize(("sensor", "C", "ratio", "side"), [("WV3", 8, 4, 128), ("none", 3, 2, 64), ("none", 4, 3, 96)])
def test_extra_full_indices_equal_their_formulas(sensor, C, ratio, side):
    images = full_scene(C, side, side, ratio)
    sr, ms, pan = (images[k][0].numpy() for k in ("sr", "ms", "pan"))
    names = [name for name, index in metrics.EXTRA.items() if index.protocol == "full"]
    if 32 % ratio:
        names.remove("d_lambda_ms")
    ours = measured_full(images, ratio=ratio, sensor=sensor, extra=names)
    gains = get_sensor(sensor).gains(C)
    low = numpy_reduced_to_ms(sr, gains, ratio)
    spectral = float(metrics.d_lambda_k(images["sr"], images["lms"], ratio=ratio, sensor=sensor))
    expected = {
        "d_rho": numpy_d_rho(sr, pan[0], ratio),
        "d_sr": numpy_d_sr(sr, pan[0]),
        "rqnr": (1 - spectral) * (1 - numpy_d_sr(sr, pan[0])),
    }
    expected |= {"r_sam": plain.sam(low, ms), "r_ergas": plain.ergas(low, ms, ratio), "r_q2n": plain.q2n(low, ms, 2.0)}
    if "d_lambda_ms" in names:
        i, j = np.triu_indices(C, 1)
        expected["d_lambda_ms"] = np.abs(block_pairs(ms, 32 // ratio) - block_pairs(sr, 32))[i, j].mean()
    assert {k: ours[k] for k in names} == pytest.approx(expected, rel=1e-8)


def test_d_sr_of_the_golden_scene_is_that_of_another_toolbox(shared):
    """The review ran hyperspectral_pansharpening_toolbox (Ciotola et al., 2024) on this image: 0.08067."""
    scipy_io = pytest.importorskip("scipy.io")
    arrays = scipy_io.loadmat(shared("golden/metrics/full_ikonos.mat"))
    sr, pan = (torch.from_numpy(arrays[k][:1]) for k in ("sr", "pan"))
    assert float(metrics.d_sr(sr, pan)) == pytest.approx(0.08067, abs=6e-6)


def test_d_sr_is_zero_where_pan_is_a_sum_of_bands_and_one_where_nothing_is_explained():
    sr = scene(5, 64, 64)
    sr[:, 4] = sr[:, 3]  # bands that depend on each other
    weights = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.0], dtype=torch.float64)[None, :, None, None]
    assert float(metrics.d_sr(sr, (sr * weights).sum(dim=1, keepdim=True))) == pytest.approx(0, abs=1e-13)
    noise = torch.randn(1, 1, 256, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert float(metrics.d_sr(scene(2, 256, 256), noise)) == pytest.approx(1, abs=1e-2)
    assert math.isnan(float(metrics.d_sr(sr, torch.zeros_like(sr[:, :1]))))


def test_d_rho_of_copies_negatives_and_flat_windows():
    pan = scene(1, 64, 64)
    sr = torch.cat([pan, 3 * pan + 7], dim=1)
    assert float(metrics.d_rho(sr, pan, ratio=4)) == pytest.approx(0, abs=1e-12)
    assert float(metrics.d_rho(4000 - sr, pan, ratio=4)) == pytest.approx(2, abs=1e-12)
    flat = torch.full_like(pan, 0.1)
    assert float(metrics.d_rho(flat, pan, ratio=4)) == 1 and float(metrics.d_rho(flat, flat, ratio=4)) == 0
    assert float(metrics.d_rho(pan, flat, ratio=4)) == 1
    with pytest.raises(UserError, match="at least 2"):
        metrics.d_rho(pan, pan, ratio=1)


def test_a_mask_leaves_blocks_and_pixels_out_of_the_extra_full_indices():
    images = full_scene(4, 192, 160, 4)
    mask = torch.ones(1, 1, 192, 160, dtype=torch.bool)
    mask[..., 160:, :] = False
    names = ("d_rho", "d_sr", "d_lambda_ms")
    ours = measured_full(images, sensor="QB", mask=mask, extra=names)
    upper = {k: v[..., : 40 if k == "ms" else 160, :] for k, v in images.items()}
    crop = measured_full(upper, sensor="QB", extra=names)
    assert {k: ours[k] for k in names} == pytest.approx({k: crop[k] for k in names}, rel=1e-11)


def test_a_cut_at_full_resolution_leaves_out_what_touches_the_border_and_changes_no_filter():
    images = full_scene(4, 192, 192, 4)
    ours = measured_full(images, sensor="QB", cut=21, extra="all")
    inside = torch.zeros(1, 1, 192, 192, dtype=torch.bool)
    inside[..., 32:-32, 32:-32] = True  # the blocks without the border
    low = mtf_filter(images["sr"], get_sensor("QB").gains(4), 4)
    assert khan(ours) == pytest.approx(1 - float(metrics.q2n(low, images["lms"], const=2047, mask=inside)), rel=1e-11)
    core = images["sr"][..., 20:-21, 20:-21], images["pan"][..., 20:-21, 20:-21]
    assert ours["d_sr"] == pytest.approx(numpy_d_sr(core[0][0].numpy(), core[1][0].numpy()), rel=1e-9)
    ms = images["ms"][0].numpy()[:, 5:-6, 5:-6]  # cells 5 … 41 lie inside rows 20 … 170
    reduced = numpy_reduced_to_ms(images["sr"][0].numpy(), get_sensor("QB").gains(4), 4)[:, 5:-6, 5:-6]
    assert ours["r_sam"] == pytest.approx(plain.sam(reduced, ms), rel=1e-9)
    assert ours["r_q2n"] == pytest.approx(plain.q2n(reduced, ms, 2.0), rel=1e-9)


# Ratios and geometry


@pytest.mark.parametrize("ratio", [3, 5, 6])
def test_every_whole_ratio_is_measured(ratio):
    """D_s, with pan_lp by its definition: bicubic cells, then Lagrange through 6 samples of each axis, mirrored."""
    side = 32 * ratio
    images = full_scene(3, side, side, ratio)
    ours = measured_full(images, ratio=ratio)
    sr, lms, pan = (images[k][0].numpy() for k in ("sr", "lms", "pan"))
    low = plain.shrink(pan[0], ratio)
    for axis in (0, 1):
        low = lagrange(low, (np.arange(side) - ratio // 2) / ratio, axis)
    expected = np.mean([abs(plain.q_blocks(s, pan[0]) - plain.q_blocks(m, low)) for s, m in zip(sr, lms, strict=True)])
    assert ours["d_s"] == pytest.approx(expected, rel=1e-9)
    spectral = np.stack([plain.mtf_fft(x, g, ratio) for x, g in zip(sr, get_sensor("none").gains(3), strict=True)])
    assert khan(ours) == pytest.approx(1 - plain.q2n(spectral, lms, 2.0), rel=1e-9)


def lagrange(x: Array, places: Array, axis: int) -> Array:
    """Read `x` at places along an axis by the polynomial through the 6 nearest samples, mirrored outside."""
    n = x.shape[axis]
    out = []
    for place in places:
        first = math.floor(place) - 2
        nodes = np.arange(first, first + 6)
        weights = [np.prod([(place - m) / (k - m) for m in nodes if m != k]) for k in nodes]
        index = nodes % (2 * n)
        out.append(np.tensordot(weights, x.take(np.where(index < n, index, 2 * n - 1 - index), axis), (0, axis)))
    return np.stack(out, axis=axis)


def test_a_geometry_moves_the_low_passed_pan():
    """Where the geometry is the images' own, a ramp comes back as the ramp; as published, it is half a pixel off."""
    ramp = torch.arange(128, dtype=torch.float64).expand(1, 1, 128, 128)
    inside = (..., slice(40, -40), slice(40, -40))
    published = low_pass_pan(ramp, 4)
    corners = low_pass_pan(ramp, 4, Geometry.corners(4))
    toolbox = low_pass_pan(ramp, 4, Geometry.toolbox(4))
    assert torch.allclose(corners[inside], ramp[inside], atol=1e-9)
    assert torch.allclose(toolbox[inside], ramp[inside], atol=1e-9)
    # The 23 taps are rounded: their sum is 1 to 1e-9 only.
    assert torch.allclose(published[inside], ramp[inside] - 0.5, atol=1e-5)


def test_the_geometry_reaches_the_protocol():
    images = full_scene(4, 128, 128, 4)
    toolbox, corners = (measured_full(images, extra="all", geometry=g(4)) for g in (Geometry.toolbox, Geometry.corners))
    default = measured_full(images, extra="all")
    unmoved = ("d_lambda", "d_rho", "d_sr", "d_lambda_ms")
    assert all(toolbox[k] == corners[k] == default[k] for k in unmoved)
    assert len({v["d_s"] for v in (toolbox, corners, default)}) == 3
    assert toolbox["r_sam"] == default["r_sam"] != corners["r_sam"]


# Blocks and boxes of other sides


@pytest.mark.parametrize("side", [2, 5, 7, 8, 16, 24, 32])
def test_boxes_of_any_side(side):
    x = torch.randn(2, 40, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(side))
    windows = sliding_window_view(x.numpy(), (side, side), axis=(1, 2))
    assert torch.allclose(slide(x, side), torch.from_numpy(windows.sum(axis=(-2, -1))), atol=1e-10)
    assert torch.equal(slide(x, side, torch.maximum), torch.from_numpy(windows.max(axis=(-2, -1)).copy()))


@pytest.mark.parametrize("block", [8, 16, 20])
def test_blocks_of_another_side(block):
    gt = scene(3, 2 * block, 3 * block)
    sr = fused(gt).clamp(0)
    x, y = gt[0].numpy(), sr[0].numpy()
    scores = []
    for top in range(0, 2 * block, block):
        for left in range(0, 3 * block, block):
            part = np.s_[:, top : top + block, left : left + block]
            a, b = (np.concatenate([np.floor(i[part] + 0.5), np.zeros((1, block, block))]) for i in (x, y))
            scores.append(q2n_of_block(a, b))
    assert float(metrics.q2n(sr, gt, const=2047, block=block)) == pytest.approx(np.mean(scores), rel=1e-10)
    expected = np.mean([sliding_q(a, b, block) for a, b in zip(y, x, strict=True)])
    assert float(metrics.qave(sr, gt, block=block)) == pytest.approx(expected, rel=1e-10)
    assert np.allclose(band_quality(gt, block=block)[0].numpy(), block_pairs(x, block), rtol=1e-10)
    values = measured(sr, gt, block=block)
    assert values["qn"] == float(metrics.q2n(sr, gt, const=2047, block=block))


def q2n_of_block(x: Array, y: Array) -> float:
    """Garzelli and Nencini's definition with the hypercomplex product pixel by pixel."""
    n = x[0].size
    mean, deviation = x.mean(axis=(1, 2), keepdims=True), x.std(axis=(1, 2), ddof=1, keepdims=True)
    deviation = np.where(mean == 0, 1.0, deviation)
    x, y = (x - mean) / deviation + 1, plain.conjugate((y - mean) / deviation + 1)
    mx, my = x.mean(axis=(1, 2)), y.mean(axis=(1, 2))
    unbiased = n / (n - 1)
    cross = unbiased * (plain.product(x, y).mean(axis=(1, 2)) - plain.product(mx, my))
    power = (mx**2).sum(), (my**2).sum()
    variance = unbiased * ((x**2).sum(axis=0).mean() + (y**2).sum(axis=0).mean() - sum(power))
    return float(np.sqrt((cross**2).sum()) * 4 * np.sqrt(power[0] * power[1]) / sum(power) / variance)


# Names


def test_extra_indices_are_measured_on_request_only():
    gt = scene(3, 40, 40)
    assert tuple(measured(gt, gt)) == metrics.REDUCED_NAMES
    assert tuple(measured(gt, gt, extra="rmse, cc")) == (*metrics.REDUCED_NAMES, "rmse", "cc")
    assert tuple(measured(gt, gt, extra=("rmse", "sam"))) == (*metrics.REDUCED_NAMES, "rmse")
    assert not metrics.EXTRA.keys() & metrics.INDICES.keys()
    assert len({i.heading for i in (*metrics.INDICES.values(), *metrics.EXTRA.values())}) == len(
        metrics.INDICES | metrics.EXTRA
    )


@pytest.mark.parametrize(
    ("extra", "message"), [("rsme", 'mean "rmse"'), ("d_rho", "of full resolution"), (("x" * 9,), "unknown index")]
)
def test_unknown_extra_indices_are_refused(extra, message):
    gt = scene(3, 40, 40)
    with pytest.raises(UserError, match=message):
        measured(gt, gt, extra=extra)


def test_what_the_extra_full_indices_refuse():
    with pytest.raises(UserError, match="qn needs sides of at least 32 pixels, given 16 x 16"):
        measured_full(full_scene(3, 64, 64, 4), extra="r_q2n")
    with pytest.raises(UserError, match="multiple of the ratio"):
        measured_full(full_scene(3, 96, 96, 3), ratio=3, extra="d_lambda_ms")


# Consistency of a fusion without ground truth


def test_a_fusion_that_explains_its_observations_is_consistent():
    g = torch.Generator().manual_seed(3)
    truth = scene(6, 48, 40, peak=1.0)
    response = torch.rand(3, 6, dtype=torch.float64, generator=g)
    psf = torch.rand(5, 4, dtype=torch.float64, generator=g)
    cube = truth[0].numpy()
    blurred = np.stack([ndimage.correlate(band, psf.numpy(), mode="nearest", origin=(0, 0)) for band in cube])
    ms = torch.from_numpy(blurred[:, 2::4, 2::4])[None]
    guide = torch.einsum("pc,bchw->bphw", response, truth)
    options = {"ratio": 4, "response": response}
    exact = metrics.consistency(truth, ms, guide, psf=psf, **options)
    assert all(float(v) == pytest.approx(0, abs=1e-14) for v in exact.values())
    wrong = truth + 0.01 * torch.randn(truth.shape, dtype=torch.float64, generator=g)
    found = metrics.consistency(wrong, ms, guide, psf=psf, **options)
    other = np.stack([ndimage.correlate(band, psf.numpy(), mode="nearest") for band in wrong[0].numpy()])[:, 2::4, 2::4]
    spectral = np.tensordot(response.numpy(), wrong[0].numpy(), 1)
    assert float(found["ms_rmse"]) == pytest.approx(np.sqrt(((other - ms[0].numpy()) ** 2).mean()), rel=1e-12)
    assert float(found["guide_rmse"]) == pytest.approx(np.sqrt(((spectral - guide[0].numpy()) ** 2).mean()), rel=1e-12)
    by_gains = metrics.consistency(truth, ms, guide, gains=0.3, **options)
    low = numpy_reduced_to_ms(cube, (0.3,) * 6, 4)
    assert float(by_gains["ms_rmse"]) == pytest.approx(np.sqrt(((low - ms[0].numpy()) ** 2).mean()), rel=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"psf": None}, "psf or gains"),
        ({"gains": 0.3}, "psf or gains"),
        ({"response": torch.ones(2, 6)}, "expected response"),
        ({"ratio": 2}, "expected ms"),
        ({"psf": torch.ones(3)}, "expected psf"),
        ({"geometry": Geometry.corners(2)}, "geometry of ratio 4"),
    ],
)
def test_what_consistency_refuses(change, message):
    sr = scene(6, 32, 32)
    options = {"ratio": 4, "response": torch.ones(3, 6), "psf": torch.ones(3, 3) / 9} | change
    with pytest.raises(UserError, match=message):
        metrics.consistency(sr, sr[..., ::4, ::4], sr[:, :3], **options)


# Tiles: an image cut into many gives what it gives whole


def test_tiles_change_no_value(monkeypatch):
    gt = scene(3, 150, 133)
    gt[..., 40:90, 30:100] = 700.3  # windows that are flat
    sr = fused(gt)
    sr[..., 45:85, 35:95] = 650.7
    images = full_scene(3, 160, 192, 4)
    mask = torch.ones(1, 1, 150, 133, dtype=torch.bool)
    mask[..., 100:110, 20:25] = False
    runs = []
    for side in (1024, 64):
        monkeypatch.setattr(tiles_module, "_SIDE", side)
        monkeypatch.setattr(tiles_module, "_SAMPLES", side * side)
        runs.append((measured(sr, gt, extra="all"), measured(sr, gt, extra="all", mask=mask)))
        runs[-1] += (measured_full(images, extra="all"), measured_full(images, extra="all", cut=7))
    for whole, cut in zip(*runs, strict=True):
        assert cut == pytest.approx(whole, rel=1e-12)


def test_tiles_cover_every_window_once(monkeypatch):
    monkeypatch.setattr(tiles_module, "_SIDE", 20)
    monkeypatch.setattr(tiles_module, "_SAMPLES", 400)
    for H, W, window in ((7, 90, 7), (61, 20, 3), (100, 57, 11), (33, 40, 1)):
        seen = np.zeros((H - window + 1, W - window + 1), int)
        for rows, columns in tiles_module.tiles(torch.empty(H, W), window):
            seen[rows.start : rows.stop - window + 1, columns.start : columns.stop - window + 1] += 1
        assert (seen == 1).all()


def test_a_filtered_window_equals_the_window_of_the_filtered_image():
    x = scene(3, 300, 280)
    gains = (0.2, 0.3, 0.35)
    whole = mtf_filter(x, gains, 4)
    direct = np.stack([plain.mtf_direct(b, g, 4) for b, g in zip(x[0].numpy(), gains, strict=True)])
    assert np.allclose(whole[0].numpy(), direct, rtol=1e-10)
    for top, left, side in ((0, 248, 32), (100, 3, 64), (299, 0, 1)):
        rows, columns = slice(top, top + side), slice(left, left + side)
        assert torch.allclose(mtf_window(x, gains, 4, rows, columns), whole[..., rows, columns], rtol=1e-12)
    tracked = x.clone().requires_grad_()
    assert torch.allclose(mtf_filter(tracked, gains, 4), whole, rtol=1e-12)


def test_float32_images_are_not_copied_to_float64_and_lose_no_digit():
    """The digits of float32 images equal those of the same numbers in float64: the arithmetic is float64."""
    gt, sr = scene(4, 70, 64).float(), fused(scene(4, 70, 64)).float()
    single, double = measured(sr, gt, extra="all"), measured(sr.double(), gt.double(), extra="all")
    assert single == pytest.approx(double, rel=1e-13)
    images = {k: v.float() for k, v in full_scene(4, 128, 128, 4).items()}
    wide = measured_full({k: v.double() for k, v in images.items()}, extra="all")
    assert measured_full(images, extra="all") == pytest.approx(wide, rel=1e-12)


# Co-registration


def tool_field(x: Array, y: Array, w: int) -> Array:
    """The correlation field of fr-pansh-eval-tool by its definition: sums over 2w x 2w pixels of the image padded with
    zeros by w on either side, from 1 pixel above and left of the pixel; deviations from the running mean, padded again.
    """

    def sums(image: Array) -> Array:
        padded = np.pad(image, ((w, w), (w, w)))[1:, 1:]
        return sliding_window_view(padded, (2 * w, 2 * w)).sum(axis=(2, 3))[: x.shape[0], : x.shape[1]]

    dx, dy = (i - sums(i) / (4 * w * w) for i in (x, y))
    return sums(dx * dy) / np.sqrt(np.maximum(sums(dx * dx), 1e-20) * np.maximum(sums(dy * dy), 1e-20))


def tool_places(ms: Array, pan: Array, gain: float, ratio: int) -> list[tuple[int, int]]:
    kernel = np.maximum(plain.mtf_kernel(gain, ratio), 0)
    low = ndimage.correlate(pan, kernel / kernel.sum(), mode="nearest")
    found = []
    for band in ms:
        fit = np.array(
            [[tool_field(band, low[i::ratio, j::ratio], 2).mean() for j in range(ratio)] for i in range(ratio)]
        )
        found.append(divmod(int(fit.argmax()), ratio))
    return found


def test_coregistration_finds_the_places_of_the_authors_tool(shared):
    """On the golden IKONOS scene, and so R-SAM and R-ERGAS of the tool, which has ms and sr at these places."""
    images = {k: v[:1] for k, v in read_mat(shared("golden/metrics/full_ikonos.mat")).items()}
    ms, pan, sr = (images[k][0].astype(np.float64) for k in ("ms", "pan", "sr"))
    gains = get_sensor("IKONOS").gains(4)
    at = tool_places(ms, pan[0], gains[0], 4)
    assert metrics.coregistration(images["ms"], images["pan"], gain=gains[0], ratio=4)[0].tolist() == [*map(list, at)]
    low = []
    for band, gain, (i, j) in zip(sr, gains, at, strict=True):
        kernel = plain.mtf_kernel(gain, 4)
        low.append(ndimage.correlate(band, kernel / kernel.sum(), mode="nearest")[i::4, j::4])
    options = {"ratio": 4, "sensor": "IKONOS", "extra": "r_sam,r_ergas,r_q2n"}
    found = metrics.full_resolution(**images, **options, coregister=True)
    assert found["r_sam"].item() == pytest.approx(plain.sam(np.stack(low), ms), rel=1e-9)
    assert found["r_ergas"].item() == pytest.approx(plain.ergas(np.stack(low), ms, 4), rel=1e-9)
    assert found["r_q2n"].item() == pytest.approx(plain.q2n(np.stack(low), ms, 2.0), rel=1e-9)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_coregistration_finds_known_shifts_band_by_band(ratio):
    """MS sampled from the low-passed pan at places that differ from band to band; with a mask over what is wrong."""
    pan = torch.rand(2, 1, 32 * ratio, 32 * ratio, dtype=torch.float64, generator=torch.manual_seed(1))
    low = mtf_filter(pan, 0.3, ratio)
    at = [(0, 0), (ratio - 1, 1), (1, ratio - 1), (ratio // 2, ratio // 2)]
    ms = torch.cat([low[:, :, i::ratio, j::ratio] * (b + 1) for b, (i, j) in enumerate(at)], dim=1)
    ms[0, :, :8] = ms[0, :, :8].flip(-1)
    mask = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    mask[0, :, :8] = False
    found = metrics.coregistration(ms, pan, gain=0.3, ratio=ratio, mask=mask)
    assert found.tolist() == [[list(place) for place in at]] * 2
    gt = pan.expand(-1, 4, -1, -1) * torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)[:, None, None]
    lms, wide = torch.rand_like(gt), mask.repeat_interleave(ratio, -1).repeat_interleave(ratio, -2)
    values = metrics.full_resolution(
        gt, ms, lms, pan, ratio=ratio, sensor="none", extra="r_sam,r_ergas", coregister=True, mask=wide
    )
    assert values["r_ergas"][1].item() < 1 and values["r_sam"][1].item() < 0.5  # kernel of sum 0.99 against its own
    plainly = metrics.full_resolution(gt, ms, lms, pan, ratio=ratio, sensor="none", extra="r_ergas", mask=wide)
    assert plainly["r_ergas"][1].item() > 5 * values["r_ergas"][1].item()


def test_coregistration_of_flat_bands_keeps_the_convention_and_unused_it_is_refused():
    images = full_scene(3, 64, 64, 4)
    images["ms"][:, 1] = 500
    pan = images["pan"]
    assert metrics.coregistration(images["ms"], pan, gain=0.3, ratio=4)[0, 1].tolist() == [2, 2]
    assert metrics.coregistration(images["ms"], torch.ones_like(pan), gain=0.3, ratio=4).eq(2).all()
    with pytest.raises(UserError, match="expected r_q2n, r_sam or r_ergas among the indices"):
        measured_full(images, coregister=True)
    with pytest.raises(UserError, match="expected pan"):
        metrics.coregistration(images["ms"], pan[..., :-4], gain=0.3, ratio=4)


def test_what_an_index_needs_above_its_inputs_is_a_few_images():
    """Memory that torch allocates at its peak, in multiples of one float32 image of 256 x 256 x 8 (docs/metrics.md)."""
    images = bench_metrics.make_large(256, 8)
    image = 4 * images["sr"].numel()
    reduced = partial(metrics.reduced_resolution, images["sr"], images["gt"], ratio=4, const=2047)
    full = partial(bench_metrics.ours_full, images, sensor="none")
    for call, most in ((reduced, 3), (full, 3.1)):
        call()  # filters are kept
        assert bench_metrics.peak_allocated(call) < most * image
