"""Files of a scene, in and out: what people have becomes a pair, or one line says what to do and nothing is written."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat
from scipy.ndimage import gaussian_filter, map_coordinates
from small_files import LEFT, PIXEL, TOP, smooth, tif

from lemamba.commands import fuse, parse, prepare
from lemamba.datasets.arrays import open_array
from lemamba.datasets.opening import Relation, open_images
from lemamba.datasets.readers import inspect_file, reader_of
from lemamba.datasets.registration import estimate_shift, measure_pair
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
ROOT = Path(__file__).resolve().parent.parent
MS, PAN = smooth(24, 20, 4), smooth(96, 80, 1, seed=1)


@pytest.fixture
def pair(tmp_path):
    return tif(tmp_path / "ms.tif", MS, pixel=4 * PIXEL), tif(tmp_path / "pan.tif", PAN)


def run(ms, pan, out, *more, arch="Brovey"):
    """Fuse from the command line; return what was written (C, H, W)."""
    paths = [ms] if isinstance(ms, str | Path) else ms
    guides = [pan] if isinstance(pan, str | Path) else pan
    arguments = ["--arch", arch, "--ms", *map(str, paths), *(["--pan", *map(str, guides)] if guides else [])]
    assert fuse.run(parse("fuse", [*arguments, "--out", str(out), *map(str, more)])) == 0
    return np.load(out) if out.suffix == ".npy" else read(out)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def expected(pair, tmp_path):
    return run(*pair, tmp_path / "expected.tif")


# ------------------------------------------------------------------------------------------------ files in


def test_single_band_files_are_stacked(tmp_path, pair, capsys):
    bands = [tif(tmp_path / f"B{i}.tif", MS[i : i + 1], pixel=4 * PIXEL) for i in range(4)]
    np.testing.assert_array_equal(run(bands, pair[1], tmp_path / "out.tif"), expected(pair, tmp_path))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.descriptions == ("B0", "B1", "B2", "B3")


@pytest.mark.parametrize(
    ("message", "image", "options"),
    [
        ("differ in their size: 24x20 and 12x20; give bands of one resolution", MS[:1, :12], {"pixel": 4 * PIXEL}),
        ("differ in their coordinate system", MS[:1], {"pixel": 4 * PIXEL, "crs": "EPSG:32634"}),
        ("differ in their type: uint16 and float32", MS[:1].astype(np.float32), {"pixel": 4 * PIXEL}),
        ("corners or pixel sizes differ", MS[:1], {"pixel": 4 * PIXEL, "left": LEFT + 1}),
    ],
)
def test_bands_of_other_grids_are_not_stacked(tmp_path, pair, message, image, options):
    other = tif(tmp_path / "other.tif", image, **options)
    with pytest.raises(UserError, match=message):
        run([pair[0], other], pair[1], tmp_path / "out.tif")


def as_format(folder: Path, path: Path, kind: str) -> Path:
    """Write a GeoTIFF once more in another format, losslessly."""
    import rasterio.shutil

    if kind == "vrt":
        rasterio.shutil.copy(path, folder / f"{path.stem}.vrt", driver="VRT")
        return folder / f"{path.stem}.vrt"
    options = {
        "jp2": ("JP2OpenJPEG", ".jp2", {"QUALITY": "100", "REVERSIBLE": "YES"}),
        "cog": ("COG", "_cog.tif", {}),
        "envi": ("ENVI", ".img", {}),
        "bsq": ("ENVI", ".bsq", {}),
        "header": ("ENVI", ".dat", {}),
        "no suffix": ("ENVI", "_raw", {}),
        "erdas": ("HFA", "_erdas.img", {}),
    }
    driver, ending, more = options[kind]
    made = folder / f"{path.stem}{ending}"
    rasterio.shutil.copy(path, made, driver=driver, **more)
    if kind == "no suffix":
        made.with_suffix(".hdr").replace(made.with_name(f"{made.name}.hdr"))
    return made.with_suffix(".hdr") if kind == "header" else made


@pytest.mark.parametrize("kind", ["vrt", "jp2", "cog", "envi", "bsq", "header", "no suffix", "erdas"])
def test_other_formats_give_the_same_image(tmp_path, pair, kind):
    (tmp_path / "other").mkdir()
    others = [as_format(tmp_path / "other", path, kind) for path in pair]
    np.testing.assert_array_equal(run(*others, tmp_path / "out.tif"), expected(pair, tmp_path))
    report = inspect_file(others[0])
    assert report.status == 0 and "4 bands, 24x20, uint16" in report.text()


@pytest.mark.parametrize("kind", [".npy", ".npz", ".mat", ".h5", "one .mat", "one .npz", "one .h5"])
def test_arrays_are_related_by_their_sizes(tmp_path, pair, kind, capsys):
    """Bands first or last, under other people's names; the pixels are those of a pair whose corners agree."""
    ms, pan = np.moveaxis(MS, 0, -1), PAN[0]
    suffix, names = kind.split()[-1], (("lrMS", "PAN"), ("I_MS", "I_PAN"))["one" in kind]
    paths = [tmp_path / f"a{suffix}"] * 2 if "one" in kind else [tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"]
    content = {names[0]: ms, names[1]: pan}
    for path in set(paths):
        held = (
            content
            if "one" in kind
            else {name: content[name] for name, p in zip(names, paths, strict=True) if p == path}
        )
        if suffix == ".npy":
            np.save(path, next(iter(held.values())).astype(np.int64))
        elif suffix == ".npz":
            np.savez(path, **held)
        elif suffix == ".mat":
            savemat(path, held)
        else:
            with h5py.File(path, "w") as file:
                file.update(held)
    out = run(paths[0], [] if "one" in kind else paths[1], tmp_path / "out.tif")
    np.testing.assert_array_equal(out, expected(pair, tmp_path))
    assert "their corners are taken to agree, ratio 4 by the sizes" in capsys.readouterr().out
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs is None and file.transform.is_identity


def test_which_axis_holds_the_bands(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 7, 9)))
    assert open_array(tmp_path / "a.npy", "ms").values.shape == (5, 7, 9)
    np.save(tmp_path / "a.npy", np.zeros((9, 7, 5)))
    assert open_array(tmp_path / "a.npy", "ms").values.shape == (5, 9, 7)
    for shape in ((7, 5, 9), (5, 5, 5)):
        np.save(tmp_path / "a.npy", np.zeros(shape))
        with pytest.raises(UserError, match="is not clear"):
            open_array(tmp_path / "a.npy", "ms")


