"""The order of samples: complete, seeded, the same for any number of processes, and resumable anywhere."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import KeyedData

from lemamba.engine.training.sampler import TrainSampler, build_loader, epoch_order, valid_batches, worker_error
from lemamba.utils.errors import UserError

sizes = {
    "length": st.integers(1, 60),
    "batch": st.integers(1, 7),
    "world": st.integers(1, 4),
    "epoch": st.integers(0, 9),
}


def batches(length, batch, rank=0, world=1, epoch=0, start=0, seed=3):
    sampler = TrainSampler(length, batch, rank=rank, world=world, seed=seed)
    sampler.epoch, sampler.start = epoch, start
    return list(sampler)


@given(**sizes)
def test_processes_together_see_what_one_process_with_the_larger_batch_sees(length, batch, world, epoch):
    if length < batch * world:
        with pytest.raises(UserError, match="smaller -b"):
            batches(length, batch, world=world)
        return
    one = batches(length, batch * world, epoch=epoch)
    ranks = [batches(length, batch, rank, world, epoch) for rank in range(world)]
    together = [sum(parts, []) for parts in zip(*ranks, strict=True)]
    assert together == one
    keys = [key for b in one for key in b]
    assert len(set(keys)) == len(keys) == length // (batch * world) * batch * world
    assert {e for e, _ in keys} == {epoch}


@given(start=st.integers(0, 8), **sizes)
def test_starting_in_mid_epoch_gives_the_rest_of_it(start, length, batch, world, epoch):
    if length >= batch * world:
        whole = batches(length, batch, 0, world, epoch)
        assert batches(length, batch, 0, world, epoch, start=start) == whole[start:]


def test_an_epoch_once_begun_keeps_its_number_and_order():
    """A loader that fetches ahead may still iterate when the next epoch is set."""
    sampler = TrainSampler(6, 2, seed=3)
    begun = iter(sampler)
    first = next(begun)
    sampler.epoch = 7
    assert [first, *begun] == batches(6, 2)


def test_epochs_and_seeds_give_other_orders_of_all_samples():
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4
    assert epoch_order(5, 0, 3, shuffle=False) == [0, 1, 2, 3, 4]
    state = torch.get_rng_state()
    epoch_order(50, 7, 7)
    assert torch.equal(state, torch.get_rng_state()), "the global generator must not move"


@given(length=st.integers(0, 40), batch=st.integers(1, 7), world=st.integers(1, 5))
def test_validation_measures_every_sample_exactly_once(length, batch, world):
    seen = [k for rank in range(world) for b in valid_batches(length, batch, rank, world) for k in b]
    assert sorted(i for _, i in seen) == list(range(length))
    alone = [key for b in valid_batches(length, batch) for key in b]
    assert alone == [(0, i) for i in range(length)], "the validation set is never shuffled"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_leaves_the_global_generator_alone(workers):
    sampler = TrainSampler(6, 2, seed=0)
    loader = build_loader(KeyedData(6), sampler, workers, pin=False)
    state = torch.get_rng_state()
    for epoch in range(2):
        sampler.epoch = epoch
        shapes = [b["gt"].shape[0] for b in loader]
        assert shapes == [2, 2, 2]
    assert torch.equal(state, torch.get_rng_state())


class Failing(KeyedData):
    def __getitem__(self, key):
        raise UserError("file.h5: sample 3 has NaN; fix it")


def test_an_error_in_a_loader_process_keeps_its_one_line():
    loader = build_loader(Failing(6), TrainSampler(6, 2), 1, pin=False)
    with pytest.raises(UserError) as error:
        next(iter(loader))
    assert str(worker_error(error.value)) == "file.h5: sample 3 has NaN; fix it"
    assert str(worker_error(UserError("plain"))) == "plain"


class Interrupting(KeyedData):
    """Sends its own process what a terminal sends to all processes of a training."""

    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(key)


def test_ctrl_c_does_not_end_loader_processes():
    """The main process finishes its step, and needs the batches for it."""
    assert len(list(build_loader(Interrupting(6), TrainSampler(6, 2), 2, pin=False))) == 3
