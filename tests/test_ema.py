"""EMA: its recursion, what validation sees, buffers, tied weights, restoring."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lemamba.engine.training.ema import EMA


def drifting(model, steps):
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype))
        yield


@pytest.mark.parametrize("warmup", [True, False])
def test_follows_the_recursion(warmup):
    model = nn.Linear(3, 2).double()
    ema, expected = EMA(model, 0.9, warmup), model.weight.detach().clone()
    for n, _ in enumerate(drifting(model, 200)):
        d = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        expected = d * expected + (1 - d) * model.weight.detach()
        ema.update(model)
    torch.testing.assert_close(ema.shadow["weight"], expected, rtol=1e-12, atol=1e-12)


def test_applied_holds_the_average_and_gives_back_every_bit():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    ema = EMA(model, 0.99)
    for _ in drifting(model, 3):
        ema.update(model)
    weights, shadow = ({k: v.clone() for k, v in d.items()} for d in (model.state_dict(), ema.shadow))
    with pytest.raises(RuntimeError), ema.applied(model):
        assert torch.equal(model[0].weight, shadow["0.weight"])
        raise RuntimeError  # also when the validation fails
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, shadow[k]) for k, v in ema.shadow.items())


def test_state_has_the_networks_names_and_its_present_buffers():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    ema = EMA(model, 0.99)
    model[1].running_mean.fill_(7)
    state = ema.state_dict(model)
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(state["1.running_mean"], torch.full((2,), 7.0))
    other = EMA(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), 0.99)
    other.load_state_dict(state, 5)
    assert other.updates == 5
    assert all(torch.equal(other.shadow[k], v) for k, v in ema.shadow.items())


def test_a_tied_weight_is_averaged_under_both_names():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    ema = EMA(model, 0.5, warmup=False)
    for _ in drifting(model, 1):
        ema.update(model)
    state = ema.state_dict(model)
    assert torch.equal(state["a.weight"], state["b.weight"])
    assert not torch.equal(state["a.weight"], model["a"].weight)