def test_a_landsat_folder(tmp_path, capsys):
    """B2 to B7 become MS, B8 PAN; the metadata file names the folder too, and the sensor is known."""
    folder = tmp_path / "LC08"
    folder.mkdir()
    for band in range(1, 10):
        image, pixel = (smooth(96, 80, 1, seed=8), PIXEL) if band == 8 else (smooth(24, 20, 1, seed=band), 4 * PIXEL)
        tif(folder / f"LC08_L1TP_107035_20150502_20200909_02_T1_B{band}.TIF", image, pixel=pixel)
    (folder / "LC08_L1TP_107035_20150502_20200909_02_T1_MTL.txt").write_text("GROUP")
    bands = [next(folder.glob(f"*_B{i}.TIF")) for i in range(2, 8)]
    stacked = run(bands, next(folder.glob("*_B8.TIF")), tmp_path / "o.tif", "--sensor", "Landsat8")
    for name in (folder, next(folder.glob("*_MTL.txt"))):
        np.testing.assert_array_equal(run(name, [], tmp_path / "out.tif"), stacked)
        assert "sensor Landsat8, divisor 65535" in capsys.readouterr().out
    next(folder.glob("*_B8.TIF")).unlink()
    with pytest.raises(UserError, match="lacks the band B8"):
        run(folder, [], tmp_path / "out.tif")


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_a_sentinel_2_folder(tmp_path, level, capsys):
    """Six bands of 20 m; the guide is the mean of the four of 10 m, or one that is named."""
    data = tmp_path / "S2A_MSIL2A.SAFE" / "GRANULE" / "L2A_T54" / "IMG_DATA"
    images = {}
    for band in ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"):
        fine = band in ("B02", "B03", "B04", "B08")
        size = "10m" if fine else "20m"
        folder = data / f"R{size}" if level == "L2A" else data
        folder.mkdir(parents=True, exist_ok=True)
        images[band] = smooth(*((96, 80) if fine else (48, 40)), 1, seed=len(images))
        path = tif(tmp_path / f"{band}.tif", images[band], pixel=PIXEL * (1 if fine else 2))
        name = f"T54_20200101_{band}_{size}.jp2" if level == "L2A" else f"T54_20200101_{band}.jp2"
        as_format(tmp_path, path, "jp2").replace(folder / name)
        (tmp_path / f"{band}.jp2.aux.xml").unlink(missing_ok=True)
    with open_images(tmp_path / "S2A_MSIL2A.SAFE", tmp_path / "S2A_MSIL2A.SAFE") as (ms, pan):
        bands = np.concatenate([images[b] for b in ("B05", "B06", "B07", "B8A", "B11", "B12")])
        np.testing.assert_array_equal(ms.read()[0], bands)
        mean = np.mean([images[b] for b in ("B02", "B03", "B04", "B08")], axis=0)
        np.testing.assert_allclose(pan.read()[0], mean)
    assert "4 guide bands; their mean is taken as PAN" in capsys.readouterr().out
    with open_images(tmp_path / "S2A_MSIL2A.SAFE", tmp_path / "B08.tif") as (_, pan):
        np.testing.assert_array_equal(pan.read()[0], images["B08"])


