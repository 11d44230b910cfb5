"""Looking for what was first not finite: every place where a number can go wrong is named, and nothing is left over."""

from __future__ import annotations

import pytest
import torch
from tiny_training import L1, KeyedData, TinyNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from lemamba.engine.training.nan_guard import find_culprit


class InfiniteSlope(nn.Module):
    """The square root of 0: finite forward, Inf backward, NaN from there on."""

    def forward(self, x):
        return x + (x - x).sqrt()


class Overflowing(nn.Module):
    def forward(self, sr, gt):
        return {"total": (sr - gt).abs().mean(), "l1": (sr - gt).abs().mean() * torch.inf}


def batch(**changes) -> dict[str, torch.Tensor]:
    return {k: v[None] for k, v in KeyedData(3)[(0, 0)].items()} | changes


def spoiled_weight() -> nn.Module:
    model = TinyNet(drop=0.0, norm=False)
    nn.init.constant_(model.last.weight, torch.inf)
    return model


def infinite_slope() -> nn.Module:
    """Parameters in order first, extra, last: the bad gradient arises after `extra`, so it meets that one first."""
    model = TinyNet(drop=0.0, norm=False)
    last = model.last
    del model.last
    model.extra = nn.Conv2d(4, 4, 1)
    model.last = last
    model.drop = nn.Sequential(model.extra, InfiniteSlope())
    return model


@pytest.mark.parametrize(
    ("model", "loss", "changes", "says"),
    [
        (TinyNet, L1(), {"pan": torch.full((1, 1, 8, 8), torch.nan)}, 'batch["pan"]: 64 NaN and 0 Inf among 64 values'),
        (spoiled_weight, L1(), {}, 'parameter "last.weight": 0 NaN and 108 Inf'),
        (
            lambda: TinyNet(norm=False),
            L1(),
            {"lms": torch.full((1, 3, 8, 8), 3e38)},
            'module "first" (Conv2d), its output',
        ),
        (TinyNet, Overflowing(), {}, 'loss part "l1"'),
        (infinite_slope, L1(), {}, 'gradient of "drop.0.bias"'),
        (TinyNet, L1(), {}, "not reproduced"),
    ],
    ids=["batch", "parameter", "module", "loss", "gradient", "nothing"],
)
def test_the_first_offender_is_named(model, loss, changes, says):
    network = model()
    if "pan" not in changes and "lms" in changes:
        nn.init.constant_(network.first.weight, 10.0)
    found = find_culprit(network, loss, batch(**changes))
    assert says in found and "\n" not in found
    assert all(p.grad is None for p in network.parameters()), "gradients are cleared"
    assert not any(m._forward_hooks for m in network.modules()), "hooks are taken off"


class Recomputed(TinyNet):
    """Its first convolution is computed once more in backward, as with --grad_ckpt."""

    def forward(self, ms, lms, pan):
        x = checkpoint(self.first, torch.cat([lms, pan], dim=1), use_reentrant=False)
        return lms + self.last(self.norm(torch.relu(x)))


def test_recomputed_activations_do_not_see_the_hooks():
    """A hook that saves something for backward would make torch refuse the recomputation, which has no hooks."""
    network = Recomputed()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert "not reproduced" in find_culprit(network, L1(), batch())
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "running statistics, too"


def test_in_a_compiled_network_the_same_module_is_named():
    network = TinyNet(norm=False)
    network.compile(backend="eager")
    nn.init.constant_(network.first.weight, 10.0)
    whole = batch()
    network(whole["ms"], whole["lms"], whole["pan"])  # compiled before there is a hook
    found = find_culprit(network, L1(), batch(lms=torch.full((1, 3, 8, 8), 3e38)))
    assert 'module "first" (Conv2d), its output' in found
