"""The Triton kernels through Triton's interpreter on the CPU: arithmetic and indexing, neither compilation nor speed.

Tiny on purpose: a step of a program takes tens of milliseconds. Kernels take 4 steps at a time, so L = 5 has a ragged
end and a second round. `test_triton_compile.py` compiles the kernels; the marked tests run the same on a GPU
(`make gpu`).
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lemamba.model.ops import available_backends, cross_selective_scan, selective_scan
from lemamba.model.ops.triton.plan import Config, tile
from lemamba.model.ops.triton.scan import probe

ROOT = Path(__file__).resolve().parent.parent
SCANS = [  # (batch, K, channels of a group, N, L)
    (2, 2, 3, 4, 5),
    (1, 1, 4, 33, 7),
    (2, 3, 1, 1, 1),
    (1, 4, 5, 16, 2),
    (1, 1, 36, 32, 3),
    (1, 2, 2, 64, 3),
]
# (B, K, D, N, R, H, W); the last has two warps a program in backward
CROSSES = [(1, 4, 4, 4, 2, 2, 3), (2, 2, 3, 3, 3, 1, 3), (1, 2, 16, 32, 2, 2, 3)]
LARGER_SCANS = [
    (4, 4, 64, 16, 64),
    (2, 4, 64, 32, 1000),
    (1, 1, 8, 256, 100),
    (1, 2, 33, 33, 65),
    (1, 4, 16, 16, 16384),
]
LARGER_CROSSES = [(2, 4, 64, 32, 2, 24, 20), (700, 4, 32, 16, 2, 8, 8), (1, 4, 64, 32, 4, 128, 96)]


@pytest.fixture
def interpreter():
    """Triton decides when it is imported whether to interpret, so these tests need a separate process."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("run by test_kernels_in_the_interpreter, in a process with TRITON_INTERPRET=1")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills uninitialised memory with NaN
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def cut(monkeypatch):
    """Return a function that forces chunks (of 8 steps or more) and merging on the next calls."""

    def force(chunks: int, merge: bool) -> None:
        from lemamba.model.ops.triton import launch
        from lemamba.model.ops.triton.plan import heuristic

        def choose(shape, run):
            chosen = heuristic(shape, 0)
            return replace(chosen, chunks=chunks, merge=merge)

        monkeypatch.setattr(launch, "choose", choose)

    return force


def test_kernels_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


def test_a_triton_without_what_the_kernels_use_is_refused(monkeypatch):
    """Before 3.3 Triton cannot hand a number from lane to lane: said when a backend is chosen, not by a kernel."""
    old = types.ModuleType("triton")
    old.__version__, old.language = "3.2.0", types.ModuleType("triton.language")
    old.__spec__ = importlib.util.spec_from_loader("triton", None)
    monkeypatch.setitem(sys.modules, "triton", old)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert probe() == (False, "triton 3.2.0 is too old; 3.3 or later is needed, which comes with torch 2.7")


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


