"""The native depth-wise convolution against torch's in float64: values, gradients, sizes, layouts, threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lemamba.model.layers.conv import DepthwiseConv
from lemamba.model.ops.native import depthwise as module
from lemamba.model.ops.native.build import library
from lemamba.model.ops.native.depthwise import depthwise_conv

pytestmark = pytest.mark.skipif(library()[0] is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def _native(monkeypatch):
    """Every call of this file goes to the kernel, whatever the processor."""
    monkeypatch.setenv(module.VARIABLE, "cpp")


def relative(given: torch.Tensor, expected: torch.Tensor) -> float:
    return ((given - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def by_torch(x, weight, bias):
    half = weight.shape[-1] // 2
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=half, groups=weight.shape[0]).permute(0, 2, 3, 1)


@pytest.mark.parametrize("shape", [(2, 21, 13, 9), (1, 1, 1, 1), (3, 8, 8, 64), (1, 3, 40, 33), (1, 200, 70, 17)])
@pytest.mark.parametrize("kernel", [5, 7, 9, 11])
def test_equals_torch_in_float64(shape, kernel):
    channels = shape[-1]
    leaves = [torch.randn(s).requires_grad_() for s in (shape, (channels, 1, kernel, kernel), (channels,))]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    y, expected, gy = depthwise_conv(*leaves), by_torch(*doubles), torch.randn(shape)
    assert y.is_contiguous() and relative(y, expected) <= 2e-6
    ours, theirs = torch.autograd.grad(y, leaves, gy), torch.autograd.grad(expected, doubles, gy.double())
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape and relative(mine, other) <= 5e-6


def test_any_layout_without_bias_and_an_empty_batch():
    weight = torch.randn(6, 1, 7, 7)
    x = torch.randn(2, 6, 10, 12).permute(0, 2, 3, 1)
    assert torch.equal(depthwise_conv(x, weight), depthwise_conv(x.contiguous(), weight, torch.zeros(6)))
    results = []
    for values in (x, x.contiguous()):
        leaf, w = values.detach().requires_grad_(), weight.clone().requires_grad_()
        results.append(torch.autograd.grad(depthwise_conv(leaf, w).sum(), (leaf, w)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert depthwise_conv(x[:0], weight).shape == (0, 10, 12, 6)


def test_bits_do_not_depend_on_threads():
    before = torch.get_num_threads()
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.randn(s, generator=generator).requires_grad_() for s in ((3, 90, 80, 20), (20, 1, 7, 7)))
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = depthwise_conv(x, w)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, w))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kernel", [3, 13])
def test_other_sides_and_types_go_to_torch(kernel):
    layer, x = DepthwiseConv(4, kernel), torch.randn(1, 9, 9, 4)
    assert torch.equal(layer(x), by_torch(x, layer.weight, layer.bias))
    assert layer.double()(x.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DepthwiseConv(4, 7)(x).dtype == torch.bfloat16


def test_the_operator_is_counted_and_compiled():
    x, weight = torch.randn(2, 10, 8, 3, requires_grad=True), torch.randn(3, 1, 7, 7, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        depthwise_conv(x, weight).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * x.numel() * 49
    torch.library.opcheck(torch.ops.lemamba.depthwise_cpp, (x.detach(), weight.detach(), None))
    torch.library.opcheck(torch.ops.lemamba.depthwise_cpp_backward, (x.detach(), x.detach(), weight.detach()))
