"""Weights that serve any sensor: what the network may not depend on, and the way from a drawn scene to the default."""

from __future__ import annotations

import importlib
import json
from functools import partial

import numpy as np
import pytest
import torch
import yaml

import lemamba
from lemamba.commands import fuse as fuse_command
from lemamba.commands import parse, reproduce
from lemamba.commands.methods import GENERIC, load_method
from lemamba.commands.recipes import FOLDER
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.simulation.drawn import draw_pair
from lemamba.engine.weights.files import SHIPPED, read_weights
from lemamba.model import build_model
from lemamba.model.lemamba_any import GUIDES, RANGE, STEP, LEMambaAny, find_gains, find_shift
from lemamba.operators import interpolate, mtf_filter, resample, sample
from lemamba.operators.window import Window, cut_windows
from lemamba.utils.atomic import sha256
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry


def scene(bands: int = 4, ratio: int = 4, side: int = 20, seed: int = 0):
    """Return ms (1, C, h, w), lms, pan of smooth random bands that PAN is a mixture of."""
    generator = torch.Generator().manual_seed(seed)
    size = (side * ratio, side * ratio)
    rough = torch.rand(1, bands + 1, *size, generator=generator, dtype=torch.float64)
    fine = mtf_filter(rough, 0.3, 2.5) * 900 + 100
    pan = fine.mean(1, keepdim=True)
    geometry = Geometry.toolbox(ratio)
    ms = sample(mtf_filter(0.5 * fine[:, :bands] + 0.5 * pan, 0.3, ratio), geometry, (side, side)).contiguous()
    return ms, interpolate(ms, geometry, size), pan


@pytest.fixture(autouse=True)
def _inference():
    """Run as fusing does."""
    with torch.no_grad():
        yield


def network(bands: int = 4, ratio: int = 4) -> LEMambaAny:
    """Return a network that changes the local injection noticeably."""
    torch.manual_seed(3)
    made = LEMambaAny(bands, 1, bands, ratio=ratio).eval()
    torch.nn.init.normal_(made.core.tail.weight, std=0.02)
    return made


@pytest.mark.parametrize(("bands", "ratio"), [(1, 4), (3, 2), (5, 3), (9, 5), (2, 6)])
def test_any_number_of_bands_and_ratio(bands, ratio):
    ms, lms, pan = scene(bands, ratio)
    sr = network(bands, ratio)(ms, lms, pan)
    assert sr.shape == lms.shape
    assert sr.isfinite().all()


def test_factors_and_offsets_of_bands_and_pan_do_not_matter():
    ms, lms, pan = scene()
    factor = torch.tensor([0.001, 1.0, 7.0, 300.0], dtype=torch.float64).view(1, -1, 1, 1)
    offset = torch.tensor([5.0, -400.0, 0.0, 1e4], dtype=torch.float64).view(1, -1, 1, 1)
    method = network()
    plain = method(ms, lms, pan)
    moved = method(ms * factor + offset, lms * factor + offset, pan * 0.02 - 3)
    assert (plain - lms).abs().max() > 10  # it does something
    torch.testing.assert_close((moved - offset) / factor, plain, rtol=0, atol=0.02)


def test_the_order_of_bands_does_not_matter():
    ms, lms, pan = scene()
    order = [2, 0, 3, 1]
    method = network()
    torch.testing.assert_close(
        method(ms[:, order], lms[:, order], pan), method(ms, lms, pan)[:, order], atol=0.02, rtol=0
    )


def test_without_training_it_is_the_local_injection():
    """Where PAN is one band times a factor, local and global gain are exact, and PAN is the result."""
    _, _, pan = scene(1)
    geometry = Geometry.toolbox(4)
    ms = sample(mtf_filter(pan, 0.3, 4), geometry, (20, 20))
    sr = LEMambaAny(1, 1, 1).eval()(ms, interpolate(ms, geometry, (80, 80)), pan)
    inner = (..., slice(16, 64), slice(16, 64))
    kernel_sum = float(mtf_filter(torch.ones_like(pan), 0.3, 4)[0, 0, 40, 40])
    assert (sr[inner] / kernel_sum - pan[inner]).std() < 0.02 * pan[inner].std()


