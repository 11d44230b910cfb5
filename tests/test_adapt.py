"""Adapting to one's own scene: ground that is held out, gain, never worse, resuming, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from small_files import PIXEL, tif, write_h5

from lemamba.commands import adapt, choose, fuse, parse
from lemamba.commands.adapt import FIRST, LAST
from lemamba.datasets import own_ground as grounds
from lemamba.datasets.content import check_content, scene_notes
from lemamba.datasets.own_ground import Drawn, own_ground, reduced_ground, scene_area, split_ground
from lemamba.datasets.pair import open_pair
from lemamba.datasets.simulation.wald import split_boxes, wald
from lemamba.engine.weights.files import read_weights, save_weights
from lemamba.losses.two_resolutions import TwoResolutions
from lemamba.metrics import ergas
from lemamba.model import build_model
from lemamba.operators import mtf_filter, sample
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor

rasterio = pytest.importorskip("rasterio", reason="rasterio is optional")
R = 4


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch):
    monkeypatch.setattr(adapt, "ROUND", 12)


def truth(rows: int = 288, columns: int = 160, bands: int = 4, seed: int = 0) -> np.ndarray:
    """Draw rectangles of five materials on a slope: (C, H, W) digital numbers with sharp edges."""
    rng = np.random.default_rng(seed)
    spectra = rng.uniform(100, 1500, (5, bands))
    image = np.tile(spectra[0][:, None, None], (1, rows, columns))
    for _ in range(rows * columns // 150):
        top, left = rng.integers(0, rows), rng.integers(0, columns)
        h, w = rng.integers(3, 24, 2)
        image[:, top : top + h, left : left + w] = spectra[rng.integers(5)][:, None, None] * rng.uniform(0.7, 1.2)
    return image * np.linspace(0.9, 1.1, rows)[:, None]


def observe(image: np.ndarray, ratio: int = R) -> tuple[np.ndarray, np.ndarray]:
    """Return MS (C, h, w) and PAN (1, H, W) as a sensor with gains of 0.3 sees them, corners aligned."""
    x = torch.from_numpy(image)[None]
    size = image.shape[1] // ratio, image.shape[2] // ratio
    ms = sample(mtf_filter(x, 0.3, ratio), Geometry.corners(ratio), size)[0].numpy()
    return ms, image.mean(0, keepdims=True)


def write(folder: Path, ms: np.ndarray, pan: np.ndarray, ratio: int = R, **options) -> tuple[Path, Path]:
    coarse, fine = (np.round(x).clip(0, 65535).astype(np.uint16) for x in (ms, pan))
    folder.mkdir(exist_ok=True)
    return (
        tif(folder / "ms.tif", coarse, pixel=ratio * PIXEL, **options),
        tif(folder / "pan.tif", fine, **options),
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    image = truth()
    return image, write(tmp_path_factory.mktemp("scene"), *observe(image))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return start(tmp_path_factory.mktemp("weights"))


def start(folder: Path, bands: int = 4) -> Path:
    """Save an untrained, narrow A-PNN as a training saves it."""
    torch.manual_seed(1)
    sizes = {"img_channel": bands, "condition_channel": 1, "out_channel": bands, "ratio": R, "widths": [8, 8]}
    data = {"sensor": "none", "divisor": 2047.0, "ratio": R, "offset": [1.5, 1.5]}
    path = folder / "start.safetensors"
    save_weights(
        path, build_model("A-PNN", **sizes).state_dict(), {"model": {"name": "A-PNN", "args": sizes}, "data": data}
    )
    return path


def run(pair, out: Path, *more: object) -> int:
    ms, pan = pair
    given = ["--ms", str(ms), "--pan", str(pan), "--out", str(out), *map(str, more)]
    return adapt.run(parse("adapt", given))


def fused(pair, out: Path, *more: object) -> np.ndarray:
    ms, pan = pair
    assert fuse.run(parse("fuse", ["--ms", str(ms), "--pan", str(pan), "--out", str(out), *map(str, more)])) == 0
    return read(out)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read().astype(np.float64)


def error(image: np.ndarray, gt: np.ndarray) -> float:
    return float(np.sqrt(np.mean((image - gt) ** 2)))


# ---------------------------------------------------------------------------------------------------- adapting


def test_an_adapted_network_is_better_than_its_start(scene, weights, tmp_path, capsys):
    """On ground that it has not seen, and against the truth at full resolution, which nothing in the command knows."""
    gt, pair = scene
    out = tmp_path / "F.tif"
    assert run(pair, out, "--from", weights, "--rounds", 25) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "F_adapted/report.json").read_text())
    rows, start = report["rows"], report["start"]
    assert report["used"] in (FIRST, LAST)
    assert rows[FIRST]["ergas"] < 0.9 * rows[start]["ergas"] and rows[FIRST]["psnr"] > rows[start]["psnr"] + 1
    before = fused(pair, tmp_path / "before.tif", "--weights", weights)
    assert error(read(out), gt) < 0.9 * error(before, gt)

    # what is left: weights that give the same image, their card, a picture; and progress from the start on
    again = fused(pair, tmp_path / "again.tif", "--weights", tmp_path / "F_adapted")
    np.testing.assert_array_equal(again, read(out))
    card = (tmp_path / "F_adapted/weights/README.md").read_text()
    assert "A-PNN" in card and "ms.tif, pan.tif" in card and "start.safetensors" in card
    assert (tmp_path / "F_adapted/before_after.png").stat().st_size > 10_000
    assert "training 1/2: 25 rounds in all; start: held-out ERGAS" in text and "held-out ERGAS" in text

    with pytest.raises(UserError, match="holds an adaptation; --resume continues it, --overwrite replaces it"):
        run(pair, out, "--from", weights, "--rounds", 25)
    with pytest.raises(UserError, match="was started with rounds 25, given 4"):
        run(pair, out, "--from", weights, "--rounds", 4, "--resume")


def test_a_result_that_is_worse_than_the_start_is_not_used(scene, tmp_path, capsys):
    """Forty steps do not reach the classical methods: the best of these is the result, and that is said."""
    out = tmp_path / "F.tif"
    assert run(scene[1], out, "--from", "scratch", "--arch", "PNN", "--rounds", 1, "--divisor", 2047) == 0
    report = json.loads((tmp_path / "F_adapted/report.json").read_text())
    assert report["used"] == report["start"] != "EXP"
    assert f"the start is used, {report['start']}" in capsys.readouterr().out
    np.testing.assert_array_equal(
        read(out), fused(scene[1], tmp_path / "G.tif", "--arch", report["start"], "--divisor", 2047)
    )
    assert not (tmp_path / "F_adapted/weights").exists()


def test_the_row_that_is_kept():
    def kept(start, first, last=None):
        rows = {"s": {"ergas": start}, FIRST: {"ergas": first[0], "hqnr": first[1]}}
        return adapt.keep(rows | ({LAST: {"ergas": last[0], "hqnr": last[1]}} if last else {}), "s")

    assert kept(2.0, (2.1, 0.9)) == "s" and kept(2.0, (1.9, 0.5)) == FIRST
    assert kept(2.0, (1.9, 0.8), (1.91, 0.9)) == LAST, "sharper for less than 1 % of ERGAS"
    assert kept(2.0, (1.9, 0.8), (1.95, 0.9)) == FIRST and kept(2.0, (1.9, 0.8), (1.8, 0.7)) == FIRST
    assert kept(2.0, (2.1, 0.8), (1.9, 0.7)) == LAST and kept(2.0, (2.1, 0.8), (2.05, 0.9)) == "s"
    assert kept(2.0, (float("nan"), 0.8), (float("nan"), 0.9)) == "s"
    rows = {"s": {"ergas": 2.0}, FIRST: {"ergas": 1.85, "hqnr": 0.9}}
    assert adapt.keep(rows, "s", needed=0.9) == "s" and adapt.keep(rows, "s") == FIRST


def test_a_scene_that_contradicts_its_sensor_is_degraded_as_it_was_observed(tmp_path, capsys):
    """MS decimated without a low-pass: the samples that are made of it are not low-passed much either."""
    ms = observe(truth(512, 512))[0]
    sharp = sample(torch.from_numpy(truth(512, 512))[None], Geometry.corners(R), (128, 128))[0].numpy()
    pan, found = truth(512, 512).mean(0, keepdims=True), {}
    for name, image in (("as its sensor", ms), ("sharp", sharp)):
        with open_pair(*write(tmp_path / name, image, pan)) as pair:
            found[name] = choose.scene_gains([scene_area(pair)], pair.facts)
            made = own_ground([scene_area(pair)], pair.facts, gains=found[name])
            usual = own_ground([scene_area(pair)], pair.facts)
        same = torch.equal(made.test[0]["ms"], usual.test[0]["ms"])
        assert same == (name != "sharp")
        assert made.one_held and float(made.test[0]["ms"].std()) >= float(usual.test[0]["ms"].std())
    assert found["as its sensor"] == tuple(get_sensor("none").gains(4)) and min(found["sharp"]) > 0.6
    assert capsys.readouterr().out.count("note: PAN and the bands agree with MTF gains of") == 1


def test_ms_without_a_low_pass_is_not_adapted_to(tmp_path, weights, capsys):
    """What is best on its degraded pair need not be best on it, so neither `adapt` nor `auto` takes it."""
    image = truth(512, 256)
    ms = sample(torch.from_numpy(image)[None], Geometry.corners(R), (128, 64))[0].numpy()
    pair = write(tmp_path / "sharp", ms, image.mean(0, keepdims=True))
    out = tmp_path / "F.tif"
    assert run(pair, out, "--from", weights, "--rounds", 1) == 0
    report = json.loads((tmp_path / "F_adapted/report.json").read_text())
    assert report["used"] == report["start"] == "start (start.safetensors)" and FIRST not in report["rows"]
    assert "note: nothing was trained: MS was not low-passed" in capsys.readouterr().out
    np.testing.assert_array_equal(read(out), fused(pair, tmp_path / "G.tif", "--weights", weights))
    with pytest.raises(UserError, match="--from scratch: MS was not low-passed"):
        run(pair, tmp_path / "H.tif", "--from", "scratch", "--rounds", 1)
    capsys.readouterr()
    chosen = fused(pair, tmp_path / "A.tif", "--method", "auto", "--weights", weights)
    assert "start.safetensors: for lack of a measurement" in capsys.readouterr().out
    np.testing.assert_array_equal(chosen, read(out))


def test_resuming_gives_what_an_uninterrupted_run_gives(scene, weights, tmp_path, monkeypatch, capsys):
    one, other = tmp_path / "one.tif", tmp_path / "other.tif"
    assert run(scene[1], one, "--from", weights, "--rounds", 3) == 0
    seen, measured = [], adapt.Judge.valid

    def interrupted(judge, network):
        seen.append(None)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return measured(judge, network)

    monkeypatch.setattr(adapt.Judge, "valid", interrupted)
    assert run(scene[1], other, "--from", weights, "--rounds", 3) == 130
    assert (
        "stopped by SIGTERM, everything is saved; continue with the same command and --resume"
        in capsys.readouterr().out
    )
    assert not other.exists()
    assert run(scene[1], other, "--from", weights, "--rounds", 3, "--resume") == 0
    np.testing.assert_array_equal(read(one), read(other))
    states = [read_weights(tmp_path / f"{name}_adapted/weights/best.safetensors")[0] for name in ("one", "other")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_test_set_is_adapted_to(tmp_path, weights):
    images = [observe(truth(384, 256, seed=seed)) for seed in range(2)]
    ms, pan = (np.stack(found) for found in zip(*images, strict=True))
    lms = np.stack([np.kron(one, np.ones((1, R, R))) for one in ms])
    data = write_h5(tmp_path / "test_my_multiExm1.h5", {"ms": ms, "lms": lms, "pan": pan}, offset=1.5)
    given = ["--data", str(data), "--divisor", "2047", "--from", str(weights), "--rounds", "1"]
    assert adapt.run(parse("adapt", [*given, "--out", str(tmp_path / "F.mat")])) == 0
    assert (tmp_path / "F.mat").is_file() and (tmp_path / "F_adapted/report.json").is_file()


# ---------------------------------------------------------------------------------------------------- the ground


def ground_of(pair, **more):
    with open_pair(*pair, divisor=2047.0, **more) as opened:
        return own_ground([scene_area(opened)], opened.facts), opened.facts


def test_samples_are_those_of_walds_protocol_and_the_parts_do_not_meet(scene, tmp_path):
    ms, pan = observe(truth(768, 256))
    found, facts = ground_of(write(tmp_path / "tall", ms, pan))
    boxes, _ = split_boxes(192, 64, R)
    ms, pan = (np.round(x).clip(0, 65535) for x in (ms, pan))
    for split, samples in (("train", [s for s, _ in found.train]), ("valid", found.valid), ("test", found.test)):
        top, bottom, left, right = boxes[split]
        assert len(samples) == 1 and samples[0]["gt"].shape == (4, bottom - top, right - left)
        np.testing.assert_allclose(samples[0]["gt"].numpy() * 2047, ms[:, top:bottom, left:right], rtol=1e-5, atol=1e-2)
    drawn = Drawn(found, 8)
    assert all(torch.equal(drawn[3, 5][role], drawn[3, 5][role]) for role in drawn[3, 5])
    assert not torch.equal(drawn[3, 5]["gt"], drawn[4, 5]["gt"])
    ends = {float(found.train[0][0]["gt"].amax()), float(found.train[0][0]["gt"].amin())}
    patches = torch.stack([drawn[0, i]["gt"] for i in range(8)])
    assert patches.shape == (8, 4, 32, 32) and min(ends) <= float(patches.min()) <= float(patches.max()) <= max(ends)


def test_a_guide_of_several_bands(tmp_path, monkeypatch, capsys):
    """Degraded by the pair's own PSF; the result is never worse than the best method without training."""
    monkeypatch.setattr(grounds, "ESTIMATED", 32)
    image = truth(320, 160, 20)
    ms, _ = observe(image)
    response = np.abs(np.random.default_rng(3).normal(1, 0.4, (3, 20))) / 20
    pair = write(tmp_path / "pair", ms, np.einsum("pc,chw->phw", response, image))
    with pytest.raises(UserError, match="guide has 3; add --from scratch"):
        run(pair, tmp_path / "f.tif")
    with open_pair(*pair) as opened:
        area, facts = scene_area(opened), opened.facts
        psf = np.outer(*[np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9] * 2)
        facts = dataclasses.replace(facts, psf=psf, response=response)
        box = (0, 32), (0, 32)
        seen = area.read(box)
        found, _ = grounds.reduced(area, box, facts, grounds.observation([area], facts))
    assert seen["pan"].shape == (3, 128, 128)
    base = int(np.floor(facts.geometry.offset[0] + 0.5))  # the guide pixel nearest to the centre of an MS pixel
    for role, source in (("ms", "ms"), ("pan", "pan")):
        expected = scipy.ndimage.correlate(seen[source].numpy(), psf[None], mode="reflect")
        expected = expected[:, base::R, base::R]
        np.testing.assert_allclose(found[role].numpy(), expected, rtol=2e-6)
    torch.testing.assert_close(found["gt"], seen["ms"])
    assert run(pair, tmp_path / "f.tif", "--arch", "SSRNet", "--from", "scratch", "--rounds", "1") == 0
    report = json.loads((tmp_path / "f_adapted" / "report.json").read_text())
    classical = [name for name in report["rows"] if name not in (FIRST, "EXP")]
    assert FIRST in report["rows"] and LAST not in report["rows"]
    assert report["rows"][report["used"]]["ergas"] <= min(report["rows"][n]["ergas"] for n in classical)
    best = fused(pair, tmp_path / "best.tif", "--arch", classical[0])
    assert error(read(tmp_path / "f.tif"), image) <= error(best, image) * 1.05