def test_a_guide_of_several_bands(tmp_path, pair, capsys):
    """Grey stored as RGB is one band, a mask next to PAN is a mask, other bands are averaged; each is reported."""
    single = expected(pair, tmp_path)
    grey = tif(tmp_path / "grey.tif", np.concatenate([PAN] * 3))
    np.testing.assert_array_equal(run(pair[0], grey, tmp_path / "out.tif"), single)
    assert "the 3 bands of" in capsys.readouterr().out
    mask = np.full_like(PAN, 65535)
    mask[:, :8, :8] = 0
    masked = run(pair[0], tif(tmp_path / "mask.tif", np.concatenate([PAN, mask])), tmp_path / "out.tif")
    assert "taken as a mask" in capsys.readouterr().out
    assert (masked[:, :8, :8] == 0).all() and (masked[:, 8:] > 0).all()
    other = smooth(96, 80, 1, seed=9)
    mean = tif(tmp_path / "mean.tif", (PAN.astype(np.float32) + other) / 2)
    several = tif(tmp_path / "several.tif", np.concatenate([PAN, other]))
    np.testing.assert_array_equal(run(pair[0], several, tmp_path / "out.tif"), run(pair[0], mean, tmp_path / "o2.tif"))
    with pytest.raises(UserError, match="swap --ms and --pan"):
        run(pair[1], pair[0], tmp_path / "out.tif")


# ------------------------------------------------------------------------------- pairs without georeference


def test_a_missing_coordinate_system_is_taken_from_the_other(tmp_path, pair, capsys):
    bare = tif(tmp_path / "bare.tif", PAN, crs=None)
    np.testing.assert_array_equal(run(pair[0], bare, tmp_path / "out.tif"), expected(pair, tmp_path))
    assert "names no coordinate system; that of" in capsys.readouterr().out
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs.to_epsg() == 32633 and file.transform == rasterio.Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)


def test_a_missing_geotransform_is_taken_by_size(tmp_path, pair, capsys):
    bare = tif(tmp_path / "bare.tif", PAN, crs=None, transform=rasterio.Affine.identity())
    np.testing.assert_array_equal(run(pair[0], bare, tmp_path / "out.tif"), expected(pair, tmp_path))
    assert "without geotransform: their corners are taken to agree, ratio 4" in capsys.readouterr().out
    run(pair[0], bare, tmp_path / "out.tif", "--assume_aligned")
    assert "corners" not in capsys.readouterr().out
    with rasterio.open(tmp_path / "out.tif") as file:  # in MS's coordinates
        assert file.crs.to_epsg() == 32633 and file.transform == rasterio.Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)
    odd = tif(tmp_path / "odd.tif", smooth(97, 80, 1), crs=None, transform=rasterio.Affine.identity())
    with pytest.raises(UserError, match=r"MS 24x20, PAN 97x80; add --assume_aligned if their corners agree"):
        run(pair[0], odd, tmp_path / "out.tif")


def test_sizes_decide_with_assume_aligned(tmp_path, pair):
    """Whatever the files say: a wrong corner is of no account, PAN's grid is kept."""
    wrong = tif(tmp_path / "wrong.tif", MS, pixel=7, left=0, crs="EPSG:32634")
    with pytest.raises(UserError, match=r"gdalwarp -t_srs EPSG:32633 -r cubic .*wrong.tif wrong_warped.tif"):
        run(wrong, pair[1], tmp_path / "out.tif")
    aligned = run(wrong, pair[1], tmp_path / "out.tif", "--assume_aligned")
    np.testing.assert_array_equal(aligned, expected(pair, tmp_path))


