"""The MATLAB package beyond the published indices, in Octave: against NumPy by the formula, and against Python.

Legend: C bands, h w size of MS, H W size of PAN, r ratio; images here are (C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.io import savemat
from scipy.ndimage import correlate

from benchmarks.parity_cases import full_case, reduced_case
from benchmarks.parity_metrics import INSTALL_OCTAVE, case_difference, find_octave, run_octave
from lemamba import metrics
from lemamba.metrics import INDICES, full_resolution, reduced_resolution

TOLERANCE = 1e-9
GAINS = (0.34, 0.32, 0.30, 0.22)  # QB
CONST = 2047
REDUCED = reduced_case("extra", 31, 4, 96, 70)
FULL = full_case("extra", 32, 4, 192, 256)
SIXTHS = full_case("ratio 6", 33, 4, 192, 192, ratio=6)

Values = dict[str, float]


def _mask(case) -> np.ndarray:
    """True where valid: two holes, one of them at a corner, and a few single pixels."""
    mask = np.ones(case.images["sr"].shape[2:], bool)
    mask[:5, :9] = False
    mask[40:60, 33:36] = False
    mask[90, ::17] = False
    return mask


def _calls() -> dict[str, str]:
    """Key -> a call in Octave of the protocol with options, on images read from a file."""
    reduced = "reduced_resolution(c.sr, c.gt, 4, 2047, 'indices', 'all'"
    full = "full_resolution(f.sr, f.ms, f.lms, f.pan, 4, 'QB', [], 'indices', 'all'"
    return {
        "reduced": f"{reduced})",
        "reduced, mask": f"{reduced}, 'mask', c.mask)",
        "reduced, cut": f"{reduced}, 'cut', 5)",
        "reduced, block": f"{reduced}, 'block', 16)",
        "full": f"{full})",
        "full, mask": f"{full}, 'mask', f.mask)",
        "full, cut": f"{full}, 'cut', 5)",
        "full, block": f"{full}, 'block', 16)",
        "full, coregister": f"{full}, 'coregister', 1)",
        "full, coregister and mask": f"{full}, 'coregister', 1, 'mask', f.mask)",
        "ratio 6, coregister": "full_resolution(s.sr, s.ms, s.lms, s.pan, 6, 'QB', [], 'indices', 'all', 'block', 24, "
        "'coregister', 1)",
        "ratio 6": "full_resolution(s.sr, s.ms, s.lms, s.pan, 6, 'QB', [], 'indices', 'all', 'block', 24)",
    }


@pytest.fixture(scope="module")
def octave(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Values]:
    """Values of every call by key and index."""
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    folder = tmp_path_factory.mktemp("extra")
    for name, case in (("c", REDUCED), ("f", FULL), ("s", SIXTHS)):
        images = {k: np.moveaxis(v[0], 0, -1).squeeze() for k, v in case.images.items()}
        savemat(folder / f"{name}.mat", images | {"mask": _mask(case)})
    script = """
    addpath(fullfile(fileparts(which('analysis_ref_batched_images')), 'Quality_Indices'));
    c = load('c.mat'); f = load('f.mat'); s = load('s.mat');
    function show(key, v)
      for name = fieldnames(v)', fprintf('value|%s|%s|%.17g\\n', key, name{1}, v.(name{1})); end
    end
    """ + "\n".join(f"show('{key}', {call});" for key, call in _calls().items())
    found: dict[str, Values] = {}
    for line in run_octave(script, folder).splitlines():
        if line.startswith("value|"):
            _, key, name, number = line.split("|")
            found.setdefault(key, {})[name] = float(number)
    return found


# --- NumPy, written from the formulas ---------------------------------------------------------------------------------


def _images(case, *names: str) -> list[np.ndarray]:
    return [case.images[name][0] for name in names]


def _rmse(sr: np.ndarray, gt: np.ndarray) -> float:
    return float(np.sqrt(((sr - gt) ** 2).mean()))


def _cc(sr: np.ndarray, gt: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(sr, gt, strict=True)]))


def _psnr_cube(sr: np.ndarray, gt: np.ndarray) -> float:
    return float(10 * np.log10(CONST**2 / ((sr - gt) ** 2).mean()))


def _rase(sr: np.ndarray, gt: np.ndarray) -> float:
    return float(100 / gt.mean() * np.sqrt(np.mean([((x - y) ** 2).mean() for x, y in zip(sr, gt, strict=True)])))


def _dd(sr: np.ndarray, gt: np.ndarray) -> float:
    return float(np.abs(sr - gt).mean())


def _sid(sr: np.ndarray, gt: np.ndarray) -> float:
    x, y = np.maximum(sr, 0), np.maximum(gt, 0)
    p, q = (i / i.sum(axis=0) + 2.0**-52 for i in (x, y))
    return float((p * np.log(p / q) + q * np.log(q / p)).sum(axis=0).mean())


def _windows(x: np.ndarray, side: int) -> np.ndarray:
    return sliding_window_view(x, (side, side), axis=(-2, -1)).reshape(*x.shape[:-2], -1, side * side)


def _q(x: np.ndarray, y: np.ndarray, ddof: int) -> np.ndarray:
    """Universal quality index of the samples on the last axis."""
    mx, my = x.mean(-1), y.mean(-1)
    n = x.shape[-1] - ddof
    cxy = ((x - mx[..., None]) * (y - my[..., None])).sum(-1) / n
    return 4 * cxy * mx * my / ((x.var(-1, ddof=ddof) + y.var(-1, ddof=ddof)) * (mx**2 + my**2))


def _uiqi(sr: np.ndarray, gt: np.ndarray) -> float:
    return float(_q(_windows(sr, 8), _windows(gt, 8), 0).mean())


REFERENCE: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "rmse": _rmse,
    "cc": _cc,
    "psnr_cube": _psnr_cube,
    "rase": _rase,
    "dd": _dd,
    "sid": _sid,
    "uiqi": _uiqi,
}


@pytest.mark.parametrize("index", REFERENCE)
def test_index_with_reference(octave: dict[str, Values], index: str) -> None:
    assert octave["reduced"][index] == pytest.approx(REFERENCE[index](*_images(REDUCED, "sr", "gt")), rel=TOLERANCE)


def test_cut_and_block(octave: dict[str, Values]) -> None:
    """The published toolbox cuts I(cut:end-cut, cut:end-cut)."""
    sr, gt = (image[:, 4:-5, 4:-5] for image in _images(REDUCED, "sr", "gt"))
    for index, reference in REFERENCE.items():
        assert octave["reduced, cut"][index] == pytest.approx(reference(sr, gt), rel=TOLERANCE), index
    sr, gt = _images(REDUCED, "sr", "gt")
    expected = _q(_windows(sr, 16), _windows(gt, 16), 0).mean()
    assert octave["reduced, block"]["qave"] == pytest.approx(expected, rel=TOLERANCE)


def _blocks(x: np.ndarray, side: int) -> np.ndarray:
    """(C, H, W) -> (C, blocks, side * side)."""
    C, H, W = x.shape
    return x.reshape(C, H // side, side, W // side, side).swapaxes(2, 3).reshape(C, -1, side * side)


def _d_lambda_ms(sr: np.ndarray, ms: np.ndarray, ratio: int, side: int) -> float:
    gaps = []
    a, b = _blocks(sr, side), _blocks(ms, side // ratio)
    for i in range(len(sr)):
        for j in range(i):
            gaps.append(abs(_q(b[i], b[j], 1).mean() - _q(a[i], a[j], 1).mean()))
    return float(np.mean(gaps))


def _d_rho(sr: np.ndarray, pan: np.ndarray, side: int) -> float:
    x, y = _windows(sr, side), _windows(pan, side)
    dx, dy = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    return float(1 - ((dx * dy).sum(-1) / np.sqrt((dx**2).sum(-1) * (dy**2).sum(-1))).mean())


def _d_sr(sr: np.ndarray, pan: np.ndarray) -> float:
    bands, target = sr.reshape(len(sr), -1).T, pan.ravel()
    return float((target - bands @ np.linalg.lstsq(bands, target, rcond=None)[0]).var() / target.var())


def _reprojected(sr: np.ndarray, ratio: int) -> np.ndarray:
    """MTF-matched Gaussian of 41 x 41 (frequency sampling, rotated Kaiser window), sum 1, then every r-th sample."""
    t = np.arange(-20, 21)
    window = np.interp(np.hypot(t[:, None], t) / 20, t / 20, np.kaiser(41, 0.5), right=0)
    low = []
    for band, gain in zip(sr, GAINS, strict=True):
        alpha = np.sqrt((20 / ratio) ** 2 / (-2 * np.log(gain)))
        response = np.exp(-(t[:, None] ** 2 + t**2) / (2 * alpha**2))
        kernel = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(response))).real * window
        low.append(correlate(band, kernel / kernel.sum(), mode="nearest")[ratio // 2 :: ratio, ratio // 2 :: ratio])
    return np.stack(low)


def _sam(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.degrees(np.arccos((x * y).sum(0) / np.sqrt((x**2).sum(0) * (y**2).sum(0)))).mean())


def _ergas(x: np.ndarray, y: np.ndarray, ratio: int) -> float:
    relative = ((x - y) ** 2).mean(axis=(1, 2)) / y.mean(axis=(1, 2)) ** 2
    return float(100 / ratio * np.sqrt(relative.mean()))


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Hypercomplex product of (K, n) by the recursion (a, b)(c, d) = (ac - d*b, da + bc*)."""
    half = len(x) // 2
    if not half:
        return x * y
    (a, b), (c, d) = (x[:half], x[half:]), (y[:half], y[half:])
    return np.concatenate((_product(a, c) - _product(_conjugate(d), b), _product(d, a) + _product(b, _conjugate(c))))


