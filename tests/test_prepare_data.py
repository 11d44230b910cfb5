"""The command line of prepare_data.py: every route from a file to H5 data sets, and everything that is refused."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lemamba.commands import fuse, parse, prepare
from lemamba.datasets.build import build_dataset
from lemamba.datasets.inspect import spread
from lemamba.datasets.pair import load_pair
from lemamba.datasets.simulation.sources import cube_from_png
from lemamba.utils.errors import UserError
from lemamba.utils.formats.fused import read_fused
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.geometry import Geometry
from lemamba.utils.startup import run_cli

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def call(capsys):
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            run_cli(lambda: prepare.run(parse("prepare", [str(a) for a in arguments])))
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


def scene(path, rows=192, columns=96, bands=4, ratio=4, **extra):
    generator = np.random.default_rng(rows)
    ms = generator.integers(100, 2000, (rows, columns, bands)).astype(np.uint16)
    pan = generator.integers(100, 2000, (rows * ratio, columns * ratio)).astype(np.uint16)
    savemat(path, {"I_MS": ms, "I_PAN": pan} | extra)
    return path


def test_a_run_ends_well(tmp_path):
    scene(tmp_path / "s.mat")
    command = [sys.executable, ROOT / "prepare_data.py", "simulate", tmp_path / "s.mat", "--out", tmp_path / "o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "--sensor" in done.stderr and done.stderr.count("\n") == 1
    done = subprocess.run([*command, "--sensor", "ikonos"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split(":")[0].split("/")[-1] for line in done.stdout.splitlines()] == [
        "train_ikonos.h5",
        "valid_ikonos.h5",
        "test_ikonos_multiExm1.h5",
        "test_ikonos_OrigScale_multiExm1.h5",
    ]


def test_scene_files_and_provenance(call, tmp_path):
    source = scene(tmp_path / "s.mat", L=np.uint8(10), sensor="GF2")
    status, _, _ = call("simulate", source, "--out", tmp_path / "o", "--stride", 32)
    assert status == 0
    ms = np.moveaxis(read_mat(source)["I_MS"], -1, 0)
    with h5py.File(tmp_path / "o" / "train_gf2.h5") as file:
        attributes = dict(file.attrs)
        np.testing.assert_array_equal(file["gt"][0], ms[:, :64, :64])
    boxes = json.loads(attributes["boxes"])[0]
    assert attributes["sensor"] == "GF2" and attributes["divisor"] == 1023 and attributes["ratio"] == 4
    assert attributes["offset"] == 2 and len(attributes["sha256"][0]) == 64 and attributes["source"][0] == "s.mat"
    np.testing.assert_array_equal(attributes["gains"], [0.3] * 4)
    with h5py.File(tmp_path / "o" / "test_gf2_multiExm1.h5") as file:
        top, _, left, _ = boxes["test"]
        np.testing.assert_array_equal(file["gt"][0], ms[:, top : top + 64, left : left + file["gt"].shape[3]])
    full = build_dataset("gf2", "test_full", root=tmp_path / "o")
    np.testing.assert_allclose(full[0]["ms"][0, 0, 0].item() * 1023, ms[0, boxes["test"][0], 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("written", "shown"),
    [([[1, 3, 4]], (0, 2, 3)), ([[1.0, 3.0, 4.0]], (0, 2, 3)), ([[5, 3, 2]], None), ([[1, 2]], None)],
)
def test_a_scenes_own_choice_of_colours_wins(call, tmp_path, written, shown):
    """RGB_indexes counts from 1, as in MATLAB; where it names a missing band, the sensor's bands are used."""
    source = scene(tmp_path / "s.mat", RGB_indexes=np.array(written))
    assert call("simulate", source, "--sensor", "QB", "--stride", 64, "--out", tmp_path)[0] == 0
    for split in ("train", "test_full"):
        assert build_dataset("qb", split, root=tmp_path).facts.rgb == shown