def test_rpc_and_rotation_name_the_command(tmp_path, pair):
    bare = tif(tmp_path / "rpc.tif", PAN, crs=None, transform=rasterio.Affine.identity())
    one, none = [1.0] + [0.0] * 19, [0.0] * 20
    rpc = rasterio.rpc.RPC(0, 1, 0, 1, one, none, 0, 1, 0, 1, one, none, 0, 1)
    with rasterio.open(bare, "r+") as file:
        file.rpcs = rpc
    with pytest.raises(UserError, match=r"gdalwarp -rpc -t_srs EPSG:CODE .*rpc.tif rpc_warped.tif"):
        run(pair[0], bare, tmp_path / "out.tif")
    rotated = tif(tmp_path / "turned.tif", PAN, transform=rasterio.Affine(0.5, 0.01, LEFT, 0.01, -0.5, TOP))
    with pytest.raises(UserError, match=r"rotated; make it north-up: gdalwarp -t_srs EPSG:32633 -r cubic .*turned.tif"):
        run(pair[0], rotated, tmp_path / "out.tif")


# --------------------------------------------------------------------------------------------- registration


def ground(side=512, seed=3):
    """Bands with texture of sizes that no ratio divides, so that nothing in it is periodic at MS's pixels."""
    rng = np.random.default_rng(seed)
    blocks = [
        np.kron(rng.random((side // k + 1, side // k + 1)), np.ones((k, k)))[:side, :side] for k in (61, 17, 5, 1)
    ]
    shared = gaussian_filter(sum(blocks), 0.7)
    return np.stack([shared * 400 + gaussian_filter(rng.random((side, side)), 30) * 9000 for _ in range(4)])


def observed(truth, ratio, geometry, count):
    """MS as a sensor sees it: blurred, sampled at `geometry`."""
    axes = [o + np.arange(count) * ratio for o in geometry.offset]
    places = np.meshgrid(*axes, indexing="ij")
    return np.stack([map_coordinates(gaussian_filter(b, 0.42 * ratio), places, order=3, mode="nearest") for b in truth])


@pytest.mark.parametrize("ratio", [2, 4, 6])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.7), (1.4, 2.2), (-3.0, 0.5)])
def test_a_known_shift_is_found(ratio, shift):
    pytest.importorskip("skimage", reason="scikit-image is optional")
    truth, assumed = ground(), Geometry.corners(ratio)
    ms = observed(truth, ratio, assumed.shifted(*shift), 512 // ratio)
    rows, columns, error = estimate_shift(ms, truth.mean(0), assumed)
    assert (rows, columns) == (pytest.approx(shift[0], abs=0.05), pytest.approx(shift[1], abs=0.05))
    assert 0.05 <= error < 0.2


def test_an_image_of_nothing_has_no_shift():
    pytest.importorskip("skimage", reason="scikit-image is optional")
    with pytest.raises(UserError, match="no structure that both show"):
        estimate_shift(np.ones((4, 64, 64)), np.ones((256, 256)), Geometry.corners(4))


def test_a_pair_is_registered_and_inspected(tmp_path, capsys):
    """inspect warns, --register moves MS by what it is off, and a pair that fits is left alone."""
    pytest.importorskip("skimage", reason="scikit-image is optional")
    truth = ground()
    pan = tif(tmp_path / "pan.tif", truth.mean(0, keepdims=True).astype(np.uint16))
    right = observed(truth, 4, Geometry.corners(4), 128).astype(np.uint16)
    moved = observed(truth, 4, Geometry.corners(4).shifted(1, -2), 128).astype(np.uint16)
    for name, image, status in (("right", right, 0), ("moved", moved, 1)):
        ms = tif(tmp_path / f"{name}.tif", image, pixel=4 * PIXEL)
        assert prepare.run(parse("prepare", ["inspect", "--ms", str(ms), "--pan", str(pan)])) == status
        assert ("fuse with --register" in capsys.readouterr().out) == bool(status)
    with open_images(tmp_path / "moved.tif", pan, Relation(register=True)) as (ms, fine):
        assert (ms.transform.f - TOP) / -PIXEL == pytest.approx(1, abs=0.05)
        assert (ms.transform.c - LEFT) / PIXEL == pytest.approx(-2, abs=0.05)
        assert measure_pair(ms, fine)[:2] == (pytest.approx(0, abs=0.05), pytest.approx(0, abs=0.05))
    assert "MS is moved by +1" in capsys.readouterr().out


def test_a_collar_does_not_disturb_the_registration(tmp_path, capsys):
    """`--register` with `--nodata`: two unmarked collars of different outlines."""
    pytest.importorskip("skimage", reason="scikit-image is optional")
    truth = ground()
    pan = truth.mean(0, keepdims=True).astype(np.uint16)
    rows, columns = np.indices((512, 512))
    pan[:, rows + 3 * columns < 500] = 0
    fine = tif(tmp_path / "pan.tif", pan)
    ms = observed(truth, 4, Geometry.corners(4).shifted(1, -2), 128).astype(np.uint16)
    ms[:, (rows - columns)[:128, :128] > 90] = 0
    ms[:, :9] = 0
    coarse = tif(tmp_path / "ms.tif", ms, pixel=4 * PIXEL)
    arguments = ["--arch", "EXP", "--ms", coarse, "--pan", fine, "--out", tmp_path / "out.tif", "--nodata", "0"]
    assert fuse.run(parse("fuse", [*map(str, arguments), "--register"])) == 0
    moved = re.search(r"moved by ([+-][0-9.]+) rows and ([+-][0-9.]+) columns", capsys.readouterr().out)
    assert [float(x) for x in moved.groups()] == [pytest.approx(1, abs=0.1), pytest.approx(-2, abs=0.1)]
    with rasterio.open(tmp_path / "out.tif") as file:
        fused = file.read()
    missing = (rows + 3 * columns < 500)[1:, :-2]  # PAN pixels that the moved MS covers
    assert fused.shape == (4, *missing.shape)
    assert not fused[:, missing].any() and (fused[:, 120:-120, 200:-80] > 0).all()


def test_real_scenes_lie_where_the_toolboxes_put_them(shared):
    """Files of the research toolboxes have MS half a PAN pixel further than corners: found within 0.15 pixels."""
    pytest.importorskip("skimage", reason="scikit-image is optional")
    for name in ("ikonos_scene.mat", "pleiades_reduced.mat"):
        path = shared(f"data/{name}")
        with open_images(path, path) as (ms, pan):
            rows, columns, _ = measure_pair(ms, pan)
        assert (rows, columns) == (pytest.approx(0.5, abs=0.15), pytest.approx(0.5, abs=0.15))


# ----------------------------------------------------------------------------------------------- files out


@pytest.mark.parametrize("compress", ["none", "deflate", "zstd", "lzw"])
@pytest.mark.parametrize("more", [[], ["--cog"]])
def test_every_compression_keeps_the_pixels(tmp_path, pair, compress, more):
    out = run(*pair, tmp_path / "out.tif", "--compress", compress, *more)
    np.testing.assert_array_equal(out, expected(pair, tmp_path))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.compression.name if file.compression else "none") == compress
    assert {p.name for p in tmp_path.iterdir()} == {"ms.tif", "pan.tif", "out.tif", "expected.tif"}


