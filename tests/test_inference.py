"""Fusing from the command line: what comes out is what MATLAB reads, and bad input is one line."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from scipy.io import loadmat
from small_files import HMIF, write_h5, write_test_set

import lemamba
from lemamba.commands import fuse as inference
from lemamba.commands import parse
from lemamba.commands.options import FuseOptions
from lemamba.commands.rows import chosen_methods
from lemamba.engine.fusing.tiling import Tiling
from lemamba.engine.weights.files import save_weights
from lemamba.model import build_model
from lemamba.utils.command_line import parse_options
from lemamba.utils.errors import UserError

TINY = {"width": 8, "ssm_enc_blk_nums": [1, 1, 1], "ssm_dec_blk_nums": [1, 1, 1]}
SIZES = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}


@pytest.fixture
def run(tmp_path):
    """A weight file of a small LE-Mamba that says what it is, as training writes it."""
    network = build_model("LEMamba", **SIZES, **TINY)
    path = tmp_path / "net.safetensors"
    meta = {"model": {"name": "LEMamba", "args": {**SIZES, **TINY, "ratio": 4}}, "data": {"dataset": "ikonos"}}
    save_weights(path, network.state_dict(), meta)
    return path, network.eval()


def test_mat_holds_the_network_s_result(tmp_path, run, capsys):
    """One .mat, (B, C, H, W) float32 in digital numbers; sr is the network's output, clipped and multiplied back."""
    weights, network = run
    data = write_test_set(tmp_path / "test.h5")
    out = tmp_path / "out" / "sr.mat"
    arguments = ["--weights", str(weights), "--data", str(data), "--dataset", "ikonos", "--out", str(out)]
    assert inference.run(parse("fuse", [*arguments, "--json", str(tmp_path / "scores.json"), "--device", "cpu"])) == 0

    mat = loadmat(out)
    info = {k.removeprefix("info_"): mat[k].item() for k in mat if k.startswith("info_")}
    assert info == {"sensor": "IKONOS", "divisor": 2047, "ratio": 4, "guide": "PAN"}
    assert {k for k in mat if not k.startswith(("__", "info_"))} == {"sr", "gt", "ms", "lms", "pan"}
    with h5py.File(data) as file:
        np.testing.assert_allclose(mat["gt"], file["gt"][:], rtol=1e-6)
        scaled = {k: torch.from_numpy(file[k][:] / 2047).float() for k in ("ms", "lms", "pan")}
    with torch.inference_mode():
        expected = network(**scaled).clamp(0, 1) * 2047
    assert mat["sr"].dtype == np.float32 and mat["sr"].shape == (2, 4, 64, 64)
    np.testing.assert_allclose(mat["sr"], expected.numpy(), atol=2e-2)

    report = json.loads((tmp_path / "scores.json").read_text())
    scores = report["scores"]
    assert (report["file"], report["sensor"], report["divisor"]) == ("test.h5", "IKONOS", 2047)
    assert list(report["weights"]) == ["LEMamba"] and len(report["weights"]["LEMamba"]) == 64
    assert set(scores) == {"EXP", "LEMamba"} and set(scores["EXP"]) >= {"sam", "ergas", "psnr", "qn"}
    picture = out.parent / "sample_0.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "sr.mat" in capsys.readouterr().out


def test_exp_scores_itself_the_same(tmp_path):
    """The classical method EXP returns lms, so both rows of the table agree and psnr matches a direct formula."""
    data, report = write_test_set(tmp_path / "test.h5", count=1), tmp_path / "scores.json"
    arguments = ["--arch", "exp", "--data", str(data), "--dataset", "ikonos", "--out", str(tmp_path / "x.mat")]
    inference.run(parse("fuse", [*arguments, "--json", str(report), "--pictures", "0"]))
    mat, scores = loadmat(tmp_path / "x.mat"), json.loads(report.read_text())["scores"]
    np.testing.assert_array_equal(mat["sr"], mat["lms"])
    error = ((mat["sr"].astype(float) - mat["gt"]) / 2047) ** 2
    assert scores["EXP"]["psnr"]["mean"] == pytest.approx((-10 * np.log10(error.mean((0, 2, 3)))).mean(), rel=1e-6)
    assert not list(tmp_path.glob("*.png"))


