"""CAVE and Harvard from their downloads: layout, splits, protocols, normalisation; miniatures made here."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import loadmat, savemat

from lemamba.commands import parse, prepare, reproduce
from lemamba.commands.recipes import FOLDER
from lemamba.datasets.simulation import benchmarks
from lemamba.datasets.simulation.response import nikon_d700, read_psf, read_response
from lemamba.utils.errors import UserError

# The field's 20 training and 11 test scenes, as named in public scripts for HSRNet's data.
TEST = (
    "balloons cd chart_and_stuffed_toy clay fake_and_real_beers fake_and_real_lemon_slices fake_and_real_tomatoes "
    "feathers flowers hairs jelly_beans"
)
ALPHABETIC = (
    "balloons beads cd chart_and_stuffed_toy clay cloth egyptian_statue face fake_and_real_beers fake_and_real_food "
    "fake_and_real_lemon_slices fake_and_real_lemons fake_and_real_peppers fake_and_real_strawberries "
    "fake_and_real_sushi fake_and_real_tomatoes feathers flowers glass_tiles hairs jelly_beans oil_painting paints "
    "photo_and_face pompoms real_and_fake_apples real_and_fake_peppers sponges stuffed_toys superballs thread_spools "
    "watercolors"
)
MHF_ORDER = [2, 31, 25, 6, 27, 15, 19, 14, 12, 28, 26, 29, 8, 13, 22, 7, 24, 30, 10, 23,
             18, 17, 21, 3, 9, 4, 20, 5, 16, 32, 11, 1]  # fmt: skip


def scene(seed, rows, columns):
    generator = np.random.default_rng(seed)
    return generator.integers(1, 65536, (31, rows, columns)).astype(np.uint16)


def cave(folder, names=("beads", "cloth", "face", "balloons", "watercolors"), side=64):
    """Write scenes as CAVE's download has them: a folder in a folder, Thumbs.db, a preview, watercolors as RGBA."""
    cubes = {}
    for seed, name in enumerate(names):
        inner = folder / f"{name}_ms" / f"{name}_ms"
        inner.mkdir(parents=True)
        cubes[name] = scene(seed, side, side)
        (inner / "Thumbs.db").write_bytes(b"not a picture")
        Image.new("RGB", (side, side)).save(inner / f"{name}_RGB.bmp")
        for band, values in enumerate(cubes[name], 1):
            image = Image.fromarray(values)
            if name == "watercolors":
                grey = (values >> 8).astype(np.uint8)
                cubes[name][band - 1] = grey
                image = Image.fromarray(np.stack([grey, grey, grey, np.full_like(grey, 255)], -1))
            image.save(inner / f"{name}_ms_{band:02d}.png", compress_level=0)
    return cubes


def run(*words):
    return prepare.run(parse("prepare", [str(word) for word in words]))


def names(path, *scenes):
    path.write_text("# scenes\n" + "\n".join(scenes) + "\n")
    return path


def test_the_published_split_is_that_of_mhf_net_without_watercolors():
    in_order = [ALPHABETIC.split()[number - 1] for number in MHF_ORDER]
    for protocol in ("hsrnet", "psrt"):
        train, test = benchmarks.cave_split(protocol)
        assert (len(train), sorted(test)) == (20, TEST.split())
    train, test = benchmarks.cave_split("mhf")
    assert (sorted(train), sorted(test)) == (sorted(in_order[:20]), sorted(in_order[20:]))


