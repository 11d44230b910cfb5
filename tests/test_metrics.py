"""Indices against the published numbers, a second implementation and properties; what they do at the edge."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from benchmarks import plain_numpy_metrics as plain
from lemamba import metrics
from lemamba.metrics import index as index_module
from lemamba.metrics.index import register_index
from lemamba.metrics.parallel import run_all
from lemamba.metrics.q2n import round_to_uint16_
from lemamba.operators.hypercomplex import product_signs
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor

PIXELWISE = ("sam", "ergas", "psnr")
GOLDEN_NAMES = {"d_lambda_k": "d_lambda", "d_lambda": "d_lambda_qnr"}  # ours -> golden.json, named by the script


def scene(C: int, H: int, W: int, *, seed: int = 0, peak: float = 2047) -> Tensor:
    """Smooth structure and noise in [0, peak], (1, C, H, W) float64."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, C, H // 8 + 2, W // 8 + 2, generator=g, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(H, W), mode="bilinear")
    return (peak * (0.8 * smooth + 0.05 * torch.randn(1, C, H, W, generator=g, dtype=torch.float64) + 0.1)).clamp(
        0, peak
    )


def fused(gt: Tensor, *, seed: int = 1, noise: float = 0.03) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return gt + noise * gt.amax() * torch.randn(gt.shape, generator=g, dtype=torch.float64)


def reduced(sr: Tensor, gt: Tensor, const: float = 2047, **options) -> dict[str, Tensor]:
    return metrics.reduced_resolution(sr, gt, ratio=4, const=const, **options)


def full_scene(C: int, H: int, W: int, ratio: int, *, peak: float = 2047, seed: int = 0) -> dict[str, Tensor]:
    lms = scene(C, H, W, seed=seed, peak=peak)
    pan = fused(lms.mean(dim=1, keepdim=True), seed=seed + 1)
    return {"sr": fused(lms, seed=seed + 2), "ms": lms[..., ::ratio, ::ratio], "lms": lms, "pan": pan}


def same(a: float, b: float, tolerance: float) -> bool:
    if math.isnan(a) or math.isnan(b) or math.isinf(a) or math.isinf(b):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-3)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, float], tolerance: float = 1e-10) -> None:
    pairs = {k: (float(ours[k][0]), v) for k, v in theirs.items()}
    if max(pairs.get("sam", (1, 1))) < 1e-5:  # degrees: the arc cosine of 1 - rounding
        del pairs["sam"]
    assert all(same(*pair, tolerance) for pair in pairs.values()), pairs


# Published numbers and the second implementation


def test_published_numbers(shared):
    records = json.loads(shared("golden/metrics/golden.json").read_text())["samples"]
    worst = 0.0
    for record in (r for r in records if r["precision"] == "double"):
        arrays = scipy.io.loadmat(shared("golden/metrics/" + record["file"]))
        i = record["index_1based"] - 1
        images = {k: torch.from_numpy(v[i : i + 1]) for k, v in arrays.items() if not k.startswith("__")}
        if "gt" in images:
            ours = metrics.reduced_resolution(**images, ratio=record["ratio"], const=record["const"])
        else:
            ours = metrics.full_resolution(**images, ratio=record["ratio"], sensor=record["sensor"])
            ours["d_s_qnr"] = ours["d_s"]
        ours = {GOLDEN_NAMES.get(k, k): v for k, v in ours.items()}
        assert set(record["values"]) == set(ours)
        worst = max(worst, *(abs(float(ours[k]) / v - 1) for k, v in record["values"].items()))
    assert worst < 1e-9