def test_a_cog_has_overviews_and_statistics(tmp_path):
    ms, pan = (
        tif(tmp_path / "ms.tif", smooth(300, 300, 2), pixel=2 * PIXEL),
        tif(tmp_path / "pan.tif", smooth(600, 600, 1)),
    )
    image = run(ms, pan, tmp_path / "out.tif", "--cog")
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.overviews(1)
        assert float(file.tags(1)["STATISTICS_MAXIMUM"]) == image[0].max()


@pytest.mark.parametrize("name", ["out.img", "out.npy"])
def test_envi_and_npy(tmp_path, pair, name):
    np.testing.assert_array_equal(run(*pair, tmp_path / name), expected(pair, tmp_path))
    if name == "out.img":
        with rasterio.open(tmp_path / name) as file:
            assert file.driver == "ENVI" and file.crs.to_epsg() == 32633
            assert file.transform == rasterio.Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)
    with_header = {"out.hdr"} if name == "out.img" else set()
    assert {p.name for p in tmp_path.iterdir()} == {"ms.tif", "pan.tif", "expected.tif", name} | with_header


def test_chosen_bands_and_types(tmp_path, pair, capsys):
    whole = expected(pair, tmp_path)
    np.testing.assert_array_equal(run(*pair, tmp_path / "out.tif", "--bands", "4,2"), whole[[3, 1]])
    small = run(*pair, tmp_path / "out.tif", "--dtype", "uint8")
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, whole.clip(0, 255))
    assert "values are kept as uint8: rounded and clipped to its range, not scaled" in capsys.readouterr().out
    assert np.abs(run(*pair, tmp_path / "out.tif", "--dtype", "float32") - whole).max() <= 0.5
    for bands, message in (("5", "from 1 to 4, given 5"), ("0", "from 1 to 4, given 0"), ("a", "band numbers such as")):
        with pytest.raises(UserError, match=message):
            run(*pair, tmp_path / "new.tif", "--bands", bands)
    assert not (tmp_path / "new.tif").exists()


