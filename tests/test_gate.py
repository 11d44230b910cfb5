"""The native gate a * GELU(b) against torch's in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lemamba.model.ops.native import gate as module
from lemamba.model.ops.native.build import library
from lemamba.model.ops.native.gate import gelu_gate

pytestmark = pytest.mark.skipif(library()[0] is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def _native(monkeypatch):
    """Every call of this file goes to the kernel, however small and whatever the processor."""
    monkeypatch.setenv(module.VARIABLE, "cpp")
    monkeypatch.setattr(module, "_SMALL", 0)


@pytest.mark.parametrize("shape", [(1,), (3, 37), (2, 4, 4, 64), (0, 5)])
def test_equals_torch_in_float64(shape):
    a, b, gy = (torch.randn(shape) * scale for scale in (1, 3, 1))
    leaves = [t.requires_grad_() for t in (a, b)]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    y, expected = gelu_gate(*leaves), doubles[0] * F.gelu(doubles[1])
    torch.testing.assert_close(y.double(), expected, rtol=2e-6, atol=2e-7)
    ours, theirs = torch.autograd.grad(y, leaves, gy), torch.autograd.grad(expected, doubles, gy.double())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=2e-6, atol=5e-7)


def test_the_ends_of_the_range():
    """Far left GELU is 0, far right the identity, slopes 0 and 1; a NaN stays one."""
    b = torch.tensor([-1e30, -40.0, -14.0, 0.0, 14.0, 40.0, 1e15, float("nan")], requires_grad=True)
    y = gelu_gate(torch.ones(8), b)
    (slope,) = torch.autograd.grad(y, b, torch.ones(8))
    torch.testing.assert_close(y[:7], torch.tensor([0.0, 0.0, 0.0, 0.0, 14.0, 40.0, 1e15]), atol=1e-30, rtol=0)
    torch.testing.assert_close(slope[:7], torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]), atol=1e-6, rtol=0)
    assert y[7].isnan() and slope[7].isnan()


def test_layouts_types_and_compilation():
    a, b = torch.randn(6, 50).t(), torch.randn(50, 12)[:, ::2]
    assert torch.equal(gelu_gate(a, b), gelu_gate(a.contiguous(), b.contiguous()))
    assert torch.equal(gelu_gate(a.double(), b.double()), a.double() * F.gelu(b.double()))
    assert gelu_gate(a.bfloat16(), b.bfloat16()).dtype == torch.bfloat16
    torch.library.opcheck(torch.ops.lemamba.gate_cpp, (a, b))
    torch.library.opcheck(torch.ops.lemamba.gate_cpp_backward, (a, a, b))
