"""Classical fusion with a guide of several bands: estimated response and PSF, closed forms, identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lemamba.model import build_model, list_models
from lemamba.model.classical import coupled
from lemamba.model.classical.coupled import Circulant, extend
from lemamba.operators import imresize, interpolate, mtf_filter, sample
from lemamba.operators.observation import Observation, estimate, gaussian_psf, start
from lemamba.operators.window import Window, cut_windows
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

NAMES = ["CNMF", "FUSE", "GSA-HS", "HySure", "MTF-GLP-HS"]
BANDS, GUIDE = 12, 4


def ground(seed: int = 0, side: int = 48, materials: int = 4) -> torch.Tensor:
    """A ground of smooth spectra in smooth and sharp patches, (1, C, H, W) in about [0, 1]."""
    rng = np.random.default_rng(seed)
    wave = np.linspace(0, 1, BANDS)
    spectra = np.stack([0.5 + 0.4 * np.sin(3 * wave * (k + 1) + 6 * rng.random()) for k in range(materials)])
    rough = rng.standard_normal((materials, side, side))
    smooth = mtf_filter(torch.from_numpy(rough)[None], 0.2, 3)[0].numpy()
    share = np.exp(12 * smooth / smooth.std() / 4)
    share /= share.sum(0)
    return torch.from_numpy(np.einsum("kc,khw->chw", spectra, share))[None]


def response() -> torch.Tensor:
    centres = np.linspace(0.5, BANDS - 1.5, GUIDE)
    return torch.from_numpy(np.exp(-((np.arange(BANDS)[None] - centres[:, None]) ** 2) / 4))


def observed(x: torch.Tensor, geometry: Geometry, sigma: float = 0.4) -> Window:
    """The pair that a known response and PSF give."""
    seen = start(geometry, response(), sigma)
    h, w = (int(n / r) for n, r in zip(x.shape[-2:], geometry.ratio, strict=True))
    ms = seen.degrade(x, (h, w))
    guide = torch.einsum("pc,bchw->bphw", response(), x)
    return Window(ms, interpolate(ms, geometry, tuple(x.shape[-2:])), guide, geometry)


def method(name: str, ratio: int = 4, geometry: Geometry | None = None):
    return build_model(
        name, img_channel=BANDS, condition_channel=GUIDE, out_channel=BANDS, ratio=ratio, geometry=geometry
    )


GEOMETRIES = [Geometry.toolbox(4), Geometry.corners(4), Geometry.corners(3), Geometry((2.0, 2.0), (0.0, 0.0))]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_response_and_psf_are_found_again(geometry, sigma):
    window = observed(ground(), geometry, sigma)
    found = estimate(lambda: [window])
    assert found.psf.sum() == pytest.approx(1)
    assert (found.psf - gaussian_psf(sigma, geometry)).abs().sum() < 0.06
    predicted = torch.einsum("pc,bchw->bphw", found.response, ground())
    assert (predicted - window.pan).pow(2).mean().sqrt() < 0.02 * window.pan.std()
    assert (found.response >= 0).all()


def test_a_psf_that_is_no_gaussian_is_found():
    """An average over r x r pixels, moved by one pixel."""
    x, geometry = ground(side=96), Geometry.toolbox(4)
    psf = torch.zeros(9, 9, dtype=torch.float64)
    psf[2:6, 3:7] = 1 / 16
    seen = Observation(response(), psf, (4, 4), (2, 2))
    ms = seen.degrade(x, (24, 24))
    window = Window(ms, interpolate(ms, geometry, (96, 96)), torch.einsum("pc,bchw->bphw", response(), x), geometry)
    error = (estimate(lambda: [window]).psf - psf).abs().sum()
    nearest = min((gaussian_psf(0.05 * k, geometry) - psf).abs().sum() for k in range(2, 21))
    assert error < 0.8 * nearest


def test_windows_of_a_scene_give_the_same_estimate():
    window = observed(ground(side=64), Geometry.corners(4))
    whole = estimate(lambda: [window])
    pieces = [piece for _, piece in cut_windows(window.ms, window.pan, window.geometry, side=32, margin=64)]
    parts = estimate(lambda: pieces)
    assert len(pieces) == 4
    assert torch.allclose(parts.response, whole.response, atol=2e-3 * float(whole.response.max()))
    assert torch.allclose(parts.psf, whole.psf, atol=2e-3)


def test_no_whole_ratio_is_refused_in_one_line():
    x = ground()
    geometry = Geometry((4.015, 4.015), (1.5, 1.5))
    ms = sample(x, geometry, (11, 11))
    window = Window(ms, x, x[:, :GUIDE], geometry)
    with pytest.raises(UserError, match="whole ratio"):
        estimate(lambda: [window])


@pytest.fixture
def circulant():
    seen = start(Geometry.corners(4), response(), 0.4)
    return seen, Circulant(seen, (48, 32))


def test_circulant_blur_equals_the_direct_sum_inside(circulant):
    seen, blur = circulant
    x = torch.rand(1, 3, 48, 32, dtype=torch.float64)
    direct, fast = seen.degrade(x, (12, 8))[0], blur.degrade(x[0])
    assert torch.allclose(direct[:, 2:-2, 2:-2], fast[:, 2:-2, 2:-2], atol=1e-12)


def test_spread_is_the_transpose_and_solve_the_inverse(circulant):
    _, blur = circulant
    x, y = torch.rand(2, 48, 32, dtype=torch.float64), torch.rand(2, 12, 8, dtype=torch.float64)
    assert float((blur.degrade(x) * y).sum()) == pytest.approx(float((x * blur.spread(y)).sum()))
    weight = torch.tensor([0.3, 0.01], dtype=torch.float64)
    solved = blur.solve(weight, x)
    again = weight[:, None, None] * solved + blur.spread(blur.degrade(solved))
    assert torch.allclose(again, x, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ratio", [3, 4])
def test_better_than_interpolation_by_half(name, ratio):
    x, geometry = ground(), Geometry.corners(ratio)
    window = observed(x, geometry)
    sr = method(name, ratio, geometry)(window.ms, window.lms, window.pan)
    assert (sr - x).pow(2).mean() < 0.25 * (window.lms - x).pow(2).mean()


@pytest.mark.parametrize("name", NAMES)
def test_unit_of_the_data_does_not_matter(name):
    window = observed(ground(), Geometry.toolbox(4))
    one = method(name)(window.ms, window.lms, window.pan)
    other = method(name)(2047 * window.ms, 2047 * window.lms, 2047 * window.pan) / 2047
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ["GSA-HS", "MTF-GLP-HS"])
def test_windows_give_the_image_of_the_whole(name):
    pair = observed(ground(side=96), Geometry.corners(4))
    hyper = method(name, 4, pair.geometry)

    def fused(side: int) -> torch.Tensor:
        pieces = list(cut_windows(pair.ms, pair.pan, pair.geometry, side, hyper.margin))
        fitted, sr = hyper.fit(lambda: (w for _, w in pieces)), torch.empty_like(pair.lms)
        for (rows, columns), window in pieces:
            sr[..., slice(*rows), slice(*columns)] = window.crop(hyper.inject(window, fitted))
        return sr

    assert torch.allclose(fused(48), fused(96), atol=1e-8)


def test_fuse_equals_a_dense_solution(monkeypatch):
    """The posterior mean by the normal equations over all unknowns of a small image."""
    monkeypatch.setattr(coupled, "MARGIN", 1)
    window = observed(ground(side=16), Geometry.toolbox(4))
    fuse = method("FUSE")
    fuse.components = 2
    fitted = fuse.fit(lambda: [window])
    images = extend(window, fitted.seen)
    E, R = fitted.basis.numpy(), images.response.numpy()
    (H, W), n = images.pan.shape[-2:], images.pan[0].numel()
    G = np.stack([images.blur.degrade(row.view(1, H, W)).flatten().numpy() for row in torch.eye(n).double()], axis=1)
    ms, pan, lms = (x.flatten(1).numpy() for x in (images.ms, images.pan, images.lms))
    rest = ms - E @ (E.T @ ms)
    ms_noise = max((rest**2).mean(), 1e-5 * (ms**2).mean())
    seen = R @ ms - pan @ G.T
    guide_noise = np.maximum((seen**2).mean(1), 1e-5 * (pan**2).mean(1))
    covariance = fuse.prior_covariance(images, fitted.basis).numpy()
    precision, prior = np.linalg.inv(covariance), E.T @ lms
    RE = R @ E
    local = RE.T @ np.diag(1 / guide_noise) @ RE + precision
    normal = np.kron(np.eye(2), G.T @ G / ms_noise) + np.kron(local, np.eye(n))
    right = E.T @ ms @ G / ms_noise + RE.T @ np.diag(1 / guide_noise) @ pan + precision @ prior
    expected = E @ np.linalg.solve(normal, right.ravel()).reshape(2, n)
    assert np.allclose(fuse.solve(images, fitted).flatten(1).numpy(), expected, atol=1e-7)


def test_hysure_minimises_its_objective():
    window = observed(ground(side=32), Geometry.toolbox(4))
    hysure = method("HySure")
    fitted = hysure.fit(lambda: [window])
    images = extend(window, fitted.seen)
    E, scale = fitted.basis, images.ms.abs().amax()
    units = images.response.sum(1, keepdim=True)
    ms, guide, RE = images.ms / scale, images.pan / units[:, :, None] / scale, (images.response / units) @ E

    def objective(U: torch.Tensor) -> float:
        first = ms - torch.einsum("ck,khw->chw", E, images.blur.degrade(U))
        second = guide - torch.einsum("pk,khw->phw", RE, U)
        steps = (U.roll(-1, 1) - U).square().sum(0) + (U.roll(-1, 2) - U).square().sum(0)
        return float(first.square().sum() / 2 + second.square().sum() / 2 + 5e-4 * steps.sqrt().sum())

    U = torch.einsum("ck,chw->khw", E, hysure.solve(images, fitted)) / scale
    least = objective(U)
    assert least < 0.2 * objective(torch.einsum("ck,chw->khw", E, images.lms) / scale)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-2):
        for _ in range(5):
            change = torch.randn(U.shape, generator=generator, dtype=U.dtype) * U.abs().mean() * size
            assert objective(U + change) > least


def test_cnmf_recovers_a_ground_of_pure_materials():
    """Pixels of one material each: spectra are non-negative, so the factorisation is exact."""
    rng = np.random.default_rng(1)
    spectra = torch.from_numpy(rng.random((3, BANDS)) + 0.1)
    classes = torch.from_numpy(rng.integers(0, 3, (6, 6))).repeat_interleave(8, 0).repeat_interleave(8, 1)
    x = spectra[classes].permute(2, 0, 1)[None]
    window = observed(x, Geometry.toolbox(4))
    sr = method("CNMF")(window.ms, window.lms, window.pan)
    assert (sr >= 0).all()
    assert (sr - x).pow(2).mean().sqrt() < 0.2 * x.std()


def test_gsa_hs_against_plain_numpy():
    window = observed(ground(), Geometry.toolbox(4))
    ms, lms, pan = (x[0].flatten(1).numpy() for x in (window.ms, window.lms, window.pan))
    low = sample(mtf_filter(window.pan, 0.3, 4), window.geometry, (12, 12))[0].flatten(1).numpy()
    best = np.abs(np.corrcoef(ms, low)[:BANDS, BANDS:]).argmax(1)
    expected = np.empty_like(lms)
    for p in set(best):
        group = np.flatnonzero(best == p)
        centred = ms[group] - ms[group].mean(1, keepdims=True)
        weights = np.linalg.lstsq(centred.T, low[p] - low[p].mean(), rcond=None)[0]
        intensity = weights @ (lms[group] - lms[group].mean(1, keepdims=True))
        for band in group:
            gain = np.cov(lms[band], intensity)[0, 1] / intensity.var(ddof=1)
            expected[band] = lms[band] + gain * (pan[p] - pan[p].mean() - intensity)
    sr = method("GSA-HS")(window.ms, window.lms, window.pan)[0].flatten(1).numpy()
    assert np.allclose(sr, expected, atol=1e-9)


def test_mtf_glp_hs_against_plain_numpy():
    window = observed(ground(materials=7), Geometry.toolbox(4))
    glp = method("MTF-GLP-HS")
    filtered = sample(mtf_filter(window.pan, glp.mean_gain, 4), window.geometry, (12, 12))
    back = interpolate(filtered, window.geometry, (48, 48))[0].flatten(1).numpy()
    ms, lms, pan, low = (x[0].flatten(1).numpy() for x in (window.ms, window.lms, window.pan, filtered))
    expected = np.empty_like(lms)
    for band in range(BANDS):
        centred = low - low.mean(1, keepdims=True)
        weights = np.linalg.lstsq(centred.T, ms[band] - ms[band].mean(), rcond=None)[0]
        guide, smooth = weights @ pan, weights @ back
        gain = np.cov(lms[band], smooth)[0, 1] / smooth.var(ddof=1)
        expected[band] = lms[band] + gain * (guide - smooth)
    assert np.allclose(glp(window.ms, window.lms, window.pan)[0].flatten(1).numpy(), expected, atol=1e-9)


def test_every_classical_method_of_this_task_is_tested():
    own = [n for n in list_models("hmif", family="classical") if n not in ("EXP", "Bicubic")]
    assert own == sorted(NAMES, key=str.lower)


@pytest.mark.parametrize("ratio", [2, 3, 8])
def test_bicubic_is_that_of_matlab_where_corners_agree_and_keeps_straight_lines(ratio):
    ms = torch.rand(1, 20, 7, 9, dtype=torch.float64)
    size = (7 * ratio, 9 * ratio)
    lms, guide = torch.zeros(1, 20, *size, dtype=torch.float64), torch.zeros(1, 3, *size, dtype=torch.float64)
    sizes = {"img_channel": 20, "condition_channel": 3, "out_channel": 20, "ratio": ratio}
    corners = build_model("Bicubic", **sizes, geometry=Geometry.corners(ratio))
    torch.testing.assert_close(corners(ms, lms, guide), imresize(ms, ratio, "bicubic"), rtol=1e-12, atol=1e-12)
    line = torch.arange(9.0, dtype=torch.float64).expand(1, 20, 7, 9)
    shifted = build_model("Bicubic", **sizes)  # the toolboxes' geometry: MS pixel i lies at PAN pixel r i + r / 2
    expected = (torch.arange(9 * ratio, dtype=torch.float64) - ratio / 2) / ratio
    inside = slice(2 * ratio, -2 * ratio)
    found = shifted(line.contiguous(), lms, guide)[..., inside]
    torch.testing.assert_close(found, expected[inside].expand_as(found), rtol=0, atol=1e-12)