def test_the_picture_shows_2_to_98_percent_of_each_band(tmp_path, pair):
    from PIL import Image

    image = run(*pair, tmp_path / "out.tif", "--rgb_png", tmp_path / "out.png")[[2, 1, 0]].astype(float)
    low, high = (np.percentile(image, p, axis=(1, 2), keepdims=True) for p in (2, 98))
    wanted = np.moveaxis(255 * ((image - low) / (high - low)).clip(0, 1), 0, -1)
    with Image.open(tmp_path / "out.png") as picture:
        assert np.abs(np.asarray(picture) - wanted).max() <= 1


FULL_DISK = """
import resource, signal, sys
from lemamba.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv = ["lemamba", "fuse", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of file sizes stands for a full disk")
@pytest.mark.parametrize("name", ["out.tif", "out.img", "out.npy", "cog.tif"])
def test_a_full_disk_leaves_nothing(tmp_path, name):
    ms = tif(tmp_path / "ms.tif", smooth(64, 64, 4), pixel=4 * PIXEL)
    pan = tif(tmp_path / "pan.tif", smooth(256, 256, 1))
    (tmp_path / "out").mkdir()
    more = ["--cog"] if name == "cog.tif" else []
    command = [
        "--arch",
        "Brovey",
        "--ms",
        ms,
        "--pan",
        pan,
        "--out",
        tmp_path / "out" / name,
        "--compress",
        "none",
        *more,
    ]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "cannot write" in done.stderr and not list((tmp_path / "out").iterdir())


# ------------------------------------------------------------------------------------------------- addresses


SERVER = """
import pathlib, re, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
folder = pathlib.Path(sys.argv[1])
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        file = folder / self.path.strip("/")
        content = file.read_bytes() if file.is_file() else b""
        asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        part = content[int(asked[1]) : int(asked[2] or len(content)) + 1] if asked else content
        self.send_response(404 if not file.is_file() else 206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)
            print(file.name, len(part), flush=True)
    do_HEAD = do_GET
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server of a folder that answers with the bytes asked for: the folder, its address, the bytes sent so far.

    In a process of its own, as GDAL's caller holds Python's lock while it opens a file.
    """
    folder, log = tmp_path / "served", tmp_path / "log.txt"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with log.open("w") as output, log.open() as said:
        server = subprocess.Popen([sys.executable, "-I", "-S", "-c", SERVER, str(folder)], stdout=output)
        try:
            while not (port := said.readline()).endswith("\n"):
                assert server.poll() is None
                said.seek(0)
                time.sleep(0.05)
            yield folder, f"http://127.0.0.1:{int(port)}", lambda: [x.split() for x in log.read_text().splitlines()[1:]]
        finally:
            server.kill()
            server.wait()


@pytest.mark.parametrize("kind", ["tif", "cog", "vrt"])
def test_addresses_are_read_where_they_are_allowed(tmp_path, served, kind):
    """GeoTIFF, COG and a VRT that names addresses give the image of the local files; other addresses are one line."""
    folder, address, answers = served
    ms = tif(folder / "ms.tif", MS, pixel=4 * PIXEL)
    pan = tif(folder / "pan.tif", smooth(96, 80, 1))
    wanted = run(ms, pan, tmp_path / "local.tif", arch="GSA")
    names = [f"{address}/{(as_format(folder, f, 'cog') if kind == 'cog' else f).name}" for f in (ms, pan)]
    if kind == "vrt":
        local = as_format(folder, ms, "vrt")
        content = local.read_text().replace('relativeToVRT="1">ms.tif', f'relativeToVRT="0">/vsicurl/{address}/ms.tif')
        names[0] = text(tmp_path, "ms.vrt", content)
    np.testing.assert_array_equal(run(*names, tmp_path / "out.tif", "--allow_remote", arch="GSA"), wanted)
    assert any(name.startswith("ms") for name, _ in answers())
    with pytest.raises(UserError, match="add --allow_remote"):
        run(*names, tmp_path / "new.tif")
    with pytest.raises(UserError, match="cannot read"):
        run(f"{address}/none.tif", names[1], tmp_path / "new.tif", "--allow_remote")
    assert not (tmp_path / "new.tif").exists()


def test_of_a_large_remote_image_only_the_header_is_read_to_refuse_it(tmp_path, served):
    """Another number of bands than the sensor's is seen without the pixels."""
    folder, address, answers = served
    image = np.random.default_rng(0).integers(1, 2047, (3, 1500, 1500)).astype(np.uint16)
    ms, pan = tif(folder / "big.tif", image, pixel=4 * PIXEL), tif(tmp_path / "pan.tif", PAN)
    with pytest.raises(UserError, match="expected 4 bands"):
        run(f"{address}/big.tif", pan, tmp_path / "new.tif", "--sensor", "IKONOS", "--allow_remote")
    assert 0 < sum(int(size) for _, size in answers()) < ms.stat().st_size / 10