def test_cave_in_one_command(tmp_path):
    cubes = cave(tmp_path / "zip")
    held = names(tmp_path / "test.txt", "balloons_ms", "watercolors")
    out = tmp_path / "out"
    assert run("cave", tmp_path / "zip", "--out", out, "--ratio", 8, "--test_scenes", held) == 0
    with h5py.File(out / "test_cave_x8.h5") as file:
        assert {key: file[key].shape for key in ("GT", "LRHSI", "HSI_up", "RGB")} == {
            "GT": (2, 31, 64, 64), "LRHSI": (2, 31, 8, 8), "HSI_up": (2, 31, 64, 64), "RGB": (2, 3, 64, 64)
        }  # fmt: skip
        np.testing.assert_allclose(file["GT"][0], cubes["balloons"] / 65535, rtol=1e-6)
        np.testing.assert_allclose(file["GT"][1], cubes["watercolors"] / 255, rtol=1e-6)
        assert list(file.attrs["scenes"]) == ["balloons", "watercolors"] and file.attrs["guide"] == "Nikon D700"
        assert file.attrs["blur"] == "gaussian 3x3, sigma 0.5" and len(file.attrs["sha256"]) == 2
        taps = np.exp(-np.array([1, 0, 1]) / (2 * 0.5**2))
        taps /= taps.sum()
        for y, x in ((1, 2), (5, 3)):
            window = file["GT"][0][:, 8 * y + 3 : 8 * y + 6, 8 * x + 3 : 8 * x + 6].astype(float)
            np.testing.assert_allclose(
                file["LRHSI"][0][:, y, x], np.einsum("i,j,cij->c", taps, taps, window), rtol=1e-5
            )
    with h5py.File(out / "train_cave_x8.h5") as train, h5py.File(out / "valid_cave_x8.h5") as valid:
        assert [*train.attrs["scenes"], *valid.attrs["scenes"]] == ["beads", "cloth", "face"]
        assert len(train["GT"]) == 2 and len(valid["GT"]) == 1
    with pytest.raises(UserError, match="was made from other scenes or another split"):
        run("cave", tmp_path / "zip", "--out", out, "--test_scenes", names(held, "beads"))
    assert run("cave", tmp_path / "zip", "--out", out, "--test_scenes", held, "--overwrite") == 0


def test_mhf_is_a_block_mean_at_ratio_32(tmp_path):
    cubes = cave(tmp_path / "zip", ("beads", "cloth", "cd"), 96)
    words = ["--ratio", 32, "--protocol", "mhf", "--test_scenes", names(tmp_path / "t.txt", "cd")]
    assert run("cave", tmp_path / "zip", "--out", tmp_path, *words) == 0
    with h5py.File(tmp_path / "test_cave_x32.h5") as file:
        means = (cubes["cd"] / 65535).reshape(31, 3, 32, 3, 32).mean((2, 4))
        np.testing.assert_allclose(file["LRHSI"][0], means, rtol=1e-5)
        assert file.attrs["offset"] == 15.5


def harvard(folder, count=3):
    folder.mkdir()
    refs = {}
    for number in range(count):
        ref = np.random.default_rng(number).random((72, 80, 31)) * 0.02 * (number + 1)
        refs[f"imga{number}"] = ref
        savemat(folder / f"imga{number}.mat", {"ref": ref, "lbl": np.ones((72, 80), np.uint8)})
    return refs


@pytest.mark.parametrize("normalise", ["image", "set", "none"])
def test_harvard_is_normalised(tmp_path, normalise):
    """`ref` ends at a few hundredths: against a peak of 1, PSNR of the file as it is would be 30 dB too high."""
    refs = harvard(tmp_path / "CZ_hsdb")
    words = ["--ratio", 4, "--test_scenes", names(tmp_path / "t.txt", "imga1"), "--out", tmp_path / "o"]
    assert run("harvard", tmp_path / "CZ_hsdb", *words, "--normalise", normalise) == 0
    scale = {"image": refs["imga1"].max(), "set": max(ref.max() for ref in refs.values()), "none": 1}[normalise]
    with h5py.File(tmp_path / "o/test_harvard_x4.h5") as file:
        np.testing.assert_allclose(file["GT"][0], np.moveaxis(refs["imga1"], -1, 0) / scale, rtol=1e-5)
        np.testing.assert_allclose(file.attrs["scale"], [scale], rtol=1e-6)
        assert file.attrs["wavelengths"][0] == 420


def broken(path):
    path.write_bytes(b"no picture")


def dark(path):
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(path)