def edge_cases() -> dict[str, tuple[Tensor, Tensor, float]]:
    """Name -> sr, gt, const."""
    cases = {}
    for C, H, W in ((1, 32, 32), (3, 64, 96), (4, 50, 77), (8, 65, 33), (31, 40, 64)):
        gt = scene(C, H, W, seed=C)
        cases[f"{C} bands {H}x{W}"] = (fused(gt), gt, 2047.0)
    gt = scene(4, 64, 64, peak=1.0)
    cases["const 1"] = (fused(gt), gt, 1.0)
    gt = scene(4, 96, 96)
    sr = fused(gt)
    black = gt.clone()
    black[..., :40, :50] = 0
    cases["black pixels"] = (sr, black, 2047.0)
    flat_gt, flat_sr = gt.clone(), sr.clone()
    flat_gt[..., 32:, 32:] = 700.3
    flat_sr[..., 32:, 32:] = 650.7
    cases["flat in both"] = (flat_sr, flat_gt, 2047.0)
    cases["flat in gt"] = (sr, flat_gt, 2047.0)
    half_black = flat_gt.clone()
    half_black[:, 1] = 0
    cases["a black band"] = (sr, half_black, 2047.0)
    cases["flat and black in both"] = (torch.where(black == 0, 0.0, sr), black, 2047.0)
    cases["negative"] = (sr - 800, gt - 500, 2047.0)
    cases["over 65535"] = (sr * 60, gt * 60, 2047.0 * 60)
    cases["equal"] = (gt, gt, 2047.0)
    cases["halves to round"] = ((sr * 2).round() / 2, (gt * 2).round() / 2, 2047.0)
    for name, bands in (("a constant band in gt", {"gt": 500}), ("a constant band in both", {"gt": 500, "sr": 510})):
        images = {"sr": sr.clone(), "gt": gt.clone()}
        for role, value in bands.items():
            images[role][:, 2] = value
        cases[name] = (images["sr"], images["gt"], 2047.0)
    cloud_gt, cloud_sr = gt.clone(), sr.clone()
    cloud_gt[:, 1, :32, :32] = 2047
    cloud_sr[:, 1, :32, :32] = 2047 - (fused(gt)[:, 1, :32, :32] % 4).round()
    cases["a saturated block"] = (cloud_sr, cloud_gt, 2047.0)
    cases["all below 0"] = (torch.full_like(gt, -900), torch.full_like(gt, -900), 2047.0)
    lost, dim = gt.clone(), sr.clone()
    lost[:, 0], dim[:, 0] = 0, 1
    cases["a band lost in gt"] = (dim, lost, 2047.0)
    lost_too = sr.clone()
    lost_too[:, 0] = 0
    cases["a band lost in both"] = (lost_too, lost, 2047.0)
    for C in (2, 70):
        gt = scene(C, 32, 33, seed=C)
        cases[f"{C} bands"] = (fused(gt), gt, 2047.0)
    return cases


CASES = edge_cases()


@pytest.mark.parametrize("name", CASES)
def test_reduced_resolution_equals_plain_numpy(name):
    sr, gt, const = CASES[name]
    assert_same(reduced(sr, gt, const), plain.reduced_resolution(sr[0].numpy(), gt[0].numpy(), 4, const))


@pytest.mark.parametrize(
    ("sensor", "C", "H", "W", "ratio", "peak"),
    [
        ("WV3", 8, 96, 64, 4, 2047),
        ("none", 3, 64, 64, 2, 255),
        ("IKONOS", 4, 64, 32, 8, 2047),
        ("CAVE", 31, 32, 64, 4, 1),
    ],
)
def test_full_resolution_equals_plain_numpy(sensor, C, H, W, ratio, peak):
    images = full_scene(C, H, W, ratio, peak=peak)
    if peak == 2047:  # a block that is flat in every image
        for image in (images["sr"], images["lms"], images["pan"]):
            image[..., 32:64, :32] = 17.1
    ours = metrics.full_resolution(**images, ratio=ratio, sensor=sensor)
    sr, lms, pan = (images[k][0].numpy() for k in ("sr", "lms", "pan"))
    assert_same(ours, plain.full_resolution(sr, lms, pan[0], ratio, get_sensor(sensor).gains(C)))


# Properties


def test_equal_images_get_the_ideal_values():
    gt = scene(4, 64, 64)
    values = {k: float(v) for k, v in reduced(gt, gt).items()}
    assert values["sam"] == 0 and values["ergas"] == 0 and values["psnr"] == math.inf
    assert all(values[k] == pytest.approx(1, abs=1e-12) for k in ("scc", "qn", "qave", "ssim"))


def test_opposite_spectra_are_180_degrees_apart_and_rounding_makes_no_nan():
    gt = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 40, 40)  # of length 5, exactly
    assert float(metrics.sam(-gt, gt)) == 180
    other = scene(8, 40, 40) + 1
    for factor in (1 / 3, 7.7, -0.1):  # cosines that rounding carries past 1
        assert float(metrics.sam(factor * other, other)) == pytest.approx(0 if factor > 0 else 180, abs=1e-5)


