"""Untrusted files: every reader returns a result or one line of error, with bounded memory and time.

200 inputs a reader here, the same ones each time; 10 000 new ones in `make fuzz`.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from reader_worker import Worker
from small_files import MAKERS
from strange_files import VRT, change_file, inputs

from lemamba.utils.errors import UserError, one_line

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured through /proc")


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope="module", params=list(MAKERS))
def material(request, tmp_path_factory):
    """A reader's name, a folder to write inputs to, and its good files by name."""
    if request.param == "geotiff":
        pytest.importorskip("rasterio", reason="rasterio is optional")
    folder = tmp_path_factory.mktemp(f"fuzz_{request.param}")
    return request.param, folder, MAKERS[request.param](folder)


def test_the_good_files_are_read(worker, material):
    """Otherwise the other tests would not test damage."""
    reader, folder, good = material
    for name in good:
        answer = worker.read(reader, change_file(name, [], folder, good))
        # A .mat need not hold a scene, nor an image be the right one of a pair: these refusals come after reading.
        assert answer == "read" or any(w in answer for w in ("no cube", "no variable", "whole multiple", "swap")), (
            name,
            answer,
        )


@pytest.mark.parametrize("rows", [256, 2**15])
def test_geotiff_that_declares_gigabytes_and_stores_nothing(worker, tmp_path, rows):
    """Sparse files of some kB; `rows` of a block: the second is as large as the image."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
    for name, side, pixel in (("ms", 2**15, 4.0), ("pan", 2**17, 1.0)):
        transform = rasterio.Affine(pixel, 0, 0, 0, -pixel, 0)
        profile = {"driver": "GTiff", "count": 1, "height": side, "width": side, "dtype": "uint16", "crs": "EPSG:32633"}
        options = {"sparse_ok": True, "BIGTIFF": "YES", "compress": "deflate", "blockysize": rows}
        rasterio.open(tmp_path / f"{name}.tif", "w", **profile, **options, transform=transform).close()
    assert "declares" in worker.read("scene", tmp_path / "ms.tif")


def test_a_tif_that_is_a_list_of_other_files_is_refused(worker, tmp_path):
    """A VRT, by which GDAL would read any file or address."""
    pytest.importorskip("rasterio", reason="rasterio is optional")
    MAKERS["geotiff"](tmp_path)
    (tmp_path / "input.tif").write_text(VRT.format(relative=1, source="good_pan.tif"))
    assert "not recognized" in worker.read("geotiff", tmp_path / "input.tif")


def fuzz(count: int, worker: Worker, material: tuple, **options) -> None:
    reader, folder, good = material
    counts = {"read": 0, "refused": 0}

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
    @given(inputs(reader, good))
    def one(write):
        message = worker.read(reader, write(folder, good))
        counts["read" if message == "read" else "refused"] += 1
        assert 0 < len(one_line(UserError(message))) < 2000

    one()
    name = sorted(good)[-1]
    answer = worker.read(reader, change_file(name, [], folder, good))
    assert answer == "read", f"good files are refused after damaged ones: {answer}"
    print(f"{reader}: {counts['read']} read, {counts['refused']} refused")


def test_200_inputs_a_reader(worker, material):
    fuzz(200, worker, material)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_10_000_inputs_a_reader(worker, material):
    fuzz(10_000, worker, material, derandomize=False)