def _conjugate(x: np.ndarray) -> np.ndarray:
    return np.concatenate((x[:1], -x[1:]))


def _q2n(sr: np.ndarray, gt: np.ndarray, side: int) -> float:
    """Q2n of whole blocks and 2^n bands of textured data, from its definition."""
    x, y = (_blocks(np.clip(np.floor(i + 0.5), 0, 65535), side) for i in (gt, sr))
    scores = []
    for k in range(x.shape[1]):
        a, s = x[:, k].mean(-1, keepdims=True), x[:, k].std(-1, ddof=1, keepdims=True)
        u, v = (x[:, k] - a) / s + 1, _conjugate((y[:, k] - a) / s + 1)
        mu, mv, unbias = u.mean(-1), v.mean(-1), u.shape[-1] / (u.shape[-1] - 1)
        square_u, square_v = mu @ mu, mv @ mv
        covariance = unbias * (_product(u, v).mean(-1) - _product(mu[:, None], mv[:, None])[:, 0])
        power = unbias * ((u**2).sum(0).mean() + (v**2).sum(0).mean() - square_u - square_v)
        modulus = np.sqrt((covariance**2).sum())
        scores.append(modulus * 2 * np.sqrt(square_u * square_v) / (square_u + square_v) * 2 / power)
    return float(np.mean(scores))