def test_every_index_gets_worse_with_noise():
    gt = scene(4, 64, 64)
    good, bad = (reduced(fused(gt, noise=n), gt) for n in (0.01, 0.1))
    for name in metrics.REDUCED_NAMES:
        sign = -1 if name in ("sam", "ergas") else 1
        assert sign * float(good[name]) > sign * float(bad[name]), name


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.05, 20), C=st.integers(1, 5))
def test_invariances(seed, factor, C):
    gt = scene(C, 40, 36, seed=seed) + 1
    sr = fused(gt, seed=seed + 1)
    per_pixel = factor * (1 + scene(1, 40, 36, seed=seed + 2, peak=1))
    assert torch.allclose(metrics.sam(sr * per_pixel, gt), metrics.sam(sr, gt), rtol=1e-7, atol=1e-6)
    assert torch.allclose(metrics.scc(sr * factor, gt), metrics.scc(sr, gt), rtol=1e-10)
    assert torch.allclose(metrics.ergas(sr * factor, gt * factor, ratio=4), metrics.ergas(sr, gt, ratio=4))
    assert torch.allclose(metrics.qave(sr * factor, gt * factor), metrics.qave(sr, gt), rtol=1e-8)
    for index in (metrics.qave, metrics.sam, metrics.scc):
        assert torch.allclose(index(sr, gt), index(gt, sr), rtol=1e-9)
    order = torch.randperm(C)
    for name in ("sam", "ergas", "psnr", "ssim", "qave"):
        a, b = reduced(sr, gt)[name], reduced(sr[:, order], gt[:, order])[name]
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-7), name


def test_a_large_mean_costs_the_sliding_index_no_digits():
    """Covariances do not feel a shift: numbers of a million with a texture of a few units, against centred moments."""
    gt = scene(2, 40, 44, peak=8) + 1e6
    sr = fused(gt - 1e6) + 1e6
    x, y = (np.lib.stride_tricks.sliding_window_view(i[0].numpy(), (32, 32), (1, 2)) for i in (sr, gt))
    mx, my = x.mean((-2, -1), keepdims=True), y.mean((-2, -1), keepdims=True)
    vx, vy = ((x - mx) ** 2).mean((-2, -1)), ((y - my) ** 2).mean((-2, -1))
    covariance = ((x - mx) * (y - my)).mean((-2, -1))
    mx, my = mx[..., 0, 0], my[..., 0, 0]
    expected = (4 * covariance * mx * my / ((vx + vy) * (mx**2 + my**2))).mean()
    assert float(metrics.qave(sr, gt)) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_ranges(seed):
    images = full_scene(4, 64, 64, 4, seed=seed)
    values = metrics.full_resolution(**images, ratio=4, sensor="QB")
    assert 0 <= values["d_lambda_k"] <= 1 and 0 <= values["d_s"] <= 2 and 0 <= values["d_lambda"] <= 2
    assert torch.equal(values["hqnr"], (1 - values["d_lambda_k"]) * (1 - values["d_s"]))
    assert torch.equal(values["qnr"], (1 - values["d_lambda"]) * (1 - values["d_s"]))


@pytest.mark.parametrize("K", [1, 2, 4, 8, 16, 128])
def test_multiplication_table_equals_the_recursion(K):
    x, y = np.random.default_rng(K).normal(size=(2, K))
    signs = product_signs(K).numpy()
    ours = np.zeros(K)
    for i in range(K):
        for j in range(K):
            ours[i ^ j] += signs[i, j] * x[i] * y[j]
    assert np.abs(ours - plain.product(x, y)).max() < 1e-12
    if K <= 8:  # complex numbers, quaternions, octonions: |xy| = |x||y|
        assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(x) * np.linalg.norm(y))


def test_rounding_is_half_away_from_zero_and_clipped():
    below = np.nextafter(0.5, 0)
    x = torch.tensor(
        [-3.5, -0.5, below, 0.5, 1.5, 2.5, np.nextafter(2.5, 0), 65534.5, 65535.4, 1e9], dtype=torch.float64
    )
    assert round_to_uint16_(x).tolist() == [0, 0, 0, 1, 2, 3, 2, 65535, 65535, 65535]


