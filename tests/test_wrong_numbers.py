"""Input by which a number would look right and be wrong: refused, or measured as an independent computation does."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from small_files import PIXEL, smooth, tif, write_test_set

import lemamba
from lemamba import metrics
from lemamba.commands import board, evaluate, fuse, parse, prepare
from lemamba.engine.fusing.tiling import Tiling
from lemamba.utils.errors import UserError

rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
TRUTH = smooth(96, 128, 4)
MS = TRUTH.reshape(4, 24, 4, 32, 4).mean((2, 4)).round().astype(np.uint16)
PAN = TRUTH.mean(0, keepdims=True).round().astype(np.uint16)
DEGREES = 4e-6  # a pixel of half a metre


def run(module, name, *arguments):
    assert module.run(parse(name, [str(a) for a in arguments])) == 0


def measured(*arguments):
    return evaluate.evaluate(parse("evaluate", [str(a) for a in arguments]))


def refused(message, *arguments):
    with pytest.raises(UserError, match=message) as error:
        measured(*arguments)
    assert "\n" not in str(error.value)


def fused(tmp_path, ms, pan, *arguments, name="out.tif"):
    paths = tif(tmp_path / "ms.tif", ms, pixel=4 * PIXEL), tif(tmp_path / "pan.tif", pan)
    run(fuse, "fuse", "--arch", "GSA", "--ms", paths[0], "--pan", paths[1], "--out", tmp_path / name, *arguments)
    if name.endswith(".npy"):
        return np.load(tmp_path / name), None
    with rasterio.open(tmp_path / name) as file:
        return file.read(), file.dataset_mask() > 0


# ------------------------------------------------------------------------------------------------ gaps


@pytest.mark.parametrize("case", ["NaN in PAN", "NaN in MS", "--nodata that MS cannot hold"])
def test_gaps_of_floating_point_are_marked_in_a_result_of_integers(tmp_path, case):
    """Integers have no NaN: without a mark, a gap would be an area of zeros."""
    ms, pan, more = MS, PAN.astype(np.float32), []
    if case == "NaN in MS":
        ms, more = MS.astype(np.float32), ["--dtype", "uint16"]
        ms[:, 5:10, 6:12] = np.nan
    else:
        pan[:, 20:40, 24:48] = np.nan if case == "NaN in PAN" else -9999
        more = [] if case == "NaN in PAN" else ["--nodata", -9999]
    sr, valid = fused(tmp_path, ms, pan, *more)
    gap = np.zeros(valid.shape, bool)
    gap[20:40, 24:48] = True
    assert sr.dtype == np.uint16
    np.testing.assert_array_equal(valid, ~gap)
    whole, _ = fused(tmp_path, MS, PAN, name="whole.tif")
    assert np.abs(sr.astype(float) - whole)[:, valid].mean() < 5


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_an_unmarked_area_of_any_value_is_reported(tmp_path, capsys, dtype):
    for top in (0, 8):  # at the border, or a hole inside
        ms, pan = MS.astype(dtype), PAN.astype(dtype)
        ms[:, top : top + 8, 4:12], pan[:, 4 * top : 4 * top + 32, 16:48] = -9999, -9999
        fused(tmp_path, ms, pan)
        assert "give --nodata -9999" in capsys.readouterr().out
    fused(tmp_path, MS, PAN)
    assert "--nodata" not in capsys.readouterr().out


def test_every_format_that_is_written_is_measured_alike(tmp_path):
    truth, scores = tif(tmp_path / "gt.tif", TRUTH), []
    for ending in (".tif", ".img", ".vrt", ".npy"):
        fused(tmp_path, MS, PAN, name=f"sr{ending}")
        scores.append(measured(tmp_path / f"sr{ending}", "--gt", truth, "--const", 2047, "--ratio", 4).samples)
    assert scores[0]["psnr"][0] > 25 and all(one == scores[0] for one in scores)


# ------------------------------------------------------------------------------------------------ places and units


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("differ by up to 1 pixels", {"left": 11 + DEGREES}),
        ("differ by up to 11.6 pixels", {"pixel": 1.1 * DEGREES, "down": DEGREES}),
        ("coordinate system", {"crs": "EPSG:32633"}),
    ],
)
def test_results_are_not_compared_with_another_place(tmp_path, message, place):
    """A pixel of a grid in degrees is smaller than any fixed tolerance."""
    here = {"left": 11.0, "top": 48.0, "pixel": DEGREES, "crs": "EPSG:4326"}
    sr = tif(tmp_path / "sr.tif", smooth(128, 128, 4), **here)
    assert measured(sr, "--gt", tif(tmp_path / "same.tif", smooth(128, 128, 4), **here), "--const", 2047)
    refused(message, sr, "--gt", tif(tmp_path / "gt.tif", smooth(128, 128, 4), **{**here, **place}), "--const", 2047)
    mask = tif(tmp_path / "mask.tif", np.ones((1, 128, 128), np.uint8), **{**here, **place})
    refused(message, sr, "--gt", tmp_path / "same.tif", "--const", 2047, "--mask", mask)


@pytest.mark.parametrize(
    ("sr_scale", "gt_scale", "const"),
    [(1 / 2047, 1, 2047), (1, 1 / 2047, 1), (255 / 2047, 1, 2047), (65535 / 2047, 1, 2047)],
)
def test_images_in_other_numbers_are_not_compared(tmp_path, sr_scale, gt_scale, const):
    gt = smooth(64, 96, 4)[None].astype(float)
    sr = gt + np.random.default_rng(0).normal(0, 20, gt.shape)
    savemat(tmp_path / "x.mat", {"sr": sr * sr_scale, "gt": gt * gt_scale})
    refused("different numbers", tmp_path / "x.mat", "--const", const)
    savemat(tmp_path / "x.mat", {"sr": sr * gt_scale, "gt": gt * gt_scale})
    result = measured(tmp_path / "x.mat", "--const", 2047 * gt_scale, "--ratio", 3)
    errors = ((sr - gt) ** 2).mean((2, 3))[0] / gt.mean((2, 3))[0] ** 2
    assert result.samples["ergas"] == pytest.approx([100 / 3 * np.sqrt(errors.mean())], rel=1e-9)
    assert not any("assumed" in note for note in result.notes)
    assert any("Ratio 4 is assumed" in n for n in measured(tmp_path / "x.mat", "--const", 2047 * gt_scale).notes)


def test_a_poor_result_is_measured_all_the_same(tmp_path):
    """What looks like another unit may be a network that was hardly trained: only equal bands are one image."""
    gt = smooth(64, 96, 4)[None].astype(float)
    poor = gt * np.array([0.05, 0.2, 0.4, 0.1])[:, None, None]
    savemat(tmp_path / "x.mat", {"sr": poor, "gt": gt})
    assert measured(tmp_path / "x.mat", "--const", 2047).samples["psnr"][0] < 20


@pytest.mark.parametrize("factor", [1 / 2047, 255 / 2047, 32])
def test_d_s_is_not_computed_with_pan_in_other_units(factor):
    """Q of a band and pan / 2047 is 0 for every sr: D_s would be 0, as of a perfect image."""
    images = {"sr": TRUTH[None] + 9.0, "ms": MS[None], "lms": TRUTH[None], "pan": PAN[None]}
    assert 0 < float(metrics.full_resolution(**images, ratio=4, sensor="none")["d_s"]) < 1
    with pytest.raises(UserError, match="expected pan in the units of lms"):
        metrics.full_resolution(**images | {"pan": PAN[None] * factor}, ratio=4, sensor="none")
    with pytest.raises(UserError, match="expected pan in the units of lms"):
        metrics.d_s(images["sr"], images["lms"], PAN[None] * factor, ratio=4)


def test_methods_of_a_task_that_does_not_exist_are_not_none():
    with pytest.raises(UserError, match="expected a task of pansharpening, hmif, given 'pansharp'"):
        lemamba.list_methods("pansharp")


# ------------------------------------------------------------------------------------------------ protocols


def test_an_offset_stays_with_the_images_that_were_fused(tmp_path):
    """D_s depends on where MS lies: `fuse` and `evaluate` measure one image alike, whatever its geometry."""
    data = write_test_set(tmp_path / "full.h5", count=1, size=64, with_gt=False)
    with h5py.File(data, "a") as file:
        file.attrs["offset"] = [1.5, 1.5]
    run(fuse, "fuse", "--arch", "GSA", "--data", data, "--sensor", "IKONOS", "--out", tmp_path / "sr.mat",
        "--json", tmp_path / "scores.json", "--pictures", 0)  # fmt: skip
    expected = json.loads((tmp_path / "scores.json").read_text())["scores"]["GSA"]["d_s"]["per_sample"]
    assert measured(tmp_path / "sr.mat").samples["d_s"] == pytest.approx(expected, rel=1e-6)
    assert measured(tmp_path / "sr.mat", "--gt", data).samples["d_s"] == pytest.approx(expected, rel=1e-6)
    # the published scripts, and so MATLAB, know the toolboxes' place only
    published = measured(tmp_path / "sr.mat", "--published").samples["d_s"]
    assert abs(published[0] - expected[0]) > 1e-5


@pytest.mark.parametrize("case", ["--register", "--nodata", "single bands", "path last"])
def test_a_scene_is_measured_as_it_was_fused(tmp_path, case):
    """The same options as for fusing: on the ground that both share, without a collar, from files of single bands."""
    shift = 3 if case == "--register" else 0
    big = smooth(220, 220, 4).astype(float)
    big += np.random.default_rng(0).normal(0, 40, big.shape)  # something to register
    ms = big[:, :192, :192].reshape(4, 48, 4, 48, 4).mean((2, 4)).round().astype(np.uint16)
    pan = big[:, shift : 192 + shift, :192].mean(0, keepdims=True).round().astype(np.uint16)
    if case == "--nodata":
        ms[:, :8], pan[:, :32] = 0, 0
    more = {"--register": ["--register"], "--nodata": ["--nodata", 0]}.get(case, [])
    bands = [tif(tmp_path / f"B{i}.tif", ms[i : i + 1], pixel=4 * PIXEL) for i in range(4)]
    whole, fine = tif(tmp_path / "ms.tif", ms, pixel=4 * PIXEL), tif(tmp_path / "pan.tif", pan)
    pair = ["--ms", *(bands if case == "single bands" else [whole]), "--pan", fine]
    run(fuse, "fuse", "--arch", "GSA", *pair, "--out", tmp_path / "sr.tif", *more)
    if case == "path last":
        result = measured("--sensor", "none", *pair, tmp_path / "sr.tif")
    else:
        result = measured(tmp_path / "sr.tif", *pair, "--sensor", "none", *more)
    assert 0.8 < result.samples["hqnr"][0] < 1
    if shift:
        refused("expected a fused image of", tmp_path / "sr.tif", *pair, "--sensor", "none")
    if case == "--nodata":  # blocks of the collar do not count: what stands there does not change the score
        with rasterio.open(tmp_path / "sr.tif", "r+") as file:
            sr = file.read()
            sr[:, :28] = 1000
            file.write(sr)
        assert measured(tmp_path / "sr.tif", *pair, "--sensor", "none", *more).samples["d_s"] == result.samples["d_s"]


def test_a_board_takes_no_other_file_for_full_resolution(tmp_path):
    """With gt, its scores would replace those of the test file."""
    data = write_test_set(tmp_path / "test.h5")
    odd = write_test_set(tmp_path / "odd.h5", size=72, with_gt=False)
    for full, message in ((data, "has gt"), (odd, "multiples of 32")):
        arguments = ["--dataset", "ikonos", "--data", data, "--full", full, "--methods", "EXP", "--out", tmp_path / "b"]
        with pytest.raises(UserError, match=message):
            board.run(parse("board", [str(a) for a in arguments]))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("ratio", [3, 5])
def test_images_simulated_at_full_resolution_can_be_measured(tmp_path, ratio):
    fine = smooth(60 * ratio, 60 * ratio, 4).astype(float)
    ms = fine.reshape(4, 60, ratio, 60, ratio).mean((2, 4)).astype(np.uint16)
    paths = (
        tif(tmp_path / "ms.tif", ms, pixel=ratio * PIXEL),
        tif(tmp_path / "pan.tif", fine.mean(0, keepdims=True).astype(np.uint16)),
    )
    out = tmp_path / "set"
    run(prepare, "prepare", "simulate", "--ms", paths[0], "--pan", paths[1], "--sensor", "none", "--divisor", 2047,
        "--test_only", "--name", "x", "--out", out)  # fmt: skip
    with h5py.File(out / "test_x_OrigScale_multiExm1.h5") as file:
        images = {role: torch.from_numpy(file[role][:1]) for role in ("ms", "lms", "pan")}
    scores = metrics.full_resolution(images["lms"], **images, ratio=ratio, sensor="none")
    assert float(scores["d_lambda"]) == 0 and 0 < float(scores["d_s"]) < 1


@pytest.mark.parametrize("ratio", [2, 3, 4, 5, 6, 7, 8, 16])
def test_the_default_overlap_fits_every_ratio(ratio):
    plan = Tiling(tile=256 // ratio * ratio).resolve((1000, 1000), ratio)
    assert plan.overlap % ratio == 0 and 32 <= plan.overlap < 32 + ratio


# ------------------------------------------------------------------------------------------------ indices


@pytest.mark.parametrize("peak", [1.0, 1.2, 1.49])
def test_q2n_of_reflectances_is_that_of_digital_numbers(peak):
    """Some reflectances are above 1: rounding them to 0 and 1 would leave nothing of the image."""
    generator = np.random.default_rng(0)
    gt = smooth(64, 64, 4)[None] / 1800.0
    gt *= peak / gt.max()
    sr = np.clip(gt + generator.normal(0, 0.02, gt.shape), 0, None)
    numbers = float(metrics.q2n(sr * 20000, gt * 20000, const=65535))
    assert float(metrics.q2n(sr, gt, const=peak)) == pytest.approx(numbers, abs=1e-4)
    images = {"sr": sr, "ms": gt[..., ::4, ::4], "lms": gt, "pan": gt.mean(1, keepdims=True)}
    other = {role: image * 20000 for role, image in images.items()}
    ours, theirs = (float(metrics.full_resolution(**x, ratio=4, sensor="none")["d_lambda_k"]) for x in (images, other))
    assert ours == pytest.approx(theirs, abs=1e-4)