@pytest.mark.parametrize(
    ("words", "spoil", "message"),
    [
        ([], None, "scenes missing: egyptian_statue, face, fake_and_real_food and 25 others"),
        (["--test_scenes", "cdd"], None, 'scenes missing: cdd (did you mean "cd"?)'),
        (["--test_scenes", "beads", "--train_scenes", "beads,cd"], None, "beads is named for both"),
        (["--test_scenes", "cd", "--ratio", "24"], None, "multiples of the ratio 24"),
        (["--test_scenes", "cd", "--offset", "8"], None, "decimation offset from 0 to 7"),
        (["--test_scenes", "cd", "--snr", "nan"], None, "finite --snr"),
        (["--test_scenes", "cd", "--scale", "1", "--normalise", "set"], None, "given both"),
        (["--test_scenes", "cd"], (broken, "cd"), "cannot be read as a PNG image"),
        (["--test_scenes", "cd"], (dark, "beads"), "band 31 is 0 everywhere"),
        (["--test_scenes", "cd"], (lambda path: path.unlink(), "beads"), "expected 31 bands, given 30"),
    ],
)
def test_bad_input(tmp_path, words, spoil, message):
    cave(tmp_path / "zip", ("beads", "cd", "cloth"))
    if spoil:
        spoil[0](tmp_path / f"zip/{spoil[1]}_ms/{spoil[1]}_ms/{spoil[1]}_ms_31.png")
    for number, word in enumerate(words):
        if word in ("--test_scenes", "--train_scenes"):
            words[number + 1] = names(tmp_path / f"{word}.txt", *words[number + 1].split(","))
    with pytest.raises(UserError) as caught:
        run("cave", tmp_path / "zip", "--out", tmp_path / "o", *words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_hold_no_scenes(tmp_path):
    for kind, word in (("cave", "balloons_ms"), ("harvard", "imga1.mat")):
        with pytest.raises(UserError, match=f"scenes of .*{word}"):
            run(kind, tmp_path, "--out", tmp_path)
        with pytest.raises(UserError, match="does not exist"):
            run(kind, tmp_path / "x", "--out", tmp_path)
    harvard(tmp_path / "CZ_hsdb", 2)
    with pytest.raises(UserError, match="expected the 50 scenes of Harvard"):
        run("harvard", tmp_path, "--out", tmp_path / "o")


def test_reproduce_says_that_data_are_missing(tmp_path):
    for name in ("cave_x4", "cave_x8", "harvard_x4", "harvard_x8"):
        with pytest.raises(UserError, match="not run: data not here"):
            reproduce.run(parse("reproduce", [name, "--out", str(tmp_path / "o")]))
    assert not (tmp_path / "o").exists()


def in_process(_title, name, *words):
    """Stand in for `run_step`, which starts a process per step."""
    import_module(f"lemamba.commands.{name}").run(parse(name, [str(word) for word in words]))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cave_x8", ("2.31 ± 0.116", "49.86 ± 0.5")),
        ("cave_x4", ("not published",)),
        ("harvard_x4", ("not published",)),
    ],
)
def test_the_recipe_runs_from_end_to_end_on_a_miniature(tmp_path, capsys, monkeypatch, name, shown):
    """The shipped recipe with another split, a quick network and one epoch: every step runs, the values differ."""
    recipe = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    if "cave" in name:
        cave(tmp_path / "zip", ("beads", "cd", "cloth"))
        held = names(tmp_path / "t.txt", "cd")
    else:
        harvard(tmp_path / "zip", 3)
        held = names(tmp_path / "t.txt", "imga1")
    recipe["prepare"] += f" --test_scenes {held}"
    recipe["train"] = "--arch SSRNet -c configs/budget.yaml -e 1 -b 1"
    recipe["network"]["arch"] = "SSRNet"
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(reproduce, "run_step", in_process)
    words = [tmp_path / "mini.yaml", "--scene", tmp_path / "zip", "--out", tmp_path / "o", "--device", "cpu"]
    assert reproduce.run(parse("reproduce", [str(word) for word in words])) == 1  # the network is another
    told = capsys.readouterr().out
    assert all(text in told for text in shown)
    assert told.count("outside") >= (4 if "x8" in name else 2)
    scores = json.loads((tmp_path / "o/mini/reduced.json").read_text(encoding="utf-8"))["scores"]["SSRNet"]
    assert all(np.isfinite(float(scores[index]["mean"])) for index in ("sam", "ergas", "psnr", "ssim"))


def jasper_like(path, dead=()):
    """Write a cube that keeps some of 20 bands from 400 to 875 nm, as Jasper Ridge's file keeps some of AVIRIS'."""
    kept = np.array([1, 2, 3, 4, 8, 9, 10, 11, 12, 17, 18, 19, 20])
    cube = np.random.default_rng(5).random((len(kept), 64, 64)) + 0.5
    cube[list(dead)] = 0
    y = cube.transpose(0, 2, 1).reshape(len(kept), -1)
    savemat(path, {"Y": y, "nRow": 64, "nCol": 64, "SlectBands": kept[:, None].astype(np.uint8)})
    return np.linspace(400, 875, 20)[kept - 1]