def test_constant_bands_stay_constant():
    ms, lms, pan = scene()
    ms[:, 1], lms[:, 1] = 7.0, 7.0
    sr = network()(ms, lms, pan)
    assert (sr[:, 1] == 7).all()
    with pytest.raises(UserError, match="PAN has one value"):
        network()(ms, lms, torch.full_like(pan, 3.0))


def test_windows_give_the_whole_image():
    """Windows with margins, as scenes are read, on a grid that the core's steps fit."""
    ms, _, pan = scene(1, 4, side=48)
    method, geometry = network(1), Geometry.toolbox(4)
    ((_, whole),) = cut_windows(ms, pan, geometry, 192, method.margin)
    expected = whole.crop(method.inject(whole, method.fit(partial(iter, (whole,)))))
    windows = list(cut_windows(ms, pan, geometry, STEP, method.margin))
    fitted = method.fit(lambda: (window for _, window in windows))
    for (rows, columns), window in windows:
        part = window.crop(method.inject(window, fitted))
        torch.testing.assert_close(part, expected[..., slice(*rows), slice(*columns)], rtol=0, atol=0.05)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, -1.0), (0.5, 1.4)])
def test_the_shift_of_pan_is_found(shift):
    ms, _, pan = scene(3, 4, side=32, seed=5)
    moved = resample(pan, *((-s, 1.0, n) for s, n in zip(shift, pan.shape[-2:], strict=True)))
    ((_, window),) = cut_windows(ms, moved, Geometry.toolbox(4), 128, 64)
    found = find_shift(partial(iter, (window,)), 0.3)
    assert np.abs(np.subtract(found, shift)).max() < 0.15


def test_the_shipped_file_is_the_one_its_json_names_and_small():
    path = SHIPPED[GENERIC]
    assert path.stat().st_size <= 4 * 2**20
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["sha256"] == sha256(path)
    assert facts["sha256"] in (path.parent / "README.md").read_text(encoding="utf-8")
    assert read_weights(path)[1]["model"]["name"] == "LEMambaAny"


def test_the_shipped_weights_beat_their_classical_start_on_a_scene_not_drawn_before():
    pair = draw_pair([7, 77], (40, 40), landscape="suburb")
    ms, pan, gt = (torch.from_numpy(np.array(x, np.float64))[None] for x in (pair.ms, pair.pan, pair.gt))
    facts = DataFacts("none", 1.0, pair.ratio, ms.shape[1], 1, geometry=pair.geometry)
    errors = []
    start = build_model(
        "LEMambaAny", img_channel=ms.shape[1], condition_channel=1, out_channel=ms.shape[1], ratio=pair.ratio
    )
    for method in (start.eval(), load_method(None, GENERIC, facts)):
        method.geometry = pair.geometry
        ((_, window),) = cut_windows(ms, pan, pair.geometry, max(pan.shape[-2:]), method.margin)
        sr = window.crop(method.inject(window, method.fit(partial(iter, (window,)))))
        errors.append(float((sr - gt).square().mean().sqrt()))
    assert errors[1] < 0.95 * errors[0]


def test_the_api_uses_them_where_nothing_is_named():
    ms, _, pan = scene(3)
    small, fine = ms[0].numpy().astype(np.uint16), pan[0, 0].numpy().astype(np.uint16)
    plain = lemamba.fuse(small, fine)
    assert plain.shape == (3, 80, 80)
    assert plain.dtype == np.uint16
    assert (plain == lemamba.fuse(small, fine, weights="generic")).all()
    assert (plain == lemamba.fuse(small, fine, lemamba.load("generic"))).all()