def test_a_batch_gives_what_its_images_give():
    gt = torch.cat([scene(3, 48, 40, seed=s) for s in range(3)])
    sr = fused(gt)
    whole = reduced(sr, gt)
    images = full_scene(4, 64, 64, 4)
    images = {k: torch.cat([v, v.flip(-1) / 4000, v.flip(-2)]) for k, v in images.items()}  # the second lies in [0, 1]
    whole_full = metrics.full_resolution(**images, ratio=4, sensor="none")
    for i in range(3):
        assert_same(reduced(sr[i : i + 1], gt[i : i + 1]), {k: float(v[i]) for k, v in whole.items()}, 1e-14)
        one = metrics.full_resolution(**{k: v[i : i + 1] for k, v in images.items()}, ratio=4, sensor="none")
        assert_same(one, {k: float(v[i]) for k, v in whole_full.items()}, 1e-13)


def test_input_types_do_not_matter_and_results_are_float64():
    gt = scene(3, 40, 40).round()
    sr = fused(gt).round().clamp(0, 2047)
    expected = {k: float(v) for k, v in reduced(sr, gt).items()}
    for dtype in (torch.float32, torch.int32):
        ours = reduced(sr.to(dtype), gt.to(dtype))
        assert all(v.dtype == torch.float64 and v.shape == (1,) for v in ours.values())
        assert_same(ours, expected, 1e-14)