def test_only_ground_with_data_is_used(tmp_path):
    ms, pan = observe(truth(768, 256))
    ms[:, :40], pan[:, : 4 * 40, :] = 0, 0
    ms[:, 100:103, 20:23] = 0
    pair = write(tmp_path / "gaps", ms, pan, nodata=0)
    found, _ = ground_of(pair)
    drawn = Drawn(found, 200)
    for i in range(200):
        assert float(drawn[0, i]["gt"].min()) > 0
    assert all(float(s["gt"].min()) > 0 for s in (*found.valid, *found.test))


def test_many_images_are_split_by_whole_images():
    class Image:
        size, inner, name = (64, 64), (0, 64, 0, 64), "i"

    boxes = split_ground([Image()] * 10, R)
    assert [list(b) for b in boxes] == [["train"]] * 6 + [["valid"]] * 2 + [["test"]] * 2


def test_a_large_scene_is_read_in_part(tmp_path, monkeypatch):
    """No more pixels are kept than the limits say, of windows at several places."""
    monkeypatch.setattr(grounds, "PIXELS", {"train": 3000, "valid": 2000, "test": 2000})
    monkeypatch.setattr(grounds, "SIDE", {"train": 32, "valid": 32, "test": 32})
    found, _ = ground_of(write(tmp_path / "big", *observe(truth(768, 512))))
    assert sum(s["gt"][0].numel() for s, _ in found.train) <= 3000 + 32 * 32
    assert len(found.train) == 3 and sum(s["gt"][0].numel() for s in found.valid) <= 2000 + 32 * 32