def simulated(*words):
    assert run("simulate", *words, "--test_only", "--name", "lab") == 0
    return h5py.File(words[words.index("--out") + 1] / "test_lab.h5")


def test_bands_that_the_file_keeps_have_their_own_wavelengths(tmp_path):
    true = jasper_like(tmp_path / "c.mat")
    with simulated(tmp_path / "c.mat", "--wavelengths", "400:875:20", "--out", tmp_path, "--ratio", 3) as file:
        np.testing.assert_allclose(file.attrs["wavelengths"], true)
        assert file["LRHSI"].shape[2:] == (11, 11) and file["GT"].shape[2:] == (33, 33)
    listed = ",".join(f"{nm:g}" for nm in true)
    (tmp_path / "nm.csv").write_text("wavelength\n" + listed.replace(",", "\n"))
    for given in (listed, tmp_path / "nm.csv"):
        with simulated(tmp_path / "c.mat", "--wavelengths", given, "--out", tmp_path, "--overwrite") as file:
            np.testing.assert_allclose(file.attrs["wavelengths"], true)
    for given, message in (("400,500", "expected 13 wavelengths"), ("400:875:19", "the number N of all bands")):
        with pytest.raises(UserError, match=message):
            simulated(tmp_path / "c.mat", "--wavelengths", given, "--out", tmp_path / "x")


def test_jasper_ridge_has_the_wavelengths_of_its_bands(tmp_path, shared):
    cube = shared("data/jasper_ridge_r198.mat")
    with simulated(cube, "--wavelengths", "380:2500", "--out", tmp_path) as file:
        bands = loadmat(cube)["SlectBands"].ravel() - 1
        np.testing.assert_allclose(file.attrs["wavelengths"], np.linspace(380, 2500, 224)[bands])


def test_dead_bands_are_named_and_dropped(tmp_path, capsys):
    """A band of zeros makes ERGAS infinite or NaN, and no weights of a training are its best."""
    true = jasper_like(tmp_path / "c.mat", dead=(2, 7))
    with simulated(tmp_path / "c.mat", "--wavelengths", "400:875:20", "--out", tmp_path) as file:
        np.testing.assert_allclose(file.attrs["wavelengths"], np.delete(true, [2, 7]))
        assert list(file.attrs["dropped_bands"]) == [3, 8] and file["GT"].shape[1] == 11
        assert file.attrs["response"].shape == (3, 11) and file["GT"][0].any((1, 2)).all()
    assert "2 of 13 bands are 0 everywhere and are left out: 3 (450 nm), 8 (650 nm)" in capsys.readouterr().out


def test_responses_and_kernels_in_the_forms_in_use(tmp_path):
    """bands x guides or the transpose, as .npy, .csv or .mat next to a kernel; a table with wavelengths."""
    nm, matrix = np.linspace(400, 700, 31), np.random.default_rng(0).random((31, 4))
    kernel = np.random.default_rng(1).random((32, 32))
    np.save(tmp_path / "r.npy", matrix.T)
    savemat(tmp_path / "response coefficient.mat", {"R": matrix, "C": kernel})
    np.savetxt(tmp_path / "r.csv", matrix, delimiter=",", header="a,b,c,d", comments="")
    np.savetxt(tmp_path / "table.csv", np.column_stack([nm, matrix]), delimiter=";")
    for file in ("r.npy", "response coefficient.mat", "r.csv", "table.csv"):
        np.testing.assert_allclose(read_response(tmp_path / file, nm), matrix.T)
    np.testing.assert_allclose(read_response(tmp_path / "r.csv", nm, [3, 1]), matrix.T[[2, 0]])
    np.testing.assert_allclose(read_psf(tmp_path / "response coefficient.mat"), kernel)
    savemat(tmp_path / "two.mat", {"a": matrix, "b": matrix})
    (tmp_path / "bad.csv").write_text("1,2\n3,x\n")
    for file, message in (
        ("two.mat", "several matrices"),
        ("bad.csv", "cannot read"),
        ("none.npy", "does not exist"),
        ("r.xls", "expected a .mat, .npy"),
    ):
        with pytest.raises(UserError, match=message):
            read_response(tmp_path / file, nm)
    with pytest.raises(UserError, match="one blur kernel"):
        read_psf(tmp_path / "r.npy")


