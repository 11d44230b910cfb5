"""The meter: exact over unequal batches, repeated samples and processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from lemamba.metrics import Meter
from lemamba.utils.errors import UserError

VALUES = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (2, 11)))


def as_dict(columns: slice) -> dict[str, torch.Tensor]:
    return {"sam": VALUES[0, columns], "psnr": VALUES[1, columns]}


def test_unequal_batches_equal_all_at_once():
    meter = Meter()
    for part in (slice(0, 4), slice(4, 8), slice(8, 11)):
        meter.update(as_dict(part))
    for row, (mean, std) in zip(VALUES.numpy(), meter.compute().values(), strict=True):
        assert mean == pytest.approx(row.mean(), rel=1e-14)
        assert std == pytest.approx(row.std(ddof=1), rel=1e-14)
    assert torch.equal(meter.per_sample()["psnr"], VALUES[1])


def test_one_sample_has_deviation_zero():
    meter = Meter()
    meter.update({"psnr": torch.tensor([math.inf]), "sam": torch.tensor([2.0])})
    assert meter.compute() == {"psnr": (math.inf, 0.0), "sam": (2.0, 0.0)}


def test_an_inf_makes_the_mean_inf_and_the_deviation_nan():
    meter = Meter()
    meter.update({"psnr": torch.tensor([30.0, math.inf])})
    mean, std = meter.compute()["psnr"]
    assert mean == math.inf and math.isnan(std)


def test_repeated_samples_count_once_in_the_order_of_the_index():
    meter = Meter()
    meter.update({"sam": torch.tensor([3.0, 1.0])}, index=torch.tensor([3, 1]))
    meter.update({"sam": torch.tensor([0.0, 9.0])}, index=torch.tensor([0, 3]))
    assert meter.per_sample()["sam"].tolist() == [0.0, 1.0, 3.0]


def test_reset_and_misuse():
    meter = Meter()
    with pytest.raises(UserError, match="at least one image"):
        meter.compute()
    meter.update(as_dict(slice(0, 2)))
    with pytest.raises(ValueError, match="names"):
        meter.update({"sam": torch.ones(1)})
    with pytest.raises(ValueError, match="index"):
        meter.update(as_dict(slice(2, 3)), index=torch.tensor([2]))
    meter.reset()
    meter.update({"sam": torch.tensor([1.0, 3.0])})
    assert meter.compute()["sam"] == pytest.approx((2.0, math.sqrt(2)))


def test_values_that_carry_gradients_are_kept_without_them():
    meter = Meter()
    meter.update({"sam": torch.tensor([1.0, 2.0], requires_grad=True)})
    assert not meter.per_sample()["sam"].requires_grad


def measure_as_rank(rank: int, world: int, folder: str) -> None:
    """Each rank gets every second batch of 3; the sampler repeats sample 0 at the end to fill up."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    order = [*range(11), 0]
    with_index, without = Meter(), Meter()
    for batch in range(rank, 4, world):
        index = torch.tensor(order[3 * batch : 3 * batch + 3])
        with_index.update({"sam": VALUES[0, index]}, index=index)
    if rank == 0:  # the other rank has no batch at all
        without.update(as_dict(slice(0, 11)))
    torch.save((with_index.per_sample(), with_index.compute(), without.compute()), f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    multiprocessing.spawn(measure_as_rank, args=(2, str(tmp_path)), nprocs=2)
    one = Meter()
    one.update(as_dict(slice(0, 11)))
    for rank in range(2):
        per_sample, summary, uneven = torch.load(tmp_path / f"rank{rank}.pt")
        assert torch.equal(per_sample["sam"], VALUES[0])
        assert summary["sam"] == one.compute()["sam"]
        assert uneven == one.compute()
