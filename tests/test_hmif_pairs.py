"""Real pairs of a hyperspectral image and a guide of several bands: read, estimated, simulated, fused, measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io as sio
import torch

from lemamba.commands import parse
from lemamba.datasets.arrays import ArrayRaster
from lemamba.datasets.guide_order import order_to_match
from lemamba.datasets.pair_windows import windows_of
from lemamba.datasets.simulation.sources import load_mat
from lemamba.datasets.usable_bands import dead_bands, noisy_bands
from lemamba.metrics import consistency
from lemamba.operators.observation import Observation, estimate, gaussian_psf
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

C = 24
RESPONSE = np.exp(-(((np.arange(C) - np.array([[18.0], [11.0], [4.0]])) / 3.0) ** 2) / 2)
RESPONSE /= RESPONSE.sum(1, keepdims=True)


def run(name: str, *arguments: object) -> int:
    return importlib.import_module(f"lemamba.commands.{name}").run(parse(name, [str(a) for a in arguments]))


def ground(side: int, seed: int = 0) -> torch.Tensor:
    """Positive abundances with detail at every scale, times smooth spectra: (1, C, side, side)."""
    rng = np.random.default_rng(seed)
    fields = []
    for _ in range(6):
        spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
        f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
        field = np.fft.irfft2(spectrum / (f + 0.02), (side, side))
        fields.append((field - field.min()) / np.ptp(field))
    bands = np.arange(C)
    spectra = [np.exp(-(((bands - centre) / 4) ** 2) / 2) + 0.05 for centre in np.linspace(0, C - 1, 6)]
    return torch.from_numpy(np.einsum("khw,kc->chw", np.array(fields), np.array(spectra)) / 4)[None]


def observation(ratio: int, psf: torch.Tensor | None = None) -> Observation:
    geometry = Geometry.corners(ratio)
    base = int(np.floor(geometry.offset[0] + 0.5))
    kernel = gaussian_psf(0.4, geometry) if psf is None else psf
    return Observation(torch.from_numpy(RESPONSE), kernel, (ratio, ratio), (base, base))


def pair(ratio: int, h: int, psf: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ms (C, h, h), guide (3, r h, r h) and the truth."""
    x = ground(ratio * h)
    ms = observation(ratio, psf).degrade(x, (h, h))[0].numpy()
    return ms, np.tensordot(RESPONSE, x[0].numpy(), 1), x[0].numpy()


def save(path: Path, **images: np.ndarray) -> Path:
    sio.savemat(path, {name: image.transpose(1, 2, 0) for name, image in images.items()})
    return path


def test_a_psf_that_is_no_gaussian_and_the_response_are_found() -> None:
    motion = np.zeros((9, 9))
    motion[4, 2:8] = motion[3, 2:8] = 1 / 12  # along columns, off the centre
    ms, guide, _ = pair(4, 40, torch.from_numpy(motion))
    found = estimate(windows_of(ms, guide, Geometry.corners(4)))
    assert np.linalg.norm(found.psf.numpy() - motion) < 0.05 * np.linalg.norm(motion)
    assert np.linalg.norm(found.response.numpy() - RESPONSE) < 0.1 * np.linalg.norm(RESPONSE)


@pytest.mark.parametrize(
    ("ratio", "names"), [(3, ("HSI", "MSI")), (6, ("Y", "Z")), (4, ("lrhsi", "hrmsi")), (2, ("I_MS_LR", "I_PAN"))]
)
def test_pairs_are_read_under_the_names_in_use(ratio: int, names: tuple[str, str], tmp_path: Path) -> None:
    ms, guide, _ = pair(ratio, 18)  # fewer rows than bands
    file = save(tmp_path / "pair.mat", **dict(zip(names, (ms, guide), strict=True)))
    out = tmp_path / "sr.npy"
    assert run("fuse", "--ms", file, "--pan", file, "--arch", "EXP", "--out", out) == 0
    assert np.load(out).shape in ((C, 18 * ratio, 18 * ratio), (18 * ratio, 18 * ratio, C))
    with pytest.raises(UserError, match="one PAN band, given 3"):
        run("fuse", "--ms", file, "--pan", file, "--arch", "GSA", "--out", out)


