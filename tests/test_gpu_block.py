"""The block of a GPU as one function (`model/ops/triton/block.py`) in Triton's interpreter, against the layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lemamba.model.layers.drop_path import DropPath
from lemamba.model.layers.ss2d import VSSBlock

ROOT = Path(__file__).resolve().parent.parent
# window, batch, height, width, shared states, rate of stochastic depth, products in bf16
CASES = {
    "map": (0, 1, 2, 3, False, 0.0, False),
    "windows, shared": (2, 1, 2, 4, True, 0.5, False),
    "bf16": (0, 2, 2, 2, True, 0.0, True),
}


def test_blocks_in_the_interpreter():
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this is the inner process")
    pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "interpreted", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


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
