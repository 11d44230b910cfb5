"""GeoTIFF scenes: windows equal the whole, tiles leave no seams, gaps do not bleed, the file keeps what MS says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_files import LEFT, PIXEL, TOP, smooth, tif

from lemamba.commands import fuse as inference
from lemamba.commands import parse
from lemamba.commands.images import fuse_scene
from lemamba.datasets.nodata import RINGS, fill, to_stored
from lemamba.datasets.pair import open_pair
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiles import fuse
from lemamba.engine.fusing.tiling import Tiling
from lemamba.engine.weights.files import save_weights
from lemamba.model import build_model
from lemamba.operators import interpolate
from lemamba.operators.resample import MARGIN
from lemamba.operators.window import cut_windows
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.registry import Traits

rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
ColorInterp = rasterio.enums.ColorInterp
ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


@pytest.fixture
def pair(tmp_path):
    """Paths of a scene of odd size: MS 43 x 59 in 4 bands, PAN 4 times as large."""
    return tif(tmp_path / "ms.tif", smooth(43, 59, 4), pixel=4 * PIXEL), tif(
        tmp_path / "pan.tif", smooth(172, 236, 1, seed=1)
    )


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def run(paths, out, *arguments):
    assert (
        inference.run(parse("fuse", ["--ms", str(paths[0]), "--pan", str(paths[1]), "--out", str(out), *arguments]))
        == 0
    )
    return read(out)


class Local(torch.nn.Module):
    """A network that looks at one pixel of lms and pan and at its MS pixel: tiles must not change it at all."""

    model_name, traits = "Local", Traits()

    def forward(self, ms, lms, pan):
        return 0.5 * lms + 0.2 * pan + 0.1 * ms.repeat_interleave(4, -1).repeat_interleave(4, -2)


def mirrored(ms, ratio, geometry=None):
    """Float64 lms of a whole image whose border is mirrored, corners aligned: what every window has to agree with."""
    geometry = geometry or Geometry.corners(ratio)
    padded = torch.from_numpy(np.pad(ms.astype(np.float64), ((0, 0), (32, 32), (32, 32)), mode="symmetric"))
    size = tuple(n * ratio for n in padded.shape[1:])
    lms = interpolate(padded[None], geometry, size, border="mirror")
    return lms[0, :, 32 * ratio : -32 * ratio, 32 * ratio : -32 * ratio]


@pytest.mark.parametrize("ratio", [2, 3, 4, 6, 8, 16])
def test_lms_of_a_window_is_that_of_the_whole_scene(tmp_path, ratio):
    ms = smooth(31, 40, 2)
    ms_path = tif(tmp_path / "ms.tif", ms, pixel=ratio * PIXEL)
    pan_path = tif(tmp_path / "pan.tif", smooth(31 * ratio, 40 * ratio, 1))
    whole = mirrored(ms, ratio)
    with open_pair(ms_path, pan_path) as scene:
        assert scene.facts.geometry == Geometry.corners(ratio) and scene.size == (31 * ratio, 40 * ratio)
        for r, c, h, w in ((0, 0, *scene.size), (0, 0, 1, 1), (5 * ratio, 30 * ratio + 1, 7, 10), (14, 15, 3, 2)):
            window = scene.window(((r, r + h), (c, c + w)), 5)
            lms = window.crop(window.lms)[0].double()
            torch.testing.assert_close(lms, whole[:, r : r + h, c : c + w], rtol=1e-5, atol=0.02)  # float32
            np.testing.assert_array_equal(window.crop(window.pan)[0], read(pan_path)[:, r : r + h, c : c + w])


def test_margin_takes_in_real_pixels_outside_the_common_ground(tmp_path):
    """MS goes on where PAN ends: no mirror there."""
    ms = smooth(60, 60, 1)
    ms_path = tif(tmp_path / "ms.tif", ms, pixel=2.0)
    pan_path = tif(tmp_path / "pan.tif", smooth(80, 80, 1), left=LEFT + 40, top=TOP - 40)  # MS pixels 20 to 40
    with open_pair(ms_path, pan_path) as scene:
        window = scene.window(((0, 80), (0, 80)), 0)
    torch.testing.assert_close(window.lms[0].double(), mirrored(ms, 4)[:, 80:160, 80:160], rtol=1e-5, atol=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (13, 5), (12, 40)])
def test_scenes_smaller_than_the_margin(tmp_path, size):
    assert min(size) <= MARGIN + 1
    ms_path = tif(tmp_path / "ms.tif", smooth(*size, 4), pixel=2.0)
    paths = ms_path, tif(tmp_path / "pan.tif", smooth(4 * size[0], 4 * size[1], 1))
    sr = run(paths, tmp_path / "out.tif", "--arch", "EXP")
    assert np.abs(sr - mirrored(read(ms_path), 4).numpy()).max() < 0.51


@pytest.mark.parametrize("tile", [(32, 8), (96, 32), (512, 0)])
def test_file_equals_fuse_on_the_whole_image(tmp_path, pair, tile):
    """The written file is `lemamba.engine.fusing.tiles.fuse` of the whole scene with the same tiles, at an odd size."""
    side, overlap = tile
    torch.manual_seed(1)
    network = build_model("PNN", img_channel=4, condition_channel=1, out_channel=4).eval()
    with open_pair(*pair, sensor="IKONOS") as scene:
        grid = scene.grid()
        inputs = grid.read((0, 0, *grid.size))
        expected = fuse(network, *inputs, Tiling(side, overlap)).clamp(0, 1)[0] * scene.facts.divisor
        fuse_scene(Runner(network, CPU, Tiling(side, overlap)), scene, tmp_path / "out.tif")
    assert read(tmp_path / "out.tif").shape == (4, 172, 236)
    # Half a digital number of rounding, and float32.
    assert np.abs(read(tmp_path / "out.tif") - expected.numpy()).max() < 0.501


class Seen(torch.nn.Module):
    """A network that returns ms where a method of the research toolboxes expects it: pixels r/2 + i r."""

    model_name, traits = "Seen", Traits()

    def forward(self, ms, lms, pan):
        sr = torch.zeros_like(lms)
        sr[..., 2::4, 2::4] = ms
        return sr


@pytest.mark.parametrize(("move", "resampled"), [(0.0, True), (-0.25, False), (0.1, True), (0.75, False)])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_networks_see_ms_where_it_lay_in_training(tmp_path, capsys, move, resampled, cut):
    """On a plane, a value says where it lies. PAN is cut so that it begins inside an MS pixel and has an odd size."""
    rows, columns = np.mgrid[:40, :44].astype(float)
    ms = (1000 + 40 * rows + 20 * columns)[None].repeat(2, 0).astype(np.float32)
    ms_path = tif(tmp_path / "ms.tif", ms, pixel=2.0, left=LEFT - move, top=TOP + move)
    pan_path = tif(
        tmp_path / "pan.tif", np.ones((1, 150, 170), np.uint16), left=LEFT + 8 + cut / 2, top=TOP - 8 - cut / 2
    )
    with open_pair(ms_path, pan_path, divisor=1e4) as scene:
        fuse_scene(Runner(Seen(), CPU, Tiling(64)), scene, tmp_path / "out.tif")
        offset, first, (H, W) = scene.facts.geometry.offset, scene.grid().first, scene.size
    assert ("resampled" in capsys.readouterr().out) == resampled
    sr = read(tmp_path / "out.tif")[0]
    assert sr.shape == (H, W)
    y, x = np.nonzero(sr)
    assert set(y % 4) == {(first[0] + 2) % 4} and set(x % 4) == {(first[1] + 2) % 4}
    inner = (y > 16) & (y < H - 16) & (x > 16) & (x < W - 16)
    expected = 1000 + 40 * (y - offset[0]) / 4 + 20 * (x - offset[1]) / 4
    assert inner.sum() > 500 and np.abs(sr[y, x] - expected)[inner].max() < 0.01


@pytest.mark.parametrize("tile", [(32, 0), (48, 16), (100, 24)])
def test_there_are_no_seams(tmp_path, pair, tile):
    """For a network that looks at single pixels, tiles and whole give the same digital numbers."""
    with open_pair(*pair, sensor="IKONOS") as scene:
        for name, side, overlap in (("whole", 4096, 0), ("tiled", *tile)):
            fuse_scene(Runner(Local(), CPU, Tiling(side, overlap, 3)), scene, tmp_path / f"{name}.tif")
    whole, tiled = (read(tmp_path / f"{name}.tif").astype(int) for name in ("whole", "tiled"))
    assert np.abs(whole - tiled).max() <= 1 and (whole != tiled).mean() < 1e-3  # float32 at half a number


class Wide(torch.nn.Module):
    """A network that is wrong by up to half of the value in the last 3 pixels: its zero padding."""

    model_name, traits = "Wide", Traits()

    def forward(self, ms, lms, pan):
        return torch.nn.functional.avg_pool2d(lms, 7, stride=1, padding=3)


def test_rims_of_tiles_do_not_show(tmp_path, pair):
    """The rim of a tile is wrong by hundreds of numbers; in the overlap next to nothing of it is left."""
    with open_pair(*pair, sensor="IKONOS") as scene:
        for name, side, overlap in (("whole", 4096, 0), ("cut", 64, 0), ("tiled", 64, 32)):
            fuse_scene(Runner(Wide(), CPU, Tiling(side, overlap)), scene, tmp_path / f"{name}.tif")
    whole, cut, tiled = (read(tmp_path / f"{name}.tif").astype(int) for name in ("whole", "cut", "tiled"))
    assert np.abs(cut - whole).max() > 300 and np.abs(tiled - whole).max() <= 1


def test_a_trained_network_from_the_command_line(tmp_path, pair, capsys):
    """--weights: the divisor comes from the weights, the result is the network's, clipped, in digital numbers."""
    sizes = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}
    network = build_model("PanNet", **sizes).eval()
    weights = tmp_path / "net.safetensors"
    described = {"model": {"name": "PanNet", "args": {**sizes, "ratio": 4}}}
    save_weights(weights, network.state_dict(), described | {"data": {"sensor": "GF2", "divisor": 1023.0}})
    # MS half a PAN pixel down and right: the research toolboxes' geometry, in which it was trained
    pair = tif(tmp_path / "moved.tif", read(pair[0]), left=LEFT + 0.25, top=TOP - 0.25, pixel=2.0), pair[1]
    sr = run(pair, tmp_path / "out.tif", "--weights", str(weights), "--tile", "1024", "--device", "cpu")
    ms, pan = (torch.from_numpy(read(path) / 1023)[None] for path in pair)
    with torch.inference_mode():
        lms = mirrored(ms[0].numpy(), 4, Geometry.toolbox(4))[None]
        expected = network(ms.float(), lms.float(), pan.float()).clamp(0, 1) * 1023
    assert np.abs(sr - expected[0].numpy()).max() < 0.51
    assert sr.max() <= 1023 and "sensor GF2, divisor 1023" in capsys.readouterr().out
    with pytest.raises(UserError, match="ratio 4, the data have 2"):
        coarse = tif(tmp_path / "coarse.tif", smooth(86, 118, 4), pixel=1.0)
        run((coarse, pair[1]), tmp_path / "x.tif", "--weights", str(weights))
    save_weights(weights, network.state_dict(), described)
    with pytest.raises(UserError, match="--sensor"):
        run(pair, tmp_path / "x.tif", "--weights", str(weights))