# ---------------------------------------------------------------------------------------------------- bad input


def damaged(kind: str) -> tuple[np.ndarray, np.ndarray, dict]:
    ms, pan = observe(truth())
    rng = np.random.default_rng(1)
    if kind == "40 x 40":
        return ms[:, :40, :40], pan[:, :160, :160], {}
    if kind == "gaps":
        missing = rng.random(ms.shape[1:]) < 0.95
        ms[:, missing] = 0
        return ms, pan, {"nodata": 0}
    if kind == "other":
        return ms, observe(truth(seed=9))[1], {}
    if kind == "band":
        ms[1] = 77
    if kind == "ms":
        ms[:] = 77
    if kind == "pan":
        pan[:] = 500
    return ms, pan, {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("40 x 40", "expected at least 64 x 32 MS pixels with data, .* given 40 x 40; take a larger scene"),
        ("gaps", "expected 32 x 32 MS pixels without gaps in each of the parts"),
        ("other", "do not show the same ground: expected MS to explain at least 20% of PAN's structure"),
        ("band", "expected bands with content, band 2 holds one value everywhere; leave it out"),
        ("ms", "ms.tif: expected an image, all its pixels with data hold one value"),
        ("pan", "pan.tif: expected an image, all its pixels with data hold one value"),
    ],
)
def test_what_cannot_be_adapted_to_is_one_line_and_nothing_is_written(tmp_path, weights, kind, message):
    ms, pan, options = damaged(kind)
    pair = write(tmp_path / "s", ms, pan, **options)
    with pytest.raises(UserError, match=message) as refused:
        run(pair, tmp_path / "F.tif", "--from", weights, "--rounds", 1)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("F*"))