@pytest.mark.parametrize(
    ("key", "case", "side"), [("full", FULL, 32), ("full, block", FULL, 16), ("ratio 6", SIXTHS, 24)]
)
def test_index_without_reference(octave: dict[str, Values], key: str, case, side: int) -> None:
    sr, ms, pan = _images(case, "sr", "ms", "pan")
    ratio, found = case.ratio, octave[key]
    low = _reprojected(sr, ratio)
    expected = {
        "d_lambda_ms": _d_lambda_ms(sr, ms, ratio, side),
        "d_rho": _d_rho(sr, pan[0], ratio),
        "d_sr": _d_sr(sr, pan[0]),
        "r_sam": _sam(low, ms),
        "r_ergas": _ergas(low, ms, ratio),
        "rqnr": (1 - found["d_lambda"]) * (1 - found["d_sr"]),
    }
    if not any(size % side for size in ms.shape[1:]):
        expected["r_q2n"] = _q2n(low, ms, side)
    for index, value in expected.items():
        assert found[index] == pytest.approx(value, rel=TOLERANCE, abs=1e-12), index


# --- Python -----------------------------------------------------------------------------------------------------------


def _python(key: str) -> Values:
    """The Python package on the same images with the same options, under the names of MATLAB."""
    case = SIXTHS if key.startswith("ratio 6") else REDUCED if key.startswith("reduced") else FULL
    images = {name: torch.from_numpy(image) for name, image in case.images.items()}
    options: dict = {"extra": "all"} if hasattr(metrics, "EXTRA") else {}
    if key.startswith("ratio 6"):
        options |= {"block": 24}
    given = {"mask": torch.from_numpy(_mask(case))[None], "cut": 5, "block": 16, "coregister": True}
    for option in key.partition(", ")[2].split(" and ") if "," in key else ():
        options[option] = given[option]
    if case is REDUCED:
        values = reduced_resolution(**images, ratio=4, const=CONST, **options)
    else:
        values = full_resolution(**images, ratio=case.ratio, sensor="QB", **options)
    records = INDICES | getattr(metrics, "EXTRA", {})
    return {records[name].matlab: float(value) for name, value in values.items()}


def _key_needs(key: str) -> bool:
    """Whether the Python side has this option."""
    return key in ("reduced", "full") or key.endswith("mask") or hasattr(metrics, "EXTRA")


@pytest.mark.parametrize("key", [key for key in _calls() if _key_needs(key)])
def test_octave_equals_python(octave: dict[str, Values], key: str) -> None:
    python = _python(key)
    case = REDUCED if key.startswith("reduced") else FULL
    assert set(python) <= set(octave[key])
    gaps = {name: case_difference(case, name, octave[key][name], value) for name, value in python.items()}
    assert max(gaps.values()) < TOLERANCE, gaps