def test_a_fourth_band_that_gdal_takes_for_alpha_is_told(tmp_path, capsys):
    """Unless they are marked, four bands of 8 bits are red, green, blue and alpha to GDAL: the infrared is lost."""
    ms = tif(tmp_path / "ms.tif", (smooth(16, 16, 4) // 8).astype(np.uint8), pixel=4 * PIXEL)
    pan = tif(tmp_path / "pan.tif", (smooth(64, 64, 1) // 8).astype(np.uint8))
    with pytest.raises(UserError, match="expected 4 bands for sensor QB"):
        run((ms, pan), tmp_path / "out.tif", "--arch", "EXP", "--sensor", "QB")
    assert "note: band 4 of" in (shown := capsys.readouterr().out) and "gdal_edit.py -colorinterp_4 undefined" in shown


def test_numbers_that_do_not_fit_the_divisor(tmp_path, capsys):
    """8 bits are divided by 255; what is divided already is refused; values above the divisor are reported."""
    sizes = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}
    described = {"model": {"name": "PNN", "args": {**sizes, "ratio": 4}}, "data": {"sensor": "QB", "divisor": 2047.0}}
    save_weights(tmp_path / "net.safetensors", build_model("PNN", **sizes).state_dict(), described)

    def fuse(scale, dtype, *arguments):
        bands = (smooth(16, 16, 4) * scale).astype(dtype)
        ms = tif(tmp_path / "ms.tif", bands, pixel=4 * PIXEL, photometric="minisblack")
        pan = tif(tmp_path / "pan.tif", (smooth(64, 64, 1) * scale).astype(dtype))
        arguments = ["--weights", str(tmp_path / "net.safetensors"), *arguments]
        return run((ms, pan), tmp_path / "out.tif", *arguments)

    peak = float(smooth(64, 64, 1).max())
    fuse(250 / peak, np.uint8)
    assert "sensor QB, divisor 255" in capsys.readouterr().out
    with pytest.raises(UserError, match="end at 1 and would be divided by 2047; give --divisor 1"):
        fuse(1 / peak, np.float32)
    assert fuse(1 / peak, np.float32, "--divisor", "1").max() <= 1
    assert "note: the values" not in capsys.readouterr().out
    fuse(10000 / peak, np.uint16)
    assert "note: the values reach 10000 and are divided by 2047" in capsys.readouterr().out
    for wrong in ("-3", "0", "nan"):
        with pytest.raises(UserError, match="positive divisor"):
            fuse(1, np.uint16, "--divisor", wrong)


CLASSICAL = ("EXP", "Brovey", "GS", "GSA", "BDSD-PC", "PRACS", "BT-H", "MF", "AWLP", "MTF-GLP", "MTF-GLP-FS")


@pytest.mark.parametrize("name", [*CLASSICAL, "MTF-GLP-HPM", "MTF-GLP-HPM-R"])
def test_classical_methods_in_float32_windows_equal_the_whole_in_float64(tmp_path, monkeypatch, name):
    """Statistics of the whole scene, filters across the borders of windows; rounding is the only difference."""
    monkeypatch.setattr("lemamba.engine.fusing.scene.SIDE", 256)
    ms = smooth(150, 131, 4)
    pan = (mirrored(ms, 4).mean(0, keepdim=True).numpy() + smooth(600, 524, 1, seed=5) / 8).round().astype(np.uint16)
    paths = tif(tmp_path / "ms.tif", ms, pixel=4 * PIXEL), tif(tmp_path / "pan.tif", pan)
    sr = run(paths, tmp_path / "out.tif", "--arch", name)
    method = build_model(name, img_channel=4, condition_channel=1, out_channel=4, geometry=Geometry.corners(4))
    ms, pan = (torch.from_numpy(read(path).astype(np.float64))[None] for path in paths)
    whole = next(w for _, w in cut_windows(ms, pan, Geometry.corners(4), 600, method.margin))
    expected = whole.crop(method.inject(whole, method.fit(lambda: [whole])))[0].numpy()
    usual = expected < 2 * float(ms.max())  # beyond, a quotient has next to nothing below the line
    assert np.abs(sr - expected)[usual & (expected > 0)].max() < 0.65 and usual.mean() > 0.99  # 0.5 and quotients
    assert np.allclose(sr, expected.clip(0, 65535), rtol=2e-3, atol=0.55)


def test_memory_is_accepted_and_not_needed(tmp_path, pair):
    whole = run(pair, tmp_path / "out.tif", "--arch", "gsa", "--memory", "0.001")
    np.testing.assert_array_equal(whole, run(pair, tmp_path / "again.tif", "--arch", "gsa"))


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", None), ("uint16", 0), ("int16", -9999), ("uint32", None), ("float32", None), ("float64", -1.0)],
)
def test_what_the_file_says_is_kept(tmp_path, dtype, nodata):
    """CRS, corner and pixel size, dtype, nodata, names of bands, scale, tags; tiled and compressed."""
    ms = smooth(20, 24, 3, low=10, high=250).astype(dtype)
    ms_path = tif(tmp_path / "ms.tif", ms, left=LEFT + 6, pixel=2.0, nodata=nodata)
    with rasterio.open(ms_path, "r+") as file:
        file.descriptions = ["red", "green", None]
        file.scales, file.units = [0.1, 0.1, 0.1], ["W", "W", "W"]
        file.update_tags(AREA_OR_POINT="Point", ACQUIRED="2020-01-01")
    pan_path = tif(tmp_path / "pan.tif", smooth(100, 120, 1), top=TOP + 3)
    run((ms_path, pan_path), tmp_path / "out" / "sr.tif", "--arch", "EXP")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sr.tif"]
    with rasterio.open(tmp_path / "out" / "sr.tif") as file:
        assert file.crs.to_epsg() == 32633
        # Common ground: from MS's corner, 20 x 24 MS pixels of which PAN covers 20 x 24 fully.
        assert file.transform == rasterio.Affine(0.5, 0, LEFT + 6, 0, -0.5, TOP)
        assert file.shape == (80, 96) and set(file.dtypes) == {dtype} and file.nodata == nodata
        assert file.descriptions == ("red", "green", None) and file.scales == (0.1,) * 3 and file.units == ("W",) * 3
        assert file.tags()["AREA_OR_POINT"] == "Point" and file.tags()["ACQUIRED"] == "2020-01-01"
        assert file.profile["tiled"] and file.profile["compress"] == "deflate"
        expected = mirrored(ms, 4).numpy()
        tolerance = 1e-4 if dtype.startswith("float") else 0.5001
        assert np.abs(file.read() - expected).max() < tolerance


def test_integers_are_rounded_clipped_and_kept_off_the_mark():
    """Rounded, not cut; clipped to the dtype; a valid number equal to nodata moves to its neighbour."""
    values = np.array([[-3.0, 0.2, 0.6, 254.6, 300.0, np.nan]])
    valid = np.array([[True, True, True, True, True, False]])
    np.testing.assert_array_equal(to_stored(values, valid, np.dtype("uint8"), None), [[0, 0, 1, 255, 255, 0]])
    np.testing.assert_array_equal(to_stored(values, valid, np.dtype("uint8"), 0), [[1, 1, 1, 255, 255, 0]])
    np.testing.assert_array_equal(to_stored(values, valid, np.dtype("uint8"), 255), [[0, 0, 1, 254, 254, 255]])
    stored = to_stored(np.zeros((1, 2)), np.array([[True, False]]), np.dtype("float32"), 0.0)
    assert stored[0, 0] != 0 and abs(stored[0, 0]) < 1e-30 and stored[0, 1] == 0
    assert np.isnan(to_stored(values, valid, np.dtype("float32"), None)[0, 5])


def with_gaps(folder, mark, dtype="uint16", declared=True):
    """A flat scene (MS 500, PAN 800) with a hole in MS, one in PAN, and a border without data."""
    ms, pan = np.full((4, 50, 60), 500, dtype), np.full((1, 200, 240), 800, dtype)
    ms[:, 10:14, 20:40], ms[2, 30, 5] = mark, mark  # one band without data is enough
    pan[:, 120:135, 101:111], pan[:, :, 220:] = mark, mark
    valid = np.ones((200, 240), bool)
    valid[40:56, 80:160] = valid[120:124, 20:24] = valid[120:135, 101:111] = valid[:, 220:] = False
    nodata = mark if declared else None
    ms_path = tif(folder / "ms.tif", ms, pixel=2.0, nodata=nodata)
    return (ms_path, tif(folder / "pan.tif", pan, nodata=nodata)), valid


@pytest.mark.parametrize("arguments", [["--tile", "64"], ["--tile", "32", "--overlap", "0"], ["--tile", "4096"]])
@pytest.mark.parametrize(("mark", "dtype"), [(0, "uint16"), (65535, "uint16"), (-9999, "float32"), (np.nan, "float32")])
def test_gaps_stay_gaps_and_do_not_bleed(tmp_path, mark, dtype, arguments):
    """Around a hole in a flat scene the result is flat to the last valid pixel, whatever marks the hole."""
    paths, valid = with_gaps(tmp_path, mark, dtype, declared=not np.isnan(mark))
    for arch, value in (("EXP", 500), ("Brovey", 800)):
        sr = run(paths, tmp_path / "out.tif", "--arch", arch, *arguments)
        assert np.abs(sr[:, valid] - value).max() <= 1e-3
        gaps = sr[:, ~valid]
        assert np.isnan(gaps).all() if np.isnan(mark) else (gaps == mark).all()


def test_gaps_of_a_network_and_of_a_whole_scene_method(tmp_path):
    """What lies in a gap of the file has no influence at all, and filling depends on no tile."""
    arrays = smooth(50, 60, 4), smooth(200, 240, 1, seed=1)
    results = []
    for mark in (0, 60000):
        _, valid = with_gaps(tmp_path, mark)
        paths = tmp_path / "ms.tif", tmp_path / "pan.tif"
        holes = [read(path) == mark for path in paths]
        for path, array, hole, pixel in zip(paths, arrays, holes, (2.0, 0.5), strict=True):
            tif(path, np.where(hole, np.uint16(mark), array), pixel=pixel, nodata=mark)
        with open_pair(*paths, sensor="IKONOS") as scene:
            for name, side in (("whole", 4096), ("tiled", 64)):
                fuse_scene(Runner(Local(), CPU, Tiling(side)), scene, tmp_path / f"{name}.tif")
        assert np.abs(read(tmp_path / "whole.tif").astype(int) - read(tmp_path / "tiled.tif")).max() <= 1
        results.append(
            (read(tmp_path / "whole.tif")[:, valid], run(paths, tmp_path / "g.tif", "--arch", "gs")[:, valid])
        )
    for zero, large in zip(*results, strict=True):
        assert np.abs(zero.astype(int) - large).max() <= 1  # a valid 0 is moved off the mark 0


def test_a_window_with_gaps_is_cut_from_the_whole_scene(tmp_path):
    """Wherever a window begins, gaps in and around it are filled with the same numbers."""
    ms, pan = smooth(70, 80, 2), smooth(280, 320, 1, seed=1)
    ms[:, 20:50, 25:60] = pan[:, 150:200, 100:160] = 0
    paths = tif(tmp_path / "m.tif", ms, pixel=2.0, nodata=0), tif(tmp_path / "p.tif", pan, nodata=0)
    with open_pair(*paths) as scene:
        whole = scene.window(((0, 280), (0, 320)), 8)
        assert all((image > 100).all() for image in (whole.ms, whole.lms, whole.pan))
        for r, c, h, w in ((40, 60, 40, 40), (161, 183, 60, 101), (200, 80, 64, 64), (100, 220, 40, 40)):
            part = scene.window(((r, r + h), (c, c + w)), 8)
            for image, all_of_it in ((part.lms, whole.lms), (part.pan, whole.pan)):
                cut = whole.crop(all_of_it)[..., r : r + h, c : c + w]
                torch.testing.assert_close(part.crop(image), cut, rtol=1e-5, atol=0.01)
        assert scene.window(((100, 180), (120, 200)), 8) is None  # nothing but gap


def test_the_mark_of_pan_serves_where_ms_has_none(tmp_path):
    """Gaps of PAN alone: the result takes PAN's mark, and no valid pixel has it."""
    ms_path = tif(tmp_path / "ms.tif", np.full((4, 20, 20), 300, np.uint16), pixel=2.0)
    pan = np.full((1, 80, 80), 300, np.uint16)
    pan[:, :8] = 65535
    sr = run((ms_path, tif(tmp_path / "pan.tif", pan, nodata=65535)), tmp_path / "out.tif", "--arch", "EXP")
    assert (sr[:, :8] == 65535).all() and (sr[:, 8:] == 300).all()
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata == 65535


def test_masks_and_alpha_count_as_gaps(tmp_path):
    """A file without a nodata value may carry a mask: the result gets a mark for it."""
    ms, alpha = np.full((4, 20, 20), 300, np.uint16), np.full((20, 20), 65535, np.uint16)
    alpha[:5] = 0
    ms_path = tif(tmp_path / "ms.tif", np.concatenate([ms, alpha[None]]), pixel=2.0)
    with rasterio.open(ms_path, "r+") as file:
        file.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * 3, ColorInterp.alpha]
    pan_path = tif(tmp_path / "pan.tif", np.full((1, 80, 80), 300, np.uint16))
    sr = run((ms_path, pan_path), tmp_path / "out.tif", "--arch", "EXP")
    assert sr.shape == (4, 80, 80) and (sr[:, :20] == 0).all() and (sr[:, 20:] == 300).all()
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata == 0


def test_filling_is_local():
    """A window with a margin of RINGS pixels is filled as the whole image is; far inside a gap it is the constant."""
    generator = np.random.default_rng(0)
    image, valid = generator.uniform(size=(2, 90, 90)), np.ones((90, 90), bool)
    valid[20:75, 15:80] = generator.uniform(size=(55, 65)) > 0.995
    valid[25:70, 20:75] = False
    whole = fill(image, valid, np.array([5.0, 6.0]))
    rows, columns = slice(10, 60), slice(5, 50)
    part = fill(image[:, rows, columns], valid[rows, columns], np.array([5.0, 6.0]))
    inner = slice(RINGS, -RINGS)
    np.testing.assert_array_equal(part[:, inner, inner], whole[:, rows, columns][:, inner, inner])
    assert (whole[:, valid] == image[:, valid]).all() and whole[:, ~valid].min() > 0
    assert (whole[:, 47, 47] == [5, 6]).all()
    assert (fill(image, np.zeros_like(valid), np.array([5.0, 6.0])) == np.array([5.0, 6.0])[:, None, None]).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("coordinate systems", {"crs": "EPSG:32634"}),
        ("share no ground", {"left": LEFT + 5000}),
        ("1.5 to 16.5 times", {"pixel": 1.5}),
        ("1.5 to 16.5 times", {"down": 0.1}),
        ("times as large", {"transform": rasterio.Affine(2, 0, LEFT, 0, -2, TOP)}),
        ("flipped", {"transform": rasterio.Affine(0.5, 0, LEFT, 0, 0.5, TOP - 128)}),
        ("rotated", {"transform": rasterio.Affine(0.5, 0.01, LEFT, 0.01, -0.5, TOP)}),
    ],
)
def test_pairs_that_do_not_fit_are_one_line(tmp_path, words, change):
    ms_path = tif(tmp_path / "ms.tif", smooth(64, 300, 4), pixel=2.0)
    pan_path = tif(tmp_path / "pan.tif", smooth(256, 1200, 1), **change)
    with pytest.raises(UserError, match=words) as error:
        run((ms_path, pan_path), tmp_path / "out" / "sr.tif", "--arch", "EXP")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "EXP", "--out", "{tmp}/sr.mat"], "end in .tif"),
        (["--arch", "EXP", "--out", "{tmp}/ms.tif"], "is an input"),
        (["--arch", "EXP", "--sensor", "WV3"], "expected 8 bands"),
        (["--arch", "EXP", "--pan", "{tmp}/ms.tif"], "expected one band"),
        (["--arch", "EXP", "--pan", "{tmp}/none.tif"], "does not exist"),
        (["--arch", "EXP", "--data", "x.h5"], "without --data"),
        (["--arch", "EXP", "--pan", "{tmp}/cut.tif"], "cut.tif"),
        (["--arch", "EXP", "--ms", "{tmp}/complex.tif"], "floating point, given complex64"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, pair, arguments, words):
    whole = pair[1].read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])  # its header and first rows are sound
    tif(tmp_path / "complex.tif", np.ones((4, 43, 59), np.complex64), pixel=2.0)
    given = [a.format(tmp=tmp_path) for a in arguments]
    base = ["--ms", str(pair[0]), "--pan", str(pair[1]), "--out", str(tmp_path / "out.tif")]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=words) as error:
        inference.run(parse("fuse", [*base, *given]))
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_of_both_files_and_no_rasterio(pair, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--ms and --pan together"):
        inference.run(parse("fuse", ["--ms", str(pair[0]), "--arch", "EXP"]))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match="pip install rasterio"):
        run(pair, tmp_path / "out.tif", "--arch", "EXP")