def test_ms_that_was_enlarged_is_told(tmp_path):
    """PAN is sharper than the ratio of the files says: the MS pixels are half as large as what they show."""
    ms, pan = observe(truth(512, 256), ratio=8)
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(ms)[None], scale_factor=2, mode="bicubic")[0].numpy()
    (told,) = check_content(ground_of(write(tmp_path / "s", enlarged, pan))[0])
    assert told.startswith("MS is blurred or displaced: its finest details follow PAN's with") and "\n" not in told
    assert check_content(ground_of(write(tmp_path / "t", *observe(truth())))[0]) == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("good", None),
        ("other", "do not seem to show the same ground: MS explains [0-9]% of PAN's structure"),
        ("enlarged", "is blurred or displaced: .* so the result may lack sharpness"),
        ("gaps", "95% of the pixels have no data in both images"),
        ("band", "band 2 of .*ms.tif: one value wherever it was read, so nothing of it can be sharpened"),
        ("pan", "band 1 of .*pan.tif: one value wherever it was read, so it adds nothing"),
        ("40 x 40", "1600 MS pixels are few to take statistics from"),
    ],
)
def test_fusing_says_what_is_wrong_with_a_pair(tmp_path, capsys, kind, message):
    """Before it fuses, with the method that needs nothing of it; few pixels matter to those with statistics only."""
    ms, pan, options = damaged(kind)
    if kind == "enlarged":
        ms, pan = observe(truth(512, 256), ratio=8)
        ms = torch.nn.functional.interpolate(torch.from_numpy(ms)[None], scale_factor=2, mode="bicubic")[0].numpy()
    pair = write(tmp_path / "s", ms, pan, **options)
    fused(pair, tmp_path / "F.tif", *(() if kind == "40 x 40" else ("--arch", "EXP")))
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert (not notes) if message is None else [line for line in notes if re.search(message, line)], notes


