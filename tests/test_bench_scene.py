"""The benchmark of whole scenes: the pair it draws, what it measures of a process, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_scene as bench
from lemamba.utils.errors import UserError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_pair_is_aligned_and_related(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    paths = bench.make_pair(tmp_path, 256)
    with rasterio.open(paths[0]) as ms, rasterio.open(paths[1]) as pan:
        assert (ms.count, ms.shape, pan.count, pan.shape) == (4, (64, 64), 1, (256, 256))
        assert ms.bounds == pan.bounds
        low = ms.read().mean(axis=0)
        blocks = pan.read(1).reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.corrcoef(low.ravel(), blocks.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("side", [100, 1001])
def test_a_side_that_does_not_fit_is_refused(side, tmp_path):
    with pytest.raises(UserError, match=f"given {side}"):
        bench.make_pair(tmp_path, side)
    assert not list(tmp_path.iterdir())


def test_a_run_is_measured_in_its_own_process(tmp_path):
    """A process that takes 256 MiB more has a peak that is as much higher, and only its own."""
    out = tmp_path / "out"
    write = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(bytes(2**20)); x = b'1' * {}"
    large, small = (bench.run_once(python(write.format(n)), out) for n in (2**28, 1))
    assert large.peak_mib - small.peak_mib == pytest.approx(256, abs=16)
    assert small.result_mib == 1
    assert not out.exists()


@pytest.mark.parametrize("code", ["raise SystemExit('no such file')", "print('no such file')"])
def test_a_command_that_gives_no_file_is_one_line(code, tmp_path):
    with pytest.raises(UserError, match="ended with: no such file") as caught:
        bench.run_once(python(code), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_ratios_are_taken_within_a_turn():
    """A machine that is busy in one turn slows both sides of that turn."""
    base = [bench.Run(s, s, 100, 1) for s in (1, 10, 2)]
    ours = [bench.Run(3 * s, 2 * s, 50, 1) for s in (1, 10, 2)]
    found = bench.row("x", ours, base)
    assert (found["time_ratio"], found["core_time_ratio"], found["memory_ratio"]) == (3, 2, 0.5)
    assert found["seconds"] == 6


def test_without_gdal_the_package_is_named(monkeypatch):
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install gdal-bin"):
        bench.gdal_program()


def test_every_method_is_compared_with_gdal_at_the_same_creation_options(monkeypatch):
    monkeypatch.setattr(bench, "gdal_program", lambda: "gdal_pansharpen")
    paths = Path("ms.tif"), Path("pan.tif")
    ours, theirs = bench.our_commands(*paths), bench.gdal_commands(*paths)
    assert [c[c.index("--arch") + 1] for c in ours.values()] == [m for m in bench.METHODS for _ in range(2)]
    assert all(command[-1] == "--out" for command in ours.values())
    for name, command in ours.items():
        options = theirs[bench.base_of(name)]
        packed = command[command.index("--compress") + 1] == "deflate"
        assert ("ZLEVEL=1" in options) == ("COMPRESS=DEFLATE" in options) == packed


def test_the_table_has_a_row_for_each_command():
    run = bench.Run(2, 4, 100, 10)
    rows = [bench.row(name, [run], [run]) for name in ("gdal, plain", "Brovey, plain", "GSA, DEFLATE, level 1")]
    lines = bench.markdown(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 5
    assert "| `inference.py --arch Brovey`, plain | 2.0 s | 1.00 | 3 |" in lines[3]
    assert "| `inference.py --arch GSA`, DEFLATE, level 1 | 2.0 s | 1.00 | 2.4 |" in lines[4]
