"""evaluate.py with files of other programs, and with what a file says of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.io import loadmat, savemat

from lemamba import metrics
from lemamba.commands import evaluate, parse
from lemamba.operators import interp23, interpolate
from lemamba.utils.errors import UserError
from lemamba.utils.formats.fused import read_fused
from lemamba.utils.formats.mat import read_mat, write_mat
from lemamba.utils.geometry import Geometry

B, C, H, W = 3, 4, 64, 96
INFO = {"info_sensor": "QB", "info_divisor": 2047.0, "info_ratio": 4.0, "info_wavelengths": [485.0, 560, 660, 830]}


def pair(count: int = B) -> tuple[np.ndarray, np.ndarray]:
    """Fused images and ground truths, (B, C, H, W) integers up to 2047."""
    rng = np.random.default_rng(0)
    gt = np.clip(rng.random((count, C, H // 8, W // 8)).repeat(8, 2).repeat(8, 3) * 1800 + 100, 0, 2047).round()
    return np.clip(gt + rng.normal(0, 30, gt.shape), 0, 2047).round(), gt


def measured(*arguments: object) -> evaluate.Result:
    return evaluate.evaluate(parse("evaluate", [str(a) for a in arguments]))


def assert_scores(result: evaluate.Result, sr: np.ndarray, gt: np.ndarray, const: float = 2047) -> None:
    expected = metrics.reduced_resolution(torch.from_numpy(sr), torch.from_numpy(gt), ratio=4, const=const)
    for name, values in expected.items():
        assert result.samples[name] == pytest.approx(values.tolist(), rel=1e-9), name


def refused(message: str, *arguments: object) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        measured(*arguments)
    assert "\n" not in str(raised.value)


# What the file says


@pytest.mark.parametrize("v73", [False, True])
def test_what_is_written_with_the_images_is_read_again(tmp_path, v73):
    sr, gt = pair()
    write_mat(tmp_path / "x.mat", {"sr": sr, "gt": gt}, info=INFO | {"info_guide": "R, G, Ü"}, v73=v73)
    assert read_fused(tmp_path / "x.mat").info == {
        "sensor": "QB",
        "divisor": 2047,
        "ratio": 4,
        "wavelengths": [485, 560, 660, 830],
        "guide": "R, G, Ü",
    }
    assert read_mat(tmp_path / "x.mat")["info_wavelengths"].shape == (1, 4)
    if not v73:
        assert loadmat(tmp_path / "x.mat")["info_sensor"].item() == "QB"
    result = measured(tmp_path / "x.mat")
    assert_scores(result, sr, gt)
    assert result.notes == ["From the file: sensor QB, const 2047, ratio 4."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--const", 1023), "the file says divisor 2047, given --const 1023"),
        (("--ratio", 2), "the file says ratio 4, given --ratio 2"),
        (("--sensor", "IKONOS"), "the file says sensor QB, given --sensor IKONOS"),
    ],
)
def test_what_contradicts_the_file_is_one_line(tmp_path, arguments, message):
    sr, gt = pair()
    write_mat(tmp_path / "x.mat", {"sr": sr, "gt": gt}, info=INFO)
    refused(message, tmp_path / "x.mat", *arguments)


def test_a_wrong_divisor_in_the_file_can_be_overruled(tmp_path):
    sr, gt = pair()
    write_mat(tmp_path / "x.mat", {"sr": sr, "gt": gt}, info=INFO | {"info_divisor": 1.0})
    refused("give the peak of these data: const=2047", tmp_path / "x.mat")
    assert_scores(measured(tmp_path / "x.mat", "--const", 2047), sr, gt)


def test_a_file_that_does_not_know_its_sensor_leaves_it_to_the_command(tmp_path):
    sr, gt = pair()
    write_mat(tmp_path / "x.mat", {"sr": sr, "gt": gt}, info=INFO | {"info_sensor": "none"})
    assert measured(tmp_path / "x.mat", "--sensor", "QB").settings.sensor == "QB"
    write_mat(tmp_path / "y.mat", {"sr": sr}, info=INFO)
    truth = write_test_h5(tmp_path / "t.h5", small(gt))
    with h5py.File(truth, "r+") as file:
        file.attrs.update({"sensor": "IKONOS", "divisor": 2047.0})
    refused("the fused images say sensor QB", tmp_path / "y.mat", "--gt", truth)
    write_mat(tmp_path / "y.mat", {"sr": sr})
    result = measured(tmp_path / "y.mat", "--gt", truth)  # what the test set says is enough
    assert (result.settings.sensor, result.settings.const, result.settings.ratio) == ("IKONOS", 2047, 4)


# The peak


@pytest.mark.parametrize(("factor", "given", "right"), [(1, 1, 2047), (1, 255, 2047), (1 / 2047, 2047, 1)])
def test_a_peak_that_the_data_contradict_is_refused(tmp_path, factor, given, right):
    sr, gt = (x * factor for x in pair())
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    refused(f"--const {right}", tmp_path / "x.mat", "--const", given)
    refused(f"add --const {right} ", tmp_path / "x.mat")  # and without any, the advice is the right one
    assert_scores(measured(tmp_path / "x.mat", "--const", right), sr, gt, right)


def test_the_golden_scene_with_peak_1_is_refused(shared):
    refused("--const 2047", shared("golden/metrics/red_ikonos.mat"), "--const", 1)


def test_images_in_different_numbers_are_refused(tmp_path):
    sr, gt = pair()
    savemat(tmp_path / "x.mat", {"sr": sr / 2047, "gt": gt})
    refused("multiply sr by its divisor", tmp_path / "x.mat", "--const", 2047)


def test_dim_data_are_told(tmp_path):
    sr, gt = pair()
    savemat(tmp_path / "x.mat", {"sr": sr / 8, "gt": gt / 8})
    assert any("far below the peak 2047" in note for note in measured(tmp_path / "x.mat", "--const", 2047).notes)


# Undefined values and dead bands


def test_a_black_image_is_named_and_the_others_have_their_mean(tmp_path):
    sr, gt = pair()
    sr[1], gt[1] = 0, 0
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    result = measured(tmp_path / "x.mat", "--const", 2047, "--json", tmp_path / "r.json")
    others = measured(tmp_path / "x.mat", "--const", 2047).samples["sam"]
    assert np.isnan(others[1]) and np.isnan(result.summary["sam"][0])
    (note,) = (n for n in result.notes if n.startswith("SAM"))
    assert "sample 2" in note and f"SAM {(others[0] + others[2]) / 2:.6f}" in note and "black" in note


@pytest.mark.parametrize("where", ["gt", "sr", "both"])
def test_a_dead_band_is_named_with_its_effect_on_q2n(tmp_path, where):
    sr, gt = pair(1)
    for image in {"gt": (gt,), "sr": (sr,), "both": (sr, gt)}[where]:
        image[0, 1] = 500
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    result = measured(tmp_path / "x.mat", "--const", 2047)
    alive = [0, 2, 3]
    without = float(metrics.q2n(sr[:, alive], gt[:, alive], const=2047))
    (note,) = (n for n in result.notes if "flat band" in n)
    assert "Sample 1: flat band 2 of" in note and f"{without:.6f} over the other bands" in note
    assert f"Q2n is {result.samples['qn'][0]:.6f}" in note


def test_a_band_flat_in_one_block_is_told(tmp_path):
    sr, gt = pair(1)
    gt[0, 1, :32, :32] = 2047
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    result, without = measured(tmp_path / "x.mat", "--const", 2047), pair(1)
    assert any("flat in 1 block of 32 x 32" in note for note in result.notes)
    assert result.samples["qn"][0] < float(metrics.q2n(*without, const=2047)) - 0.1
    savemat(tmp_path / "x.mat", {"sr": gt, "gt": gt})  # equal there: nothing is lost
    assert not any("flat" in note for note in measured(tmp_path / "x.mat", "--const", 2047).notes)


# Ground truth in another file


def write_test_h5(path: Path, images: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, image in images.items():
            file[name] = image
    return path


def small(gt: np.ndarray) -> dict[str, np.ndarray]:
    ms = gt.reshape(len(gt), C, H // 4, 4, W // 4, 4).mean((3, 5))
    lms = interp23(torch.from_numpy(ms), 4).numpy()
    return {"gt": gt, "ms": ms, "lms": lms, "pan": gt.mean(1, keepdims=True)}


@pytest.mark.parametrize("kind", ["h5", "h5 of gt alone", "mat", "mat GT", "npz", "npy"])
@pytest.mark.parametrize("first", [0, 1])
def test_sr_only_results_are_measured_against_the_test_set(tmp_path, kind, first):
    """What the published networks write: output_mulExm_<i>.mat with sr alone, and gt in the H5 of the test set."""
    sr, gt = pair(11)
    (tmp_path / "out").mkdir()
    for i in range(11):
        savemat(tmp_path / f"out/output_mulExm_{i + first}.mat", {"sr": sr[i].transpose(1, 2, 0)})
    truth = tmp_path / f"truth.{kind.split()[0]}"
    if kind == "h5":
        write_test_h5(truth, small(gt))
    elif kind.startswith("h5"):
        write_test_h5(truth, {"gt": gt})
    elif kind.startswith("mat"):
        savemat(truth, {"GT" if "GT" in kind else "gt": gt})
    elif kind == "npz":
        np.savez(truth, gt=gt)
    else:
        np.save(truth, gt)
    result = measured(tmp_path / "out", "--gt", truth, "--const", 2047)
    assert result.names == list(range(first, 11 + first))
    assert_scores(result, sr, gt)


def test_sr_only_results_at_full_resolution_take_their_inputs_from_the_test_set(tmp_path):
    sr, gt = pair(2)
    inputs = {k: v for k, v in small(gt).items() if k != "gt"}
    np.save(tmp_path / "sr.npy", sr)
    truth = write_test_h5(tmp_path / "full.h5", inputs)
    result = measured(tmp_path / "sr.npy", "--gt", truth, "--sensor", "QB")
    tensors = {k: torch.from_numpy(v.astype(np.float32)) for k, v in inputs.items()}
    expected = metrics.full_resolution(torch.from_numpy(sr), **tensors, ratio=4, sensor="QB")
    assert result.samples["hqnr"] == pytest.approx(expected["hqnr"].tolist(), rel=1e-9)


def test_folders_of_any_names_are_compared_in_natural_order(tmp_path):
    sr, gt = pair(11)
    for folder, images in (("sr", sr), ("gt", gt)):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            np.save(tmp_path / folder / f"city{i}_x.npy", image)
    result = measured("--sr", tmp_path / "sr", "--gt", tmp_path / "gt", "--const", 2047, "--json", tmp_path / "r.json")
    assert result.names == [f"city{i}_x" for i in range(11)]
    assert_scores(result, sr, gt)
    (tmp_path / "gt/city10_x.npy").rename(tmp_path / "gt/zoo.npy")
    other = measured("--sr", tmp_path / "sr", "--gt", tmp_path / "gt", "--const", 2047)
    assert any("compared in order" in note for note in other.notes)
    (tmp_path / "gt/zoo.npy").unlink()
    refused("as many images", "--sr", tmp_path / "sr", "--gt", tmp_path / "gt", "--const", 2047)


# GeoTIFF


def write_tif(path: Path, image: np.ndarray, pixel: float, corner: float = 0.0, nodata: float | None = None) -> Path:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "count": len(image), "height": image.shape[1], "width": image.shape[2]}
    place = rasterio.Affine(pixel, 0, 500000 + corner, 0, -pixel, 4000000)
    with rasterio.open(
        path, "w", dtype=image.dtype.name, crs="EPSG:32633", transform=place, nodata=nodata, **profile
    ) as file:
        file.write(image)
    return path


def test_geotiff_against_geotiff(tmp_path):
    sr, gt = (x[0].astype(np.uint16) for x in pair(1))
    files = [write_tif(tmp_path / f"{n}.tif", x, 2.0) for n, x in (("sr", sr), ("gt", gt))]
    assert_scores(measured("--sr", files[0], "--gt", files[1], "--const", 2047), sr[None] * 1.0, gt[None] * 1.0)
    moved = write_tif(tmp_path / "moved.tif", gt, 2.0, corner=8.0)
    refused("on the ground of", "--sr", files[0], "--gt", moved, "--const", 2047)


def test_pixels_without_data_do_not_count(tmp_path):
    sr, gt = (x[0] for x in pair(1))
    holed = gt.copy()
    holed[:, :32, :32] = -9999
    files = write_tif(tmp_path / "sr.tif", sr, 2.0), write_tif(tmp_path / "gt.tif", holed, 2.0, nodata=-9999)
    result = measured("--sr", files[0], "--gt", files[1], "--const", 2047)
    mask = np.ones((H, W), bool)
    mask[:32, :32] = False
    psnr = [10 * np.log10(2047**2 / ((s - g)[mask] ** 2).mean()) for s, g in zip(sr, gt, strict=True)]
    assert result.samples["psnr"][0] == pytest.approx(np.mean(psnr), rel=1e-9)


def test_geotiff_at_full_resolution_is_cut_to_blocks(tmp_path):
    """The result lies on the ground of ms and pan; 80 x 112 pixels are cut to 64 x 96."""
    rng = np.random.default_rng(1)
    ms = (rng.random((C, 20, 28)) * 1500 + 100).astype(np.uint16)
    sr, pan = (rng.random((n, 80, 112)) * 1500 + 100 for n in (C, 1))
    sr, pan = sr.astype(np.uint16), pan.astype(np.uint16)
    files = {n: write_tif(tmp_path / f"{n}.tif", x, p) for n, x, p in (("sr", sr, 1), ("pan", pan, 1), ("ms", ms, 4))}
    places = ("--sr", files["sr"], "--ms", files["ms"], "--pan", files["pan"], "--sensor", "QB")
    result = measured(*places)
    assert any("64 x 96" in note for note in result.notes)
    corners = Geometry.corners(4)
    lms = interpolate(torch.from_numpy(ms.astype(float))[None], corners, (64, 96))
    cut = {"sr": sr[None, :, :64, :96], "ms": ms[None, :, :16, :24], "pan": pan[None, :, :64, :96]}
    expected = metrics.full_resolution(**cut, lms=lms, ratio=4, sensor="QB", geometry=corners)
    for name, value in expected.items():
        assert result.samples[name] == pytest.approx(value.tolist(), rel=1e-5), name  # 16 bits are read as float32
    refused("--ms and --pan together", *places[:4])
    small_sr = write_tif(tmp_path / "small.tif", sr[:, :64, :96], 1)
    refused("the ground that", "--sr", small_sr, *places[2:])


# Refusals


def test_cells_and_structures_are_named(tmp_path):
    sr, gt = pair(1)
    cell = np.empty((1, 1), object)
    cell[0, 0] = sr[0]
    savemat(tmp_path / "cell.mat", {"sr": cell, "gt": gt})
    refused("it is a cell", tmp_path / "cell.mat", "--const", 2047)
    savemat(tmp_path / "struct.mat", {"gt": {"image": gt}, "sr": sr}, do_compression=True)
    refused("it is a struct", tmp_path / "struct.mat", "--const", 2047)
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:
        file["gt"] = gt.T
        file.create_group("sr")
    with (tmp_path / "v73.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    refused("it is a struct", tmp_path / "v73.mat", "--const", 2047)


def test_what_a_file_holds_instead_is_listed(tmp_path):
    sr, gt = pair(1)
    savemat(tmp_path / "x.mat", {"SR": sr, "GT": gt})
    refused('did you mean "sr"?); it holds SR, GT', tmp_path / "x.mat", "--const", 2047)
    savemat(tmp_path / "y.mat", {"sr": sr})
    refused("give the ground truth with --gt FILE", tmp_path / "y.mat", "--sensor", "QB")
    savemat(tmp_path / "z.mat", {"sr": sr + 1j, "gt": gt})
    refused("real numbers", tmp_path / "z.mat", "--const", 2047)
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" * 40)
    refused("expected images as .mat, .npz, .npy", tmp_path / "x.png", "--const", 2047)
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    refused("save numeric arrays", tmp_path / "o.npy", "--const", 2047)
    refused("name one", "--const", 2047)
    refused("name one", tmp_path / "x.mat", "--sr", tmp_path / "x.mat")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_arrays_are_one_line(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    np.save(path, pair(1)[0]) if suffix == ".npy" else np.savez_compressed(path, sr=pair(1)[0])
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, 200, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, len(whole))] if rng.random() < 0.2 else damaged)
        try:
            read_fused(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_the_json_holds_what_the_notes_say(tmp_path):
    sr, gt = pair()
    write_mat(tmp_path / "x.mat", {"sr": sr, "gt": gt}, info=INFO)
    evaluate.run(parse("evaluate", [str(tmp_path / "x.mat"), "--json", str(tmp_path / "r.json")]))
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["sensor"], content["divisor"], content["ratio"], content["weights"]) == ("QB", 2047, 4, {})
    assert content["notes"] == ["From the file: sensor QB, const 2047, ratio 4."]
    assert {len(row["per_sample"]) for row in content["scores"]["x"].values()} == {B}


def test_further_indices_and_a_border(tmp_path, capsys):
    """--indices adds columns, --cut leaves the border out, in every table and with the values of the functions."""
    rng = np.random.default_rng(0)
    gt = rng.random((1, 4, 96, 96)) * 2047
    sr = np.clip(gt + rng.normal(0, 20, gt.shape), 0, 2047)
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    found = evaluate.evaluate(
        parse("evaluate", [str(tmp_path / "x.mat"), "--const", "2047", "--indices", "rmse", "cc", "--cut", "21"])
    ).samples
    inner = (slice(None), slice(None), slice(20, -21), slice(20, -21))
    assert found["rmse"][0] == pytest.approx(np.sqrt(((sr - gt)[inner] ** 2).mean()), rel=1e-9)
    bands = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(sr[inner][0], gt[inner][0], strict=True)]
    assert found["cc"][0] == pytest.approx(np.mean(bands), rel=1e-9)


def test_nodata_leaves_pixels_out(tmp_path):
    """Pixels marked in gt count nowhere: the result is that of the rest, whatever sr has there."""
    rng = np.random.default_rng(0)
    gt = rng.random((1, 4, 64, 96)) * 2000 + 40
    sr = gt + rng.normal(0, 20, gt.shape)
    cut = {"sr": sr[..., 32:].clip(0, 2047), "gt": gt[..., 32:]}
    marked = {"sr": sr.clip(0, 2047), "gt": gt.copy()}
    marked["gt"][..., :32] = 0
    marked["sr"][..., :32] = 1234
    found = []
    for name, images, flags in (("cut", cut, []), ("marked", marked, ["--nodata", "0"])):
        savemat(tmp_path / f"{name}.mat", images)
        options = parse("evaluate", [str(tmp_path / f"{name}.mat"), "--const", "2047", *flags])
        found.append(evaluate.evaluate(options).samples)
    for index in ("sam", "ergas", "psnr", "qn"):
        assert found[1][index][0] == pytest.approx(found[0][index][0], rel=1e-9), index


def write_mask(path: Path, valid: np.ndarray) -> Path:
    """Write a mask as its suffix says; a .mat holds 8-bit numbers, as MATLAB users save them."""
    if path.suffix == ".npy":
        np.save(path, valid)
    elif path.suffix == ".mat":
        savemat(path, {"valid": 255 * valid.astype(np.uint8), "note": "drawn by hand"})
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["mask"] = valid
    else:
        write_tif(path, valid[None].astype(np.uint8), 1.0)
    return path


@pytest.mark.parametrize("kind", [".npy", ".mat", ".h5", ".tif"])
def test_a_mask_leaves_pixels_out(tmp_path, kind):
    """Pixels outside the mask count nowhere: the result is that of the rest, whatever the images have there."""
    sr, gt = pair(1)
    savemat(tmp_path / "cut.mat", {"sr": sr[..., 32:], "gt": gt[..., 32:]})
    sr[..., :32] = np.nan
    gt[:, 0, :, :32] = 7
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    valid = np.ones((H, W), dtype=bool)
    valid[:, :32] = False
    found = measured(tmp_path / "x.mat", "--const", 2047, "--mask", write_mask(tmp_path / f"m{kind}", valid))
    expected = measured(tmp_path / "cut.mat", "--const", 2047)
    for index in ("sam", "ergas", "scc", "qn", "qave", "psnr", "ssim"):
        tolerance = 0.02 if index == "scc" else 1e-9  # a crop has zeros outside, a mask leaves its neighbours out
        assert found.samples[index][0] == pytest.approx(expected.samples[index][0], rel=tolerance), index
    assert found.notes == expected.notes


def test_a_mask_for_each_sample_and_one_for_all(tmp_path):
    sr, gt = pair()
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    valid = np.random.default_rng(1).random((B, 1, H, W)) > 0.001
    np.save(tmp_path / "each.npy", valid)
    np.save(tmp_path / "one.npy", valid[1, 0])
    each = measured(tmp_path / "x.mat", "--const", 2047, "--mask", tmp_path / "each.npy").samples
    one = measured(tmp_path / "x.mat", "--const", 2047, "--mask", tmp_path / "one.npy").samples
    expected = metrics.reduced_resolution(sr, gt, ratio=4, const=2047, mask=valid)
    for index, values in expected.items():
        assert each[index] == pytest.approx(values.tolist(), rel=1e-9), index
        assert one[index][1] == pytest.approx(values[1].item(), rel=1e-9), index
        assert one[index][0] != pytest.approx(values[0].item(), rel=1e-9), index


def test_a_mask_at_full_resolution_and_with_nodata(tmp_path):
    rng = np.random.default_rng(0)
    lms = rng.random((1, 4, 64, 96)) * 1500 + 100
    images = {"sr": lms + 5, "lms": lms, "ms": lms[..., 2::4, 2::4], "pan": lms.mean(1, keepdims=True)}
    images["lms"] = lms.copy()
    images["lms"][..., :9, :9] = 0
    savemat(tmp_path / "x.mat", images)
    valid = np.ones((64, 96), dtype=bool)
    valid[40:, 40:] = False
    np.save(tmp_path / "m.npy", valid)
    found = measured(tmp_path / "x.mat", "--sensor", "QB", "--mask", tmp_path / "m.npy", "--nodata", 0).samples
    valid[:9, :9] = False
    expected = metrics.full_resolution(**images, ratio=4, sensor="QB", mask=valid[None, None])
    for index, values in expected.items():
        assert found[index] == pytest.approx(values.tolist(), rel=1e-9), index


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("m.npy", np.ones((H, W - 1), bool), "expected a mask of 64 x 96 pixels, the size of sr"),
        ("m.npy", np.ones((2, H, W), bool), "expected one mask, or one for each of the 3 samples"),
        ("m.npy", np.ones(H * W, bool), "it holds no array"),
        ("m.npy", np.zeros((H, W), bool), "is 0 everywhere, so that no pixel counts"),
        ("m.npy", np.arange(H * W).reshape(H, W), "expected a mask of 0 (missing) and one other value (valid)"),
        ("m.npy", np.full((H, W), np.nan), "expected a mask of 0 (missing) and one other value (valid)"),
        ("m.npz", {"a": np.ones((H, W)), "b": np.ones((H, W))}, "as the variable mask or valid, it holds a, b"),
        ("m.png", np.ones((H, W), np.uint8), "expected a mask as .mat"),
        ("none.npy", None, "is not there; name a file"),
    ],
)
def test_what_is_no_mask_is_one_line(tmp_path, name, mask, message):
    sr, gt = pair()
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    if isinstance(mask, dict):
        np.savez(tmp_path / name, **mask)
    elif mask is not None:
        with (tmp_path / name).open("wb") as file:
            np.save(file, mask)
    refused(message, tmp_path / "x.mat", "--const", 2047, "--mask", tmp_path / name)


def test_notes_on_flat_bands_see_valid_pixels_only(tmp_path):
    """A band that is flat where pixels count is named; blocks with a missing pixel are not."""
    sr, gt = pair(1)
    gt[:, 1], sr[:, 1] = 500, sr[:, 1]
    gt[:, 1, :, :3] = 9
    valid = np.ones((H, W), dtype=bool)
    valid[:, :3] = False
    np.save(tmp_path / "m.npy", valid)
    savemat(tmp_path / "x.mat", {"sr": sr, "gt": gt})
    notes = measured(tmp_path / "x.mat", "--const", 2047, "--ratio", 4, "--mask", tmp_path / "m.npy").notes
    alive = [0, 2, 3]
    rest = metrics.q2n(sr[:, alive], gt[:, alive], const=2047, mask=valid[None, None]).item()
    assert notes == [
        f"Sample 1: flat band 2 of gt; Q2n is {0:.6f} with it, {rest:.6f} over the other bands.",
    ]


def test_coregistration_on_the_command_line(tmp_path):
    rng = np.random.default_rng(0)
    pan = rng.random((1, 1, 128, 128)) * 1500 + 200
    sr = pan * np.array([1, 0.7, 0.5])[:, None, None]
    images = {"sr": sr, "lms": sr, "ms": ndimage.uniform_filter(sr, (0, 0, 4, 4))[..., 1::4, 3::4], "pan": pan}
    savemat(tmp_path / "x.mat", images)
    flags = ["--sensor", "none", "--indices", "r_sam", "r_ergas"]
    found = measured(tmp_path / "x.mat", *flags, "--coregister").samples
    expected = metrics.full_resolution(**images, ratio=4, sensor="none", extra="r_sam,r_ergas", coregister=True)
    assert found["r_ergas"] == pytest.approx(expected["r_ergas"].tolist(), rel=1e-9)
    assert measured(tmp_path / "x.mat", *flags).samples["r_ergas"][0] > 1.1 * found["r_ergas"][0]
    refused("expected r_q2n, r_sam or r_ergas among the indices", tmp_path / "x.mat", *flags[:2], "--coregister")
    savemat(tmp_path / "y.mat", {"sr": sr, "gt": sr + 1})
    refused("expected r_q2n, r_sam or r_ergas", tmp_path / "y.mat", "--const", 2047, "--coregister")
