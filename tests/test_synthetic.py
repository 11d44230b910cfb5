"""Synthetic scenes: reproducible, of different ground per split, and with the properties of satellite images."""

import h5py
import numpy as np
import pytest
import torch

from lemamba.datasets.build import build_dataset
from lemamba.datasets.simulation import synthetic
from lemamba.datasets.simulation.materials import FARMLAND
from lemamba.datasets.simulation.wald import wald
from lemamba.operators import imresize
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import get_sensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo")
    synthetic.write_dataset(path, size=128, seed=4)
    return path


@pytest.fixture(scope="module")
def scene():
    return synthetic.observe(1, (128, 96))


def test_the_same_seed_gives_the_same_scene(scene):
    for image, again in zip(scene, synthetic.observe(1, (128, 96)), strict=True):
        np.testing.assert_array_equal(image, again)
    assert np.corrcoef(scene[0].ravel(), synthetic.observe(2, (128, 96))[0].ravel())[0, 1] < 0.9


def test_whole_digital_numbers_within_the_sensors_range(scene):
    ms, pan = scene
    assert ms.shape == (8, 128, 96) and pan.shape == (1, 512, 384)
    for image in scene:
        assert image.min() >= 0 and 500 < image.max() <= 2047
        np.testing.assert_array_equal(image, np.round(image))


def test_there_are_plants_water_and_shadows(scene):
    ms = scene[0]
    index = (ms[6] - ms[4]) / (ms[6] + ms[4])
    assert (index > 0.5).mean() > 0.2, "vegetation: bright in the near infrared, dark in red"
    assert (index < 0).mean() > 0.01, "water: dark in the near infrared"
    assert np.percentile(scene[1], 2) < 0.5 * np.median(scene[1])


def explained(target, features):
    """Share of the variance of `target` that a linear combination of `features` explains."""
    design = np.stack([f.ravel() for f in features] + [np.ones(target.size)], 1)
    fit = design @ np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    return 1 - np.var(target.ravel() - fit) / np.var(target)


def small_pan(pan):
    return imresize(torch.from_numpy(pan)[None].double(), 0.25, "bicubic")[0, 0].numpy()


def test_pan_sees_the_same_ground_as_ms(scene):
    """PAN reduced to MS's grid is a combination of the bands, and only where it lies on the same ground."""
    ms, small = scene[0], small_pan(scene[1])
    assert explained(small, ms) > 0.95
    assert explained(small[:, 1:], ms[:, :, :-1]) < explained(small, ms) - 0.05


def test_pan_has_detail_that_ms_lacks(scene):
    """What interpolation loses, PAN's own detail explains to a good part, in the bands PAN covers whole."""
    sample = wald(*scene, get_sensor("WV3").gains(8), 4)
    low = imresize(imresize(torch.from_numpy(sample["pan"])[None], 0.25, "bicubic"), 4, "bicubic")[0].numpy()
    detail = (sample["pan"] - low)[0, 16:-16, 16:-16]
    for band in range(2, 6):  # green to red edge
        lost = (sample["gt"] - sample["lms"])[band, 16:-16, 16:-16]
        assert explained(lost, [detail]) > 0.5


def test_the_four_files_and_their_provenance(folder):
    sizes = {}
    for split in ("train", "valid", "test", "test_full"):
        dataset = build_dataset("demo", split, root=folder)
        sizes[split] = {role: tuple(value.shape[1:]) for role, value in dataset[0].items()}
        facts = dataset.facts
        assert (facts.bands, facts.ratio, facts.sensor, facts.divisor) == (8, 4, "WV3", 2047)
        assert facts.has_gt == (split != "test_full")
        with h5py.File(dataset.path) as file:
            assert file.attrs["source"] == "synthetic" and list(file.attrs["seed"])[0] == 4
    assert sizes["train"]["gt"] == (64, 64) and sizes["train"]["ms"] == (16, 16)
    for split in ("test", "test_full"):
        assert all(n % 32 == 0 for n in sizes[split]["lms"])


def test_train_and_test_show_different_ground(folder):
    train = build_dataset("demo", "train", root=folder)
    test = build_dataset("demo", "test", root=folder)
    patch = test[0]["gt"][:, :64, :64].ravel()
    for i in range(len(train)):
        other = train[i]["gt"].ravel()
        assert torch.corrcoef(torch.stack([patch, other]))[0, 1] < 0.98


@pytest.mark.parametrize(("sensor", "bands"), [("IKONOS", 4), ("WV2", 8)])
def test_other_sensors(sensor, bands):
    ms, _ = synthetic.observe(0, (64, 64), sensor, bands)
    assert ms.shape == (bands, 64, 64)


def test_a_landscape_of_choice(tmp_path):
    """The same files from the wider generator: values of the sensor's range, detail in PAN, the name on record."""
    synthetic.write_dataset(tmp_path, size=128, seed=2, landscape="city")
    dataset = build_dataset("demo", "test_full", root=tmp_path)
    assert (dataset.facts.bands, dataset.facts.divisor) == (8, 2047)
    with h5py.File(dataset.path) as file:
        assert file.attrs["landscape"] == "city"
    ms, pan = synthetic_pair(dataset)
    assert explained(small_pan(pan), ms) > 0.9
    with h5py.File(build_dataset("demo", "test", root=tmp_path).path) as file:
        gt, lms = (file[role][0].astype(float) for role in ("gt", "lms"))
    assert np.std(gt - lms) > 0.1 * np.std(gt), "MS lacks detail"


def synthetic_pair(dataset):
    sample = dataset[0]
    return sample["ms"].numpy(), sample["pan"].numpy()


def test_library_is_physical():
    table = FARMLAND.reflectance(np.arange(400.0, 1050, 10))
    assert table.shape == (len(FARMLAND.names), 65) and table.min() > 0 and table.max() < 1


@pytest.mark.parametrize(
    "bad",
    [
        {"landscape": "moon"},
        {"size": 100},
        {"size": 64},
        {"seed": -1},
        {"ratio": 3},
        {"sensor": "CAVE"},
        {"sensor": "WV9"},
    ],
)
def test_bad_arguments_are_refused_before_writing(tmp_path, bad):
    with pytest.raises(UserError):
        synthetic.write_dataset(tmp_path, **bad)
    assert list(tmp_path.iterdir()) == []