def compare(call, inputs: dict, device: str = "cpu", dtype=torch.float32, truth: str = "reference") -> None:
    """Outputs and all gradients, also through the last state, against the definition in float64.

    With a half `dtype` the sequences have it, the tables and states are float32.
    """
    results, halves = [], ("u", "delta", "B", "C", "x", "dt", "Bt", "Ct", "gate")
    inputs = {k: v.detach().to(dtype if k in halves else torch.float32) for k, v in inputs.items()}
    for backend, where in ((truth, "cpu"), ("triton", device)):
        exact = backend == truth
        own = {k: v.to(where, torch.float64 if exact else v.dtype).requires_grad_() for k, v in inputs.items()}
        y, last = call(own, backend)
        torch.manual_seed(1)
        weights = [torch.randn(v.shape, dtype=torch.float64).to(where, v.dtype) for v in (y, last)]
        grads = torch.autograd.grad((y * weights[0]).sum() + (last * weights[1]).sum(), list(own.values()))
        assert exact or y.dtype == dtype
        assert all(g.dtype == v.dtype for g, v in zip(grads, own.values(), strict=True))
        results.append([v.detach().double().cpu() for v in (y, last, *grads)])
    forward, backward = (1e-5, 1e-4) if dtype == torch.float32 else (1e-2, 1e-2)
    for i, (expected, given) in enumerate(zip(*results, strict=True)):
        error = (given - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
        assert error <= (forward if i < 2 else backward), f"output {i}: relative error {error:.2e}"


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


def test_chunks_interpreted(interpreter, cut):
    """Three chunks: ends, carry and chunks again, both ways; with and without a state at either end."""
    cut(3, False)
    inputs = scan_inputs(1, 2, 2, 4, 11)
    compare(scan, inputs)
    del inputs["initial_state"]
    y, _ = scan(inputs, "triton")
    expected, _ = scan({k: v.detach().double() for k, v in inputs.items()}, "reference")
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_chunks_of_an_image_interpreted(interpreter, cut):
    cut(2, False)
    compare(cross, cross_inputs(1, 4, 2, 3, 2, 3, 3, True))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
def test_directions_in_one_program_interpreted(interpreter, cut, shared):
    cut(1, True)
    compare(cross, cross_inputs(2, 4, 4, 4, 1, 1, 3, shared))
    inputs = cross_inputs(1, 4, 2, 3, 1, 2, 3, shared)
    one = cross(inputs, "triton")
    cut(1, False)
    for a, b in zip(one, cross(inputs, "triton"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_interpreted(interpreter, dtype):
    compare(scan, scan_inputs(1, 2, 4, 4, 5), dtype=dtype)
    compare(cross, cross_inputs(1, 4, 4, 4, 2, 1, 3, True), dtype=dtype)


def test_far_rows_interpreted(interpreter, monkeypatch):
    """Distances in 64 bits, as where a sample holds more than 2^31 values."""
    from lemamba.model.ops.triton import launch

    monkeypatch.setattr(launch, "_FAR", 0)
    compare(scan, scan_inputs(1, 2, 3, 4, 5))
    compare(cross, cross_inputs(1, 4, 4, 4, 2, 2, 3, True))


def test_without_softplus_interpreted(interpreter):
    inputs = scan_inputs(1, 1, 2, 4, 9)
    inputs["delta"] = (inputs["delta"].detach().abs() + 3).requires_grad_()
    compare(lambda i, b: selective_scan(**i, return_last_state=True, backend=b), inputs)


def test_any_strides_interpreted(interpreter):
    """Views that are not aligned, channels last, and transposed give the bits of contiguous inputs."""
    inputs = cross_inputs(1, 4, 4, 4, 2, 2, 3, False)
    joined = torch.cat([inputs[n].detach() for n in ("dt", "Bt", "Ct")], 2).permute(0, 3, 4, 1, 2).contiguous()
    views = dict(zip(("dt", "Bt", "Ct"), joined.permute(0, 3, 4, 1, 2).split((2, 4, 4), 2), strict=True))
    x = inputs["x"].detach().transpose(2, 3).contiguous().transpose(2, 3)
    with torch.no_grad():
        given, expected = cross({**inputs, **views, "x": x}, "triton"), cross(inputs, "triton")
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


def test_empty_batch_interpreted(interpreter):
    for call, inputs in ((scan, scan_inputs(0, 2, 3, 4, 9)), (cross, cross_inputs(0, 4, 3, 4, 2, 3, 3, True))):
        y, last = call(inputs, "triton")
        grads = torch.autograd.grad(y.sum() + last.sum(), list(inputs.values()))
        assert y.shape[0] == last.shape[0] == 0
        assert all(not g.any() for g in grads)


def test_large_steps_do_not_overflow_interpreted(interpreter):
    inputs = {k: v.detach() for k, v in scan_inputs(1, 1, 2, 4, 9).items()}
    inputs["delta"] = inputs["delta"].abs() * 1e4 + 1e4
    y, last = scan(inputs, "triton")
    assert torch.isfinite(y).all()
    assert torch.isfinite(last).all()


def test_nan_stays_visible_interpreted(interpreter):
    inputs = {k: v.detach() for k, v in scan_inputs(1, 1, 2, 4, 9).items()}
    inputs["delta"][0, 0, 3] = float("nan")
    y, last = scan(inputs, "triton")
    assert y[0, 0, 3:].isnan().all()
    assert torch.isfinite(y[0, 1]).all()
    assert last[0, 0].isnan().all()


def test_operators_interpreted(interpreter):
    """Two results, and all that torch.library can check: schema, fake results, autograd, tracing."""
    inputs = scan_inputs(2, 1, 2, 2, 1)
    *tensors, initial = (v.detach().requires_grad_() for v in inputs.values())
    arguments = (*tensors, True, initial)
    operator = torch.ops.lemamba.scan_triton
    assert len(operator(*arguments)) == 2
    torch.library.opcheck(operator.default, arguments)
    inputs = cross_inputs(1, 2, 2, 2, 1, 1, 1, True)
    arguments = tuple(v.detach().reshape(-1) if k == "rho" else v.detach() for k, v in inputs.items())
    arguments = tuple(v.requires_grad_() for v in arguments)
    torch.library.opcheck(torch.ops.lemamba.cross_scan_triton.default, arguments)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.ops.lemamba.cross_scan_triton(*arguments)
    assert counter.get_total_flops() == 9 * 1 * 4 * 1 * 2


def test_tiles_are_one_warp():
    from lemamba.model.ops.triton.plan import Shape, candidates, fits

    for D in (1, 3, 4, 64, 100):
        for N in (1, 3, 4, 16, 32, 33, 64, 256):
            for L in (1, 64, 16384):
                shape = Shape(2, 4, D, N, 2, L, True, True, False, True)
                for config in candidates(shape, 132):
                    sizes = tile(shape, config)
                    assert sizes["PD"] * sizes["PN"] == 32
                    assert sizes["RN"] * sizes["PN"] >= N
                    assert fits(shape, config), (shape, config)


def test_reason_without_a_gpu(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    state = available_backends()["triton"]
    assert state.available is False
    assert state.reason in ("torch finds no CUDA GPU", "triton is not installed")


@pytest.fixture
def untuned(monkeypatch):
    """Take the heuristic's configuration: measuring would compile several more for each of these shapes."""
    monkeypatch.setenv("LEMAMBA_TUNE", "0")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [*SCANS, *LARGER_SCANS], ids=str)
def test_scan_on_the_gpu(untuned, sizes, dtype):
    if dtype != torch.float32 and sizes in SCANS[1:]:
        pytest.skip("one small shape in a half type: each compiles its own kernels")
    compare(scan, scan_inputs(*sizes), "cuda", dtype, "reference" if sizes[-1] <= 1000 else "torch")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("sizes", [*CROSSES, *LARGER_CROSSES], ids=str)
def test_cross_on_the_gpu(untuned, sizes, shared, dtype):
    if dtype != torch.float32 and sizes in CROSSES:
        pytest.skip("large shapes only in a half type: each compiles its own kernels")
    compare(cross, cross_inputs(*sizes, shared), "cuda", dtype, "torch")


@pytest.mark.gpu
def test_every_configuration_on_the_gpu(monkeypatch):
    """What measuring may choose, chunks and merged directions too, gives the same numbers."""
    from lemamba.model.ops.triton import launch
    from lemamba.model.ops.triton.plan import Shape, candidates

    inputs = cross_inputs(2, 4, 64, 32, 2, 24, 20, True)
    for backward in (False, True):
        shape = Shape(2, 4, 64, 32, 2, 480, True, True, False, backward)
        for tried in [*candidates(shape, 132), Config(4, 2, 1, True), Config(4, 2, 1, True, 8 if backward else 1)]:

            def choose(shape, run, tried=tried, backward=backward):
                return tried if shape.backward == backward else Config(4, 2, 1, False)

            monkeypatch.setattr(launch, "choose", choose)
            compare(cross, inputs, "cuda", torch.float32, "torch")


@pytest.mark.gpu
def test_same_bits_on_the_gpu():
    inputs = {k: v.detach().cuda().requires_grad_() for k, v in cross_inputs(8, 4, 64, 16, 2, 32, 32, True).items()}
    results = []
    for _ in range(3):
        y, last = cross(inputs, "triton")
        results.append([y, last, *torch.autograd.grad(y.sum() + last.sum(), list(inputs.values()))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