def test_the_real_pairs_are_told_from_one_of_two_scenes(shared):
    """MS of one Gaofen-2 scene and PAN of another; no right pair is called wrong."""
    files = [shared(f"data/gf2_full_{i}_{role}.tif") for i in (0, 1) for role in ("ms", "pan")]
    for ms, pan, right in ((files[0], files[1], True), (files[2], files[3], True), (files[0], files[3], False)):
        with open_pair(ms, pan) as opened:
            assert (scene_notes(opened) == []) == right
    for name in ("ikonos_scene", "worldview2_west", "landsat8_r2", "pleiades_reduced"):
        path = shared(f"data/{name}.mat")
        with open_pair(path, path) as opened:
            assert scene_notes(opened) == [], name


@pytest.mark.parametrize("bands", [1, 2])
def test_one_and_two_bands(tmp_path, bands):
    pair = write(tmp_path / "s", *observe(truth(bands=bands)))
    assert run(pair, tmp_path / "F.tif", "--from", start(tmp_path, bands), "--rounds", 4) == 0
    result = read(tmp_path / "F.tif")
    assert result.shape == (bands, 288, 160)
    assert error(result, truth(bands=bands)) < error(
        fused(pair, tmp_path / "E.tif", "--arch", "EXP"), truth(bands=bands)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--arch", "GSA", "--from", "scratch"], "GSA has nothing to train; fuse with it: lemamba fuse --arch GSA"),
        (["--arch", "PNN"], "holds weights of A-PNN, given --arch PNN"),
        (["--data", "x.h5"], "expected a scene .* or a test set .*, one of the two"),
        (["--resume"], "--resume: expected an interrupted adaptation in .*F_adapted, found none"),
        (["--rounds", "0"], "--rounds: expected at least 1"),
    ],
)
def test_wrong_options_are_one_line(scene, weights, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        run(scene[1], tmp_path / "F.tif", *([] if "--from" in given else ["--from", weights]), *given)
    assert not list(tmp_path.glob("F*"))


# ---------------------------------------------------------------------------------------------------- the loss


def test_the_loss_of_both_resolutions():
    """Patches with ground truth by L1; for the others a result that is consistent with MS and PAN costs least."""
    image = torch.from_numpy(truth(64, 64) / 2047)[None].double()
    geometry = Geometry.corners(R)
    ms = sample(mtf_filter(image, 0.3, R, unit=True), geometry, (16, 16))
    pan = image.mean(1, keepdim=True)
    lms = torch.nn.functional.interpolate(ms, scale_factor=R, mode="bicubic")
    batch = {"ms": ms, "lms": lms, "pan": pan, "gt": lms, "full": torch.ones(1)}
    loss = TwoResolutions((0.3,) * 4, geometry)
    true, blurred = loss(image, batch), loss(lms, batch)
    assert float(true["l1"]) == 0 and float(true["spectral"]) < 1e-6 < float(blurred["spectral"])
    assert float(true["structural"]) < float(blurred["structural"])

    both = {key: torch.cat([value, value]) for key, value in batch.items()} | {"full": torch.tensor([0.0, 1.0])}
    found = loss(torch.cat([image, image]), both)
    torch.testing.assert_close(found["l1"], (image - lms).abs().mean())
    torch.testing.assert_close(found["spectral"], true["spectral"])
    assert loss(image, {"gt": image})["total"] == 0

    sr = lms[..., :64, :64].clone().requires_grad_()
    loss(sr, batch)["total"].backward()
    step = 1e-4 * sr.grad / sr.grad.abs().max()
    assert loss((sr - step).detach(), batch)["total"] < loss(sr.detach(), batch)["total"]


# ---------------------------------------------------------------------------------------------------- auto


def test_the_rule_of_auto():
    rows = {"A": {"ergas": 2.0, "qn": 0.90}, "B": {"ergas": 2.015, "qn": 0.95}, "C": {"ergas": 2.1, "qn": 0.99}}
    assert choose.best(rows) == "B", "within 1 % of the lowest ERGAS, the highest Q2n"
    assert choose.best({"A": rows["A"], "C": rows["C"]}) == "A"
    with pytest.raises(UserError, match="no method could be measured"):
        choose.best({"A": {"ergas": float("nan"), "qn": 1.0}})


@pytest.mark.parametrize(("sign", "answer"), [(1, "Brovey"), (-1, "EXP")])
def test_auto_finds_the_method_that_fits(tmp_path, monkeypatch, capsys, sign, answer):
    """Bands proportional to PAN are what Brovey's formula says; with PAN as a negative it does harm."""
    shape = truth(256, 256, bands=1)
    image = shape * np.array([0.6, 0.9, 1.1, 1.4])[:, None, None]
    ms, pan = observe(image)
    pair = write(tmp_path / "s", ms, pan if sign > 0 else pan.max() + 100 - pan)
    monkeypatch.setattr(choose, "classical_methods", lambda facts: ["EXP", "Brovey"])
    monkeypatch.setattr(choose, "shipped_weights", list)
    result = fused(pair, tmp_path / "F.tif", "--method", "auto")
    assert f"method:   {answer}:" in capsys.readouterr().out
    np.testing.assert_array_equal(result, fused(pair, tmp_path / "G.tif", "--arch", answer))


def test_auto_on_a_test_set_does_not_look_at_its_ground_truth(tmp_path, monkeypatch, capsys):
    """The file's gt is plain interpolation, by which EXP would win; on the images themselves Brovey does."""
    ms, pan = observe(truth(256, 256, bands=1) * np.array([0.6, 0.9, 1.1, 1.4])[:, None, None])
    lms = np.kron(ms, np.ones((1, R, R)))
    images = {"gt": lms[None], "ms": ms[None], "lms": lms[None], "pan": pan[None]}
    data = write_h5(tmp_path / "test_my_multiExm1.h5", images, offset=1.5)
    monkeypatch.setattr(choose, "classical_methods", lambda facts: ["EXP", "Brovey"])
    monkeypatch.setattr(choose, "shipped_weights", list)
    given = ["--data", str(data), "--divisor", "2047", "--method", "auto", "--out", str(tmp_path / "F.mat")]
    assert fuse.run(parse("fuse", [*given, "--pictures", "0"])) == 0
    assert "method:   Brovey:" in capsys.readouterr().out


def test_auto_measures_what_simulating_and_measuring_measures(scene):
    """The table's ERGAS of EXP equals that of the project's own chain: Wald's protocol, then the metric."""
    with open_pair(*scene[1], divisor=2047.0) as pair:
        samples, facts = reduced_ground([scene_area(pair)], pair.facts), pair.facts
        ms, pan = pair.scene().ms, pair.scene().pan
    scores, left_out = choose.compare(["EXP", "BDSD-PC"], samples, facts, torch.device("cpu"))
    made = wald(ms, pan, get_sensor(facts.sensor).gains(4), R, facts.geometry)
    expected = ergas(torch.from_numpy(made["lms"])[None], torch.from_numpy(made["gt"])[None], ratio=R)
    assert not left_out and scores["EXP"]["ergas"] == pytest.approx(float(expected), rel=1e-4)
    assert scores["BDSD-PC"]["ergas"] < scores["EXP"]["ergas"]