MEMORY = """
import resource, sys
import rasterio, torch
from lemamba.commands import fuse as inference, parse
from lemamba.model import build_model
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
options = ["--arch", "Brovey", "--tile", "128", "--overlap", "32"]
inference.run(parse("fuse", ["--ms", sys.argv[1], "--pan", sys.argv[2], "--out", sys.argv[3] + "/a.tif", *options]))
before = peak()
inference.run(parse("fuse", ["--ms", sys.argv[4], "--pan", sys.argv[5], "--out", sys.argv[3] + "/b.tif", *options]))
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_scene(tmp_path):
    """A scene of 2048 x 2048 after one of 128 x 2048: lms and sr alone would be 268 MB as a whole (float64)."""
    small = tif(tmp_path / "m1.tif", smooth(32, 512, 4), pixel=2.0), tif(tmp_path / "p1.tif", smooth(128, 2048, 1))
    large = tif(tmp_path / "m2.tif", smooth(512, 512, 4), pixel=2.0), tif(tmp_path / "p2.tif", smooth(2048, 2048, 1))
    command = [sys.executable, "-c", MEMORY, *map(str, (*small, tmp_path, *large))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown = float(done.stdout.split()[-1])
    assert grown < 160, f"{grown} MiB"
    assert read(tmp_path / "b.tif").shape == (4, 2048, 2048)


FULL_DISK = """
import resource, signal, sys
from lemamba.commands import fuse as inference
from lemamba.commands import parse
from lemamba.utils.startup import run_cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
run_cli(lambda: inference.run(parse("fuse", sys.argv[2:])))
"""


def test_a_full_disk_leaves_nothing(tmp_path, pair):
    """A file that cannot grow, also where that shows only when it is closed: exit 2, and no file."""
    out = tmp_path / "out" / "sr.tif"
    arguments = ["--arch", "EXP", "--ms", pair[0], "--pan", pair[1], "--out", out]
    command = [sys.executable, "-c", FULL_DISK, "1000", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot write" in done.stderr
    assert list(out.parent.iterdir()) == []


def test_real_scene(shared, tmp_path):
    """IKONOS as a GeoTIFF pair: Brovey of the file equals the formula of the contract."""
    from lemamba.utils.formats.mat import read_mat

    data = read_mat(shared("data/ikonos_scene.mat"))
    ms, pan = np.moveaxis(data["I_MS"], -1, 0)[:, :75, :91], data["I_PAN"][None, :300, :364]
    paths = tif(tmp_path / "ms.tif", ms, pixel=4.0), tif(tmp_path / "pan.tif", pan, pixel=1.0)
    sr = run(paths, tmp_path / "out.tif", "--arch", "Brovey", "--sensor", "IKONOS", "--tile", "128")
    lms = mirrored(ms, 4).numpy()
    expected = lms * pan / (lms.mean(0, keepdims=True) + 2.2e-16)
    assert np.abs(sr - expected.clip(0, 65535)).max() < 0.5001


def test_what_gdal_says_is_told_from_bugs(tmp_path, pair, monkeypatch):
    """GDAL's complaints without a public class are one line too; an error of ours inside the scene keeps its kind."""
    complaint = type("DamagedTile", (Exception,), {"__module__": "rasterio._hidden"})
    for kind, raised in ((complaint, UserError), (rasterio.errors.RasterioIOError, UserError), (KeyError, KeyError)):
        with pytest.raises(raised, match="tile 7"), open_pair(*pair):
            raise kind("tile 7")


