"""Augmentation: paired, stateless, and independent of who asks."""

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.transforms import Augment
from lemamba.utils.errors import UserError

RATIO = 4


@pytest.fixture
def sample():
    """Every pixel of gt is its own number; ms holds those at the decimation offset, so pairing can be checked."""
    gt = np.arange(2 * 32 * 32, dtype=np.float32).reshape(2, 32, 32)
    blocks = gt.reshape(2, 8, RATIO, 8, RATIO).mean((2, 4))
    return {"gt": gt, "lms": gt + 0.5, "pan": gt[:1] * 2, "ms": blocks}


def paired(sample):
    gt = sample["gt"]
    h = gt.shape[-2] // RATIO
    np.testing.assert_allclose(sample["ms"], gt.reshape(2, h, RATIO, -1, RATIO).mean((2, 4)), rtol=1e-5)
    np.testing.assert_array_equal(sample["lms"], gt + 0.5)
    np.testing.assert_array_equal(sample["pan"], gt[:1] * 2)


@pytest.mark.parametrize("crop", [None, 16])
def test_all_arrays_move_together_and_every_turn_occurs(sample, crop):
    augment = Augment(0.5, crop, seed=5)
    seen = set()
    for index in range(200):
        result = augment(sample, RATIO, 3, index)
        paired(result)
        corners = result["gt"][0][[0, 0, -1, -1], [0, -1, 0, -1]]
        seen.add(tuple(np.argsort(corners)))
    assert len(seen) == 8  # the whole group of the square


def test_a_crop_falls_on_every_place_and_on_no_other(sample):
    """On ms's grid of 8 x 8 a square of 4 has 5 x 5 places, the last row and column among them."""
    augment = Augment(0.0, 16, seed=5)
    corners = {int(augment(sample, RATIO, 0, index)["gt"][0, 0, 0]) for index in range(400)}
    assert corners == {32 * y + x for y in range(0, 17, RATIO) for x in range(0, 17, RATIO)}


def test_stateless_and_seeded(sample):
    augment = Augment(0.5, 16, seed=1)
    wanted = augment(sample, RATIO, 2, 7)["gt"]
    np.random.seed(99)
    torch.manual_seed(99)
    state = np.random.get_state()[1].copy()
    augment(sample, RATIO, 0, 0)
    np.testing.assert_array_equal(augment(sample, RATIO, 2, 7)["gt"], wanted)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    others = [Augment(0.5, 16, seed=s)(sample, RATIO, e, i)["gt"] for s, e, i in [(2, 2, 7), (1, 3, 7), (1, 2, 8)]]
    assert not all(np.array_equal(o, wanted) for o in others)


def test_zero_probability_changes_nothing(sample):
    assert Augment()(sample, RATIO, 5, 5) is sample


def test_oblong_samples_keep_their_shape(sample):
    oblong = {key: value[..., : value.shape[-1] // 2] for key, value in sample.items()}
    for index in range(40):
        assert Augment(1.0)(oblong, RATIO, 0, index)["gt"].shape == (2, 32, 16)


def test_same_sample_whatever_worker_asks(tmp_path, sample):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, value in sample.items():
            file[key] = np.stack([value + 10000 * i for i in range(6)])
    dataset = H5Dataset(tmp_path / "a.h5", augment=Augment(0.5, crop=16, seed=3))
    keys = [(epoch, index) for epoch in (0, 1) for index in (5, 0, 3, 1, 4, 2)]
    alone = torch.stack([dataset[key]["gt"] for key in keys])
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=4, sampler=keys, num_workers=workers)
        assert torch.equal(torch.cat([batch["gt"] for batch in loader]), alone)
    assert torch.equal(dataset[3]["gt"], dataset[(0, 3)]["gt"])
    assert not torch.equal(alone[:6], alone[6:])


@pytest.mark.parametrize("crop", [-4, 0, 6, 64])
def test_crop_that_does_not_fit(tmp_path, sample, crop):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, value in sample.items():
            file[key] = value[None]
    with pytest.raises(UserError, match=f"multiple of the ratio 4 and at most 32, given {crop}"):
        H5Dataset(tmp_path / "a.h5", augment=Augment(crop=crop))


def test_bad_probability_and_seed():
    with pytest.raises(UserError, match="from 0 to 1"):
        Augment(1.5)
    with pytest.raises(UserError, match="seed"):
        Augment(seed=-1)
