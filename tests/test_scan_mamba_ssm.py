"""The operator `lemamba::scan_mamba_ssm` on a stand-in for the package's CUDA extension, computed by the definition.

The stand-in has the extension's calling convention (`fwd`, `bwd`, states of 2048-step chunks with decay products and
states alternating), so everything but the extension itself is run. The marked test runs the real one.
"""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lemamba.model.ops import available_backends, selective_scan
from lemamba.model.ops.scan import mamba_ssm_backend, reference
from lemamba.model.ops.scan.interface import ScanInputs
from lemamba.utils.errors import UserError

SIZES = (2, 2, 3, 4, 9)  # B, K, D, N, L


def _fwd(u, delta, A, B, C, D, z, delta_bias, softplus):
    assert z is None
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert all(t.is_contiguous() for t in (u, delta, A, B, C))
    assert u.shape[2] <= 2048
    inputs = [None if t is None else t.float() for t in (u, delta, A, B, C, D, delta_bias)]
    with torch.no_grad():
        y, last = reference.scan(ScanInputs(*inputs, softplus))
    states = torch.stack((torch.full_like(last, float("nan")), last), dim=-1).flatten(2)[:, :, None]
    return [y.to(u.dtype), states]


def _bwd(u, delta, A, B, C, D, z, delta_bias, gy, states, out, gz, softplus, recompute):
    assert z is None and out is None and gz is None and recompute is False  # noqa: PT018 - one convention
    assert gy.is_contiguous()
    assert states.shape == (*u.shape[:2], 1, 2 * A.shape[1])
    inputs = [None if t is None else t.detach().float() for t in (u, delta, A, B, C, D, delta_bias)]

    def gradients():
        for t in inputs:
            if t is not None:
                t.requires_grad_()
        y, _ = reference.scan(ScanInputs(*inputs, softplus))
        grads = iter(torch.autograd.grad(y, [t for t in inputs if t is not None], gy.float()))
        return [None if t is None else next(grads) for t in inputs]

    with ThreadPoolExecutor(1) as pool:  # inside an operator's backward this thread's autograd is switched off
        grads = pool.submit(gradients).result()
    return [grads[0].to(u.dtype), grads[1].to(u.dtype), *grads[2:]]


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("selective_scan_cuda")
    module.fwd, module.bwd = _fwd, _bwd
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", module)


def make(dtype=torch.float32, batch: int = SIZES[0]) -> dict[str, torch.Tensor]:
    _, K, D, N, L = SIZES
    inputs = {
        "u": torch.randn(batch, L, K * D, dtype=dtype).transpose(1, 2),
        "delta": torch.randn(batch, K * D, L, dtype=dtype),
        "A": -torch.rand(K * D, N) - 0.1, "B": torch.randn(batch, K, N, L, dtype=dtype),
        "C": torch.randn(batch, K, N, L, dtype=dtype), "D": torch.randn(K * D), "delta_bias": torch.randn(K * D) - 1,
    }  # fmt: skip
    return {k: v.requires_grad_() for k, v in inputs.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=str)
def test_outputs_and_gradients(stand_in, dtype, tolerance):
    inputs = make(dtype)
    y, last = mamba_ssm_backend.scan(ScanInputs(*inputs.values(), True))
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    assert not last.requires_grad  # the package has no gradient through it
    weight = torch.randn(y.shape)
    given = torch.autograd.grad((y * weight).sum(), list(inputs.values()))
    exact = {k: v.detach().double().requires_grad_() for k, v in inputs.items()}
    expected_y, expected_last = selective_scan(
        **exact, delta_softplus=True, return_last_state=True, backend="reference"
    )
    expected = torch.autograd.grad((expected_y * weight).sum(), list(exact.values()))
    for a, b in zip((y, last, *given), (expected_y, expected_last, *expected), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    assert all(g.dtype == v.dtype for g, v in zip(given, inputs.values(), strict=True))


def test_is_one_operator(stand_in):
    arguments = (*make().values(), True, None)
    operator = torch.ops.lemamba.scan_mamba_ssm
    assert len(operator(*arguments)) == 2
    torch.library.opcheck(operator.default, arguments)
    torch.library.opcheck(operator.default, (*arguments[:5], None, None, False, None))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        operator(*arguments)
    batch, K, D, N, L = SIZES
    assert counter.get_total_flops() == 9 * batch * K * D * L * N


def test_fake_results_need_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)  # importing it fails
    inputs = {k: v.detach().to("meta") for k, v in make(torch.bfloat16).items()}
    y, last = torch.ops.lemamba.scan_mamba_ssm(*inputs.values(), True, None)
    assert y.shape == inputs["u"].shape
    assert y.dtype == torch.bfloat16
    assert last.shape == (SIZES[0], *inputs["A"].shape)


def test_zero_batch(stand_in):
    inputs = make(batch=0)
    y, last = mamba_ssm_backend.scan(ScanInputs(*inputs.values(), True))
    grads = torch.autograd.grad(y.sum(), list(inputs.values()))
    assert y.shape == inputs["u"].shape
    assert last.shape == (0, *inputs["A"].shape)
    assert all(not g.any() for g in grads)


def test_an_initial_state_is_refused():
    inputs = make()
    with pytest.raises(UserError, match="takes no initial state"):
        mamba_ssm_backend.scan(ScanInputs(*inputs.values(), True, torch.zeros(2, 6, 4)))


def test_more_states_than_it_has_are_refused(stand_in):
    u, states = torch.randn(1, 2, 3), torch.randn(1, 1, 257, 3)
    with pytest.raises(UserError, match="at most 256 states a channel, given 257; use triton or torch"):
        mamba_ssm_backend.scan(ScanInputs(u, u, -torch.rand(2, 257), states, states))


def test_expanded_parameters_reach_it_with_memory_of_their_own(stand_in, monkeypatch):
    """One D for all channels has stride 0, which the package's own check refuses."""
    inputs = make()
    inputs["D"] = torch.randn(1).expand_as(inputs["D"]).requires_grad_()
    module, seen = sys.modules["selective_scan_cuda"], []
    for name in ("fwd", "bwd"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real: seen.append(given[5].stride()) or real(*given))
    y, _ = mamba_ssm_backend.scan(ScanInputs(*inputs.values(), True))
    assert torch.autograd.grad(y.sum(), inputs["D"])[0].shape == inputs["D"].shape
    assert seen == [(1,), (1,)]


def test_how_to_get_it_names_what_newer_releases_need():
    """From the release after 2.3.2 on, its build leaves the operator out without this variable."""
    command = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation -r requirements-gpu.txt"
    requirements = Path(__file__).resolve().parent.parent / "requirements-gpu.txt"
    assert command in requirements.read_text(encoding="utf-8")
    if importlib.util.find_spec("selective_scan_cuda") is None:
        assert command in available_backends()["mamba_ssm"].reason


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_real_operator(dtype):
    if importlib.util.find_spec("selective_scan_cuda") is None or not available_backends()["mamba_ssm"].available:
        pytest.skip("selective_scan_cuda is not installed")
    inputs = {k: v.detach().cuda().requires_grad_() for k, v in make(dtype).items()}
    exact = {k: v.detach().double().requires_grad_() for k, v in inputs.items()}
    y = selective_scan(**inputs, delta_softplus=True, backend="mamba_ssm")
    expected = selective_scan(**exact, delta_softplus=True, backend="reference")
    given = torch.autograd.grad(y.float().sum(), list(inputs.values()))
    wanted = torch.autograd.grad(expected.sum(), list(exact.values()))
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-4
    for a, b in zip((y, *given), (expected, *wanted), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
