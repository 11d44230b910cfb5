"""What people bring: one test for each of 33 public reports about scenes, so that each ends as a user expects.

Cases that other files test in more depth are named here and not repeated:
4 collar marked once: test_geotiff; 6 PAN in other units: test_geotiff; 7 single bands, 8 JPEG 2000, 11 unzipped CAVE,
10 watercolors, 23 RPC, 26 several guide bands, 27 two zones, 29 outputs: test_scene_files; 16 .mat of MATLAB 7.3,
18 cells: test_mat, test_scene_files; 30 memory, 31 tiles: test_geotiff.
"""

from __future__ import annotations

import gc
import re
import signal
import sys

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from small_files import HMIF, LEFT, PIXEL, TOP, smooth, tif, values, write_h5

from lemamba.commands import evaluate, fuse, parse, prepare
from lemamba.datasets import writers
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.opening import inspect_pair
from lemamba.datasets.readers import inspect_file, reader_of
from lemamba.operators import interp23
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import write_mat

rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")


def run(ms, pan, out, *more, arch="EXP"):
    """Fuse a pair from the command line; return what was written."""
    arguments = ["--arch", arch, "--ms", str(ms), "--pan", str(pan), "--out", str(out), *map(str, more)]
    assert fuse.run(parse("fuse", arguments)) == 0
    with rasterio.open(out) as file:
        return file.read()


def refused(message, name, *arguments):
    """Run a command that has to end with one line."""
    module = {"fuse": fuse, "prepare": prepare, "evaluate": evaluate}[name]
    with pytest.raises(UserError, match=message) as error:
        module.run(parse(name, [str(a) for a in arguments]))
    assert "\n" not in str(error.value) and "damaged" not in str(error.value)


# ------------------------------------------------------------------------------------- where the pixels lie


def waves(rows, columns):
    """A smooth ground of three bands at PAN pixels (rows, columns), 6000 and up."""
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([6000 + 2000 * np.sin(x / (17 + b) + b) + 1500 * np.cos(y / (19 + b)) for b in range(3)])


