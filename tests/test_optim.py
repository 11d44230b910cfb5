"""Optimizers: which parameters decay, Lion against its formula, errors that help."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lemamba.engine.training.optim import build_optimizer, is_spared
from lemamba.utils.errors import UserError


class StateSpace(nn.Module):
    """Names and shapes of a state-space block."""

    def __init__(self):
        super().__init__()
        self.A_logs = nn.Parameter(torch.zeros(8, 4))
        self.Ds = nn.Parameter(torch.ones(2, 4))
        self.dt_projs_bias = nn.Parameter(torch.zeros(2, 4))
        self.dt_projs_weight = nn.Parameter(torch.zeros(2, 4, 3))
        self.skip_scale = nn.Parameter(torch.zeros(1, 1, 1, 4))
        self.marked = nn.Parameter(torch.zeros(3, 3))
        self.marked._no_weight_decay = True
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv2d(4, 4, 3)


def test_decay_spares_norms_biases_and_state_space_parameters():
    model = StateSpace()
    decayed = {n for n, p in model.named_parameters() if not is_spared(n, p)}
    assert decayed == {"dt_projs_weight", "linear.weight", "conv.weight"}
    optimizer = build_optimizer("adamw", model, lr=1e-3, weight_decay=0.3)
    by_id = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {n for n, p in model.named_parameters() if by_id[id(p)] == 0.3} == decayed
    assert len(by_id) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert sum(len(g["params"]) for g in build_optimizer("adam", model, lr=1).param_groups) == 1


def test_lion_follows_its_formula():
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 2, bias=False).double()
    p, m = model.weight.detach().clone(), torch.zeros(2, 3, dtype=torch.float64)
    optimizer = build_optimizer("lion", model, lr=0.1, weight_decay=0.2, betas=(0.8, 0.95))
    for _ in range(5):
        grad = torch.randn(2, 3, generator=g, dtype=torch.float64)
        model.weight.grad = grad.clone()
        optimizer.step()
        direction = torch.sign(0.8 * m + 0.2 * grad)
        p = p - 0.1 * (direction + 0.2 * p)
        m = 0.95 * m + 0.05 * grad
    torch.testing.assert_close(model.weight.detach(), p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["AdamW", "adam", "SGD", "lion"])
def test_every_optimizer_lowers_a_quadratic(name):
    model = nn.Linear(4, 4, bias=False)
    optimizer = build_optimizer(name, model, lr=0.01)
    before = model.weight.detach().square().sum().item()
    for _ in range(20):
        optimizer.zero_grad()
        model.weight.square().sum().backward()
        optimizer.step()
    assert model.weight.detach().square().sum().item() < before


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("adamww", {}, 'did you mean "adamw"'),
        ("adamw", {"beta": 1}, 'did you mean "betas"'),
        ("sgd", {"momentun": 1}, 'did you mean "momentum"'),
        ("adamw", {"betas": [2, 3]}, "optimizer.args"),
    ],
)
def test_errors_name_the_way_out(name, arguments, says):
    with pytest.raises(UserError, match=says):
        build_optimizer(name, nn.Linear(2, 2), lr=1, **arguments)


def test_timm_is_asked_for_by_name_only_where_installed():
    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install timm"):
            build_optimizer("timm/lion", nn.Linear(2, 2), lr=1)
    else:
        assert build_optimizer("timm/lion", nn.Linear(2, 2), lr=1).param_groups