def test_geotiff_and_npy_pairs_keep_all_guide_bands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    ms, guide, _ = pair(3, 26)
    for name, image, pixel in (("hs", ms, 30.0), ("rgb", guide, 10.0)):
        place = rasterio.Affine(pixel, 0, 500000, 0, -pixel, 4000000)
        about = {"count": len(image), "height": image.shape[1], "width": image.shape[2], "dtype": "float64"}
        with rasterio.open(tmp_path / f"{name}.tif", "w", crs="EPSG:32631", transform=place, **about) as file:
            file.write(image)
        np.save(tmp_path / f"{name}.npy", image)
    for suffix in ("tif", "npy"):
        files = ("--ms", tmp_path / f"hs.{suffix}", "--pan", tmp_path / f"rgb.{suffix}")
        with pytest.raises(UserError, match="one PAN band, given 3"):
            run("fuse", *files, "--arch", "GSA", "--out", tmp_path / "sr.npy")
        assert run("prepare", "inspect", *files) == 0
        assert "PAN: 3 bands, 78x78" in capsys.readouterr().out
    with pytest.raises(UserError, match="swap --ms and --pan"):
        run(
            "fuse",
            "--ms",
            tmp_path / "rgb.tif",
            "--pan",
            tmp_path / "hs.tif",
            "--arch",
            "EXP",
            "--out",
            tmp_path / "x.npy",
        )


def test_estimate_simulate_fuse_and_consistency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ms, guide, truth = pair(3, 34)
    file = save(tmp_path / "mine.mat", HSI=ms, MSI=guide)
    assert run("prepare", "estimate", file, "--out", tmp_path) == 0
    response, psf = np.load(tmp_path / "response.npy"), np.load(tmp_path / "psf.npy")
    np.testing.assert_allclose(np.loadtxt(tmp_path / "response.csv", delimiter=",", skiprows=1), response, rtol=1e-6)
    assert (tmp_path / "estimate.png").stat().st_size > 5000
    matrices = ("--response", tmp_path / "response.npy", "--psf", tmp_path / "psf.npy")
    assert run("prepare", "simulate", file, *matrices, "--out", tmp_path, "--name", "mine", "--test_only") == 0
    with h5py.File(tmp_path / "test_mine.h5") as h5:  # Wald: the observed image is the truth, both seen with the PSF
        gt, small, coarse = (h5[key][0].astype(float) for key in ("GT", "LRHSI", "RGB"))
        np.testing.assert_allclose(gt, ms[:, :33, :33], atol=1e-6)
        np.testing.assert_allclose(h5.attrs["psf"], psf)
        seen = Observation(torch.zeros(0), torch.from_numpy(psf), (3, 3), (1, 1))
        again = seen.degrade(torch.from_numpy(ms[None, :, :33, :33]), (11, 11))[0].numpy()
        np.testing.assert_allclose(small, again, atol=1e-6)
        assert np.abs(np.tensordot(RESPONSE, gt, 1) - coarse)[:, 2:-2, 2:-2].max() < 0.02 * coarse.max()
    capsys.readouterr()
    out = tmp_path / "full.mat"
    data = ("--dataset", "mine", "--data_root", tmp_path, "--split", "test_full")
    assert run("fuse", *data, "--arch", "EXP", "--out", out) == 0
    assert "ms_rmse" in capsys.readouterr().out
    assert run("evaluate", out, *matrices, "--json", tmp_path / "scores.json") == 0
    exact = consistency(
        *(torch.from_numpy(x[None]) for x in (truth, ms, guide)),
        ratio=3,
        response=torch.from_numpy(RESPONSE),
        psf=observation(3).psf,
        geometry=Geometry((3, 3), (1, 1)),
    )
    assert float(exact["guide_rmse"]) < 1e-9
    with pytest.raises(UserError, match="give --response and --psf"):
        run("evaluate", out, "--sensor", "none")


