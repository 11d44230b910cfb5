"""Scenes in strips: shared by processes, continued after a kill, joined by a VRT, listed; always the same file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_files import PIXEL, smooth, tif

from lemamba.commands import fuse, parse
from lemamba.datasets.strips import hidden_folder
from lemamba.engine.fusing import scene
from lemamba.engine.fusing.tiles import fuse_rows
from lemamba.engine.fusing.tiling import Tiling
from lemamba.engine.weights.files import save_weights
from lemamba.model import build_model
from lemamba.utils.errors import UserError
from lemamba.utils.threads import Behind, ahead, in_order, two_at_once

rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
ROOT = Path(__file__).resolve().parent.parent
SIZES = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Windows of 256 pixels, so that small scenes have several strips, and none that is too small for them."""
    monkeypatch.setattr(scene, "SIDE", 256)
    monkeypatch.setattr(scene, "QUICK", 0)


@pytest.fixture
def pair(tmp_path):
    """600 x 264 PAN pixels, three strips; a corner of MS has no data."""
    ms = smooth(150, 66, 4)
    ms[:, :20, :30] = 0
    path = tif(tmp_path / "ms.tif", ms, pixel=4 * PIXEL, nodata=0)
    return path, tif(tmp_path / "pan.tif", smooth(600, 264, 1, seed=1))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "pnn.safetensors"
    meta = {"model": {"name": "PNN", "args": {**SIZES, "ratio": 4}}, "data": {"sensor": "IKONOS"}}
    save_weights(path, build_model("PNN", **SIZES).state_dict(), meta)
    return path


def arguments(pair, out, *more, method=("--arch", "GSA")):
    files = ["--ms", str(pair[0]), "--pan", str(pair[1])]
    return [*method, *files, "--out", str(out), "--device", "cpu", *map(str, more)]


def run(*given, **more):
    assert fuse.run(parse("fuse", arguments(*given, **more))) == 0


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def names(folder):
    return {path.name for path in folder.iterdir()}


METHODS = {"classical": lambda w: ("--arch", "GSA"), "network": lambda w: ("--weights", str(w), "--tile", "128")}


@pytest.mark.parametrize("kind", METHODS)
def test_strips_do_not_show(tmp_path, pair, weights, kind, monkeypatch):
    """The file in three strips, and the VRT, have the pixels of the one in a single strip; the folder is removed."""
    method = METHODS[kind](weights)
    before = names(tmp_path)
    run(pair, tmp_path / "strips.tif", "--rgb_png", tmp_path / "strips.png", method=method)
    run(pair, tmp_path / "F.vrt", method=method)
    with monkeypatch.context() as m:
        m.setattr(scene, "SIDE", 1024)
        run(pair, tmp_path / "whole.tif", "--rgb_png", tmp_path / "whole.png", method=method)
    whole = read(tmp_path / "whole.tif")
    assert whole.shape == (4, 600, 264) and whole.std() > 0
    # statistics are added up in another order
    differ = read(tmp_path / "strips.tif").astype(int) - whole.astype(int)
    assert np.abs(differ).max() <= (1 if kind == "classical" else 0) and (differ != 0).mean() < 1e-3
    np.testing.assert_array_equal(read(tmp_path / "F.vrt"), read(tmp_path / "strips.tif"))
    made = {"strips.tif", "strips.png", "whole.tif", "whole.png", "F.vrt", "F_strips"}
    assert names(tmp_path) - before == made and names(tmp_path / "F_strips") == {f"0000{i}.tif" for i in range(3)}


