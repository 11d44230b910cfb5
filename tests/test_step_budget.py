"""The count of a training step: operators counted by hand, and that LE-Mamba's step does not grow unnoticed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import step_budget as budgets


def count(call) -> budgets.Budget:
    budget = budgets.Budget()
    with budgets.Counter(budget):
        call()
    return budget


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def test_operators_are_counted_by_hand():
    x, row, weight = meta(6, 4), meta(4), meta(4, 5)

    def call():
        y = x + row.expand(6, 4)  # reads 24 and 4 floats, writes 24: an expanded row is as large as its memory
        (y.view(4, 6).t() * 2).to(torch.bfloat16)  # a view is free; 24 in and out; then 24 in, 24 halves out
        torch.mm(y, weight)  # 24 + 20 in, 30 out, 2 * 6 * 4 * 5 FLOPs
        torch.cat([x, x])  # one input, however often

    lines = count(call).lines
    assert (lines["norms and element-wise"].kernels, lines["norms and element-wise"].bytes) == (3, 208 + 192 + 144)
    products = lines["matrix products"]
    assert (products.kernels, products.bytes, products.flops) == (1, 4 * 74, 240)
    assert (lines["concatenations"].kernels, lines["concatenations"].bytes) == (1, 4 * (24 + 48))


def test_groups_of_a_convolution_count():
    def call(groups: int):
        x = meta(2, 8, 6, 6).requires_grad_()
        F.conv2d(x, meta(8, 8 // groups, 3, 3).requires_grad_(), padding=1, groups=groups).sum().backward()

    one = 2 * 2 * 8 * 36 * 9  # of one input channel for each output
    depthwise, dense = count(lambda: call(8)).lines, count(lambda: call(1)).lines
    assert depthwise["depth-wise convolutions"].flops == 3 * one
    assert dense["other convolutions"].flops == 3 * 8 * one


def test_where_a_gpu_is_nothing_is_measured_with_kernels_that_only_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert budgets.tune.wanted()
    with budgets.as_gpu(budgets.Budget(), None):
        assert not budgets.tune.wanted()


def test_memory_alive_is_followed():
    def call():
        for _ in range(3):
            x = meta(1000)  # freed by the next
            del x

    counter = budgets.Counter(budgets.Budget())
    with counter:
        call()
        held = [meta(500), meta(500)]
    assert counter.most == 4000
    assert counter.alive == sum(t.numel() * 4 for t in held)


class Gated(nn.Module):
    """Two layers with element-wise operators and dropped rows between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        mask = x.new_empty(x.shape[0], 1).bernoulli_(0.5)
        return self.last(torch.sigmoid(3 * F.gelu(self.first(x))) * mask)


def test_under_compile_element_wise_operators_keep_nothing():
    """Two operands of products and which rows were dropped; GELU, sigmoid and product are computed once more."""
    from torch._inductor import compile_fx  # 2 s

    network = Gated().to("meta")
    if not hasattr(compile_fx, "partition_fn"):
        pytest.skip(f"torch {torch.__version__} has no partition to call")
    assert budgets.kept_compiled(network, meta(32, 8)) == 2 * 4 * 32 * 16 + 32


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_step_of_the_tiny_variant_stays_small(precision):
    """Bounds 2 % above the counts of docs/performance.md."""
    budget = budgets.budget_of("tiny", precision)
    kernels, size, kept = {"no": (927, 43.4e9, 6.4e9), "bf16": (1171, 25.5e9, 3.3e9)}[precision]
    total = budget.total()
    assert budget.parameters == 743_464
    assert total.kernels <= kernels
    assert total.bytes <= size
    assert budget.kept <= kept
    assert budget.kept < budget.peak
    assert budget.floor("A100", precision) > budget.floor("H100", precision) > 0
    assert budgets.page({("tiny", precision): budget}).count("\n|") == len(budgets.GROUPS) + 3
