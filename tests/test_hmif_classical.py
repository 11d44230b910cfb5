"""Classical fusion with a guide of several bands: estimated response and PSF, closed forms, identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lemamba.model import build_model, list_models
from lemamba.model.classical import coupled, lttr, nssr
from lemamba.model.classical.coupled import Circulant, Fitted, extend, in_units_of_ms
from lemamba.operators import imresize, interpolate, mtf_filter, sample
from lemamba.operators.observation import Observation, estimate, gaussian_psf, start
from lemamba.operators.window import Window, cut_windows
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

NAMES = ["CNMF", "FUSE", "GSA-HS", "HySure", "LTTR", "MTF-GLP-HS", "NSSR"]
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


def dense(images) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Blur and decimation as a matrix (h w, H W), R, and ms, guide and lms as matrices, of images in units of ms."""
    (H, W), n = images.pan.shape[-2:], images.pan[0].numel()
    G = np.stack([images.blur.degrade(row.view(1, H, W)).flatten().numpy() for row in torch.eye(n).double()], axis=1)
    return (G, images.response.numpy(), *(x.flatten(1).numpy() for x in (images.ms, images.pan, images.lms)))


@pytest.fixture
def small(monkeypatch):
    """A pair of 2 x 2 and 8 x 8 pixels, extended by one MS pixel, and how it is seen."""
    monkeypatch.setattr(coupled, "MARGIN", 1)
    window = observed(ground(side=8), Geometry.toolbox(4))
    seen = start(window.geometry, response(), 0.4)
    return seen, extend(window, seen)


def test_lttr_against_dense_numpy(small, monkeypatch):
    """Three steps of ADMM: singular values by SVD group by group, the image by normal equations over all unknowns."""
    monkeypatch.setattr(lttr, "_ITERATIONS", 3)
    monkeypatch.setattr(lttr, "_WEIGHT", 1e-5)
    monkeypatch.setattr(lttr, "_EPSILON", 1e-3)
    seen, images = small
    E = np.linalg.qr(np.random.default_rng(0).random((BANDS, 3)))[0]
    units, scale = in_units_of_ms(images)
    G, R, ms, pan, lms = dense(units)
    side, n, K = images.pan.shape[-1], pan.shape[1], 3
    starts = [(i, j) for i in range(0, side - 3, 2) for j in range(0, side - 3, 2)]
    groups = lttr.Patches(units.pan).groups.numpy()
    alpha = np.array([4, 16, min(16 * K, groups.shape[1])])
    alpha = alpha / alpha.sum()

    def shrunk(x: np.ndarray, modes: int) -> np.ndarray:
        total, count, image = np.zeros((K, side, side)), np.zeros((side, side)), x.reshape(K, side, side)
        for group in groups:
            corners = [starts[k] for k in group]
            tensor = np.stack([image[:, i : i + 4, j : j + 4].transpose(1, 2, 0) for i, j in corners], axis=-1)
            u, s, v = np.linalg.svd(tensor.reshape(4**modes if modes < 3 else 16 * K, -1), full_matrices=False)
            root = (s + 1e-3) ** 2 - 4 * alpha[modes - 1] * 1e-5 / 1e-4
            s = np.where(root > 0, np.maximum((s - 1e-3 + np.sqrt(np.maximum(root, 0))) / 2, 0), 0)
            tensor = ((u * s) @ v).reshape(tensor.shape)
            for k, (i, j) in enumerate(corners):
                total[:, i : i + 4, j : j + 4] += tensor[..., k].transpose(2, 0, 1)
                count[i : i + 4, j : j + 4] += 1
        return (total / count).reshape(K, n)

    U, duals, RE = E.T @ lms, [0, 0, 0], R @ E
    normal = np.kron(np.eye(K), G.T @ G) + np.kron(RE.T @ RE + 3e-4 * np.eye(K), np.eye(n))
    for _ in range(3):
        splits = [shrunk(U - d, modes) for modes, d in enumerate(duals, start=1)]
        right = E.T @ ms @ G + RE.T @ pan + 1e-4 * sum(v + d for v, d in zip(splits, duals, strict=True))
        U = np.linalg.solve(normal, right.ravel()).reshape(K, n)
        duals = [d + v - U for v, d in zip(splits, duals, strict=True)]
    sr = method("LTTR").solve(images, Fitted(seen, torch.from_numpy(E)))
    assert np.allclose(sr.flatten(1).numpy(), E @ U * float(scale), atol=1e-6)
    assert np.abs(U - E.T @ lms).max() > 1e-2  # it did something


def test_log_threshold_is_a_local_minimum():
    x, weight = torch.linspace(0, 3, 301, dtype=torch.float64), 0.05
    s = lttr.log_threshold(x, weight)

    def objective(s: torch.Tensor) -> torch.Tensor:
        return weight * torch.log(s + lttr._EPSILON) + (s - x).square() / 2

    assert (objective(s) < objective(s + 1e-3)).all()
    assert (objective(s)[s > 0] < objective(s - 1e-3)[s > 0]).all()
    assert torch.equal(s > 0, x + lttr._EPSILON > 2 * weight**0.5)
    assert torch.equal(lttr.log_threshold(x, 0.0), x)


def test_orthonormal_bands_leave_the_tensor_train_rank():
    """The singular values of a group's unfoldings do not depend on the bands in which it is given."""
    generator = torch.Generator().manual_seed(0)
    E = torch.linalg.qr(torch.rand(BANDS, 3, dtype=torch.float64, generator=generator))[0]
    U = torch.rand(3, 18, 21, dtype=torch.float64, generator=generator)
    patches = lttr.Patches(torch.rand(GUIDE, 18, 21, dtype=torch.float64, generator=generator))
    for modes in (1, 2, 3):
        shrunk = patches.shrink(U, modes, 0.5)
        whole = patches.shrink(coupled.mix(E, U), modes, 0.5)
        assert torch.allclose(whole, coupled.mix(E, shrunk), atol=1e-8)
        assert not torch.allclose(shrunk, U, atol=1e-3)
        assert torch.allclose(patches.shrink(U, modes, 0.0), U, atol=1e-8)