def test_views_modes_and_half_precision_change_nothing():
    """Transposed views, inference mode, autocast, and the one image of another type than the other."""
    gt = scene(3, 64, 45).round()
    sr = fused(gt).round()
    expected = as_numbers(reduced(sr, gt))
    views = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (sr, gt)]
    assert not views[0].is_contiguous()
    assert_same(reduced(*views), expected, 1e-12)
    with torch.inference_mode():
        assert_same(reduced(sr, gt), expected, 1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(reduced(sr, gt), expected, 1e-12)
    assert_same(reduced(sr.float(), gt.to(torch.uint16)), expected, 1e-12)
    ones = torch.ones(1, 1, 32, 32, dtype=torch.float16)
    assert float(metrics.ssim(ones, ones, const=1)) == 1


def test_small_images_have_the_indices_that_fit():
    """Without blocks of 32: SAM and PSNR at any side, SSIM from 11; an empty batch has no values."""
    gt = scene(3, 10, 31)
    sr = fused(gt)
    x, y = (i[0].numpy() for i in (sr, gt))
    assert float(metrics.sam(sr, gt)) == pytest.approx(plain.sam(x, y), rel=1e-12)
    assert float(metrics.psnr(sr, gt, const=2047)) == pytest.approx(plain.psnr(x, y, 2047), rel=1e-12)
    with pytest.raises(UserError, match="at least 11 pixels, given 10 x 31"):
        metrics.ssim(sr, gt, const=2047)
    gt = scene(3, 11, 31)
    sr = fused(gt)
    expected = plain.ssim(sr[0].numpy(), gt[0].numpy(), 2047)
    assert float(metrics.ssim(sr, gt, const=2047)) == pytest.approx(expected, rel=1e-10)
    empty = torch.zeros(0, 3, 40, 40)
    assert all(v.shape == (0,) for v in reduced(empty, empty).values())


@pytest.fixture
def threads():
    """Set the number of threads, and put back what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_side_by_side_equals_one_after_the_other(threads):
    images = {k: torch.cat([v, v.flip(-1)]) for k, v in full_scene(4, 64, 64, 4).items()}
    results = []
    for n in (1, 3):
        threads(n)
        with torch.inference_mode(n == 3):
            full = metrics.full_resolution(**images, ratio=4, sensor="QB")
            results.append(reduced(images["sr"], images["lms"]) | full)
        assert torch.get_num_threads() == n
        with ThreadPoolExecutor(1) as pool:  # a thread that starts later must find the number that was set
            assert pool.submit(torch.get_num_threads).result() == n
    assert all(torch.allclose(results[0][k], results[1][k], rtol=1e-13) for k in results[0])


def test_a_protocol_carries_gradients(threads):
    threads(2)
    images = full_scene(4, 64, 64, 4)
    x = images["sr"].requires_grad_()
    for values in (reduced(x, images["lms"]), metrics.full_resolution(**images, ratio=4, sensor="QB")):
        for name, value in values.items():
            if name not in ("qn", "d_lambda_k"):  # rounded
                (gradient,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
                assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name


def test_an_error_in_a_thread_reaches_the_caller(threads):
    threads(2)
    gt = scene(2, 40, 31)
    with pytest.raises(UserError, match="at least 32"):
        reduced(gt, gt)
    with pytest.raises(ValueError, match="from a task"):
        run_all([lambda: torch.zeros(1), failing_task], gt)
    assert torch.get_num_threads() == 2


def failing_task() -> Tensor:
    raise ValueError("from a task")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_numbers():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    images = {k: torch.cat([v, v.flip(-1)]) for k, v in full_scene(8, 128, 96, 4).items()}
    images["sr"][0, :, :40, :40] = images["lms"][0, :, :40, :40] = 5.1
    cuda = {k: v.cuda() for k, v in images.items()}
    cpu_values = reduced(images["sr"], images["lms"]) | metrics.full_resolution(**images, ratio=4, sensor="WV3")
    gpu_values = reduced(cuda["sr"], cuda["lms"]) | metrics.full_resolution(**cuda, ratio=4, sensor="WV3")
    for name, value in cpu_values.items():
        assert gpu_values[name].device == cuda["sr"].device and torch.allclose(
            gpu_values[name].cpu(), value, rtol=1e-9
        ), name


# Masks


def test_values_under_the_mask_do_not_matter():
    gt = scene(4, 96, 96)
    sr = fused(gt)
    mask = torch.ones(1, 1, 96, 96, dtype=torch.bool)
    mask[..., 70:, 60:] = False
    clean = reduced(sr, gt, mask=mask)
    dirty = reduced(torch.where(mask, sr, torch.nan), torch.where(mask, gt, 1e5), mask=mask)
    assert all(torch.equal(clean[k], dirty[k]) and torch.isfinite(clean[k]).all() for k in clean)
    assert all(float(clean[k]) != float(reduced(sr, gt)[k]) for k in clean)


def test_a_full_mask_changes_nothing_and_an_empty_one_leaves_nothing():
    gt = scene(3, 50, 45)
    sr = fused(gt)
    everything = torch.ones(1, 50, 45, dtype=torch.bool)
    assert_same(reduced(sr, gt, mask=everything), {k: float(v) for k, v in reduced(sr, gt).items()}, 1e-12)
    assert all(math.isnan(float(v)) for v in reduced(sr, gt, mask=~everything).values())


def test_masked_rows_equal_a_crop():
    """Rows 64… are nodata: whole blocks and windows of the upper part remain, and nothing else."""
    images = full_scene(4, 96, 64, 4)
    gt, sr = images["lms"], images["sr"]
    mask = torch.zeros(1, 1, 96, 64, dtype=torch.bool)
    mask[..., :64, :] = True
    ours, crop = reduced(sr, gt, mask=mask), reduced(sr[..., :64, :], gt[..., :64, :])
    names = (*PIXELWISE, "qn", "qave", "ssim")  # the border of scc is cut differently
    assert_same(ours, {k: float(crop[k]) for k in names}, 1e-12)
    full = metrics.full_resolution(**images, ratio=4, sensor="QB", mask=mask)
    assert_same(full, {"d_lambda": float(metrics.d_lambda(sr[..., :64, :], gt[..., :64, :]))}, 1e-12)


def test_a_mask_of_another_shape_is_refused():
    gt = scene(3, 40, 40)
    with pytest.raises(UserError, match="mask"):
        reduced(gt, gt, mask=torch.ones(1, 3, 40, 40, dtype=torch.bool))


# Gradients

GRADIENTS = {
    "sam": metrics.sam,
    "ergas": lambda x, y: metrics.ergas(x, y, ratio=4),
    "psnr": lambda x, y: metrics.psnr(x, y, const=1.0),
    "ssim": lambda x, y: metrics.ssim(x, y, const=1.0),
    "scc": metrics.scc,
    "qave": metrics.qave,
    "d_lambda": metrics.d_lambda,
    "d_s": lambda x, y: metrics.d_s(x, y, y.mean(dim=1, keepdim=True) ** 2, ratio=4),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    y = scene(2, 32, 64, peak=1.0)
    x = fused(y).requires_grad_()
    assert gradcheck(lambda x: GRADIENTS[name](x, y), (x,), fast_mode=True, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", ["sam", "ergas", "scc", "qave", "ssim", "d_s"])
def test_gradients_are_finite_for_equal_and_flat_images(name):
    y = scene(2, 64, 64, peak=1.0)
    y[..., 20:, 20:] = 0
    x = y.clone().requires_grad_()
    GRADIENTS[name](x, y).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_an_index_can_be_a_loss():
    y = scene(2, 32, 32, peak=1.0)
    x = fused(y, noise=0.1).requires_grad_()
    before = metrics.sam(x, y)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    after = metrics.sam(x.detach() - 1e-4 * gradient / gradient.abs().max(), y)
    assert after < before


# Published defects


def test_data_in_unit_range_are_scaled_unless_published():
    gt = scene(4, 64, 64, peak=1.0)
    sr = fused(gt)
    binary = [(x >= 0.5).double() for x in (sr, gt)]
    published = metrics.q2n(sr, gt, const=1, published=True)
    assert torch.equal(published, metrics.q2n(*binary, const=2))
    assert torch.equal(metrics.q2n(sr, gt, const=1), metrics.q2n(sr * 65535, gt * 65535, const=65535))
    images = full_scene(4, 64, 64, 4, peak=1.0)
    values = {
        "found": metrics.full_resolution(**images, ratio=4, sensor="none"),
        "named": metrics.full_resolution(**images, ratio=4, sensor="none", const=1),
        "published": metrics.full_resolution(**images, ratio=4, sensor="none", published=True),
    }
    d = {k: float(v["d_lambda_k"]) for k, v in values.items()}
    assert d["found"] == d["named"] < d["published"]


@pytest.mark.parametrize("sensor", ["QB", "gf2"])
def test_published_gains_are_those_of_ikonos(sensor):
    images = full_scene(4, 64, 64, 4)
    alias = metrics.full_resolution(**images, ratio=4, sensor=sensor, published=True)
    ikonos = metrics.full_resolution(**images, ratio=4, sensor="IKONOS")
    own = metrics.full_resolution(**images, ratio=4, sensor=sensor)
    assert torch.equal(alias["d_lambda_k"], ikonos["d_lambda_k"]) and not torch.equal(
        own["d_lambda_k"], ikonos["d_lambda_k"]
    )


def test_blocks_flat_in_both_are_nan_only_as_published():
    images = full_scene(4, 64, 64, 4)
    for k in ("sr", "lms", "pan"):
        images[k][..., :32, :32] = 0.1  # 1024 times 0.1 does not sum to 102.4
    ours = metrics.full_resolution(**images, ratio=4, sensor="QB")
    published = metrics.full_resolution(**images, ratio=4, sensor="QB", published=True)
    assert all(math.isfinite(float(v)) for v in ours.values())
    assert math.isnan(float(published["d_s"])) and math.isnan(float(published["d_lambda"]))


# Degenerate and wrong input


def test_degenerate_images():
    black = torch.zeros(1, 3, 40, 40)
    values = reduced(black, black)
    assert all(math.isnan(float(values[k])) for k in ("sam", "ergas", "scc"))
    assert float(values["psnr"]) == math.inf and all(float(values[k]) == 1 for k in ("qn", "qave"))
    assert float(metrics.ergas(black + 1, black, ratio=4)) == math.inf
    half = black.clone()
    half[..., :20] = 5
    assert float(metrics.sam(half, half)) == 0


def test_one_band_has_no_pairs():
    images = full_scene(1, 32, 64, 4)
    values = metrics.full_resolution(**images, ratio=4, sensor="none")
    assert math.isnan(float(values["d_lambda"])) and math.isfinite(float(values["hqnr"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: (g[..., :31, :], g[..., :31, :]), "at least 32"),
        (lambda g: (g, g[:, :2]), "one shape"),
        (lambda g: (g[0], g[0]), r"\(B, C, H, W\)"),
        (lambda g: (g * torch.nan, g), "NaN"),
        (lambda g: (g, g / 0), "NaN or Inf"),
    ],
)
def test_what_reduced_resolution_refuses(change, message):
    sr, gt = change(scene(3, 40, 40))
    with pytest.raises(UserError, match=message):
        reduced(sr, gt)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda i: {k: v[..., :50, :] if k != "ms" else v for k, v in i.items()}, {}, "multiples of 32"),
        (lambda i: i, {"sensor": "WV3"}, "8 bands"),
        (lambda i: i, {"sensor": "WV5"}, "unknown sensor"),
        (lambda i: i, {"ratio": 3}, "multiples of 32 and of the ratio 3"),
        (lambda i: i, {"ratio": 2.5}, "whole number"),
        (lambda i: i, {"ratio": math.nan}, "positive number"),
        (lambda i: i, {"geometry": Geometry.corners(2)}, "geometry of ratio 4"),
        (lambda i: i, {"block": 1}, "at least 2"),
        (lambda i: i, {"block": 48}, "multiples of 48"),
        (lambda i: i, {"cut": 33}, "cut of 0 to 32"),
        (lambda i: i, {"ratio": 8, "published": True}, "published"),
        (lambda i: i, {"ratio": 2}, "expected ms"),
        (lambda i: i | {"pan": i["lms"]}, {}, "expected pan"),
        (lambda i: i | {"ms": i["ms"] * torch.nan}, {}, "NaN"),
        (lambda i: i | {"lms": i["lms"] * torch.nan}, {}, "NaN"),
    ],
)
def test_what_full_resolution_refuses(change, options, message):
    images = change(full_scene(4, 64, 64, 4))
    with pytest.raises(UserError, match=message):
        metrics.full_resolution(**images, **({"ratio": 4, "sensor": "QB"} | options))


WITH_PEAK = {
    "reduced_resolution": lambda sr, gt, const: reduced(sr, gt, const)["psnr"],
    "psnr": lambda sr, gt, const: metrics.psnr(sr, gt, const=const),
    "ssim": lambda sr, gt, const: metrics.ssim(sr, gt, const=const),
    "q2n": lambda sr, gt, const: metrics.q2n(sr, gt, const=const),
    "d_lambda_k": lambda sr, gt, const: metrics.d_lambda_k(sr, gt, ratio=4, sensor="QB", const=const),
    "full_resolution": lambda sr, gt, const: metrics.full_resolution(
        sr, gt[..., ::4, ::4], gt, gt[:, :1], ratio=4, sensor="QB", const=const
    )["hqnr"],
}


@pytest.mark.parametrize("name", WITH_PEAK)
@pytest.mark.parametrize(("top", "const", "right"), [(2047, 1, 2047), (2047, 255, 2047), (1, 2047, 1), (255, 1, 255)])
def test_a_peak_that_the_reference_contradicts_is_refused(name, top, const, right):
    """These gave PSNR -32.7 with Q2n 1.000000, and PSNR 99.8."""
    gt = scene(4, 64, 64, peak=top)
    with pytest.raises(UserError, match=rf"const={right} \(--const {right}\)"):
        WITH_PEAK[name](fused(gt), gt, const)
    assert torch.isfinite(WITH_PEAK[name](fused(gt), gt, right)).all()


def test_what_is_dark_or_a_little_above_the_peak_is_measured():
    """Integers up to 1 are a dark image, a black one has no range, and a fused image may be as wrong as it is."""
    gt = scene(3, 64, 64)
    dark = (scene(3, 64, 64, peak=1.0) > 0.5).double()
    for reference, sr in ((dark, dark), (dark * 0, dark), (gt, gt / 1e6), (gt, gt * 100), (gt * 1.4, gt)):
        assert metrics.psnr(sr, reference, const=2047).shape == (1,)


@pytest.mark.parametrize("argument", ["const", "ratio"])
@pytest.mark.parametrize("value", [0, -4, math.nan, math.inf, "4", True, None])
def test_const_and_ratio_must_be_positive_numbers(argument, value):
    gt = scene(1, 32, 32)
    with pytest.raises(UserError, match=f"positive number as {argument}"):
        metrics.reduced_resolution(gt, gt, **({"ratio": 4, "const": 2047} | {argument: value}))
    with pytest.raises(UserError, match=f"positive number as {argument}"):
        metrics.psnr(gt, gt, const=value) if argument == "const" else metrics.ergas(gt, gt, ratio=value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int16", "int64", "float32", ">f4"])
def test_numpy_arrays_of_any_dtype_give_the_numbers_of_their_values(dtype):
    """Differences of unsigned numbers must not wrap around."""
    gt = (scene(4, 64, 64, peak=250).round() + 2).clamp(0, 250)
    sr = (gt - 1 + 2 * (fused(gt) > gt)).clamp(0, 255)
    arrays = [x.numpy().astype(dtype) for x in (sr, gt)]
    assert_same(metrics.reduced_resolution(*arrays, ratio=4, const=255), as_numbers(reduced(sr, gt, 255)), 1e-12)
    assert float(metrics.psnr(*arrays, const=255)) == pytest.approx(10 * math.log10(255**2 / ((sr - gt) ** 2).mean()))
    if not dtype.startswith(">"):
        tensors = [torch.from_numpy(x) for x in arrays]
        assert_same(metrics.reduced_resolution(*tensors, ratio=4, const=255), as_numbers(reduced(sr, gt, 255)), 1e-12)


def as_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def test_full_resolution_takes_numpy_arrays():
    images = full_scene(4, 64, 64, 4)
    arrays = {k: v.numpy() for k, v in images.items()}
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    expected = metrics.full_resolution(**images, ratio=4, sensor="QB", mask=mask)
    found = metrics.full_resolution(**arrays, ratio=4, sensor="QB", mask=mask.numpy())
    assert_same(found, as_numbers(expected), 1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g + 1j, "sr is complex"),
        (lambda g: (g + 1j).numpy(), "sr is complex"),
        (lambda g: g[0], r"sr as \(B, C, H, W\).*image\[None\]"),
        (lambda g: g[0].numpy(), r"sr as \(B, C, H, W\).*image\[None\]"),
        (lambda g: g.tolist(), "NumPy array, given list"),
        (lambda g: np.array([["a"]]), "dtype"),
    ],
)
def test_what_is_no_image_is_one_line(change, message):
    gt = scene(3, 40, 40)
    for measure in (reduced, metrics.sam, metrics.scc):
        with pytest.raises(UserError, match=message):
            measure(change(gt), gt)
    with pytest.raises(UserError, match=message):
        metrics.full_resolution(change(gt), gt, gt, gt, ratio=4, sensor="none")


@pytest.fixture
def own_indices(monkeypatch):
    """Let a test register indices that vanish with it."""
    monkeypatch.setattr(index_module, "_registered", dict(index_module._registered))


def test_a_registered_index_is_measured_by_its_protocol(own_indices):
    """One record in one file is all that a new index needs."""

    @register_index("bias", heading="bias", direction=-1, column=20)
    def bias(sr: Tensor, gt: Tensor) -> Tensor:
        return (sr - gt).mean(dim=(1, 2, 3))

    @register_index("half", heading="half", direction=+1, protocol="full", column=20)
    def half(hqnr: Tensor) -> Tensor:
        return hqnr / 2

    gt = scene(3, 40, 40)
    values = reduced(gt + 5, gt)
    assert list(values) == [*metrics.REDUCED_NAMES, "bias"]
    assert float(values["bias"]) == pytest.approx(5)
    full = metrics.full_resolution(**full_scene(4, 64, 64, 4), ratio=4, sensor="QB")
    assert torch.equal(full["half"], full["hqnr"] / 2)


def test_an_index_with_an_unknown_parameter_or_a_taken_name_is_refused(own_indices):
    with pytest.raises(ValueError, match="twice"):
        register_index("sam", heading="SAM", direction=-1, column=1)(lambda sr, gt: sr)

    @register_index("odd", heading="odd", direction=-1, column=20)
    def odd(sr: Tensor, weather: Tensor) -> Tensor:
        return sr

    with pytest.raises(ValueError, match="index odd: unknown parameter weather; known: sr, gt"):
        reduced(scene(3, 40, 40), scene(3, 40, 40))


def test_the_records_say_what_tables_need():
    records = metrics.INDICES
    assert tuple(records) == (*metrics.REDUCED_NAMES, *metrics.FULL_NAMES)
    assert all(name == index.name and index.direction in (-1, 1) for name, index in records.items())
    assert len({index.heading for index in records.values()}) == len(records)
    assert {n: i.unit for n, i in records.items() if i.unit} == {"sam": "degrees", "psnr": "dB"}
    assert {n: i.matlab for n, i in records.items() if i.matlab != n} == {
        "d_lambda_k": "d_lambda",
        "d_lambda": "d_lambda_qnr",
        "hqnr": "qnr_index",
    }