def test_a_given_ground_truth_is_not_simulated_again(tmp_path: Path) -> None:
    ms, guide, truth = pair(4, 12)
    file = save(tmp_path / "one.mat", lrhsi=ms, hrmsi=guide, hrhsi=truth)
    assert run("prepare", "simulate", file, "--out", tmp_path, "--name", "one", "--test_only") == 0
    with h5py.File(tmp_path / "test_one.h5") as h5:
        side = h5["GT"].shape[-1]
        np.testing.assert_allclose(h5["LRHSI"][0], ms[:, : side // 4, : side // 4], atol=1e-6)
        np.testing.assert_allclose(h5["RGB"][0], guide[:, :side, :side], atol=1e-6)


def test_a_guide_of_the_same_size_is_kept(tmp_path: Path, shared, capsys: pytest.CaptureFixture[str]) -> None:
    file = shared("data/paris_hs_ms.mat")
    assert run("prepare", "simulate", file, "--out", tmp_path, "--name", "paris", "--test_only") == 0
    assert "the guide is kept" in capsys.readouterr().out
    images = sio.loadmat(file)
    with h5py.File(tmp_path / "test_paris.h5") as h5:
        scale = float(h5.attrs["scale"][0])
        np.testing.assert_allclose(h5["RGB"][0], images["MSim"].transpose(2, 0, 1)[:, :64, :64] / scale, atol=1e-6)
        assert h5.attrs["response"].shape == (9, 128)
    with pytest.raises(UserError, match="nothing to sharpen"):
        run("fuse", "--ms", file, "--pan", file, "--arch", "EXP", "--out", tmp_path / "x.npy")


@pytest.mark.parametrize("kind", ["h5", "mat"])
def test_a_guide_in_another_order_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ms, guide, _ = pair(4, 34)
    file = save(tmp_path / "bgr.mat", HSI=ms, MSI=guide[::-1])
    data: tuple[object, ...] = ("--ms", file, "--pan", file)
    if kind == "h5":
        with h5py.File(tmp_path / "test_bgr.h5", "w") as h5:  # as published: no attribute names the order
            h5.update({"LRHSI": ms[None], "HSI_up": ms[None].repeat(4, 2).repeat(4, 3), "RGB": guide[None, ::-1]})
        data = ("--data", tmp_path / "test_bgr.h5", "--divisor", 1)
    learnt = {"guide_centres": [18 / 23, 11 / 23, 4 / 23]}
    monkeypatch.setattr("lemamba.commands.fuse.trained_on", lambda _: learnt)
    out = ("--arch", "EXP", "--out", tmp_path / ("sr.mat" if kind == "h5" else "sr.npy"))
    with pytest.raises(UserError, match="order RGB, .* has BGR; add --guide_order 3,2,1"):
        run("fuse", *data, *out)
    assert not out[-1].exists()
    assert run("fuse", *data, *out, "--guide_order", "3,2,1") == 0
    with pytest.raises(UserError, match="each of the 3 guide bands once"):
        run("fuse", *data, *out, "--guide_order", "3,2")
    if kind == "h5":
        assert run("prepare", "inspect", tmp_path / "test_bgr.h5") in (0, 1)
        assert "guide order: BGR" in capsys.readouterr().out
        np.testing.assert_allclose(sio.loadmat(out[-1])["pan"][0], guide, rtol=1e-6)


def test_dead_bands_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ms, guide, _ = pair(4, 12)
    ms[6] = ms[19] = 0.0
    file, out = save(tmp_path / "dead.mat", HSI=ms, MSI=guide), tmp_path / "sr.npy"
    assert run("fuse", "--ms", file, "--pan", file, "--arch", "EXP", "--out", out) == 0
    assert "bands 7, 20 of 24 hold one value: dead?" in capsys.readouterr().out
    kept = np.load(out)
    assert run("fuse", "--ms", file, "--pan", file, "--arch", "EXP", "--out", out, "--drop_dead") == 0
    assert "left out" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(out), np.delete(kept, (6, 19), axis=0 if len(kept) == C else 2))


def test_bands_of_noise_are_named_left_out_and_put_back_without_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As water vapour leaves them: neighbouring bands of noise, named, all written on request."""
    rasterio = pytest.importorskip("rasterio")
    ms, guide, _ = pair(4, 12)
    absorbed, dead = [12, 13, 14], 20  # 0-based
    ms[absorbed] = np.random.default_rng(0).random((3, 12, 12)) * 0.01
    ms[dead] = 0.25
    for name, image, pixel in (("hs", ms, 20.0), ("rgb", guide, 5.0)):
        about = {"count": len(image), "height": image.shape[1], "width": image.shape[2], "dtype": "float32"}
        place = rasterio.Affine(pixel, 0, 500000, 0, -pixel, 4000000)
        with rasterio.open(tmp_path / f"{name}.tif", "w", crs="EPSG:32631", transform=place, **about) as file:
            file.write(image.astype(np.float32))
            file.descriptions = [f"{1000 + 30 * band} nm" for band in range(len(image))]
    files = ("--ms", tmp_path / "hs.tif", "--pan", tmp_path / "rgb.tif", "--arch", "EXP", "--divisor", 1)
    out = tmp_path / "sr.tif"
    assert run("fuse", *files, "--out", out) == 0
    told = capsys.readouterr().out
    assert "bands 13 (1360 nm) to 15 (1420 nm) of 24 correlate with no neighbour" in told
    assert "band 21 (1600 nm) of 24 hold one value: dead?" in told
    with rasterio.open(out) as file:
        every = file.read()
    assert run("fuse", *files, "--out", out, "--drop_dead") == 0
    left = [band for band in range(C) if band not in (*absorbed, dead)]
    with rasterio.open(out) as file:
        np.testing.assert_array_equal(file.read(), every[left])
        assert file.descriptions == tuple(f"{1000 + 30 * band} nm" for band in left)
    assert run("fuse", *files, "--out", out, "--drop_dead", "--fill_dropped") == 0
    with rasterio.open(out) as file:
        filled = file.read()
        assert file.count == C and file.descriptions[12] == "1360 nm" and np.isnan(file.nodata)
    np.testing.assert_array_equal(filled[left], every[left])
    assert np.isnan(filled[[*absorbed, dead]]).all()
    assert run("fuse", *files, "--out", out, "--drop_dead", "--fill_dropped", "--bands", "22,13") == 0
    with rasterio.open(out) as file:
        np.testing.assert_array_equal(file.read(1), every[21])
        assert np.isnan(file.read(2)).all() and file.descriptions == ("1630 nm", "1360 nm")
    with pytest.raises(UserError, match="give both, or neither"):
        run("fuse", *files, "--out", out, "--fill_dropped")


def test_the_one_band_of_noise_of_a_real_image_is_found(shared) -> None:
    """Jasper Ridge: those who published it took the absorbed bands out; the first, 380 nm, has 0.02 with the next."""
    path = shared("data/jasper_ridge_r198.mat")
    cube = load_mat(path).values
    with_next = [np.corrcoef(cube[band].ravel(), cube[band + 1].ravel())[0, 1] for band in (0, 1, 32, 33)]
    assert with_next[0] < 0.05 and min(with_next[1:]) > 0.9
    image = ArrayRaster(path, cube)
    assert (dead_bands(image), noisy_bands(image)) == ([], [1])


@pytest.mark.parametrize("ratio", [5, 8, 16])
def test_envi_pairs_of_many_ratios(ratio: int, tmp_path: Path) -> None:
    """Cube and guide as ENVI files with the bands' wavelengths in the header; the result is ENVI, too."""
    rasterio = pytest.importorskip("rasterio")
    ms, guide, truth = pair(ratio, 8)
    for name, image, pixel in (("hs", ms, 4.0 * ratio), ("ms", guide, 4.0)):
        about = {"count": len(image), "height": image.shape[1], "width": image.shape[2], "dtype": "float32"}
        place = rasterio.Affine(pixel, 0, 500000, 0, -pixel, 4000000)
        with rasterio.open(
            tmp_path / f"{name}.img", "w", driver="ENVI", crs="EPSG:32631", transform=place, **about
        ) as file:
            file.write(image.astype(np.float32))
    header = tmp_path / "hs.hdr"
    listed = ", ".join(f"{400 + 20 * band}" for band in range(C))
    header.write_text(f"{header.read_text()}\nwavelength = {{ {listed} }}\nwavelength units = Nanometers\n")
    out = tmp_path / "sr.dat"
    files = ("--ms", tmp_path / "hs.img", "--pan", tmp_path / "ms.img", "--divisor", 1)
    errors = {}
    for arch in ("EXP", "GSA-HS"):
        assert run("fuse", *files, "--arch", arch, "--out", out) == 0
        with rasterio.open(out) as file:
            assert file.driver == "ENVI" and file.transform.a == 4.0 and file.shape == (8 * ratio, 8 * ratio)
            errors[arch] = float(np.sqrt(np.mean((file.read() - truth) ** 2)))
    assert errors["GSA-HS"] < 0.7 * errors["EXP"]  # the guide is used, and lies where the header says


def test_options_that_a_pair_does_not_use_are_refused(tmp_path: Path) -> None:
    ms, guide, _ = pair(4, 12)
    file = save(tmp_path / "pair.mat", HSI=ms, MSI=guide)
    with pytest.raises(UserError, match="--sigma is not used"):
        run("prepare", "simulate", file, "--sigma", 2, "--out", tmp_path)
    np.save(tmp_path / "wrong.npy", np.ones((2, C)))
    with pytest.raises(UserError, match="expected a response of 3 guide bands x 24 bands, given 2 x 24"):
        run("prepare", "simulate", file, "--response", tmp_path / "wrong.npy", "--out", tmp_path)
    assert not list(tmp_path.glob("*.h5"))


def test_several_guides_are_refused(tmp_path: Path) -> None:
    ms, guide, _ = pair(2, 18)
    file = save(tmp_path / "three.mat", HSI=ms, MSI=guide, PAN=guide[:1])
    with pytest.raises(UserError, match="several guides"):
        run("prepare", "simulate", file, "--out", tmp_path)


def test_the_order_of_guide_bands() -> None:
    rgb, bgr = (0.9, 0.5, 0.1), (0.12, 0.48, 0.88)
    assert order_to_match(rgb, bgr) == (3, 2, 1)
    assert order_to_match(rgb, (0.8, 0.4, 0.2)) is None
    assert order_to_match(rgb, (0.5, 0.49, 0.51)) is None  # not clear
    assert order_to_match((0.1, 0.5, 0.9, 0.7), (0.9, 0.1, 0.5, 0.7)) == (2, 3, 1, 4)