def test_a_wrong_divisor_is_named_instead_of_numbers_that_look_right(tmp_path, capsys):
    data = write_test_set(tmp_path / "test.h5", count=1)
    arguments = ["--arch", "EXP", "--data", str(data), "--sensor", "none", "--out", str(tmp_path / "x.mat")]
    assert inference.run(parse("fuse", [*arguments, "--pictures", "0", "--divisor", "1"])) == 0
    assert "--divisor 2047" in capsys.readouterr().out
    assert inference.run(parse("fuse", [*arguments, "--pictures", "0"])) == 0  # taken from the data, and said
    assert "by 2047" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "sensor"), [((), "IKONOS"), (("--sensor", "QB"), "QB")])
def test_a_classical_method_gets_the_sensors_gains(tmp_path, words, sensor):
    """The filter of MTF-GLP is matched to the data set's sensor, or to the one that is named."""
    data, out = write_test_set(tmp_path / "test.h5", count=1), tmp_path / "x.mat"
    inference.run(
        parse("fuse", ["--arch", "MTF-GLP", "--data", str(data), "--dataset", "ikonos", *words, "--out", str(out)])
    )
    mat = {k: torch.from_numpy(v) for k, v in loadmat(out).items() if not k.startswith(("__", "info_"))}
    for name in ("IKONOS", "QB"):
        expected = build_model("MTF-GLP", **SIZES, sensor=name)(mat["ms"], mat["lms"], mat["pan"])
        assert torch.allclose(mat["sr"], expected, rtol=1e-4, atol=0.05) == (name == sensor)


def test_results_go_where_the_matlab_package_looks_for_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for with_gt in (True, False):
        data = write_test_set(tmp_path / "test.h5", count=1, with_gt=with_gt)
        inference.run(parse("fuse", ["--arch", "exp", "--data", str(data), "--dataset", "ikonos", "--pictures", "1"]))
    folder = tmp_path / "visualized_img" / "EXP_ikonos"
    assert sorted(p.name for p in folder.iterdir()) == [
        "data_EXP_ikonos_ref.mat",
        "data_EXP_ikonos_unref.mat",
        "full_sample_0.png",
        "sample_0.png",
    ]


def test_no_run_replaces_the_images_of_another_and_a_replaced_file_is_named(tmp_path, run, monkeypatch, capsys):
    """The path of a result names the run; weights of a run that are not its best ones are named as well."""
    weights, _ = run
    monkeypatch.chdir(tmp_path)
    data = write_test_set(tmp_path / "test.h5", count=1)
    for name in ("first", "second"):
        folder = tmp_path / "log_file/demo" / name
        (folder / "weights").mkdir(parents=True)
        (folder / "config.yaml").touch()
        for kind in ("best", "last"):
            shutil.copy(weights, folder / f"weights/{kind}.safetensors")
    line = ["--data", str(data), "--dataset", "ikonos", "--pictures", "0", "--device", "cpu", "--weights"]
    last = "log_file/demo/second/weights/last.safetensors"
    for given in ("demo/first", "demo/second", last, str(weights)):
        inference.run(parse("fuse", [*line, given]))
    assert "replaces" not in capsys.readouterr().out
    (found,) = (tmp_path / "visualized_img").iterdir()
    places = sorted(str(p.parent.relative_to(found)) for p in found.rglob("*.mat"))
    assert places == sorted(["demo/first", "demo/second", "demo/second/last", weights.stem])
    inference.run(parse("fuse", [*line, "demo/first"]))
    assert "note: replaces visualized_img/" in capsys.readouterr().out


def test_per_image_and_tiles(tmp_path, run):
    """One file per image in H x W x C; tiles of the whole image's size change nothing."""
    weights, _ = run
    data = write_test_set(tmp_path / "test.h5")
    base = ["--weights", str(weights), "--data", str(data), "--pictures", "0", "--device", "cpu"]
    inference.run(parse("fuse", [*base, "--out", str(tmp_path / "whole.mat")]))
    inference.run(parse("fuse", [*base, "--out", str(tmp_path / "images"), "--per_image", "--tile", "64"]))
    inference.run(parse("fuse", [*base, "--out", str(tmp_path / "tiled.mat"), "--tile", "32", "--overlap", "16"]))
    whole, tiled = loadmat(tmp_path / "whole.mat")["sr"], loadmat(tmp_path / "tiled.mat")["sr"]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["output_mulExm_0.mat", "output_mulExm_1.mat"]
    one = loadmat(tmp_path / "images" / "output_mulExm_1.mat")
    np.testing.assert_array_equal(one["sr"], whole[1].transpose(1, 2, 0))
    assert one["pan"].shape[:2] == (64, 64)
    assert np.isfinite(tiled).all() and not np.array_equal(tiled, whole)