def test_the_nikon_is_that_of_public_experiments(shared):
    published = np.load(shared("data/responses/nikon_d700.npy")).T
    np.testing.assert_allclose(
        nikon_d700(np.linspace(400, 700, 31)), published / published.sum(1, keepdims=True), atol=6e-5
    )


def test_arrays_of_the_file_that_are_not_used_are_named(tmp_path, capsys):
    generator = np.random.default_rng(0)
    arrays = {"cube": (64, 64, 20), "classes": (64, 64, 3)}
    savemat(tmp_path / "1.mat", {name: generator.random(shape) for name, shape in arrays.items()})
    simulated(tmp_path / "1.mat", "--wavelengths", "400:875", "--out", tmp_path).close()
    assert "simulated from cube; classes of the file is not used" in capsys.readouterr().out


def test_harvard_by_simulate_is_normalised_too(tmp_path, capsys):
    refs = harvard(tmp_path / "CZ_hsdb", 1)
    words = [tmp_path / "CZ_hsdb/imga0.mat", "--sensor", "Harvard", "--out", tmp_path]
    with simulated(*words) as file:
        assert file["GT"][:].max() == pytest.approx(1, rel=1e-6)
        np.testing.assert_allclose(file.attrs["scale"], refs["imga0"].max())
    assert "are divided by it" in capsys.readouterr().out


ROOT = Path(__file__).resolve().parent.parent
COMMAND = {"prepare_data": "prepare", "accelerate_main": "train", "inference": "fuse", "evaluate": "evaluate"}


def test_the_five_commands_of_the_guide(tmp_path, monkeypatch, capsys):
    """howto_cave_table.md as written, on a miniature of CAVE; one epoch of a quick network, not LE-Mamba's hundred."""
    page = (ROOT / "docs/howto_cave_table.md").read_text(encoding="utf-8")
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [line for line in block[1].replace("\\\n", "").splitlines() if line.strip()]
    assert len(lines) == 5
    cave(tmp_path / "complete_ms_data", [name for name in ALPHABETIC.split() if name in KEPT])
    monkeypatch.setattr(benchmarks, "cave_split", lambda _: (["beads", "cloth"], ["cd"]))
    monkeypatch.chdir(tmp_path)
    for line in lines:
        script, *words = shlex.split(line, comments=True)[1:]
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
        if script == "accelerate_main.py":
            words = ["SSRNet" if word == "LEMamba" else "1" if word == "100" else word for word in words]
            words += ["--cpu", "-b", "1"]
        in_process("", COMMAND[script.removesuffix(".py")], *words)
    told = capsys.readouterr().out
    assert "nothing wrong found" in told and "psnr" in told.lower()
    fused = loadmat(tmp_path / "fused.mat")
    assert fused["sr"].shape == (1, 31, 64, 64) and np.isfinite(fused["sr"]).all()
    assert fused["info_wavelengths"].ravel()[[0, -1]].tolist() == [400, 700]


KEPT = ("beads", "cloth", "cd")


def test_a_test_file_of_other_scenes_does_not_join_a_training_file(tmp_path, capsys):
    """simulate TRAIN, then simulate TEST --test_only into the same folder replaced the test file without a word."""
    jasper_like(tmp_path / "a.mat")
    savemat(tmp_path / "b.mat", {"hsi": np.random.default_rng(6).random((96, 64, 13))})
    words = ["--wavelengths", "400:875", "--name", "lab", "--out", tmp_path]
    assert run("simulate", tmp_path / "b.mat", *words) == 0
    before = (tmp_path / "test_lab.h5").read_bytes()
    for other, wavelengths in (("a.mat", "400:875:20"), ("b.mat", "400:875")):
        words[1] = wavelengths
        with pytest.raises(UserError, match="made from other scenes or another split"):
            run("simulate", tmp_path / other, *words, "--test_only")
    assert (tmp_path / "test_lab.h5").read_bytes() == before
    assert run("simulate", tmp_path / "b.mat", *words) == 0  # the same again