def test_a_vrt_says_what_the_tif_says_and_can_be_moved(tmp_path, pair):
    with rasterio.open(pair[0], "r+") as file:
        file.descriptions = ("a", "b", "c", "d")
        file.scales = (0.5,) * 4
    run(pair, tmp_path / "F.tif")
    run(pair, tmp_path / "F.vrt")
    run(pair, tmp_path / "F.vrt", "--bands", "4,2")  # replaces the folder
    (tmp_path / "elsewhere").mkdir()
    for name in ("F.vrt", "F_strips"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    with rasterio.open(tmp_path / "F.tif") as one, rasterio.open(tmp_path / "elsewhere/F.vrt") as other:
        assert (one.crs, one.transform, one.shape, one.nodata) == (
            other.crs,
            other.transform,
            other.shape,
            other.nodata,
        )
        assert other.descriptions == ("d", "b") and other.scales == (0.5, 0.5)
        np.testing.assert_array_equal(one.read([4, 2]), other.read())


def test_a_vrt_is_refused_where_it_cannot_be(tmp_path, pair):
    (tmp_path / "F_strips").mkdir()
    (tmp_path / "F_strips" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match='it holds "thesis.txt"; choose another --out'):
        run(pair, tmp_path / "F.vrt")
    assert (tmp_path / "F_strips" / "thesis.txt").exists() and not (tmp_path / "F.vrt").exists()
    with pytest.raises(UserError, match="end in .tif with --cog"):
        run(pair, tmp_path / "F.vrt", "--cog")


@pytest.mark.parametrize(("kind", "ending"), [("network", ".tif"), ("classical", ".tif"), ("classical", ".vrt")])
def test_a_killed_run_continues_to_the_same_file(tmp_path, pair, weights, kind, ending, monkeypatch, capsys):
    """Killed after the first strip; the second run computes the other two only."""
    monkeypatch.setattr(fuse, "project_version", lambda: "of this test")  # not whatever another test does to the clone
    method, out = METHODS[kind](weights), tmp_path / f"out{ending}"
    run(pair, tmp_path / f"expected{ending}", method=method)
    start = """
import os, sys
from lemamba.commands import fuse, parse
from lemamba.datasets.strips import StripWriter
from lemamba.engine.fusing import scene
scene.SIDE, scene.QUICK = 256, 0
fuse.project_version = lambda: "of this test"
whole = StripWriter.__init__
def killed(self, strips, clip, done, *seen):
    whole(self, strips, clip, lambda i: os._exit(9), *seen)
StripWriter.__init__ = killed
fuse.run(parse("fuse", sys.argv[1:]))
"""
    command = [sys.executable, "-c", start, *arguments(pair, out, method=method)]
    # another number of threads, on which no bit of the statistics depends; a network's result may
    threads = torch.get_num_threads() + (3 if kind == "classical" else 0)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | own)
    assert done.returncode == 9, done.stderr
    first = hidden_folder(out) / "00000.tif"
    assert not out.exists() and first.is_file()
    kept = first.stat().st_mtime_ns
    capsys.readouterr()
    run(pair, out, "--resume", method=method)
    assert "1 of 3 strips are there" in capsys.readouterr().out
    if ending == ".tif":
        assert out.read_bytes() == (tmp_path / "expected.tif").read_bytes()
    else:
        assert (tmp_path / "out_strips/00000.tif").stat().st_mtime_ns == kept
        for i in range(3):
            name = f"0000{i}.tif"
            assert (tmp_path / "out_strips" / name).read_bytes() == (tmp_path / "expected_strips" / name).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_killed_run_does_not_learn_the_scene_again(tmp_path, pair, monkeypatch, capsys):
    """What a method has learnt on the scene is kept with its strips; another job, or no --resume, learns anew."""
    out, method = tmp_path / "out.tif", ("--arch", "Z-PNN", "--adapt_steps", "2")
    run(pair, tmp_path / "expected.tif", method=method)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lemamba.datasets.strips.Strips.read_preview", interrupt)
        run(pair, out, method=method)
    with monkeypatch.context() as patch:
        patch.setattr("lemamba.commands.images._adapted", interrupt)
        for more in ([], ["--resume", "--compress", "lzw"]):
            with pytest.raises(KeyboardInterrupt):
                run(pair, out, *more, method=method)
        capsys.readouterr()
        run(pair, out, "--resume", method=method)
    assert "it is not trained again" in capsys.readouterr().out
    assert out.read_bytes() == (tmp_path / "expected.tif").read_bytes() and not list(tmp_path.glob(".*"))


