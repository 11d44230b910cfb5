"""The Triton kernels through Triton's interpreter on the CPU: arithmetic and indexing, neither compilation nor speed.

Small on purpose (L <= 65, N <= 33). The marked tests run the same on a GPU (`make gpu`).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.ops import available_backends, cross_selective_scan, selective_scan

ROOT = Path(__file__).resolve().parent.parent
SCANS = [  # (batch, K, channels of a group, N, L)
    (2, 2, 3, 4, 65),
    (1, 1, 2, 33, 40),
    (1, 3, 1, 1, 1),
    (1, 1, 5, 16, 7),
]
CROSSES = [(1, 4, 3, 4, 2, 5, 6), (2, 4, 2, 3, 1, 1, 7)]  # (B, K, D, N, R, H, W)


@pytest.fixture
def interpreter():
    """Triton decides when it is imported whether to interpret, so these tests need a process of their own."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("run by test_kernels_in_the_interpreter, in a process with TRITON_INTERPRET=1")


def test_kernels_in_the_interpreter():
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this is the inner process")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (requirements-dev.txt)")
    command = [sys.executable, "-m", "pytest", "-m", "not gpu", "-p", "no:cacheprovider", "-k", "interpreted", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


def scan_inputs(batch, K, D, N, L) -> dict:
    inputs = {
        "u": torch.randn(batch, K * D, L), "delta": torch.randn(batch, K * D, L), "A": -torch.rand(K * D, N) * 4 - 0.05,
        "B": torch.randn(batch, K, N, L), "C": torch.randn(batch, K, N, L), "D": torch.randn(K * D),
        "delta_bias": torch.randn(K * D) - 1, "initial_state": torch.randn(batch, K * D, N),
    }  # fmt: skip
    return {k: v.requires_grad_() for k, v in inputs.items()}


def cross_inputs(B, K, D, N, R, H, W, shared) -> dict:
    inputs = {
        "x": torch.randn(B, D, H, W), "dt": torch.randn(B, K, R, H, W), "Bt": torch.randn(B, K, N, H, W),
        "Ct": torch.randn(B, K, N, H, W), "A": -torch.rand(K * D, N) * 4 - 0.05, "D": torch.randn(K * D),
        "dt_weight": torch.randn(K, D, R), "dt_bias": torch.randn(K * D) - 1,
    }  # fmt: skip
    if shared:
        inputs |= {
            "shared_state": torch.randn(B, K * D, N),
            "gate": torch.randn(B, K, N, H, W),
            "rho": torch.randn(1, K, D, 1),
        }
    return {k: v.requires_grad_() for k, v in inputs.items()}


def compare(call, inputs: dict, device: str = "cpu") -> None:
    """Outputs and all gradients, also through the last state, against the definition in float64."""
    results = []
    for backend, dtype, where in (("reference", torch.float64, "cpu"), ("triton", torch.float32, device)):
        own = {k: v.detach().to(where, dtype).requires_grad_() for k, v in inputs.items()}
        y, last = call(own, backend)
        torch.manual_seed(1)
        weights = [torch.randn(v.shape, dtype=torch.float64).to(where, dtype) for v in (y, last)]
        grads = torch.autograd.grad((y * weights[0]).sum() + (last * weights[1]).sum(), list(own.values()))
        results.append([v.detach().double().cpu() for v in (y, last, *grads)])
    for i, (expected, given) in enumerate(zip(*results, strict=True)):
        error = (given - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
        assert error <= (1e-5 if i < 2 else 1e-4), f"output {i}: relative error {error:.2e}"


def scan(inputs: dict, backend: str):
    return selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend)


def cross(inputs: dict, backend: str):
    return cross_selective_scan(**inputs, backend=backend)


@pytest.mark.parametrize("sizes", SCANS, ids=str)
def test_scan_interpreted(interpreter, sizes):
    compare(scan, scan_inputs(*sizes))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("sizes", CROSSES, ids=str)
def test_cross_interpreted(interpreter, sizes, shared):
    compare(cross, cross_inputs(*sizes, shared))


def test_large_steps_do_not_overflow_interpreted(interpreter):
    inputs = {k: v.detach() for k, v in scan_inputs(1, 1, 2, 4, 33).items()}
    inputs["delta"] = inputs["delta"].abs() * 1e4 + 1e4
    y, last = scan(inputs, "triton")
    assert torch.isfinite(y).all()
    assert torch.isfinite(last).all()


def test_reason_without_a_gpu(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    state = available_backends()["triton"]
    assert state.available is False
    assert state.reason in ("torch finds no CUDA GPU", "triton is not installed")


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [*SCANS, (4, 4, 64, 16, 64), (2, 4, 64, 32, 1000), (1, 1, 8, 256, 100)], ids=str)
def test_scan_on_the_gpu(sizes):
    compare(scan, scan_inputs(*sizes), "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("sizes", [*CROSSES, (2, 4, 64, 32, 2, 24, 20)], ids=str)
def test_cross_on_the_gpu(sizes, shared):
    compare(cross, cross_inputs(*sizes, shared), "cuda")