def test_groups_of_patches_are_alike_and_leave_none_out():
    guide = observed(ground(), Geometry.toolbox(4)).pan[0]
    patches = lttr.Patches(guide)
    count = len(patches.rows) * len(patches.columns)
    assert patches.groups.unique().numel() == count == 23**2
    cut = patches.take(guide, patches.groups.flatten()).flatten(1).unflatten(0, patches.groups.shape)
    within = (cut - cut.mean(1, keepdim=True)).square().mean()
    assert within < 0.5 * (cut - cut.mean((0, 1))).square().mean()  # groups of any patches: 0.94


def test_nssr_against_dense_numpy(small, monkeypatch):
    """Four steps of ADMM over all bands, not those of a subspace; similar pixels by all pairs of patches."""
    monkeypatch.setattr(nssr, "_ITERATIONS", 4)
    seen, images = small
    D = np.random.default_rng(0).random((BANDS, 6))
    units, scale = in_units_of_ms(images)
    G, R, ms, pan, _ = dense(units)
    n, side = pan.shape[1], images.pan.shape[-1]
    at = np.stack(np.divmod(np.arange(n), side))
    cells = pan.reshape(GUIDE, side, side)
    around = np.concatenate([np.roll(cells, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]).reshape(-1, n)
    distance = ((around[:, :, None] - around[:, None]) ** 2).mean(0)
    apart = np.abs(at[:, :, None] - at[:, None])
    apart = np.minimum(apart, side - apart).max(0)
    distance[(apart == 0) | (apart > 5)] = np.inf
    nearest = np.sort(distance, axis=0)[:10]
    kept = distance <= nearest[-1]
    W = np.where(kept, np.exp(-np.where(kept, distance, 0) / nearest.mean()), 0)
    W /= W.sum(0)
    RD, A, Z, U = R @ D, np.zeros((6, n)), np.zeros((BANDS, n)), np.zeros((BANDS, n))
    V1, V2, S, mu = Z, A, A, nssr._PENALTY
    eta1, eta2 = nssr._SIMILAR, nssr._SPARSE
    for _ in range(4):
        left = RD.T @ RD + (eta1 + mu) * D.T @ D + mu * np.eye(6)
        A = np.linalg.solve(left, RD.T @ pan + D.T @ (eta1 * U + mu * Z - V1 / 2) + mu * S + V2 / 2)
        Z = np.linalg.solve(G.T @ G + mu * np.eye(n), (ms @ G + mu * D @ A + V1 / 2).T).T
        S = np.maximum(A - V2 / (2 * mu) - eta2 / (2 * mu), 0)
        V1, V2 = V1 + 2 * mu * (D @ A - Z), V2 + 2 * mu * (S - A)
        U, mu = Z @ W, mu * nssr._GROWTH
    sr = method("NSSR").solve(images, Fitted(seen, torch.from_numpy(D)))
    assert (kept.sum(0) == 10).all()  # no ties: neighbours are the same
    assert np.allclose(sr.flatten(1).numpy(), D @ S * float(scale), atol=1e-7)


def test_nssr_minimises_its_objective_where_pixels_have_no_part_in_others(small, monkeypatch):
    """With U = 0 the problem is convex: slopes are 0 where A is positive, and not negative elsewhere."""
    monkeypatch.setattr(nssr, "_ITERATIONS", 600)
    monkeypatch.setattr(nssr, "_GROWTH", 1.0)
    monkeypatch.setattr(nssr, "_PENALTY", 1e-2)
    monkeypatch.setattr(nssr, "average", lambda x, places, weights: torch.zeros_like(x))
    _, images = small
    D = np.random.default_rng(0).random((BANDS, 5))
    images, _ = in_units_of_ms(images)
    G, R, ms, pan, _ = dense(images)
    A = nssr.sparse_codes(images, torch.from_numpy(D)).flatten(1).numpy()
    X = D @ A
    slope = 2 * (D.T @ (X @ G.T - ms) @ G + (R @ D).T @ (R @ X - pan) + nssr._SIMILAR * D.T @ X) + nssr._SPARSE
    assert (A >= 0).all() and (A == 0).any()
    assert slope.min() > -1e-6 and np.abs(slope[A > 0]).max() < 1e-6


def test_codes_fulfil_the_conditions_of_their_minimum():
    rng = np.random.default_rng(0)
    X, D = torch.from_numpy(rng.random((BANDS, 30))), torch.from_numpy(rng.random((BANDS, 5)) ** 3)
    A = torch.zeros(5, 30, dtype=torch.float64)
    for _ in range(5):
        A = nssr.codes(X, D, A)
    slope = D.T @ (D @ A - X) + nssr._SPARSE_CODES
    assert (A >= 0).all() and slope.min() > -1e-4 and slope[A > 0].abs().max() < 1e-4


def test_the_dictionary_explains_the_pixels_it_was_learnt_from():
    pixels = ground()[0].flatten(1)[:, ::7]
    D = nssr.dictionary(pixels / pixels.max(), 20)
    assert (D >= 0).all() and torch.allclose(D.norm(dim=0), torch.ones(20, dtype=D.dtype))
    A = torch.zeros(20, pixels.shape[1], dtype=pixels.dtype)
    for _ in range(5):
        A = nssr.codes(pixels / pixels.max(), D, A)
    assert (pixels / pixels.max() - D @ A).norm() < 0.02 * (pixels / pixels.max()).norm()


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
