"""What training on a GPU does in another way than on a CPU: parts without concatenations, gates, residuals.

The Triton kernels of the gates run in Triton's interpreter (`interpreted`, see `test_scan_triton.py`), the rest by
torch's operators.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lemamba.engine.fusing.cost import count_flops
from lemamba.model import build_model
from lemamba.model.layers.drop_path import DropPath
from lemamba.model.ops.native.linear import _PartsWithoutCat, _side_by_side

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_parts_have_the_gradients_of_linear_and_split(apart, biased):
    x, weight = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    bias = torch.randn(9, dtype=torch.float64) if biased else None
    leaves = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    sizes = [4, 3, 2]
    given = _PartsWithoutCat.apply(x, weight, bias, sizes, apart)
    expected = F.linear(x, weight, bias).split(sizes, -1)
    way = [torch.randn_like(e) for e in expected]
    together = torch.randn(2, 3, 9, dtype=torch.float64)
    for grads in (way, together.split(sizes, -1), [*way[:2], None]):  # apart, side by side, an unused part
        pairs = [[(y, g) for y, g in zip(ys, grads, strict=True) if g is not None] for ys in (given, expected)]
        results = [torch.autograd.grad([y for y, _ in p], leaves, [g for _, g in p], retain_graph=True) for p in pairs]
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(y.is_contiguous() for y in given) == apart


def test_only_neighbouring_slices_are_one_tensor():
    rows = torch.randn(2, 3, 10)
    parts = rows.split((4, 3, 3), -1)
    assert torch.equal(_side_by_side(parts), rows)
    assert torch.equal(_side_by_side(parts[1:]), rows[..., 4:])
    for wrong in (parts[::-1], [parts[0], parts[2]], [parts[0], parts[1].clone()], rows.transpose(0, 2).split(5)):
        assert _side_by_side(wrong) is None


def test_a_residual_in_one_pass_is_the_same_sum(monkeypatch):
    """The meta device takes the path of a GPU; its formula is checked with factors drawn by hand."""
    path = DropPath(0.25).train()
    x, branch = torch.randn(4, 2, 2, 3), torch.randn(4, 2, 2, 3)
    factors = torch.tensor([0.0, 4 / 3, 4 / 3, 0.0]).view(4, 1, 1, 1)
    monkeypatch.setattr(path, "_factors", lambda x: factors.to(x.device))
    assert torch.equal(path.add(x, branch), x + branch * factors)
    assert path.add(x.to("meta"), branch.to("meta")).shape == x.shape
    torch.testing.assert_close(torch.addcmul(x, branch, factors), x + branch * factors)
    assert torch.equal(path.eval().add(x, branch), x + branch)


def test_flops_of_the_log_run_no_kernel():
    """On a GPU each would first be compiled and measured, for a pass that training never makes."""
    network = build_model("LEMamba", img_channel=3, condition_channel=1, out_channel=3, width=8).train()
    devices = set()
    for layer in (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        layer.register_forward_hook(lambda m, given, out: devices.add(given[0].device.type))
    sizes = {"ms": (3, 4), "lms": (3, 16), "pan": (1, 16)}
    assert count_flops(network, {name: torch.rand(1, c, n, n) for name, (c, n) in sizes.items()}) > 1e6
    assert devices == {"meta"} and network.training
    assert {p.device.type for p in network.parameters()} == {"cpu"}


# The gates, in the interpreter


@pytest.fixture
def interpreter():
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("run by test_gates_in_the_interpreter, in a process with TRITON_INTERPRET=1")


def test_gates_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


def compare(call, truth, inputs: list[torch.Tensor], tolerance: float) -> None:
    """Result and gradients against torch's operators in float64."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y, expected = call(*leaves), truth(*exact)
    way = torch.randn(expected.shape, dtype=torch.float64)
    given = torch.autograd.grad((y.double() * way).sum(), leaves)
    wanted = torch.autograd.grad((expected * way).sum(), exact)
    for a, b in zip((y, *given), (expected, *wanted), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 1, 7)], ids=str)
def test_gelu_gate_interpreted(interpreter, shape, dtype, tolerance):
    from lemamba.model.ops.triton.gate import gelu_gate

    both = torch.randn(*shape[:-1], 2 * shape[-1]).to(dtype)
    halves = both.split(shape[-1], dim=-1)
    compare(gelu_gate, lambda a, b: a * F.gelu(b), list(halves), tolerance)
    a, b = (h.detach().requires_grad_() for h in halves)
    ga, gb = torch.autograd.grad(gelu_gate(a, b).float().sum(), (a, b))
    assert _side_by_side([ga, gb]) is not None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (50, 24)], ids=str)
def test_norm_gate_interpreted(interpreter, monkeypatch, shape, dtype, tolerance):
    from lemamba.model.ops.triton import gate

    monkeypatch.setattr(gate, "_PROGRAMS", 2)
    monkeypatch.setattr(gate, "_ELEMENTS", 64)
    D = shape[-1]
    y, z = (torch.randn(*shape[:-1], 2 * D) * 3 + 1).to(dtype).split(D, -1)
    norm = nn.LayerNorm(D)
    inputs = [y, z, torch.randn(D), torch.randn(D)]

    def truth(y, z, weight, bias):
        return F.layer_norm(y, (D,), weight, bias, norm.eps) * F.silu(z)

    compare(lambda *t: gate.NormGate.apply(*t, norm.eps, torch.float32), truth, inputs, tolerance)