def test_training_patches_overlap_by_default(call, tmp_path):
    """64 x 64 every 16 pixels, of all the training ground; test images lie side by side and are multiples of 32."""
    call("simulate", scene(tmp_path / "s.mat", rows=352, columns=96), "--sensor", "QB", "--out", tmp_path)
    with h5py.File(tmp_path / "train_qb.h5") as file:
        top, bottom, left, right = json.loads(file.attrs["boxes"])[0]["train"]
        assert (file.attrs["stride"] == 16).all() and file["gt"].shape[2:] == (64, 64)
        assert len(file["gt"]) == ((bottom - top - 64) // 16 + 1) * ((right - left - 64) // 16 + 1)
        np.testing.assert_array_equal(file["gt"][0][:, 16:], file["gt"][3][:, :48])  # 3 patches to a row
    with h5py.File(tmp_path / "test_qb_multiExm1.h5") as file:
        assert all(side % 32 == 0 for side in file["gt"].shape[2:])


def test_test_ground_does_not_touch_training_ground(call, tmp_path):
    """Whatever stands in the training rows, the test and validation files stay as they are."""
    source = scene(tmp_path / "a.mat")
    data = read_mat(source)
    train_rows = 64
    data["I_MS"][:train_rows] = 5
    data["I_PAN"][: 4 * train_rows] = 7
    savemat(tmp_path / "b.mat", data)
    for name in ("a", "b"):
        arguments = ["--sensor", "QB", "--stride", 64, "--out", tmp_path / name, "--name", "x"]
        assert call("simulate", tmp_path / f"{name}.mat", *arguments)[0] == 0
    for file in ("valid_x.h5", "test_x_multiExm1.h5", "test_x_OrigScale_multiExm1.h5"):
        with h5py.File(tmp_path / "a" / file) as first, h5py.File(tmp_path / "b" / file) as second:
            for key in first:
                np.testing.assert_array_equal(first[key], second[key])


def test_several_scenes_and_own_name(call, tmp_path):
    paths = scene(tmp_path / "a.mat"), scene(tmp_path / "b.mat", rows=256)
    call("simulate", *paths, "--sensor", "WV4", "--name", "Mine", "--stride", 64, "--out", tmp_path)
    dataset = build_dataset("mine", "test", root=tmp_path)
    assert dataset.facts.sensor == "WV4" and len(dataset) == 2


def test_test_only_uses_all_ground(call, tmp_path):
    source = scene(tmp_path / "a.mat", rows=32, columns=32, bands=8)
    assert call("simulate", source, "--sensor", "WV3", "--out", tmp_path, "--test_only")[0] == 0
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == [
        "test_wv3_OrigScale_multiExm1.h5",
        "test_wv3_multiExm1.h5",
    ]


def test_cube_with_a_response_table(call, tmp_path):
    cube = np.random.default_rng(0).random((6, 96, 40))
    savemat(tmp_path / "c.mat", {"Y": cube.transpose(0, 2, 1).reshape(6, -1) * 5000, "nRow": 96, "nCol": 40})
    grid = np.linspace(400, 900, 6)
    savemat(tmp_path / "r.mat", {"r": np.stack([grid, *np.eye(6)[[1, 3]]], 1)})
    arguments = ["--wavelengths", "400:900", "--response", tmp_path / "r.mat", "--scale", 5000, "--name", "lab_x4"]
    assert call("simulate", tmp_path / "c.mat", *arguments, "--guide_columns", "3,2", "--out", tmp_path)[0] == 0
    dataset = build_dataset("lab_x4", "train", root=tmp_path)
    facts = dataset.facts
    assert (facts.bands, facts.guide_bands, facts.ratio, facts.divisor) == (6, 2, 4, 1)
    np.testing.assert_allclose(dataset[0]["gt"].numpy(), cube[:, :32, :32], rtol=1e-5)
    np.testing.assert_allclose(dataset[0]["pan"].numpy(), cube[[3, 1], :32, :32], rtol=1e-5)
    test = build_dataset("lab_x4", "test", root=tmp_path)
    assert test.facts.has_gt
    np.testing.assert_allclose(test.contents.attributes["wavelengths"], np.linspace(400, 900, 6))


def test_wavelengths_reach_the_fused_file(call, tmp_path):
    """`prepare` stores them, `inference` writes them next to the images."""
    cube = np.random.default_rng(0).random((5, 96, 64))
    savemat(tmp_path / "c.mat", {"Y": cube.transpose(0, 2, 1).reshape(5, -1), "nRow": 96, "nCol": 64})
    options = ["--wavelengths", "450:850", "--name", "lab_x4", "--test_only", "--scale", 1]
    assert call("simulate", tmp_path / "c.mat", *options, "--out", tmp_path)[0] == 0
    data, out = tmp_path / "test_lab_x4.h5", tmp_path / "x.mat"
    arguments = ["--data", data, "--dataset", "lab_x4", "--arch", "EXP", "--out", out, "--pictures", 0]
    assert fuse.run(parse("fuse", [str(a) for a in arguments])) == 0
    info = read_fused(out).info
    assert info["wavelengths"] == [450, 550, 650, 750, 850] and info["guide"] == "gaussian RGB"


def test_cave_folder_at_ratio_8(call, tmp_path):
    cube = np.random.default_rng(0).integers(0, 65536, (31, 96, 32)).astype(np.uint16)
    (tmp_path / "toys").mkdir()
    for band, image in enumerate(cube, 1):
        Image.fromarray(image).save(tmp_path / "toys" / f"toys_ms_{band:02d}.png")
    np.testing.assert_allclose(cube_from_png(tmp_path / "toys").values, cube / 65535.0)
    assert call("simulate", tmp_path / "toys", "--sensor", "CAVE", "--ratio", 8, "--out", tmp_path)[0] == 0
    dataset = build_dataset("cave_x8", "valid", root=tmp_path)
    assert tuple(dataset[0]["ms"].shape) == (31, 4, 4) and dataset.facts.guide_bands == 3


def geotiff(path, image, left, top, pixel, crs="EPSG:32633", nodata=None):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    profile = {"driver": "GTiff", "height": image.shape[1], "width": image.shape[2], "count": len(image)}
    transform = from_origin(left, top, pixel, pixel)
    with rasterio.open(path, "w", dtype=image.dtype, crs=crs, transform=transform, nodata=nodata, **profile) as file:
        file.write(image)
    return path


def test_geotiff_pair_is_cut_to_common_ground(tmp_path):
    """MS pixels whose PAN pixels all exist; where both files begin does not matter, and the geometry stays known."""
    truth = np.arange(400 * 300, dtype=np.float32).reshape(1, 400, 300)  # PAN pixels of 0.5 m from (1000, 5000)
    block_means = truth.reshape(1, 100, 4, 75, 4).mean((2, 4))
    ms_path = geotiff(tmp_path / "ms.tif", np.concatenate([block_means] * 4), 1000, 5000, 2.0)
    for y, x in ((0, 0), (40, 12), (37, 3)):  # PAN may start inside an MS pixel
        pan = truth[:, y:, x:]
        pair = load_pair(ms_path, geotiff(tmp_path / "pan.tif", pan, 1000 + x / 2, 5000 - y / 2, 0.5))
        assert pair.ratio == 4 and pair.geometry == Geometry.corners(4)
        assert pair.ms.shape[1:] == (pan.shape[1] // 4, pan.shape[2] // 4) and pair.valid is None
        h, w = pair.ms.shape[1:]
        np.testing.assert_allclose(pair.pan.reshape(1, h, 4, w, 4).mean((2, 4)), pair.ms[:1], rtol=1e-6)
    landsat = geotiff(tmp_path / "l.tif", truth[:, ::2, ::2], 999.75, 5000.25, 1.0)  # the first pixel centres agree
    pair = load_pair(landsat, geotiff(tmp_path / "pan.tif", truth, 1000, 5000, 0.5))
    assert pair.geometry == Geometry.toolbox(2)  # the toolboxes' relation, one MS pixel later
    np.testing.assert_array_equal(pair.pan[0, 1::2, 1::2], pair.ms[0])


def test_geotiff_pairs_that_do_not_fit(tmp_path):
    ms = geotiff(tmp_path / "ms.tif", np.ones((4, 20, 20), np.uint16), 1000, 5000, 2.0)
    pan = np.ones((1, 80, 80), np.uint16)
    for message, arguments in {
        "share no ground": (pan, 9000, 5000, 0.5),
        "a whole ratio": (pan, 1000, 5000, 0.7),
        "1.5 to 16.5 times": (pan, 1000, 5000, 1.5),
        "gdalwarp -t_srs EPSG:32634": (pan, 1000, 5000, 0.5, "EPSG:32634"),
        "no pixel has data": (pan * 0, 1000, 5000, 0.5, "EPSG:32633", 0),
    }.items():
        with pytest.raises(UserError, match=message):
            load_pair(ms, geotiff(tmp_path / "pan.tif", *arguments))
    (tmp_path / "bad.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(UserError, match="cannot read"):
        load_pair(ms, tmp_path / "bad.tif")


def test_a_geotiff_of_8_bits(tmp_path):
    """Divided by 255; its fourth band, which GDAL marks as alpha, is a mask: no data to be trained on."""
    ms = np.full((4, 20, 20), 200, np.uint8)
    pan = geotiff(tmp_path / "pan.tif", np.full((1, 80, 80), 100, np.uint8), 1000, 5000, 0.5)
    pair = load_pair(geotiff(tmp_path / "ms.tif", ms, 1000, 5000, 2.0), pan)
    assert pair.ms.shape == (3, 20, 20) and pair.divisor == 255
    ms[3, 4:6, 4] = 0
    pair = load_pair(geotiff(tmp_path / "ms.tif", ms, 1000, 5000, 2.0), pan)
    assert (~pair.valid).sum() == 2 and not pair.valid[4:6, 4].any()


def test_geotiff_route_writes(call, tmp_path):
    generator = np.random.default_rng(0)
    ms = geotiff(tmp_path / "m.tif", generator.integers(0, 2000, (8, 96, 40)).astype(np.uint16), 0, 0, 2.0)
    pan = geotiff(tmp_path / "p.tif", generator.integers(0, 2000, (1, 384, 160)).astype(np.uint16), 0, 0, 0.5)
    arguments = ["simulate", "--ms", ms, "--pan", pan, "--sensor", "WV3", "--name", "mine", "--out", tmp_path / "o"]
    assert call(*arguments)[0] == 0
    assert len(build_dataset("mine", "train", root=tmp_path / "o")) == 1


def with_nan(path):
    generator = np.random.default_rng(0)
    ms = generator.random((192, 96, 4))
    ms[3, 4, 1] = np.nan
    savemat(path, {"I_MS": ms, "I_PAN": generator.random((768, 384))})
    return path


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda p: p / "none.mat", [], "does not exist"),
        (lambda p: scene(p / "s.mat"), ["--sensor", "WV3"], "expected 8 bands for sensor WV3, given 4"),
        (lambda p: scene(p / "s.mat"), ["--sensor", "WV33"], 'unknown sensor "WV33"'),
        (lambda p: scene(p / "s.mat"), ["--ratio", "8"], "the sizes of the scene say 4"),
        (lambda p: scene(p / "s.mat", ratio=9), [], "a ratio of 2 to 8 or 16"),
        (lambda p: scene(p / "s.mat", rows=40, columns=40), [], "at least 96x32"),
        (lambda p: scene(p / "s.mat"), ["--stride", "6"], "multiple of the ratio"),
        (lambda p: scene(p / "s.mat"), ["--divisor", "-1"], "positive divisor"),
        (lambda p: scene(p / "s.mat"), ["--divisor", "nan"], "positive divisor"),
        (lambda p: scene(p / "s.mat"), ["--divisor", "0"], "positive divisor"),
        (lambda p: scene(p / "s.mat"), ["--name", "../x"], "letters, digits"),
        (lambda p: scene(p / "s.mat"), ["--ms", "a.tif"], "either SCENE files or --ms and --pan"),
        (lambda p: with_nan(p / "s.mat"), [], "MS has 1 NaN"),
        (lambda p: (savemat(p / "s.mat", {"I_PAN": np.ones((8, 8))}), p / "s.mat")[1], [], 'no variable "I_MS"'),
        (lambda p: (savemat(p / "s.mat", {"a": np.ones(3)}), p / "s.mat")[1], ["--sensor", "none"], "holds no cube"),
        (
            lambda p: (savemat(p / "s.mat", {"c": np.ones((96, 32, 5))}), p / "s.mat")[1],
            ["--sensor", "none"],
            "needs its wavelengths",
        ),
        (lambda p: (p / "empty").mkdir() or p / "empty", ["--sensor", "CAVE"], "one grey PNG"),
    ],
)
def test_bad_scenes_are_one_line_and_leave_nothing(call, tmp_path, make, arguments, message):
    source = make(tmp_path)
    defaults = [] if "--sensor" in arguments else ["--sensor", "IKONOS"]
    status, out, err = call("simulate", source, "--out", tmp_path / "o", *defaults, *arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_output_folder_not_writable(call, tmp_path):
    (tmp_path / "file").write_text("in the way")
    source = scene(tmp_path / "s.mat")
    status, _, err = call("simulate", source, "--sensor", "QB", "--stride", 64, "--out", tmp_path / "file" / "o")
    assert status == 2 and "cannot write" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [0]), (3, [0, 1, 2]), (8, list(range(8))), (2**53 + 2, None)],  # the last is no float64
)
def test_samples_are_spread_from_the_first_to_the_last(count, expected):
    picks = spread(count)
    assert picks == (expected if expected is not None else sorted(set(picks)))
    assert not count or (picks[0], picks[-1]) == (0, count - 1)
    assert all(abs((b - a) - (count - 1) / 7) <= 1 for a, b in itertools.pairwise(picks) if len(picks) == 8)