PAIRS = {  # MS pixel and corner, PAN pixel and corner, in the unit of the report
    "1 Landsat": (30, (300885, 4107015), 15, (300892.5, 4107007.5)),
    "2 SPOT 6": (4, (1, -1), 1, (0.5, -0.5)),
    "3 corners, ratio 2": (2, (500000, 4100000), 1, (500000, 4100000)),
    "3 corners, ratio 4": (4, (500000, 4100000), 1, (500000, 4100000)),
    "25 PRISMA, ratio 6": (30, (500000, 4100000), 5, (500000, 4100000)),
    "25 ratio 3": (30, (500000, 4100000), 10, (500000, 4100000)),
    "25 Gaofen-2 in degrees": (3.1e-5, (113.0, 23.0), 7.5e-6, (113.0, 23.0)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_01_02_03_25_ms_lies_where_the_geotransforms_say(tmp_path, case):
    """EXP of a smooth ground gives that ground at PAN's pixels; half a pixel off it would miss it by 60 and more."""
    coarse, (x0, y0), fine, (px0, py0) = PAIRS[case]
    ratio = coarse / fine
    first = (py0 - y0) / fine, (x0 - px0) / fine  # of MS's corner, in PAN pixels
    at = [start + (np.arange(n) + 0.5) * ratio - 0.5 for n, start in zip((24, 20), first, strict=True)]
    ms = tif(tmp_path / "ms.tif", np.round(waves(*at)).astype(np.uint16), x0, y0, coarse, crs=None)
    truth = waves(np.arange(int(23 * ratio)), np.arange(int(19 * ratio)))
    pan = tif(tmp_path / "pan.tif", np.round(truth.mean(0, keepdims=True)).astype(np.uint16), px0, py0, fine, crs=None)
    sr = run(ms, pan, tmp_path / "o.tif").astype(float)
    with rasterio.open(tmp_path / "o.tif") as file:
        top, left = round((py0 - file.transform.f) / fine), round((file.transform.c - px0) / fine)
    truth = truth[:, top : top + sr.shape[1], left : left + sr.shape[2]]
    rim = int(4 * ratio)
    error = np.abs(sr - truth)[:, rim:-rim, rim:-rim]
    assert error.size and error.max() < 5


# ------------------------------------------------------------------------------------------ sensors, units


def test_05_a_sensor_outside_the_table(tmp_path, capsys):
    """The divisor is taken from the data and travels with the data set, so that scores are those of its range."""
    truth = smooth(384, 128, 3, low=500, high=9000)
    ms = tif(tmp_path / "m.tif", truth[:, ::2, ::2], pixel=20.0)
    pan = tif(tmp_path / "p.tif", truth.mean(0, keepdims=True).astype(np.uint16), pixel=10.0)
    arguments = ["--ms", ms, "--pan", pan, "--sensor", "none", "--name", "s2", "--out", tmp_path]
    assert prepare.run(parse("prepare", ["simulate", *map(str, arguments)])) == 0
    assert "divisor 10000" in capsys.readouterr().out
    dataset = H5Dataset(tmp_path / "test_s2_multiExm1.h5")
    assert dataset.facts.divisor == 10000 and float(dataset[0]["gt"].max()) <= 1


def test_28_a_ratio_that_a_method_has_not(tmp_path):
    """Methods that have it are named; GSA and AWLP have ratio 2."""
    pan = tif(tmp_path / "p.tif", smooth(96, 78, 1))
    ms = tif(tmp_path / "m3.tif", smooth(32, 26, 4), pixel=3 * PIXEL)
    refused(
        r"MF is defined for ratio 2, 4, 8, 16, given 3; choose a method for it \(AWLP, BDSD-PC, .* …\)",
        *("fuse", "--arch", "MF", "--ms", ms, "--pan", pan, "--out", tmp_path / "o.tif"),
    )
    ms = tif(tmp_path / "m2.tif", smooth(48, 39, 4), pixel=2 * PIXEL)
    for arch in ("GSA", "AWLP", "MF"):
        assert run(ms, pan, tmp_path / "o.tif", arch=arch).shape == (4, 96, 78)


# --------------------------------------------------------------------------------------------- cubes, arrays


CUBE = smooth(64, 64, 40)


def cube_file(folder, kind):
    """Write the cube as people have it."""
    import rasterio.shutil

    if kind in (".npy", ".npz", ".mat", "v7.3"):
        last = np.moveaxis(CUBE, 0, -1)
        path = folder / ("c.mat" if kind == "v7.3" else f"c{kind}")
        if kind == ".npy":
            np.save(path, last)
        elif kind == ".npz":
            np.savez(path, cube=last)
        elif kind == ".mat":
            savemat(path, {"cube": last})
        else:
            with h5py.File(path, "w", userblock_size=512) as file:
                file["cube"] = last.T
            with path.open("r+b") as file:
                file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        return path
    path = tif(folder / "c.tif", CUBE, pixel=30.0)
    if kind == ".tif":
        return path
    rasterio.shutil.copy(path, folder / "c.img", driver="ENVI")
    return folder / ("c.hdr" if kind == ".hdr" else "c.img")


@pytest.mark.parametrize("kind", [".tif", ".img", ".hdr", ".npy", ".npz", ".mat", "v7.3"])
def test_09_12_16_cubes_of_other_formats_are_simulated(tmp_path, kind):
    """EnMAP as GeoTIFF, ENVI, .npy, .mat 7.3: the same bands in the same order, and inspect finds nothing wrong."""
    path = cube_file(tmp_path, kind)
    cube = reader_of(path).load(path)
    np.testing.assert_allclose(cube.values * cube.scale, CUBE)
    assert inspect_file(path).status == 0
    arguments = ["simulate", path, "--wavelengths", "418:2445", "--name", "x", "--out", tmp_path, "--test_only"]
    assert prepare.run(parse("prepare", [str(a) for a in arguments])) == 0
    with h5py.File(tmp_path / "test_x.h5") as file:
        assert file["GT"].shape[1] == 40 and file["RGB"].shape[1] == 3


def test_09_12_17_what_is_no_cube(tmp_path):
    """An MS image alone, a cube with gaps, and a scene whose MS and PAN are in one .mat: each by its own name."""
    ms = tif(tmp_path / "ms.tif", CUBE[:8], pixel=2.0)
    refused("more than 13 bands, .*ms.tif has 8; give an image pair", "prepare", "simulate", ms, "--out", tmp_path)
    gaps = CUBE.copy()
    gaps[:, :5] = 0
    gappy = tif(tmp_path / "g.tif", gaps, nodata=0)
    refused(
        "320 pixels have no data; cut out", "prepare", "simulate", gappy, "--wavelengths", "400:900", "--out", tmp_path
    )
    savemat(tmp_path / "s.mat", {"MS": np.moveaxis(CUBE[:8], 0, -1), "PAN": smooth(256, 256, 1)[0]})
    arguments = ["simulate", tmp_path / "s.mat", "--sensor", "WV2", "--name", "x", "--out", tmp_path, "--test_only"]
    assert prepare.run(parse("prepare", [str(a) for a in arguments])) == 0


def test_11_12_folders_and_arrays_that_hold_a_scene(tmp_path, capsys):
    """A folder of bands and that of a product are described; MS and PAN in one file are the scene of two files."""
    from PIL import Image

    bands, landsat = tmp_path / "balloons_ms" / "balloons_ms", tmp_path / "LC08"
    bands.mkdir(parents=True)
    landsat.mkdir()
    for i in range(1, 6):
        Image.fromarray(smooth(32, 24, 1, seed=i)[0]).save(bands / f"balloons_ms_{i:02d}.png")
    for band in range(2, 9):
        tif(landsat / f"LC08_L1TP_107035_20150502_20200909_02_T1_B{band}.TIF", smooth(16, 16, 1))
    for folder, words in ((bands.parent, "5 bands, 32x24"), (landsat, "a Landsat8 product: .* with --ms")):
        assert prepare.run(parse("prepare", ["inspect", str(folder)])) == 0
        assert re.search(words, capsys.readouterr().out)
    refused("the folder of a product.*give it with --ms", "prepare", "simulate", landsat, "--out", tmp_path)
    scene = {"ms": np.moveaxis(CUBE[:4], 0, -1), "pan": smooth(256, 256, 1)[0]}
    np.savez(tmp_path / "s.npz", **scene)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.update({name.upper(): image for name, image in scene.items()})
    for name, image in scene.items():
        np.save(tmp_path / f"{name}.npy", image)
    written = []
    for source in (["--ms", "ms.npy", "--pan", "pan.npy"], ["s.npz"], ["s.h5"]):
        given = [part if part.startswith("--") else str(tmp_path / part) for part in source]
        out = tmp_path / str(len(written))
        more = ["--sensor", "none", "--name", "x", "--out", str(out), "--test_only"]
        assert prepare.run(parse("prepare", ["simulate", *given, *more])) == 0
        with h5py.File(out / "test_x_multiExm1.h5") as file:
            written.append({key: file[key][()] for key in file})
    for other in written[1:]:
        assert all(np.array_equal(written[0][key], other[key]) for key in written[0])


def test_18_19_cells_and_complex_numbers(tmp_path):
    savemat(tmp_path / "z.mat", {"cube": np.moveaxis(CUBE, 0, -1) + 1j})
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = np.ones((4, 4, 3)), np.ones(3)
    savemat(tmp_path / "c.mat", {"c": cell})
    for name, words in (("z.mat", "complex numbers; give their modulus"), ("c.mat", "cells, structures and sparse")):
        refused(words, "prepare", "simulate", tmp_path / name, "--wavelengths", "400:2500", "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------------------------------- 13 others' H5


DATA = values({"gt": (3, 4, 16, 24), "lms": (3, 4, 16, 24), "ms": (3, 4, 4, 6), "pan": (3, 1, 16, 24)})


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "WHCN"])
@pytest.mark.parametrize(
    "names",
    [
        {"ms": "lrms", "lms": "usp_ms"},
        {"gt": "GT", "ms": "MS", "lms": "LMS", "pan": "PAN"},
        {name: f"train/{name}" for name in DATA},
        {"ms": "ms_lr", "lms": "ms_up", "pan": "Pan"},
    ],
    ids=["lrms", "upper case", "group", "ms_lr"],
)
def test_13_keys_of_others(tmp_path, names, layout):
    ours, theirs = (H5Dataset(write_h5(tmp_path / f"{i}.h5", DATA, layout, n)) for i, n in enumerate(({}, names)))
    for i in range(3):
        for role, value in ours[i].items():
            torch.testing.assert_close(theirs[i][role], value, rtol=0, atol=0)
    assert inspect_file(theirs.path).problems == inspect_file(ours.path).problems


@pytest.mark.parametrize("cache_limit", [0, 2**30])
@pytest.mark.parametrize("layout", ["NCHW", "WHCN"])
def test_13_a_guide_without_band_axis(tmp_path, layout, cache_limit):
    guide = DATA["pan"][:, 0]
    flat = DATA | {"pan": guide.T if layout == "WHCN" else guide}
    found = H5Dataset(write_h5(tmp_path / "a.h5", flat, layout), cache_limit=cache_limit)
    np.testing.assert_allclose(found[1]["pan"].numpy(), DATA["pan"][1].astype(np.float32))


def test_13_without_lms_it_is_interpolated_as_published(tmp_path):
    bare = {role: image for role, image in DATA.items() if role != "lms"}
    dataset = H5Dataset(write_h5(tmp_path / "a.h5", bare))
    expected = interp23(torch.from_numpy(DATA["ms"].astype(np.float32)), 4)[2]
    torch.testing.assert_close(dataset[2]["lms"], expected)
    assert any("no lms" in note for note in inspect_file(tmp_path / "a.h5").notes)


def test_13_what_is_not_clear_is_refused(tmp_path):
    """Two keys for one image, several groups, numbers that were divided, and the family that the names are of."""
    two = {"ms": "lrms", "gt": "ms"}
    refused("which key is ms is not clear: lrms, ms", "fuse", "--arch", "GSA", "--data",
            write_h5(tmp_path / "a.h5", {k: v for k, v in DATA.items() if k != "lms"}, "NCHW", two))  # fmt: skip
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for group in ("train", "test"):
            file.create_group(group).update(DATA)
    refused("several data sets, in the groups test, train", "fuse", "--arch", "GSA", "--data", tmp_path / "b.h5")
    small = write_h5(tmp_path / "c.h5", {k: v / 2047 for k, v in DATA.items()})
    refused("give --divisor 1", "fuse", "--arch", "GSA", "--data", small, "--sensor", "QB")
    upper = write_h5(tmp_path / "d.h5", {k: v for k, v in DATA.items() if k != "ms"}, "NCHW", {"pan": "PAN"})
    refused("no key \"ms\"; it holds: 'PAN', 'gt', 'lms'", "fuse", "--arch", "GSA", "--data", upper)
    hmif = write_h5(tmp_path / "e.h5", {k: v for k, v in DATA.items() if k != "ms"}, "NCHW", HMIF)
    refused('no key "LRHSI"', "fuse", "--arch", "GSA", "--data", hmif)


# -------------------------------------------------------------------------------------------- real scenes


def test_14_a_scene_of_the_toolboxes(tmp_path, shared):
    """imgWV2.mat (its western half): a data set, and its full-resolution test images fused and measured."""
    source = shared("data/worldview2_west.mat")
    arguments = ["simulate", source, "--sensor", "WV2", "--name", "w", "--out", tmp_path, "--test_only"]
    assert prepare.run(parse("prepare", [str(a) for a in arguments])) == 0
    full = next(tmp_path.glob("test_w_OrigScale*.h5"))
    out = tmp_path / "out.mat"
    fuse.run(parse("fuse", ["--arch", "Brovey", "--data", str(full), "--sensor", "WV2", "--out", str(out)]))
    assert out.exists() and list(tmp_path.glob("*.png"))


def test_15_a_tile_of_32_pixels(tmp_path, shared):
    arguments = ["simulate", shared("data/worldview3_tile.mat"), "--sensor", "WV3", "--name", "t", "--out", tmp_path]
    assert prepare.run(parse("prepare", [*map(str, arguments), "--test_only"])) == 0
    assert len(H5Dataset(tmp_path / "test_t_multiExm1.h5")) == 1


# ----------------------------------------------------------------------------------------- extents, encodings


def cut_of_whole(sr, whole, top, left):
    """Compare a fused part with the same part of the fused whole, away from its rim."""
    inner = (slice(None), slice(24, -24), slice(24, -24))
    expected = whole[:, top : top + sr.shape[1], left : left + sr.shape[2]]
    assert np.abs(sr[inner].astype(int) - expected[inner]).max() <= 1


def test_20_21_pan_larger_or_smaller_than_ms(tmp_path):
    """The result lies on the ground they share, also where PAN begins inside an MS pixel."""
    image = smooth(260, 200, 1, seed=1)
    ms = tif(tmp_path / "ms.tif", smooth(60, 48, 4), pixel=4 * PIXEL)
    whole = run(ms, tif(tmp_path / "p.tif", image[:, :240, :192]), tmp_path / "o.tif", arch="Brovey")
    larger = run(ms, tif(tmp_path / "p.tif", image[:, :243, :195]), tmp_path / "o.tif", arch="Brovey")
    np.testing.assert_array_equal(larger, whole)
    place = {"left": LEFT + 21 * PIXEL, "top": TOP - 18 * PIXEL}
    part = run(ms, tif(tmp_path / "p.tif", image[:, 18:168, 21:181], **place), tmp_path / "o.tif", arch="Brovey")
    cut_of_whole(part, whole, 18, 21)
    with rasterio.open(tmp_path / "o.tif") as file:
        assert (file.transform.c, file.transform.f) == (place["left"], place["top"])


@pytest.mark.parametrize("factor", [0.7, 1.05, 1.5])
def test_brovey_says_that_it_gives_the_brightness_of_pan(tmp_path, factor, capsys):
    ms = smooth(60, 48, 4)
    pan = np.round(factor * ms.mean(0, keepdims=True).repeat(4, 1).repeat(4, 2)).astype(np.uint16)
    files = tif(tmp_path / "ms.tif", ms, pixel=4 * PIXEL), tif(tmp_path / "p.tif", pan)
    for method, follows in (("Brovey", True), ("GSA", False)):
        sr = run(*files, tmp_path / "o.tif", arch=method)
        assert sr.mean() / ms.mean() == pytest.approx(factor if follows else 1, rel=0.01)
        told = f"PAN's mean is {factor:.2f} times that of MS's bands" in capsys.readouterr().out
        assert told == (follows and abs(factor - 1) > 0.1)


def test_a_cut_pair_that_kept_the_pixel_size_of_another(tmp_path):
    """As the QuickBird files of a public repository: 2.4 and 2.4 with sizes of ratio 4; the line names the option."""
    ms, pan = (
        tif(tmp_path / f"{n}.tif", smooth(*size), left=0, top=0, pixel=2.4, down=-2.4, crs=None)
        for n, size in (("m", (32, 32, 4)), ("p", (128, 128, 1)))
    )
    arguments = ["--arch", "EXP", "--ms", ms, "--pan", pan, "--out", tmp_path / "o.tif"]
    refused("given 2.4 and 2.4; the sizes have ratio 4: .* add --assume_aligned", "fuse", *arguments)
    assert any("given 2.4 and 2.4" in problem for problem in inspect_pair(ms, pan).problems)
    assert run(ms, pan, tmp_path / "o.tif", "--assume_aligned").shape == (4, 128, 128)


def test_22_negative_reflectance_with_a_nodata_value(tmp_path):
    """int16 with -9999: dtype and mark are kept, negative values are values, and adding 5000 to all changes nothing."""
    ms, pan = (smooth(*size).astype(np.int16) - 400 for size in ((40, 40, 3), (160, 160, 1, 1)))
    results = []
    for shift in (0, 5000):
        images = (ms + shift).astype(np.int16), (pan + shift).astype(np.int16)
        images[0][:, :4, :4] = -9999
        paths = tif(tmp_path / "m.tif", images[0], pixel=2.0, nodata=-9999), tif(tmp_path / "p.tif", images[1])
        results.append(run(*paths, tmp_path / "o.tif", arch="GS").astype(int))
        with rasterio.open(tmp_path / "o.tif") as file:
            assert file.dtypes[0] == "int16" and file.nodata == -9999
    valid = results[0] != -9999
    assert valid[:, 16:].all() and not valid[:, :14, :14].any() and results[0][valid].min() < 0
    assert np.abs(results[1] - 5000 - results[0])[valid].max() <= 1


ESRI = (
    'PROJCS["WGS_1984_UTM_Zone_33N",GEOGCS["GCS_WGS_1984",DATUM["D_WGS_1984",SPHEROID["WGS_1984",6378137.0,'
    '298.257223563]],PRIMEM["Greenwich",0.0],UNIT["Degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["False_Easting",500000.0],PARAMETER["False_Northing",0.0],PARAMETER["Central_Meridian",15.0],'
    'PARAMETER["Scale_Factor",0.9996],PARAMETER["Latitude_Of_Origin",0.0],UNIT["Meter",1.0]]'
)
ENCODINGS = {
    "no coordinate system": {"crs": None},
    "ESRI WKT": {"crs": ESRI},
    "zstd, bands, BigTIFF": {"compress": "zstd", "interleave": "band", "BIGTIFF": "YES"},
    "tiled float64": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "south-up": {"down": -1.0},
}


@pytest.mark.parametrize("case", ENCODINGS)
def test_24_encodings(tmp_path, case):
    """The same pixels, however they are stored and wherever north is."""
    options = dict(ENCODINGS[case])
    south = options.pop("down", None)
    ms, pan = smooth(24, 20, 4), smooth(96, 80, 1, seed=1)
    expected = run(tif(tmp_path / "m.tif", ms, pixel=2.0), tif(tmp_path / "p.tif", pan), tmp_path / "o.tif", arch="GS")
    kind = np.float64 if case == "tiled float64" else np.uint16
    images = (ms.astype(kind), 2.0), (pan.astype(kind), 0.5)
    paths = [
        tif(tmp_path / f"{i}.tif", image, pixel=pixel, **options, **({"down": -pixel} if south else {}))
        for i, (image, pixel) in enumerate(images)
    ]
    found = run(*paths, tmp_path / "o.tif", arch="GS")
    assert found.dtype == kind and np.abs(found.clip(0) - expected.astype(float)).max() <= 0.51
    with rasterio.open(tmp_path / "o.tif") as file:
        assert (file.transform.e > 0) == bool(south)


# ---------------------------------------------------------------------------------------- 32 evaluate, 33 collar


def test_32_files_of_others_are_named_with_what_they_hold(tmp_path):
    rng = np.random.default_rng(0)
    sr, gt = (rng.uniform(1, 2000, (64, 64, 4)) for _ in range(2))
    for names, held in ((("output", "ref"), "output, ref"), (("I_MTF_GLP_FS", "I_GT"), "I_MTF_GLP_FS, I_GT")):
        savemat(tmp_path / "x.mat", dict(zip(names, (sr, gt), strict=True)))
        refused(f"it holds {held}; rename", "evaluate", tmp_path / "x.mat", "--const", 2047)
    (tmp_path / "f").mkdir()
    savemat(tmp_path / "f/output_mulExm_0.mat", {"sr": sr})
    image = tif(tmp_path / "x.tif", np.moveaxis(sr, -1, 0).astype(np.uint16))
    for path in (tmp_path / "f", image):
        refused("missing: ms, lms, pan; .*--gt FILE, or its inputs with --ms FILE --pan FILE", "evaluate", path)
    scores = []
    for dtype in (np.float64, np.uint16):
        savemat(tmp_path / "y.mat", {"sr": sr.round().astype(dtype), "gt": gt.round().astype(dtype)})
        scores.append(evaluate.evaluate(parse("evaluate", [str(tmp_path / "y.mat"), "--const", "2047"])).summary)
    assert scores[0]["psnr"] == pytest.approx(scores[1]["psnr"]) and scores[0]["qn"] == pytest.approx(scores[1]["qn"])


def test_33_a_black_collar(tmp_path, capsys):
    """Unmarked, it is reported with the option that marks it; marked, no training sample holds a black pixel."""
    ms, pan = smooth(160, 64, 4), smooth(640, 256, 1, seed=1)
    ms[:, :, :16], pan[:, :, :64] = 0, 0
    paths = tif(tmp_path / "m.tif", ms, pixel=2.0), tif(tmp_path / "p.tif", pan)
    base = ["simulate", "--ms", *paths[:1], "--pan", *paths[1:], "--sensor", "none", "--name", "c", "--out", tmp_path]
    for more in ([], ["--nodata", "0"]):
        assert prepare.run(parse("prepare", [*map(str, base), *more])) == 0
        said = capsys.readouterr().out
        assert ("give --nodata 0" in said) != bool(more)
        with h5py.File(tmp_path / "train_c.h5") as file:
            assert (file["gt"][()] == 0).any() != bool(more)


# ---------------------------------------------------------------------------------------- whatever goes wrong


def test_pan_of_another_place(tmp_path):
    """One line, and no folder is made."""
    ms = tif(tmp_path / "m.tif", smooth(24, 20, 4), pixel=2.0)
    pan = tif(tmp_path / "p.tif", smooth(96, 80, 1), left=LEFT + 5000)
    refused("share no ground", "fuse", "--arch", "GSA", "--ms", ms, "--pan", pan, "--out", tmp_path / "o" / "x.tif")
    assert not (tmp_path / "o").exists()


def test_a_file_cut_short(tmp_path, capfd):
    """No command calls the pair fine, and none shows the library's words about earlier exceptions."""
    ms, pan = tif(tmp_path / "m.tif", smooth(24, 20, 4), pixel=2.0), tif(tmp_path / "p.tif", smooth(96, 80, 1))
    pan.write_bytes(pan.read_bytes()[:9000])
    for command, *arguments in (
        ("fuse", "--arch", "GSA", "--out", tmp_path / "o.tif"),
        ("prepare", "simulate", "--sensor", "none", "--name", "x", "--out", tmp_path / "o"),
    ):
        refused(r"p.tif cannot be read to its end: [^;]*; copy it again", command, *arguments, "--ms", ms, "--pan", pan)
    assert prepare.run(parse("prepare", ["inspect", "--ms", str(ms), "--pan", str(pan)])) == 1
    said = capfd.readouterr()
    assert "WRONG: " in said.out and "nothing wrong" not in said.out and not said.err
    assert {p.name for p in tmp_path.iterdir()} == {"m.tif", "p.tif"}


@pytest.fixture
def small_disk():
    """Limit files to 100 000 bytes, as a full disk would; the error of a write is the same kind."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are those of POSIX")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_and_hdf5(tmp_path, small_disk, capfd):
    """Data sets, repacked ones and MATLAB 7.3 files: one line, no words of HDF5, and no file or folder is left."""
    sizes = {"gt": (5, 4, 64, 64), "lms": (5, 4, 64, 64), "ms": (5, 4, 16, 16), "pan": (5, 1, 64, 64)}
    samples = [{role: image[i] for role, image in values(sizes).items()} for i in range(5)]

    def make_set():
        folder = tmp_path / "o"
        with writers.whole_set(folder) as written:
            written["small.h5"] = writers.write_h5(folder / "small.h5", [{"ms": np.zeros((4, 8, 8))}], {}, "hmif")
            writers.write_h5(folder / "large.h5", iter(samples), {}, "hmif")

    image = np.random.default_rng(0).random((1, 4, 128, 128))
    makers = (make_set, lambda: write_mat(tmp_path / "o.mat", {"sr": image}, v73=True))
    for make in makers:
        with pytest.raises(UserError, match="cannot write .*; choose a folder that is writable and has room") as error:
            make()
        assert "\n" not in str(error.value)
    gc.collect()
    assert capfd.readouterr().err == "" and not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full and /proc")
def test_a_target_that_cannot_be_written(tmp_path):
    """Below a device, and where no file can be made: one line in words of the system."""
    ms, pan = tif(tmp_path / "m.tif", smooth(24, 20, 4), pixel=2.0), tif(tmp_path / "p.tif", smooth(96, 80, 1))
    where = ("fuse", "--arch", "Brovey", "--ms", ms, "--pan", pan, "--out")
    refused('cannot write "/dev/full/x.tif": "/dev/full" is a file, not a folder', *where, "/dev/full/x.tif")
    for name in ("x.tif", "x.img", "x.npy", "x.vrt"):
        refused(r'cannot write "/proc/[^;]*: [^;:/]*; choose a folder that is writable', *where, f"/proc/{name}")