def test_pan_in_other_units_is_scaled(tmp_path, capsys):
    """8-bit MS with 16-bit PAN gives what the same PAN in the numbers of MS gives; one line names the factor."""
    ms = tif(tmp_path / "ms.tif", (smooth(40, 40, 3) // 8).astype(np.uint8), pixel=2.0)
    pan = smooth(160, 160, 1, seed=1).astype(np.uint16)
    for name, image in (("same", pan / 8), ("other", pan * 16.0)):
        path = tif(tmp_path / f"{name}.tif", image.astype(np.float32))
        run((ms, path), tmp_path / f"{name}_out.tif", "--arch", "Brovey")
    assert "PAN is in other units than MS" in capsys.readouterr().out
    same, other = (read(tmp_path / f"{name}_out.tif").astype(float) for name in ("same", "other"))
    factor = (other.mean() / same.mean(), other.std() / same.std())
    assert 0.8 < factor[0] < 1.25 and 10 < other.mean() < 200 and abs(factor[0] - factor[1]) < 0.1


@pytest.mark.parametrize("marked", ["ms", "pan", "--nodata"])
def test_a_collar_marked_once_is_missing_in_both(tmp_path, capsys, marked):
    """The same file whichever image marks it; unmarked, it is reported, and nothing is changed."""
    ms, pan = smooth(60, 60, 4), smooth(240, 240, 1, seed=1)
    ms[:, :, :15], pan[:, :, :60] = 0, 0
    results = []
    for in_ms, in_pan in ((0, 0), {"ms": (0, None), "pan": (None, 0)}.get(marked, (None, None))):
        paths = tif(tmp_path / "m.tif", ms, pixel=2.0, nodata=in_ms), tif(tmp_path / "p.tif", pan, nodata=in_pan)
        more = ["--nodata", "0"] if (in_ms, in_pan) == (None, None) else []
        results.append(run(paths, tmp_path / "o.tif", "--arch", "MTF-GLP-FS", *more).astype(int))
        notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
        assert all(line.startswith("note: replaces") for line in notes)
        with rasterio.open(tmp_path / "o.tif") as file:
            assert file.nodata == 0
    assert np.abs(results[0] - results[1]).max() <= 1 and (results[1][:, :, :60] == 0).all()
    if marked == "--nodata":
        run(paths, tmp_path / "o.tif", "--arch", "MTF-GLP-FS")
        assert "give --nodata 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pixel", "left", "expected"),
    [
        (2.0, 0.0, Geometry.corners(4)),
        (1.0, -0.25, Geometry((2.0, 2.0), (0.0, 0.0))),  # Landsat
        (2.0, 0.25, Geometry.toolbox(4)),
        (2.0000004, 0.0, Geometry.corners(4)),  # a rounded geotransform
        (2.0075, 0.0, Geometry((4.015, 4.015), (1.5075, 1.5075))),
    ],
)
def test_geometry_follows_from_the_geotransforms(tmp_path, pixel, left, expected):
    ms_path = tif(tmp_path / "ms.tif", smooth(40, 40, 4), pixel=pixel, left=LEFT + left, top=TOP - left)
    pan = tif(tmp_path / "pan.tif", smooth(163, 161, 1))
    with open_pair(ms_path, pan) as scene:
        found = scene.facts.geometry
    np.testing.assert_allclose([*found.ratio, *found.offset], [*expected.ratio, *expected.offset], atol=1e-6)