# ----------------------------------------------------------------------------------------------- bad input


def complex_tif(folder):
    return tif(folder / "c.tif", (MS + 1j).astype(np.complex64), pixel=4 * PIXEL)


def cut(folder):
    path = tif(folder / "cut.tif", MS, pixel=4 * PIXEL)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def mat(folder, **content):
    savemat(folder / "m.mat", content)
    return folder / "m.mat"


def array(folder, values, name="m.npy"):
    np.save(folder / name, values)
    return folder / name


def cut_array(folder):
    path = array(folder, MS)
    path.write_bytes(path.read_bytes()[:300])
    return path


def text(folder, name, content="B2 B3 B4"):
    (folder / name).write_text(content)
    return folder / name


def vrt(folder, source, relative=0):
    inner = f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>'
    band = f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>{inner}</SimpleSource></VRTRasterBand>'
    return text(folder, "m.vrt", f'<VRTDataset rasterXSize="20" rasterYSize="24">{band}</VRTDataset>')


BAD = {
    "complex": (complex_tif, "holds complex numbers"),
    "complex .mat": (lambda f: mat(f, ms=MS.T + 1j), "holds complex numbers"),
    "complex .npy": (lambda f: array(f, MS + 1j), "holds complex numbers"),
    "cells": (lambda f: mat(f, ms=np.array([1, "x"], dtype=object)), "no array named like a MS image"),
    "objects": (lambda f: array(f, np.array([1, "x"], dtype=object)), "Python objects"),
    "text in an array": (lambda f: array(f, np.array([["a"]])), "expected numbers"),
    "four axes": (lambda f: array(f, np.ones((2, 3, 4, 5))), r"expected .* \(H,W,C\) or \(C,H,W\)"),
    "two arrays": (lambda f: mat(f, a=np.ones((3, 4)), b=np.ones((3, 4))), "it holds: a, b"),
    "a text file": (lambda f: text(f, "m.txt"), r"of no format that is read .*gdal_translate"),
    "text called .jp2": (lambda f: text(f, "m.jp2"), "cannot read .* as JPEG 2000"),
    "text called .vrt": (lambda f: text(f, "m.vrt"), "not well-formed XML"),
    "text called .npz": (lambda f: text(f, "m.npz"), "as .npz: cut short or of another format"),
    "a header alone": (lambda f: text(f, "m.hdr", "ENVI"), "expected the image"),
    "cut short": (cut, "cannot be read to its end|cannot read"),
    "cut .npy": (cut_array, "cut short"),
    "missing": (lambda f: f / "none.tif", "does not exist"),
    "missing .npy": (lambda f: f / "none.npy", "does not exist"),
    "an address": (lambda f: "https://example.com/ms.tif", "add --allow_remote"),
    "a bucket": (lambda f: "s3://bucket/ms.tif", "add --allow_remote"),
    "GDAL's file systems": (lambda f: "/vsicurl/https://example.com/ms.tif", "add --allow_remote"),
    "an address in a VRT": (lambda f: vrt(f, "/vsicurl/https://example.com/a.tif"), "add --allow_remote"),
    "a VRT of nothing": (lambda f: vrt(f, "nothing.tif", 1), "not a file on this machine"),
    "a VRT of a list": (lambda f: vrt(f, text(f, "list.tif", "<GDAL_WMS>").name, 1), "which is not an image"),
    "an empty folder": (lambda f: (f / "x").mkdir() or f / "x", "Landsat 8 or 9 folder"),
    "another place": (lambda f: tif(f / "m.tif", MS, pixel=4 * PIXEL, left=LEFT + 9000), "share no ground"),
    "two zones": (lambda f: tif(f / "m.tif", MS, pixel=4 * PIXEL, crs="EPSG:32634"), "gdalwarp -t_srs EPSG:32633"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, pair, case):
    make, message = BAD[case]
    ms, out = make(tmp_path), tmp_path / "out.tif"
    with pytest.raises(UserError, match=message) as error:
        run(ms, pair[1], out)
    assert "\n" not in str(error.value) and "damaged" not in str(error.value)
    assert not out.exists() and not list(tmp_path.glob(".*"))


SHOWN = {
    "complex .mat": (lambda f: mat(f, ms=MS.T + 1j), "complex"),
    "cells": (lambda f: mat(f, ms=np.array([1, "x"], dtype=object)), "no array of numbers"),
    "a text file": (lambda f: text(f, "m.txt"), "of no format that is read"),
}


@pytest.mark.parametrize("case", SHOWN)
def test_inspect_says_what_a_file_is(tmp_path, case):
    make, message = SHOWN[case]
    report = inspect_file(make(tmp_path))
    assert report.status and message in report.text() and "damaged" not in report.text()


def test_no_raw_warning_reaches_the_terminal(tmp_path, pair):
    """Neither of the library that reads, nor of Python: pairs without any georeference, in and out."""
    ms, pan = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(ms, MS)
    np.save(pan, PAN)
    command = [
        sys.executable,
        "inference.py",
        "--arch",
        "Brovey",
        "--ms",
        ms,
        "--pan",
        pan,
        "--out",
        tmp_path / "o.tif",
    ]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "Warning" not in done.stdout


def test_outputs_that_cannot_be_written(tmp_path, pair):
    for out, message in (
        ("out.xyz", "expected --out to end in .tif or .tiff or .img or .dat or .npy"),
        ("ms.tif", "is an input"),
        ("ms.tif/out.tif", "is a file, not a folder"),
    ):
        with pytest.raises(UserError, match=message):
            run(*pair, tmp_path / out)
    with pytest.raises(UserError, match="end in .tif with --cog"):
        run(*pair, tmp_path / "out.npy", "--cog")
    np.testing.assert_array_equal(read(pair[0]), MS)


# ------------------------------------------------------------------------------------ simulate, other names


def test_a_scene_under_other_names_is_simulated(tmp_path):
    """ms and pan, MS and PAN: the same data set as from I_MS and I_PAN."""
    ms, pan = smooth(96, 40, 8), smooth(384, 160, 1, seed=1)
    written = []
    for names in (("I_MS", "I_PAN"), ("ms", "pan"), ("MS", "PAN"), ("lrms", "pan")):
        savemat(tmp_path / "s.mat", {names[0]: np.moveaxis(ms, 0, -1), names[1]: pan[0]})
        arguments = [
            "simulate",
            str(tmp_path / "s.mat"),
            "--sensor",
            "WV2",
            "--name",
            "x",
            "--out",
            str(tmp_path / names[0]),
        ]
        assert prepare.run(parse("prepare", arguments)) == 0
        with h5py.File(tmp_path / names[0] / "train_x.h5") as file:
            written.append({key: file[key][()] for key in file})
    for other in written[1:]:
        assert all(np.array_equal(written[0][key], other[key]) for key in written[0])


def test_simulating_without_a_sensor_takes_the_divisor_from_the_data(tmp_path, pair, capsys):
    ms, pan = tif(tmp_path / "m.tif", smooth(96, 40, 4), pixel=4 * PIXEL), tif(tmp_path / "p.tif", smooth(384, 160, 1))
    arguments = [
        "simulate",
        "--ms",
        str(ms),
        "--pan",
        str(pan),
        "--sensor",
        "none",
        "--name",
        "x",
        "--out",
        str(tmp_path),
    ]
    assert prepare.run(parse("prepare", arguments)) == 0
    assert "no sensor is known; divisor 2047" in capsys.readouterr().out  # values of 200 to 1800
    with h5py.File(tmp_path / "train_x.h5") as file:
        assert file.attrs["divisor"] == 2047


def test_cave_as_unzipped_and_its_bands_stored_as_colour(tmp_path):
    """balloons_ms/balloons_ms/, and watercolors, whose bands are grey in four channels."""
    from PIL import Image

    inner = tmp_path / "watercolors_ms" / "watercolors_ms"
    inner.mkdir(parents=True)
    bands = smooth(32, 32, 5, low=0, high=255).astype(np.uint8)
    for i, band in enumerate(bands, start=1):
        image = np.dstack([band] * 3 + [np.full_like(band, 255)])
        Image.fromarray(image).save(inner / f"watercolors_ms_{i:02d}.png")
    cube = reader_of(tmp_path / "watercolors_ms").load(tmp_path / "watercolors_ms")
    np.testing.assert_allclose(cube.values, bands / 255)