def test_no_data_are_drawn_where_their_picture_cannot_be_written(call, tmp_path):
    (tmp_path / "p").mkdir()
    status, _, err = call("synthetic", "--size", 128, "--out", tmp_path / "o", "--picture", tmp_path / "p")
    assert status == 2 and "is a folder, not a file" in err and not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["train_qb.h5", "test_qb_OrigScale_multiExm1.h5"])
def test_no_file_of_a_set_is_made_where_another_cannot_be(call, tmp_path, name):
    (tmp_path / "o" / name).mkdir(parents=True)
    source = scene(tmp_path / "s.mat")
    status, _, err = call("simulate", source, "--sensor", "QB", "--stride", 64, "--out", tmp_path / "o")
    assert status == 2 and f'{name}": it is a folder' in err and [p.name for p in (tmp_path / "o").iterdir()] == [name]


def test_inspect_lists_contents_and_problems(call, tmp_path):
    source = scene(tmp_path / "s.mat")
    call("simulate", source, "--sensor", "QB", "--stride", 64, "--out", tmp_path)
    good = tmp_path / "valid_qb.h5"
    status, out, _ = call("inspect", good, source)
    assert status == 0 and out.count("nothing wrong found") == 2
    for part in ("gt: (1, 4, 64, 64) float32", "ratio 4", "axes NCHW", "QB (from the file)", "a scene (MS and PAN)"):
        assert part in out

    def change(edit):
        copy = tmp_path / "copy.h5"
        copy.write_bytes(good.read_bytes())
        with h5py.File(copy, "a") as file:
            edit(file)
        return call("inspect", copy)

    def nan(file):
        file["pan"][0, 0, 1, 1] = np.nan

    def divided(file):
        for key in ("gt", "ms", "lms", "pan"):
            file[key][...] = file[key][...] / 2047

    def too_large(file):
        for key in ("gt", "ms", "lms", "pan"):
            file[key][...] = file[key][...] * 3

    def swapped(file):
        file["lms"][...] = file["lms"][()][:, ::-1, ::-1]

    def keyless(file):
        del file["pan"]

    wrong = ((nan, "NaN"), (divided, "already divided"), (too_large, "beyond the divisor 2047"), (swapped, "enlarged"))
    for edit, message in (*wrong, (keyless, "no key")):
        status, out, _ = change(edit)
        assert status == 1 and "WRONG" in out and message in out
    (tmp_path / "cut.h5").write_bytes(good.read_bytes()[:3000])
    status, out, err = call("inspect", tmp_path / "cut.h5", tmp_path / "none.h5")
    assert status == 2 and "truncated" in out and "does not exist" in out
    assert err.startswith("error: ") and err.count("\n") == 1


