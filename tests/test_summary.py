"""The facts at the start of a run: parameters and floating-point operations, two per multiply-add."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lemamba.engine.fusing.cost import count_flops, count_parameters
from lemamba.model.ops import available_backends

ROOT = Path(__file__).resolve().parent.parent


class Mix(nn.Module):
    """One convolution and one matrix product whose operations can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 3, padding=1)
        self.linear = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Parameter(torch.zeros(100), requires_grad=False)

    def forward(self, ms, lms, pan):
        x = self.drop(self.conv(torch.cat([lms, pan], 1)))
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


def sample(bands: int, side: int) -> dict[str, torch.Tensor]:
    return {
        "ms": torch.rand(1, bands, side // 4, side // 4),
        "lms": torch.rand(1, bands, side, side),
        "pan": torch.rand(1, 1, side, side),
    }


def test_operations_are_counted_by_hand():
    model = Mix()
    assert count_parameters(model) == 5 * 4 * 9 + 4 + 4 * 4 + 4
    assert count_flops(model, sample(4, 8)) == 2 * 8 * 8 * (5 * 4 * 9 + 4 * 4)


def test_counting_leaves_generators_and_mode_as_they_were():
    model, inputs = Mix().train(), sample(4, 8)
    before = torch.get_rng_state()
    count_flops(model, inputs)
    assert torch.equal(torch.get_rng_state(), before) and model.training


def test_counting_runs_no_kernel(monkeypatch):
    """A training on a GPU compiles none that it does not use: the network is counted by its shapes."""
    from lemamba.model import build_model
    from lemamba.model.ops.scan import backends

    def fail(*_):
        raise AssertionError("a kernel ran")

    model = build_model("LEMamba", img_channel=4, condition_channel=1, out_channel=4, width=8)
    counted = count_flops(model, sample(4, 16))
    for name, backend in backends.BACKENDS.items():
        broken = dataclasses.replace(backend, scan=fail, cross_scan=fail)
        monkeypatch.setitem(backends.BACKENDS, name, backend if name == "triton" else broken)
    assert count_flops(model, sample(4, 16)) == counted > 0
    assert next(model.parameters()).device.type == "cpu"


class ReadsValues(Mix):
    """A network that cannot run on shapes alone."""

    def forward(self, ms, lms, pan):
        return super().forward(ms, lms * float(lms.max()), pan)


def test_a_network_that_reads_values_is_counted_where_it_is():
    assert count_flops(ReadsValues(), sample(4, 8)) == count_flops(Mix(), sample(4, 8))


FIRST = """
import torch
from lemamba.engine.fusing.cost import count_flops
from lemamba.model import build_model
model = build_model("LEMamba", img_channel=8, condition_channel=1, out_channel=8)
images = {"ms": torch.rand(1, 8, 16, 16), "lms": torch.rand(1, 8, 64, 64), "pan": torch.rand(1, 1, 64, 64)}
print(count_flops(model, images))
"""


def test_the_scan_is_counted_from_the_first_pass_on():
    """A training counts before anything else has run: 64 x 64 pixels of 8 bands in LE-Mamba tiny, 42 % in the scan."""
    if not available_backends()["cpp"].available:
        pytest.skip("no C compiler")
    done = subprocess.run([sys.executable, "-c", FIRST], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(4.95e9, rel=0.05)