def test_every_sample_of_a_hyperspectral_file_is_fused(tmp_path):
    """Files of the HMIF family under their own keys: all samples, not one of them, and lms as the file has it."""
    cube = np.random.default_rng(0).random((3, 31, 32, 32))
    ms = cube[..., 2::4, 2::4]
    data = {"gt": cube, "ms": ms, "lms": ms.repeat(4, -1).repeat(4, -2), "pan": cube[:, [25, 15, 5]]}
    write_h5(tmp_path / "test_cave_x4.h5", data, rename=HMIF)
    arguments = ["--arch", "EXP", "--dataset", "cave_x4", "--data_root", str(tmp_path), "--pictures", "0"]
    inference.run(parse("fuse", [*arguments, "--out", str(tmp_path / "x.mat"), "--json", str(tmp_path / "x.json")]))
    mat = loadmat(tmp_path / "x.mat")
    np.testing.assert_allclose(mat["sr"], data["lms"], rtol=1e-6)
    np.testing.assert_allclose(mat["pan"], data["pan"], rtol=1e-6)
    error = ((data["lms"] - cube) ** 2).mean((2, 3))
    psnr = json.loads((tmp_path / "x.json").read_text())["scores"]["EXP"]["psnr"]
    assert psnr["mean"] == pytest.approx((-10 * np.log10(error)).mean(), rel=1e-5)


def test_full_resolution_is_measured_without_gt(tmp_path):
    data, report = write_test_set(tmp_path / "full.h5", count=1, with_gt=False), tmp_path / "scores.json"
    arguments = ["--arch", "brovey", "--data", str(data), "--dataset", "ikonos", "--out", str(tmp_path / "x.mat")]
    inference.run(parse("fuse", [*arguments, "--json", str(report), "--pictures", "1"]))
    assert set(json.loads(report.read_text())["scores"]["Brovey"]) >= {"d_lambda_k", "d_s", "hqnr"}
    assert "gt" not in loadmat(tmp_path / "x.mat")
    assert [p.name for p in tmp_path.glob("*.png")] == ["full_sample_0.png"]  # not over those of the reduced one


def test_images_for_which_no_index_is_defined_are_fused_all_the_same(tmp_path, capsys):
    """Full resolution is measured on multiples of 32 only; a scene of 48 pixels is fused, and that is said."""
    data = write_test_set(tmp_path / "full.h5", size=48, with_gt=False)
    arguments = ["--arch", "EXP", "--data", str(data), "--dataset", "ikonos", "--out", str(tmp_path / "x.mat")]
    assert inference.run(parse("fuse", [*arguments, "--pictures", "0"])) == 0
    assert "not measured: " in capsys.readouterr().out and loadmat(tmp_path / "x.mat")["sr"].shape[-1] == 48
    with pytest.raises(UserError, match="multiples of 32"):  # numbers that were asked for are not left out silently
        inference.run(parse("fuse", [*arguments, "--pictures", "0", "--json", str(tmp_path / "scores.json")]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "pannet"], "needs --weights"),
        (["--arch", "lemmaba"], "did you mean"),
        (["--weights", "{weights}", "--arch", "PanNet"], "holds weights of LEMamba"),
        (["--weights", "{tmp}/none.safetensors"], "weight file or a run"),
        (["--weights", "{weights}", "--tile", "30"], "multiples of the ratio"),
        (["--weights", "{weights}", "--tile", "6", "--overlap", "40"], "try --tile 4 --overlap 0"),
        (["--weights", "{weights}", "--tile", "0"], "--tile: expected at least 1"),
        (["--weights", "{weights}", "--overlap", "-4"], "--overlap: expected at least 0"),
        (["--arch", "EXP", "--pictures", "-1"], "--pictures: expected at least 0"),
        (["--arch", "EXP", "--device", "toaster"], "--device cpu"),
        (["--arch", "EXP", "--device", "meta"], "--device cpu"),
        (["--arch", "EXP", "--out", "{tmp}/test.h5/x.mat"], 'test.h5" is a file, not a folder'),
        (["--arch", "EXP", "--out", "{tmp}/x.png"], "end in .mat"),
        (["--arch", "EXP", "--out", "{tmp}/folder.mat"], "it is a folder"),
        (["--arch", "EXP", "--json", "{tmp}/test.h5/x.json"], "is a file, not a folder"),
        (["--arch", "EXP", "--device", "cuda:99"], "--device cpu"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, run, arguments, words):
    weights, _ = run
    data = write_test_set(tmp_path / "test.h5", count=1)
    (tmp_path / "folder.mat").mkdir()
    filled = [a.format(weights=weights, tmp=tmp_path) for a in arguments]
    out = [] if "--out" in filled else ["--out", str(tmp_path / "out.mat")]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=words) as error:
        inference.run(parse("fuse", ["--pictures", "0", *filled, "--data", str(data), "--dataset", "ikonos", *out]))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_weights_of_another_number_of_bands_are_refused(tmp_path, run):
    weights, _ = run
    data = tmp_path / "test.h5"
    with h5py.File(data, "w") as file:
        for key, shape in {"ms": (1, 8, 16, 16), "lms": (1, 8, 64, 64), "pan": (1, 1, 64, 64)}.items():
            file[key] = np.full(shape, 500.0)
    with pytest.raises(UserError, match="img_channel 4, the data have 8"):
        inference.run(parse("fuse", ["--weights", str(weights), "--data", str(data), "--dataset", "wv3"]))


