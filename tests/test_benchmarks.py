"""CAVE and Harvard from their downloads: layout, splits, protocols, normalisation; miniatures made here."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lemamba.commands import parse, prepare
from lemamba.datasets.simulation import benchmarks
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