def test_a_quick_scene_needs_no_strips(tmp_path, pair, monkeypatch):
    """A classical method in one process writes the very same file at once, and removes what a killed run left."""
    run(pair, tmp_path / "strips.tif", "--rgb_png", tmp_path / "strips.png")
    monkeypatch.setattr(scene, "QUICK", 600 * 264 * 4)
    monkeypatch.setattr("lemamba.datasets.strips.write_strip", interrupt)
    hidden_folder(tmp_path / "out.tif").mkdir()
    (hidden_folder(tmp_path / "out.tif") / "00000.tif").touch()
    run(pair, tmp_path / "out.tif", "--rgb_png", tmp_path / "out.png")
    for ending in (".tif", ".png"):
        assert (tmp_path / f"out{ending}").read_bytes() == (tmp_path / f"strips{ending}").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_strips_of_another_run_are_not_used(tmp_path, pair, capsys, monkeypatch):
    """An interrupted run keeps its strips; another method, or no --resume, begins anew."""
    out = tmp_path / "out.tif"
    monkeypatch.setattr("lemamba.datasets.strips.Strips.read_preview", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(pair, out)
    assert f"{hidden_folder(out)}; add --resume" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(scene, "SIDE", 256)
    monkeypatch.setattr(scene, "QUICK", 0)
    run(pair, out, "--resume", method=("--arch", "Brovey"))
    assert "are of another input, method or option; all are made anew" in capsys.readouterr().out
    run(pair, tmp_path / "expected.tif", method=("--arch", "Brovey"))
    assert out.read_bytes() == (tmp_path / "expected.tif").read_bytes() and not list(tmp_path.glob(".*"))


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_error_leaves_no_strips(tmp_path, pair, monkeypatch):
    def full(*_, **__):
        raise UserError("cannot write: the disk is full")

    monkeypatch.setattr("lemamba.datasets.strips.Strips.read_preview", full)
    with pytest.raises(UserError, match="full"):
        run(pair, tmp_path / "out.tif")
    assert names(tmp_path) == {"ms.tif", "pan.tif"}


@pytest.mark.parametrize("kind", METHODS)
def test_two_processes_write_the_file_of_one(tmp_path, pair, weights, kind):
    method = METHODS[kind](weights)
    run(pair, tmp_path / "one.tif", "--rgb_png", tmp_path / "one.png", method=method)
    start = tmp_path / "start.py"
    start.write_text(
        "from lemamba.__main__ import run\nfrom lemamba.engine.fusing import scene\n"
        "scene.SIDE, scene.QUICK = 256, 0\nrun('fuse')\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(start)]
    more = ("--rgb_png", tmp_path / "two.png")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [*launch, *arguments(pair, tmp_path / "two.tif", *more, method=method)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result:") == 1, "one process reports"
    for ending in (".tif", ".png"):
        assert (tmp_path / f"two{ending}").read_bytes() == (tmp_path / f"one{ending}").read_bytes()
    assert not list(tmp_path.glob(".*"))


# ------------------------------------------------------------------------------------------------ many pairs


def test_a_list_fuses_every_pair_and_one_that_fails_stops_none(tmp_path, pair, capsys):
    ms, pan = pair
    bands = [tif(tmp_path / f"B{i}.tif", read(ms)[i : i + 1], pixel=4 * PIXEL, nodata=0) for i in range(4)]
    table = tmp_path / "pairs.csv"
    lines = (
        "ms, pan, out, sensor, dtype",
        f"{ms},{pan},{tmp_path / 'a.tif'},IKONOS,",
        f"{tmp_path / 'none.tif'},{pan},{tmp_path / 'b.tif'},,",
        f"{';'.join(map(str, bands))},{pan},{tmp_path / 'c.tif'},,float32",
    )
    table.write_text("\n".join(lines) + "\n")
    command = ["--arch", "Brovey", "--list", str(table), "--device", "cpu"]
    assert fuse.run(parse("fuse", command)) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "pair 2" in said.err and "does not exist" in said.err
    assert "2 of 3 pairs fused" in said.out
    run(pair, tmp_path / "expected.tif", "--sensor", "IKONOS", method=("--arch", "Brovey"))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "expected.tif").read_bytes()
    with rasterio.open(tmp_path / "c.tif") as file:
        assert file.dtypes[0] == "float32"
    # corrected and continued: the first and the third are left as they are
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in ("a.tif", "c.tif")}
    shutil.copy(ms, tmp_path / "none.tif")
    assert fuse.run(parse("fuse", [*command, "--resume"])) == 0
    assert capsys.readouterr().out.count("is complete") == 2
    assert before == {name: (tmp_path / name).stat().st_mtime_ns for name in before}
    assert not list(tmp_path.glob(".*")), "nothing stays when all are done"
    # another method is another job
    assert fuse.run(parse("fuse", ["--arch", "EXP", *command[2:], "--resume"])) == 0
    assert "is complete" not in capsys.readouterr().out
    assert not np.array_equal(read(tmp_path / "a.tif"), read(tmp_path / "expected.tif"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ms,pan\na,b\n", "missing: out"),
        ("ms,pan,out,senser\n", 'unknown column "senser" \\(did you mean "sensor"\\?\\)'),
        ("ms,pan,out\n", "at least one pair"),
        ("ms,pan,out\na,b\n", "line 2: expected as many cells as columns"),
        ("ms,pan,out\na,b,\n", "line 2: out empty"),
        ("ms,pan,out,nodata\na,b,c,x\n", "line 2: argument --nodata: invalid float value"),
        ("ms,pan,out\na,b,c\na,b,./c\n", "lines 2 and 3 both write"),
    ],
)
def test_a_list_that_is_wrong_is_refused_before_any_work(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        fuse.run(parse("fuse", ["--arch", "Brovey", "--list", str(tmp_path / "pairs.csv")]))
    assert "\n" not in str(error.value)


def test_options_that_do_not_go_together(tmp_path):
    for given, message in (
        (["--list", "a.csv", "--out", "b.tif"], "--list without"),
        (["--data", "a.h5", "--resume"], "--resume with --ms and --pan or --list"),
        (["--list", "none.csv"], 'cannot read "none.csv" as CSV'),
    ):
        with pytest.raises(UserError, match=message):
            fuse.run(parse("fuse", ["--arch", "Brovey", *given]))


# -------------------------------------------------------------------------------------------- tiles and threads


@pytest.mark.parametrize("batch", [1, 3])
def test_any_rows_of_a_tiled_image_equal_the_whole_to_the_last_bit(batch):
    """Whatever the rows, the same batches go through the method; here one whose result depends on its batch."""
    ms, pan = torch.rand(1, 4, 40, 20), torch.rand(1, 1, 160, 80)
    lms = torch.nn.functional.interpolate(ms, scale_factor=4)

    def model(ms, lms, pan):
        return lms * pan + ms.mean()

    def cut(box):
        r, c, h, w = box
        whole = ((ms, 4), (lms, 1), (pan, 1))
        return tuple(x[..., r // s : (r + h) // s, c // s : (c + w) // s] for x, s in whole)

    def rows(span=None):
        parts = fuse_rows(model, cut, lms, (160, 80), ratio=4, tiling=Tiling(32, 8, batch), align=16, span=span)
        return [(row, part) for row, part in parts]

    whole = torch.cat([part for _, part in rows()], dim=2)
    for first, end in ((0, 160), (0, 48), (48, 96), (100, 101), (7, 160), (96, 160)):
        found = rows((first, end))
        assert [row for row, _ in found] == sorted(row for row, _ in found) and found[0][0] == first
        assert torch.equal(torch.cat([part for _, part in found], dim=2), whole[..., first:end, :])


def test_threads_keep_the_order_and_hand_errors_over():
    assert list(ahead(range(50), depth=2)) == list(range(50))
    taken = []
    with Behind(taken.append) as put:
        for i in range(50):
            put(i)
    assert taken == list(range(50))

    def failing():
        yield 1
        raise ValueError("read")

    with pytest.raises(ValueError, match="read"):
        list(ahead(failing()))
    started = []
    endless = ahead(started.append(i) or i for i in range(10**9))
    assert next(endless) == 0
    endless.close()  # a consumer that leaves ends the thread
    assert len(started) < 10
    with pytest.raises(ZeroDivisionError), Behind(lambda x: 1 / x) as put:
        for i in (1, 0, 1, 1, 1, 1):
            put(i)
    with pytest.raises(KeyError), Behind(lambda x: 1 / x) as put:
        put(0)
        raise KeyError


def test_inspect_leaves_out_what_nodata_marks(tmp_path, capsys):
    """The range is that of the data, the share of missing pixels is printed, and the collar is no longer reported."""
    from lemamba.commands import prepare

    image = smooth(100, 100, 3)
    image[:, :, :25] = 0
    path = tif(tmp_path / "collar.tif", image)
    found = []
    for more in ([], ["--nodata", "0"]):
        assert prepare.run(parse("prepare", ["inspect", str(path), *more])) == 0
        found.append(capsys.readouterr().out)
    assert "uint16, 0 .. " in found[0] and "not marked as missing" in found[0]
    assert f"uint16, {image[image > 0].min()} .. {image.max()}" in found[1] and "25.0% of the pixels" in found[1]
    assert "not marked as missing" not in found[1]
    pytest.importorskip("skimage", reason="scikit-image is optional")
    ms, pan = smooth(128, 128, 3), smooth(512, 512, 1)
    pan[0] = np.kron(ms.mean(0), np.ones((4, 4)))
    ms[:, :, :24], pan[:, :, :100] = 9, 9  # the collars end at other places
    files = [str(tif(tmp_path / "m.tif", ms, pixel=4 * PIXEL)), str(tif(tmp_path / "p.tif", pan))]
    assert prepare.run(parse("prepare", ["inspect", "--ms", files[0], "--pan", files[1], "--nodata", "9"])) in (0, 1)
    assert "shifted" in capsys.readouterr().out


def test_several_windows_at_once_keep_their_order_and_torch_its_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    running, most = set(), []

    def work(i):
        running.add(i)
        most.append(len(running))
        time.sleep(0.03 if i % 3 == 0 else 0.01)
        running.discard(i)
        return i, torch.get_num_threads(), torch.is_inference_mode_enabled()

    try:
        assert [i for i, _, _ in in_order(work, range(5))] == list(range(5)) and max(most) == 1
        with two_at_once(), torch.inference_mode():
            assert list(in_order(work, range(20))) == [(i, 1, True) for i in range(20)]
            assert max(most) == 2 and torch.get_num_threads() == 3
            with pytest.raises(ZeroDivisionError):
                list(in_order(lambda i: 1 / i, (2, 1, 0, 1)))
            part = in_order(work, range(10**9))
            assert next(part)[0] == 0
            part.close()
        assert torch.get_num_threads() == 3 and not running
        assert list(in_order(work, range(3))) == [(i, 3, False) for i in range(3)]
    finally:
        torch.set_num_threads(threads)