def test_numbers_that_were_divided_before_are_refused(tmp_path, run):
    """In [0, 1] and divided by 2047 once more, a scene is black to a network: nonsense, where nothing would fail."""
    weights, _ = run
    data = write_test_set(tmp_path / "test.h5")
    with h5py.File(data, "r+") as file:
        for key in list(file):
            file[key][:] = file[key][:] / 2047
    arguments = ["--weights", str(weights), "--data", str(data), "--dataset", "ikonos", "--pictures", "0"]
    with pytest.raises(UserError, match="would be divided by 2047; give --divisor 1"):
        inference.run(parse("fuse", [*arguments, "--out", str(tmp_path / "x.mat")]))
    assert inference.run(parse("fuse", [*arguments, "--divisor", "1", "--out", str(tmp_path / "x.mat")])) == 0


def test_older_spellings_of_flags_mean_the_same():
    old = ["--batch", "3", "--precision", "bf16", "--device", "cpu"]
    new = ["-b", "3", "--mixed_precision", "bf16", "--device", "cpu"]
    assert parse_options(FuseOptions, old) == parse_options(FuseOptions, new)
    assert parse_options(FuseOptions, ["--precision", "float32"]) == FuseOptions()
    assert FuseOptions().tiling(256) == Tiling(256) and FuseOptions(tile=64).tiling(256).tile == 64


def test_data_and_a_name_of_ones_own_go_together(tmp_path):
    """Its sensor comes from the file: the name is in no table."""
    data = write_test_set(tmp_path / "test_mine_multiExm1.h5")
    with h5py.File(data, "r+") as file:
        file.attrs["sensor"] = "GeoEye1"
    arguments = ["--arch", "EXP", "--data", str(data), "--data_root", str(tmp_path), "--dataset", "mine"]
    dataset, name = inference.open_data(parse_options(FuseOptions, arguments))
    assert (dataset.facts.sensor, name) == ("GeoEye1", "mine")


ADAPTING = """
import torch
from torch import nn
from lemamba.utils.registry import register_model

@register_model("Adapting", needs_weights=False, trained=False, adapts=True)
class Adapting(nn.Module):
    def __init__(self, img_channel, condition_channel, out_channel, *, ratio=4):
        super().__init__()
        self.mix = nn.Conv2d(condition_channel, out_channel, 1)

    def forward(self, ms, lms, pan):
        optimizer = torch.optim.Adam(self.mix.parameters(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            (self.mix(pan) - lms).square().mean().backward()
            optimizer.step()
        return lms + pan - pan.mean((2, 3), keepdim=True)
"""


def test_a_method_that_trains_on_the_images_needs_no_weights(tmp_path, monkeypatch):
    """By its traits alone: a file in a folder of one's own; it is also a method for boards and arrays."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/adapting.py").write_text(ADAPTING)
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path / "own"))
    data, out = write_test_set(tmp_path / "test.h5", count=1), tmp_path / "x.mat"
    arguments = ["--data", str(data), "--dataset", "ikonos", "--pictures", "0", "--device", "cpu"]
    assert inference.run(parse("fuse", ["--arch", "adapting", *arguments, "--out", str(out)])) == 0
    mat = loadmat(out)
    expected = mat["lms"] + mat["pan"] - mat["pan"].mean((2, 3), keepdims=True)
    np.testing.assert_allclose(mat["sr"], expected.clip(0, 2047), atol=1e-2)
    assert "Adapting" in chosen_methods("learned", "pansharpening", 4)
    sr = lemamba.fuse(mat["ms"][0], mat["pan"][0], "Adapting", sensor="IKONOS", device="cpu")
    assert sr.shape == (4, 64, 64) and np.isfinite(sr).all()
