"""The front door for arrays: what goes in comes out, whatever it is made of, and wrong input is one line."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_files import PIXEL, smooth, tif, write_test_set

import lemamba
from lemamba.commands import api, parse
from lemamba.engine.weights.files import save_weights
from lemamba.model import build_model
from lemamba.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}


@pytest.fixture
def weights(tmp_path):
    """A weight file of a small PNN, as a training on WorldView data of 11 bits writes it."""
    torch.manual_seed(0)
    network = build_model("PNN", **SIZES)
    meta = {"model": {"name": "PNN", "args": {**SIZES, "ratio": 4}}, "data": {"sensor": "IKONOS", "divisor": 2047}}
    save_weights(tmp_path / "net.safetensors", network.state_dict(), meta)
    return tmp_path / "net.safetensors"


@pytest.fixture
def scene():
    """MS (4, 24, 32) and PAN (96, 128), uint16."""
    return smooth(24, 32, 4), smooth(96, 128, 1, seed=1)[0]


def test_the_examples_in_the_docstrings_run():
    results = doctest.testmod(api)
    assert results.attempted >= 6 and not results.failed


def test_importing_lemamba_loads_no_torch():
    code = "import sys, lemamba; assert 'torch' not in sys.modules; lemamba.fuse; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_arrays_give_what_the_command_writes_for_the_same_geotiff_pair(tmp_path, scene, weights):
    """The same border, divisor, clipping and rounding; tiles and whole image."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
    from lemamba.commands import fuse as command

    paths = [tif(tmp_path / "ms.tif", scene[0], pixel=4 * PIXEL), tif(tmp_path / "pan.tif", scene[1][None])]
    pair = ["--ms", str(paths[0]), "--pan", str(paths[1]), "--out", str(tmp_path / "sr.tif"), "--device", "cpu"]
    cases = [
        (["--weights", str(weights)], {"weights": weights}),
        (["--weights", str(weights), "--tile", "48"], {"weights": weights, "tile": 48}),
        (["--arch", "MTF-GLP", "--sensor", "QB"], {"method": "MTF-GLP", "sensor": "QB"}),
        (["--arch", "GSA"], {"method": "GSA"}),
    ]
    for flags, arguments in cases:
        command.run(parse("fuse", [*pair, *flags]))
        with rasterio.open(tmp_path / "sr.tif") as file:
            expected = file.read()
        found = lemamba.fuse(*scene, device="cpu", offset=1.5, **arguments)
        assert np.abs(found.astype(int) - expected).max() <= 1 and (found != expected).mean() < 1e-3  # float32


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int64", "float32", "float64"])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_kind_dtype_and_axes_are_those_of_ms(scene, dtype, batch):
    ms, pan = (np.clip(image // 8, 0, 250).astype(dtype) for image in scene)
    if batch:
        ms, pan = np.stack([ms] * batch), np.stack([pan[None]] * batch)
    sr = lemamba.fuse(ms, pan, "Brovey")
    assert isinstance(sr, np.ndarray) and (sr.dtype, sr.shape) == (ms.dtype, (*ms.shape[:-2], 96, 128))
    tensor = lemamba.fuse(torch.from_numpy(ms), torch.from_numpy(pan), "Brovey")
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.from_numpy(ms).dtype
    np.testing.assert_array_equal(tensor.numpy(), sr)
    if dtype != "float64":  # rounded to the nearest number of the type
        exact = lemamba.fuse(ms.astype("float64"), pan.astype("float64"), "Brovey")
        info = np.iinfo(dtype) if "int" in dtype else None
        wanted = np.clip(np.rint(exact), info.min, info.max) if info else exact
        np.testing.assert_allclose(sr, wanted, rtol=1e-6)


def test_images_of_a_batch_are_fused_one_by_one(scene):
    """Statistics are those of an image; a guide may have its axis of bands or not."""
    ms, pan = scene
    both = lemamba.fuse(np.stack([ms, ms[:, ::-1]]), np.stack([pan, pan[::-1]])[:, None], "GSA")
    np.testing.assert_array_equal(both[0], lemamba.fuse(ms, pan, "GSA"))
    np.testing.assert_array_equal(both[1], lemamba.fuse(ms[:, ::-1], pan[None, ::-1], "GSA"))


@pytest.mark.parametrize("method", ["Brovey", "GSA", "MTF-GLP-FS", "generic"])
def test_pan_in_other_units_is_matched_image_by_image(scene, method):
    """8-bit MS and 16-bit PAN: a line says so, and the result is that of the same units."""
    ms, pan = (np.stack([x, x]) for x in (scene[0].astype(np.float32) / 40, scene[1][None].astype(np.float32)))
    pan[1] /= 40
    given = {"weights": "generic"} if method == "generic" else {"method": method}
    with pytest.warns(UserWarning, match="PAN is in other units than MS .*: multiplied by 0.02"):
        one, same = lemamba.fuse(ms, pan, **given, sensor="none", divisor=60, device="cpu")
    assert abs(one.mean() / ms.mean() - 1) < 0.02
    if method != "Brovey":  # which follows PAN's brightness where PAN has MS's units
        assert np.sqrt(((one - same) ** 2).mean()) < 0.002 * ms.mean()
    alone = lemamba.fuse(ms[1], pan[1], **given, sensor="none", divisor=60, device="cpu")
    np.testing.assert_allclose(same, alone, rtol=1e-5)


def test_bfloat16_comes_back_as_bfloat16(scene):
    ms, pan = (torch.from_numpy(image.astype("float32") / 2047).bfloat16() for image in scene)
    sr = lemamba.fuse(ms, pan, "EXP")
    assert sr.dtype == torch.bfloat16 and sr.shape == (4, 96, 128)


def test_a_loaded_network_is_called_or_given_to_fuse(scene, weights):
    network = lemamba.load(weights, device="cpu")
    assert not network.training and network.trained_on == {"sensor": "IKONOS", "divisor": 2047}
    inputs = torch.rand(1, 4, 8, 8), torch.rand(1, 4, 32, 32), torch.rand(1, 1, 32, 32)
    assert network(*inputs).shape == (1, 4, 32, 32)
    ms, pan = scene
    np.testing.assert_array_equal(lemamba.fuse(ms, pan, network), lemamba.fuse(ms, pan, weights=weights, device="cpu"))
    lemamba.fuse(ms, pan, network, mixed_precision="bf16", device="cpu")
    assert {p.dtype for p in network.parameters()} == {torch.float32}  # the caller's network is not cast
    lemamba.fuse(ms, pan, network.train())
    assert network.training
    with pytest.raises(UserError, match="the network was trained with img_channel 4, the data have 3"):
        lemamba.fuse(ms[:3], pan, network, sensor="none", divisor=2047)


def test_results_can_be_trained_on(scene):
    """They are ordinary tensors, not those of inference mode."""
    ms, pan = (torch.from_numpy(image.astype("float32")) / 2047 for image in scene)
    weight = torch.ones(1, requires_grad=True)
    (lemamba.fuse(ms, pan, "EXP") * weight).sum().backward()
    assert weight.grad is not None


def test_a_file_that_does_not_say_its_sizes_needs_them(tmp_path):
    torch.save(build_model("PNN", **SIZES).state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match="give bands, guide_bands and ratio"):
        lemamba.load(tmp_path / "net.pth", "PNN")
    assert lemamba.load(tmp_path / "net.pth", "PNN", bands=4, device="cpu").trained_on == {}


def test_the_divisor_is_known_from_the_data_the_sensor_or_the_weights(scene, weights):
    ms, pan = scene
    arguments = {"weights": weights, "device": "cpu"}
    known = lemamba.fuse(ms, pan, **arguments)
    for given in ({"divisor": 2047}, {"sensor": "QB"}):
        np.testing.assert_array_equal(lemamba.fuse(ms, pan, **arguments, **given), known)
    divided = lemamba.fuse((ms / 2047).astype("float32"), (pan / 2047).astype("float32"), **arguments, sensor="QB")
    np.testing.assert_allclose(divided * 2047, known, atol=0.51)
    small_ms, small_pan = (ms // 8).astype("uint8"), (pan // 8).astype("uint8")
    eight = lemamba.fuse(small_ms, small_pan, **arguments)  # 8-bit numbers of the sensor end at 255
    np.testing.assert_array_equal(eight, lemamba.fuse(small_ms, small_pan, **arguments, divisor=255))
    with pytest.warns(UserWarning, match="divided by 1023"):
        lemamba.fuse(ms, pan, **arguments, sensor="GF2")


def test_list_methods_knows_tasks():
    assert {"LEMamba", "GSA"} <= set(lemamba.list_methods())
    assert "GSA" not in lemamba.list_methods("hmif")


MS, PAN = np.ones((4, 8, 8), "uint16"), np.ones((32, 32), "uint16")
NETWORK = build_model("PNN", img_channel=4, condition_channel=1, out_channel=4)


@pytest.mark.parametrize(
    ("ms", "pan", "arguments", "words"),
    [
        (MS[0], PAN, {}, r"expected ms \(C, h, w\) or \(B, C, h, w\), given \(8, 8\)"),
        (MS, PAN[None, None, None], {}, r"expected pan \(H, W\)"),
        (MS[:0], PAN, {}, "expected ms"),
        (MS.transpose(1, 2, 0), PAN, {}, "bands come before rows and columns"),
        (MS, PAN[:30], {}, "given 30 x 32 and 8 x 8"),
        (MS, PAN[:8, :8], {}, "2 to 8 or 16 times as large"),
        (MS, PAN, {"ratio": 2}, "expected ratio 2, the sizes say 4"),
        (MS[None].repeat(2, 0), PAN[None, None].repeat(3, 0), {}, "as many images in pan"),
        (MS.astype(complex), PAN, {}, "integers or floating-point"),
        (np.full((4, 8, 8), np.nan), PAN, {}, "ms holds NaN"),
        (MS, np.full((32, 32), np.inf), {}, "pan holds NaN or infinite"),
        (MS, PAN, {"sensor": "WV3"}, "expected 8 bands for sensor WV3, ms has 4"),
        (MS, PAN, {"sensor": "WV9"}, "unknown sensor"),
        (MS, np.stack([PAN] * 3), {}, "one PAN band"),
        (MS, PAN, {"method": "GSB"}, "did you mean"),
        (MS, PAN, {"method": "PNN"}, "needs --weights"),
        (MS, PAN, {"divisor": -1.0}, "positive divisor"),
        (MS, PAN, {"tile": 10, "method": NETWORK, "divisor": 2.0}, "multiples of the ratio 4"),
        (MS, PAN, {"mixed_precision": "int8"}, "expected a precision"),
        (MS, PAN, {"device": "toaster"}, "device"),
    ],
)
def test_wrong_input_is_one_line(ms, pan, arguments, words):
    with pytest.raises(UserError, match=words) as error:
        lemamba.fuse(ms, pan, **({"method": "GSA"} | arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(900, "expected a divisor for uint16 values up to 900, none is known"), (1, "give divisor=1")],
)
def test_a_network_needs_to_know_the_divisor(tmp_path, weights, factor, words):
    """Divided by a wrong number, images are black or white to it, and nothing else would say so."""
    network = lemamba.load(weights, device="cpu")
    if factor > 1:
        network.trained_on = {}
    with pytest.raises(UserError, match=words):
        lemamba.fuse(factor * MS, factor * PAN, network)
    assert lemamba.fuse(factor * MS, factor * PAN, network, divisor=1024).shape == (4, 32, 32)


def test_weights_of_another_number_of_bands_are_refused(weights):
    with pytest.raises(UserError, match="img_channel 4, the data have 3"):
        lemamba.fuse(MS[:3], PAN, weights=weights, sensor="none", divisor=2047)


def test_torch_hub_finds_the_entry_points(scene, weights):
    network = torch.hub.load(str(ROOT), "lemamba", source="local", weights=weights, device="cpu")
    ms, pan = scene
    arguments = {"method": network, "divisor": 2047, "device": "cpu"}
    sr = torch.hub.load(str(ROOT), "fuse", ms, pan, source="local", **arguments)
    np.testing.assert_array_equal(sr, lemamba.fuse(ms, pan, **arguments))


def test_a_command_from_python(tmp_path, capsys, monkeypatch):
    """None for status 0; the environment afterwards is that before; a shell's status 130 is an interrupt."""
    monkeypatch.setenv("LEMAMBA_SCAN", "torch")
    before = {name: value for name, value in os.environ.items() if name.startswith("LEMAMBA_")}
    out = tmp_path / "new.h5"
    write_test_set(tmp_path / "old.h5")
    assert lemamba.run("prepare", "repack", tmp_path / "old.h5", "--out", out, "--quiet") is None
    assert out.is_file() and capsys.readouterr().out == ""
    assert lemamba.run("prepare", "inspect", out) is None
    assert "new.h5" in capsys.readouterr().out
    assert lemamba.run("fuse", "--help") is None
    assert capsys.readouterr().out.startswith("usage: lemamba fuse")
    assert {name: value for name, value in os.environ.items() if name.startswith("LEMAMBA_")} == before
    with pytest.raises(UserError, match='unknown command "fus".*"fuse"'):
        lemamba.run("fus")
    with pytest.raises(UserError, match="--tile"):
        lemamba.run("fuse", "--tile", 0)
    from lemamba.commands import runs

    for status, outcome in ((1, lambda: lemamba.run("runs")), (130, None)):
        monkeypatch.setattr(runs, "run", lambda options, status=status: status)
        if outcome is None:
            with pytest.raises(KeyboardInterrupt):
                lemamba.run("runs")
        else:
            assert outcome() == status


def test_a_picture_shows_each_image_where_it_belongs(monkeypatch):
    """Order, stretch by the ground truth, errors below their results; bands as red, green, blue."""
    drawn = []
    monkeypatch.setattr(api, "panels_picture", drawn.append)
    gt = np.arange(4 * 40 * 40, dtype=np.uint16).reshape(4, 40, 40)
    worse = gt + 9
    results = {"right": gt, "wrong": torch.from_numpy(worse.astype(np.float32))}
    api.show(results, ms=gt[:, ::4, ::4], pan=gt[0], gt=gt[None], rgb=(3, 1, 0))
    ((panels, errors),) = drawn
    assert list(panels) == ["ms", "pan", "right", "wrong", "gt"]
    low, high = np.percentile(gt[3], (1, 99))
    assert panels["gt"][20, 20, 0] == round(255 * (gt[3, 20, 20] - low) / (high - low))
    assert (panels["right"] == panels["gt"]).all() and panels["ms"].shape == (10, 10, 3)
    assert (errors["right, error"] == 0).all() and (errors["wrong, error"] > 0.9).all()
    assert [name for name, picture in errors.items() if picture is None] == ["ms, error", "pan, error", "gt, error"]
    api.show(pan=gt[0])
    api.show(gt)
    assert [list(row) for row in drawn[1] + drawn[2]] == [["pan"], ["sr"]]


def test_a_picture_is_one_of_pillow_which_notebooks_display():
    image = np.random.default_rng(0).random((4, 32, 32))
    picture = lemamba.show(image, gt=image)
    assert picture._repr_png_().startswith(b"\x89PNG") and min(picture.size) > 600  # 2 x 2 panels


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ({}, "expected at least one of sr, ms, pan and gt"),
        ({"sr": np.ones((2, 4, 8, 8))}, "sr holds 2; give one of them"),
        ({"sr": np.ones((8, 8))}, "expected sr"),
        ({"sr": {"gt": np.ones((4, 8, 8))}}, "one is called gt; rename it"),
        ({"sr": np.ones((4, 8, 8)), "ms": np.ones((8, 8, 4))}, "of equal bands, given ms 8, sr 4"),
        ({"sr": np.ones((4, 8, 8)), "gt": np.ones((4, 9, 8))}, "of one size"),
        ({"sr": np.ones((4, 8, 8)), "rgb": (4, 1, 0)}, "bands from 0 to 3"),
        ({"sr": np.full((4, 8, 8), np.nan)}, "finite values, sr holds NaN"),
    ],
)
def test_what_cannot_be_shown_is_one_line(images, says):
    with pytest.raises(UserError, match=says) as raised:
        lemamba.show(**images)
    assert "\n" not in str(raised.value)
