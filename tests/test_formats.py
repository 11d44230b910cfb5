"""Input and output formats: a new one is one class or function and its suffix, and each file gets the right message."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from small_files import PIXEL, smooth, tif

from lemamba.commands import fuse as inference
from lemamba.commands import parse, prepare
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair import load_pair
from lemamba.datasets.readers import READERS, Reader, inspect_file, reader_of
from lemamba.datasets.writers import SCENE_WRITERS
from lemamba.utils.errors import UserError

rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")


@pytest.fixture
def pair(tmp_path):
    ms = tif(tmp_path / "ms.tif", smooth(96, 40, 4), pixel=4 * PIXEL)
    return ms, tif(tmp_path / "pan.tif", smooth(384, 160, 1, seed=1))


class ArrayFile(Reader):
    """An array that lies next to a GeoTIFF of the same name, which has its grid."""

    def inspect(self, report):
        report.lines.append(f"array {np.load(report.path).shape}")

    @contextmanager
    def open_raster(self, path, role="ms", *, remote=False):
        image = np.load(path)
        with rasterio.open(path.with_suffix(".tif")) as grid:
            crs, transform = grid.crs, grid.transform

        def read(window=None, size=None):
            (top, bottom), (left, right) = window or ((0, image.shape[1]), (0, image.shape[2]))
            part = image[:, top:bottom, left:right]
            if size:
                rows, columns = (np.arange(n) * side // n for n, side in zip(size, part.shape[1:], strict=True))
                part = part[:, rows][:, :, columns]
            return part, np.ones(part.shape[1:], bool)

        yield SimpleNamespace(
            path=path, shape=image.shape[1:], count=len(image), dtypes=(image.dtype.name,) * len(image), crs=crs,
            transform=transform, nodata=None, masked=False, labels={}, tags={}, interleave="pixel", read=read,
            check_window=lambda window: None,
        )  # fmt: skip


def test_an_input_format_is_one_class_and_a_suffix(tmp_path, pair, monkeypatch, capsys):
    """Simulation, fusing and inspection accept it, alone or next to a GeoTIFF, with the same result."""
    monkeypatch.setitem(READERS, ".array", ArrayFile())
    arrays = [path.with_suffix(".array") for path in pair]
    for path, array in zip(pair, arrays, strict=True):
        with rasterio.open(path) as file, array.open("wb") as other:  # np.save would add a suffix
            np.save(other, file.read())
    for name, (ms, pan) in {"tif": pair, "array": arrays, "both": (arrays[0], pair[1])}.items():
        common = ["--ms", str(ms), "--pan", str(pan)]
        simulate = ["simulate", *common, "--sensor", "QB", "--name", "x", "--out", str(tmp_path / name)]
        assert prepare.run(parse("prepare", simulate)) == 0
        assert (
            inference.run(parse("fuse", [*common, "--arch", "Brovey", "--out", str(tmp_path / f"{name}_sr.tif")])) == 0
        )
    for name in ("array", "both"):
        for i, sample in enumerate(H5Dataset(tmp_path / "tif" / "valid_x.h5")):
            other = H5Dataset(tmp_path / name / "valid_x.h5")[i]
            assert all(np.array_equal(sample[role], other[role]) for role in sample)
        with rasterio.open(tmp_path / "tif_sr.tif") as one, rasterio.open(tmp_path / f"{name}_sr.tif") as two:
            assert one.transform == two.transform and np.array_equal(one.read(), two.read())
    assert prepare.run(parse("prepare", ["inspect", str(arrays[0])])) == 0
    assert "array (4, 96, 40)" in capsys.readouterr().out


def test_an_output_format_is_one_function_and_a_suffix(tmp_path, pair, monkeypatch):
    @contextmanager
    def write_array(out, pair, output):
        image = np.zeros((len(output.picked(pair)), *pair.size), output.stored_as(pair))

        def put(window, numbers):
            (top, bottom), (left, right) = window
            image[:, top:bottom, left:right] = numbers

        yield put
        with out.open("wb") as file:
            np.save(file, image)

    monkeypatch.setitem(SCENE_WRITERS, ".array", write_array)
    for name in ("sr.tif", "sr.array"):
        paths = ["--ms", str(pair[0]), "--pan", str(pair[1]), "--out", str(tmp_path / name)]
        assert inference.run(parse("fuse", [*paths, "--arch", "Brovey", "--tile", "64"])) == 0
    with rasterio.open(tmp_path / "sr.tif") as file:
        np.testing.assert_array_equal(np.load(tmp_path / "sr.array"), file.read())


def test_an_alpha_band_of_pan_is_a_mask(tmp_path, pair):
    """As it is in MS: the band next to it is the panchromatic one."""
    image = smooth(384, 160, 1, seed=1)
    alpha = np.full((1, 384, 160), 65535, np.uint16)
    path = tif(tmp_path / "alpha.tif", np.concatenate([image, alpha]))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
    np.testing.assert_array_equal(load_pair(pair[0], path).pan, image)
    alpha[:, :4, :4] = 0
    tif(path, np.concatenate([image, alpha]))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
    valid = load_pair(pair[0], path).valid
    assert valid is not None and not valid[0, 0] and valid[1:].all() and valid[:, 1:].all()


def test_a_sound_file_of_another_format_is_not_called_damaged(tmp_path, pair):
    np.save(tmp_path / "a.npy", np.ones((4, 8, 8)))
    with pytest.raises(UserError, match="expected an H5 file, given .*a.npy"):
        H5Dataset(tmp_path / "a.npy")
    report = inspect_file(tmp_path / "a.npy")
    assert report.status == 0 and "(4, 8, 8) float64, 1 .. 1" in report.text()
    with pytest.raises(UserError, match=r"more than 13 bands, .*has 4; give an image pair with --ms and --pan"):
        reader_of(pair[0]).load(pair[0])


def test_suffixes_are_read_in_any_case(tmp_path):
    assert reader_of("A.TIF") is READERS[".tif"] and reader_of(tmp_path / "B.Mat") is READERS[".mat"]
