"""The native linear layer against torch's in float64: values, gradients, parts, layouts, threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lemamba.model.layers.linear import Linear
from lemamba.model.ops.native import linear as module
from lemamba.model.ops.native.build import library
from lemamba.model.ops.native.linear import linear, linear_parts

pytestmark = pytest.mark.skipif(library()[0] is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def _native(monkeypatch):
    """Every call of this file goes to the kernel, however small and whatever the processor."""
    monkeypatch.setenv(module.VARIABLE, "cpp")
    monkeypatch.setattr(module, "_SMALL", 0)


def relative(given: torch.Tensor, expected: torch.Tensor) -> float:
    return ((given - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


@pytest.mark.parametrize(
    ("shape", "outer", "sizes"),
    [
        ((2, 5, 7, 33), 45, [7, 38]),
        ((1, 1), 1, [1]),
        ((3, 64), 392, [8, 128, 128, 128]),
        ((1000, 32), 64, [32, 32]),
        ((2, 500, 5), 17, [17]),
        ((12, 16), 32, [15, 1, 16]),
    ],
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_torch_in_float64(shape, outer, sizes, with_bias):
    x, weight, bias = torch.randn(shape), torch.randn(outer, shape[-1]), torch.randn(outer)
    leaves = [t.requires_grad_() for t in ((x, weight, bias) if with_bias else (x, weight))]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    parts = linear_parts(*leaves, *([] if with_bias else [None]), sizes)
    expected = F.linear(*doubles).split(sizes, dim=-1)
    grads = [torch.randn(p.shape) for p in parts]
    for part, other in zip(parts, expected, strict=True):
        assert part.shape == other.shape and part.is_contiguous() and relative(part, other) <= 1e-6
    ours = torch.autograd.grad(parts, leaves, grads)
    theirs = torch.autograd.grad(expected, doubles, [g.double() for g in grads])
    for mine, other in zip(ours, theirs, strict=True):
        assert relative(mine, other) <= 5e-6


def test_any_layout_of_rows_gives_the_same_bits():
    """Rows that lie apart, turned memory and an expanded gradient give what packed copies give."""
    weight = torch.randn(24, 16)
    for x in (torch.randn(6, 50, 40)[..., 3:19], torch.randn(16, 5, 6).permute(1, 2, 0), torch.randn(9, 1, 16)[::2]):
        assert torch.equal(linear(x, weight), linear(x.contiguous(), weight))
        results = []
        for values in (x, x.contiguous()):
            leaf, w = values.detach().requires_grad_(), weight.clone().requires_grad_()
            results.append(torch.autograd.grad(linear(leaf, w).sum(), (leaf, w)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bits_do_not_depend_on_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            generator = torch.Generator().manual_seed(1)
            x, w = (torch.randn(s, generator=generator).requires_grad_() for s in ((5000, 20), (50, 20)))
            y = linear(x, w)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, w))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_empty_batch_and_unused_part():
    weight = torch.randn(6, 4, requires_grad=True)
    assert linear(torch.randn(0, 3, 4), weight).shape == (0, 3, 6)
    first, _ = linear_parts(torch.randn(7, 4), weight, None, [2, 4])
    first.sum().backward()
    assert weight.grad[:2].abs().sum() > 0 and torch.equal(weight.grad[2:], torch.zeros(4, 4))


def test_other_types_go_to_torch():
    layer = Linear(5, 8)
    x = torch.randn(3, 5)
    assert torch.equal(layer.double()(x.double()), F.linear(x.double(), layer.weight, layer.bias))
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_the_operator_is_counted_and_compiled():
    x, weight = torch.randn(10, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 10 * 8 * 6
    torch.library.opcheck(torch.ops.lemamba.linear_cpp, (x.detach(), weight.detach(), None, [2, 4]))
    torch.library.opcheck(torch.ops.lemamba.linear_cpp_backward, ([torch.randn(10, 6)], x.detach(), weight.detach()))