def test_two_geotiffs_are_enough(tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    ms, _, pan = scene(3)
    for name, image, pixel in (("ms", ms, 4.0), ("pan", pan, 1.0)):
        values = image[0].numpy().astype(np.uint16)
        profile = {"driver": "GTiff", "dtype": "uint16", "count": len(values), "crs": "EPSG:32633"}
        profile |= {
            "height": values.shape[1],
            "width": values.shape[2],
            "transform": rasterio.Affine(pixel, 0, 0, 0, -pixel, 0),
        }
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as file:
            file.write(values)
    words = ["--ms", tmp_path / "ms.tif", "--pan", tmp_path / "pan.tif", "--out", tmp_path / "fused.tif"]
    assert fuse_command.run(parse("fuse", [str(word) for word in words])) == 0
    assert "weights generic" in capsys.readouterr().out
    with rasterio.open(tmp_path / "fused.tif") as file:
        assert (file.count, file.shape, file.dtypes[0]) == (3, (80, 80), "uint16")


def test_the_recipe_of_the_weights_runs_from_end_to_end_on_a_miniature(tmp_path, monkeypatch, capsys):
    """`reproduce.py generic` with two small scenes and one epoch: data, training, weights that fuse, comparison."""
    recipe = yaml.safe_load((FOLDER / "generic.yaml").read_text(encoding="utf-8"))
    recipe["prepare"] = "generic --scenes 2 --held_out 1 --seed 20000"
    recipe["train"] = "--arch LEMambaAny -c configs/LEMambaAny_config.yaml -e 1 -b 8"
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lemamba.commands.generic.SIDE", 96)
    taken = []

    def step(_title, name, *words):
        taken.append(name)
        with torch.enable_grad():
            importlib.import_module(f"lemamba.commands.{name}").run(parse(name, [str(word) for word in words]))

    monkeypatch.setattr(reproduce, "run_step", step)
    line = parse("reproduce", ["mini.yaml", "--out", "out", "--device", "cpu"])
    assert reproduce.run(line) == 1  # so few steps are outside the bands
    told = capsys.readouterr().out
    assert taken == ["prepare", "train", "fuse"] and "outside" in told and "181,380" in told
    data = H5Dataset("out/mini/data/train_generic.h5")
    one = data[0]
    assert one["pan"].shape == (GUIDES, 48, 48)
    assert torch.equal(one["pan"][:1], one["lms"])
    assert (one["gt"] - one["lms"]).abs().mean() * RANGE < 1  # deviations of the band
    weights = tmp_path / "out/mini" / recipe["export"]
    card = (weights.parent / "README.md").read_text(encoding="utf-8")
    facts = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    assert sha256(weights) in card and sha256(weights) in told and facts["facts"]["project"] in card
    ms, _, pan = scene(5, 3)
    sr = lemamba.fuse(ms[0].numpy(), pan[0, 0].numpy(), weights=weights, clip=False)
    assert sr.shape == (5, 60, 60)
    monkeypatch.setattr(reproduce, "run_step", lambda _title, name, *words: taken.append(name))
    assert reproduce.run(line) == 1
    assert taken[3:] == ["fuse"], "nothing is made or trained again"


@pytest.mark.parametrize("gain", [0.1, 0.3, 0.62, 0.9])
def test_the_gain_of_the_mtf_is_found(gain):
    _, _, pan = scene(3, 4, side=32, seed=7)
    fine = torch.cat([pan, pan.flip(-1), 0.7 * pan + 0.3 * pan.flip(-2)], 1)
    geometry = Geometry.toolbox(4)
    ms = sample(mtf_filter(fine, gain, 4), geometry, (32, 32)).contiguous()
    window = Window(ms, interpolate(ms, geometry, (128, 128)), pan, geometry)
    found = find_gains(partial(iter, (window,)), (0.3, 0.3, 0.2), (0.0, 0.0))
    assert found[0] == found[1] == pytest.approx(gain, abs=0.03)
    # the third band keeps the width of its filter relative to the others
    assert found[2] == pytest.approx(min(max(found[0] ** (np.log(0.2) / np.log(0.3)), 0.1), 0.97))


def test_the_gain_of_a_scene_too_small_to_say_stays():
    ms, lms, pan = scene(4, 4, side=8)
    window = Window(ms, lms, pan, Geometry.toolbox(4))
    assert find_gains(partial(iter, (window,)), (0.3, 0.2, 0.3, 0.3), (0.0, 0.0)) == (0.3, 0.2, 0.3, 0.3)