def test_inspect_shows_an_attribute_on_one_line(call, tmp_path):
    """A table in an attribute, such as the spectral response of a cube's guide, does not spill over the report."""
    cube = tmp_path / "cube.mat"
    savemat(cube, {"cube": np.random.default_rng(0).random((128, 64, 40))})
    call("simulate", cube, "--wavelengths", "400:900", "--name", "lab", "--out", tmp_path)
    _, out, _ = call("inspect", tmp_path / "test_lab.h5")
    assert "@response = (3, 40) float64, " in out
    assert all(line.startswith("  ") for line in out.splitlines()[1:])


def test_inspect_reports_the_share_without_data(call, tmp_path):
    image = np.full((4, 40, 50), 700, np.uint16)
    image[1, :10] = 0  # one band without data is enough
    status, out, _ = call("inspect", geotiff(tmp_path / "m.tif", image, 1000, 5000, 2.0, nodata=0))
    assert status == 0
    for part in (
        "4 bands, 40x50, uint16, 0 .. 700",
        "CRS EPSG:32633, pixel 2 x 2",
        "nodata 0: about 25.0% of the pixels",
    ):
        assert part in out


def test_inspect_guesses_layout_sensor_and_guide_order(call, tmp_path):
    generator = np.random.default_rng(0)
    gt = np.cumsum(generator.random((2, 31, 16, 16)), 1) / 31
    lms = gt.reshape(2, 31, 4, 4, 4, 4).mean((3, 5)).repeat(4, 2).repeat(4, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["GT"], file["HSI_up"] = gt.transpose(0, 2, 3, 1), lms.transpose(0, 2, 3, 1)
        file["LRHSI"] = lms[:, :, ::4, ::4].transpose(0, 2, 3, 1)
        file["RGB"] = gt[:, [5, 15, 25]].transpose(0, 2, 3, 1)
    _, out, _ = call("inspect", tmp_path / "a.h5")
    for part in ("axes NHWC", "CAVE", "guide order: BGR"):
        assert part in out


def test_inspect_names_bands_without_an_image(call, tmp_path):
    """Dead, noise only, and interpolated between their neighbours; in a `.mat`, an array and an H5 file."""
    generator = np.random.default_rng(0)
    place = np.linspace(0, 3, 24)
    abundances = np.abs(generator.normal(1, 1, (5, 32, 32)))
    spectra = np.exp(-((place - np.arange(5)[:, None] * 0.75) ** 2)) + 0.1
    cube = np.einsum("khw,kc->chw", abundances, spectra) + generator.normal(0, 0.02, (24, 32, 32))
    whole = cube.copy()
    cube[4] = 0
    cube[8] = generator.normal(0, 1, (32, 32))
    for band in (15, 16, 17):
        cube[band] = (18 - band) / 4 * cube[14] + (band - 14) / 4 * cube[18]
    np.save(tmp_path / "cube.npy", cube)
    savemat(tmp_path / "cube.mat", {"hsi": np.moveaxis(cube, 0, -1), "classes": np.ones((32, 32), np.uint8)})
    savemat(tmp_path / "jasper.mat", {"Y": cube.reshape(24, -1), "nRow": 32, "nCol": 32})
    for file in ("cube.npy", "cube.mat", "jasper.mat"):
        status, out, _ = call("inspect", tmp_path / file)
        assert status == 0
        for part in (
            "band 5 of 24: one value",
            "band 9 of 24: no corr",
            "bands 16 to 18 of 24: explained by the neigh",
        ):
            assert part in out, file
    savemat(tmp_path / "whole.mat", {"hsi": np.moveaxis(whole, 0, -1)})
    assert "note" not in call("inspect", tmp_path / "whole.mat")[1]
    low = cube.reshape(24, 8, 4, 8, 4).mean((2, 4))
    with h5py.File(tmp_path / "dead.h5", "w") as file:
        file["gt"], file["ms"], file["pan"] = cube[None], low[None], cube[None, [20, 12, 3]]
        file["lms"] = low.repeat(4, 1).repeat(4, 2)[None]
    status, out, _ = call("inspect", tmp_path / "dead.h5")
    assert status == 1 and '"gt": band 5 holds one value' in out


def test_synthetic_command(call, tmp_path):
    status, out, _ = call("synthetic", "--out", tmp_path, "--size", 128, "--seed", 1, "--sensor", "QB", "--name", "toy")
    assert status == 0 and out.count("samples") == 4
    assert build_dataset("toy", "train", root=tmp_path).facts.bands == 4
    status, _, err = call("synthetic", "--out", tmp_path / "none", "--size", 128, "--landscape", "moon")
    assert status == 2 and "desert" in err and not (tmp_path / "none").exists()


def test_real_scene(call, shared, tmp_path):
    """The acceptance scene: its boxes, and its test ground is untouched by training."""
    source = shared("data/ikonos_scene.mat")
    assert call("simulate", source, "--sensor", "IKONOS", "--out", tmp_path, "--stride", 64)[0] == 0
    truth = np.moveaxis(read_mat(source, ["I_MS"])["I_MS"], -1, 0).astype(np.float32)
    with h5py.File(tmp_path / "test_ikonos_multiExm1.h5") as file:
        tiles = np.concatenate(list(file["gt"][:]), axis=2)
        np.testing.assert_array_equal(tiles, truth[:, 256:320])
        assert json.loads(file.attrs["boxes"])[0]["valid"] == [192, 256, 0, 320]
    with h5py.File(tmp_path / "train_ikonos.h5") as file:
        np.testing.assert_array_equal(file["gt"][-1], truth[:, 128:192, 256:320])
