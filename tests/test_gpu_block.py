"""The block of a GPU as one function (`model/ops/triton/block.py`) in Triton's interpreter, against the layers.

On a GPU (`make gpu`): the whole network, against the CPU.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from lemamba.model import build_model
from lemamba.model.layers import ss2d
from lemamba.model.layers.drop_path import DropPath
from lemamba.model.layers.ss2d import VSSBlock
from lemamba.utils.device import tf32

ROOT = Path(__file__).resolve().parent.parent
# window, batch, height, width, shared states, rate of stochastic depth, products in bf16
CASES = {
    "map": (0, 1, 2, 3, False, 0.0, False),
    "windows, shared": (2, 1, 2, 4, True, 0.5, False),
    "bf16": (0, 2, 2, 2, True, 0.0, True),
}


def test_blocks_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


def test_a_pass_that_is_looked_into_runs_layer_by_layer(monkeypatch):
    """On a GPU, too, the training's curves have the strength of the gates, which the one function does not know."""
    monkeypatch.setattr(ss2d, "fused_served", lambda x, weights: True)
    monkeypatch.setattr(VSSBlock, "_fused", lambda *_: pytest.fail("the gate is not known there"))
    layers = VSSBlock(4, mlp_ratio=2, d_state=4, kernel=3, ssm_ratio=2, prev_inner=8, skip_inner=8)
    seen = []
    layers.ss2d.on_gate = seen.append
    states = [torch.randn(2, 32, 4) for _ in range(2)]
    layers(torch.randn(2, 2, 2, 4), *states)
    layers.windows(torch.randn(1, 2, 4, 4), 2, torch.ones(1, 1, 1, 4), *states, want_last=False)
    assert len(seen) == 2 and all(torch.isfinite(value) for value in seen)
    layers.ss2d.on_gate = None
    with pytest.raises(pytest.fail.Exception, match="not known"):
        layers(torch.randn(2, 2, 2, 4), *states)


@pytest.mark.parametrize("case", CASES)
def test_block_interpreted(monkeypatch, case):
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("run by test_blocks_in_the_interpreter, in a process with TRITON_INTERPRET=1")
    from lemamba.model.ops.triton import block

    window, batch, height, width, shared, rate, half = CASES[case]
    c, N, images = 4, 4, batch * (height * width // window**2 if window else 1)
    torch.manual_seed(0)
    inner = {"prev_inner": 8, "skip_inner": 8} if shared else {}
    layers = VSSBlock(c, mlp_ratio=2, drop_path=rate, d_state=N, kernel=3, ssm_ratio=2, state_grad="full", **inner)
    for norm in (m for m in layers.modules() if isinstance(m, nn.LayerNorm)):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    factor = torch.randn(1, 1, 1, c).requires_grad_() if window else None
    x = torch.randn(batch, height, width, c).requires_grad_()
    states = [torch.randn(images, 32, N) for _ in range(2)] if shared else [None, None]
    draws = torch.tensor([[i % 2 for i in range(images)], [(i + 1) % 2 for i in range(images)]]).float()
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda self, keep: self.copy_(draws))
    monkeypatch.setattr(block, "_PROGRAMS", 2)
    monkeypatch.setattr(block, "_LEAST", 2)
    if half:
        monkeypatch.setattr(block, "autocast_dtype", lambda device: torch.bfloat16)
    parameters = [*layers.parameters(), *([] if factor is None else [factor])]
    weights = layers._weights(factor)
    out, last = layers._fused(x, window, *states, weights)
    ways = torch.randn(out.shape).double(), torch.randn(last.shape).double()
    ours = torch.autograd.grad((out * ways[0]).sum() + (last * ways[1]).sum(), [x, *parameters])

    exact = layers.double()  # the scan's own parameters become float64 too
    doubles = x.detach().double().requires_grad_()
    factors = iter(draws.double().view(2, images, 1, 1, 1) / (1 - rate))
    monkeypatch.setattr(DropPath, "_factors", lambda self, like: next(factors))
    states = [None if s is None else s.double() for s in states]
    if factor is None:
        expected = exact(doubles, *states)
    else:
        factor = factor.detach().double().requires_grad_()
        expected = exact.windows(doubles, window, factor, *states, want_last=True)
    leaves = [doubles, *exact.parameters(), *([] if factor is None else [factor])]
    theirs = torch.autograd.grad((expected[0] * ways[0]).sum() + (expected[1] * ways[1]).sum(), leaves)
    names = ["out", "last", "x", *(name for name, _ in exact.named_parameters()), "factor"]
    for name, a, b in zip(names, (out, last, *ours), (*expected, *theirs), strict=False):
        assert a.shape == b.shape, name
        assert (a - b).abs().max() <= (0.06 if half else 2e-5) * b.abs().max(), name


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "error"), [("no", 1e-3), ("bf16", 0.2)])
def test_a_step_has_the_gradients_of_the_cpu(precision, error):
    """The network of the published method, whose blocks are one function on a GPU, with maps, windows and skips."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    sizes = {"width": 16, "ssm_enc_blk_nums": [1, 1, 1], "ssm_dec_blk_nums": [1, 1, 1], "drop_path_rate": 0.0}
    exact = build_model("LEMamba", img_channel=4, condition_channel=1, out_channel=4, **sizes).double()
    network = copy.deepcopy(exact).float().cuda()
    inputs = [torch.rand(2, c, n, n, dtype=torch.float64) for c, n in ((4, 8), (4, 32), (1, 32))]
    way = torch.randn(2, 4, 32, 32, dtype=torch.float64)
    (exact(*inputs) * way).sum().backward()
    with tf32(False), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        sr = network(*(image.float().cuda() for image in inputs))
    (sr.double() * way.cuda()).sum().backward()
    wanted = dict(exact.named_parameters())
    for name, p in network.named_parameters():
        off = (p.grad.cpu().double() - wanted[name].grad).norm() / wanted[name].grad.norm()
        assert off < error, f"{name}: {off:.2g}"
