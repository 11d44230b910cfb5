"""The selective scan: every backend against the definition in float64, its edges, and what surrounds it.

Shapes: u, delta (B, KD, L); A (KD, N); B, C (B, K, N, L); states (B, KD, N).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lemamba.model.ops import available_backends, selective_scan
from lemamba.model.ops.native import scan as native_scan
from lemamba.model.ops.native.build import SOURCES
from lemamba.model.ops.scan import backends
from lemamba.model.ops.scan.backends import BACKENDS
from lemamba.model.ops.scan.interface import Backend, ScanInputs
from lemamba.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
GRID = [  # (batch, K, channels of a group, N, L)
    (2, 1, 3, 1, 1),
    (1, 2, 5, 4, 7),
    (2, 4, 2, 16, 63),
    (1, 1, 16, 32, 64),
    (1, 3, 4, 33, 65),
    (70, 2, 3, 4, 33),
    (1, 2, 18, 16, 1000),
    (1, 1, 2, 256, 64),
    (1, 2, 2, 64, 4096),
    (1, 1, 2, 4, 16384),
    (1, 2, 1, 16, 16384),
]


@pytest.fixture(params=["torch", "cpp"])
def backend(request) -> str:
    state = available_backends()[request.param]
    if not state.available:
        pytest.skip(f"{state.name}: {state.reason}")
    return request.param


@pytest.fixture
def poisoned():
    """Uninitialised memory is filled with NaN, so a result that is not written is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def make(batch: int, K: int, D: int, N: int, L: int, dtype=torch.float64) -> dict[str, torch.Tensor]:
    def draw(*shape):
        return torch.randn(*shape, dtype=dtype)

    A = -torch.rand(K * D, N, dtype=dtype) * 4 - 0.05
    inputs = {
        "u": draw(batch, K * D, L), "delta": draw(batch, K * D, L), "A": A, "B": draw(batch, K, N, L),
        "C": draw(batch, K, N, L), "D": draw(K * D), "delta_bias": draw(K * D) - 1,
        "initial_state": draw(batch, K * D, N),
    }  # fmt: skip
    return {k: v.requires_grad_() for k, v in inputs.items()}


def cast(inputs: dict, dtype=torch.float32) -> dict:
    return {k: v.detach().to(dtype).requires_grad_() for k, v in inputs.items()}


def run(inputs: dict, backend: str, weights=None, **options) -> list[torch.Tensor]:
    """Return y, the last state, and the gradients of all inputs under random weights on both outputs."""
    options = {"delta_softplus": True, **options}
    y, last = selective_scan(**inputs, return_last_state=True, backend=backend, **options)
    if weights is None:
        return [y, last]
    loss = (y * weights[0].to(y.dtype)).sum() + (last * weights[1].to(last.dtype)).sum()
    return [y, last, *torch.autograd.grad(loss, list(inputs.values()))]


def draw_weights(inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.randn(inputs["u"].shape, dtype=torch.float64),
        torch.randn(inputs["initial_state"].shape, dtype=torch.float64),
    )


def assert_close(given: list, expected: list, forward: float, gradients: float) -> None:
    for i, (a, b) in enumerate(zip(given, expected, strict=True)):
        error = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30)
        assert error <= (forward if i < 2 else gradients), f"output {i}: relative error {error:.2e}"


@pytest.mark.parametrize("sizes", GRID, ids=str)
def test_float32_against_the_definition(backend, sizes, poisoned):
    inputs = make(*sizes)
    weights = draw_weights(inputs)
    truth = "reference" if sizes[-1] <= 1000 else "torch"  # float64 torch equals the definition: next test
    expected = run(inputs, truth, weights)
    assert_close(run(cast(inputs), backend, weights), expected, 1e-5, 1e-4)


@pytest.mark.parametrize("sizes", [(1, 2, 2, 3, 1), (2, 2, 3, 4, 130), (1, 1, 1, 5, 1003)], ids=str)
@pytest.mark.parametrize("softplus", [True, False])
def test_torch_is_exact_in_float64(sizes, softplus):
    inputs = make(*sizes)
    if not softplus:
        inputs["delta"] = (inputs["delta"].detach().abs() + 3).requires_grad_()
    weights = draw_weights(inputs)
    expected = run(inputs, "reference", weights, delta_softplus=softplus)
    assert_close(run(inputs, "torch", weights, delta_softplus=softplus), expected, 1e-12, 1e-11)


def test_without_softplus(backend):
    inputs = make(2, 2, 3, 5, 40)
    inputs["delta"] = (inputs["delta"].detach().abs() + 3).requires_grad_()
    weights = draw_weights(inputs)
    expected = run(inputs, "reference", weights, delta_softplus=False)
    assert_close(run(cast(inputs), backend, weights, delta_softplus=False), expected, 1e-5, 1e-4)


def test_optional_arguments_are_zero(backend):
    inputs = cast(make(2, 2, 3, 4, 20))
    full = {k: v.detach() for k, v in inputs.items()}
    for name in ("D", "delta_bias", "initial_state"):
        full[name] = torch.zeros_like(full[name])
    few = {k: v for k, v in full.items() if k not in ("D", "delta_bias", "initial_state")}
    assert torch.equal(run(few, backend)[0], run(full, backend)[0])


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_gradcheck(name):
    inputs = make(1, 2, 2, 2, 5)

    def scan(*values):
        return selective_scan(**dict(zip(inputs, values, strict=True)), delta_softplus=True, return_last_state=True,
                              backend=name)  # fmt: skip

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()))


def test_two_halves_with_the_state_handed_over_equal_the_whole(backend):
    inputs = cast(make(2, 2, 5, 6, 101))
    weights = draw_weights(inputs)
    whole = run(inputs, backend, weights)
    at = 37
    first = {k: v[..., :at] if k in ("u", "delta", "B", "C") else v for k, v in inputs.items()}
    second = {k: v[..., at:] if k in ("u", "delta", "B", "C") else v for k, v in inputs.items()}
    y1, middle = run(first, backend)
    y2, last = run({**second, "initial_state": middle}, backend)
    y = torch.cat([y1, y2], dim=-1)
    loss = (y * weights[0].float()).sum() + (last * weights[1].float()).sum()
    halves = [y, last, *torch.autograd.grad(loss, list(inputs.values()))]
    assert_close(halves, whole, 2e-6, 1e-5)


def test_any_strides(backend):
    inputs = make(2, 2, 3, 4, 50, torch.float32)
    expected = run(inputs, backend, draw_weights(inputs))
    torch.manual_seed(0)
    strided = {}
    for name, value in inputs.items():
        wide = torch.zeros(*value.shape, 2).transpose(0, -2) if value.dim() > 1 else torch.zeros(*value.shape, 2)
        view = wide.transpose(0, -2)[..., 0] if value.dim() > 1 else wide[..., 0]
        view.copy_(value.detach())
        strided[name] = view.requires_grad_()
    assert not strided["u"].is_contiguous()
    torch.manual_seed(1)
    weights = draw_weights(inputs)
    expected = run(inputs, backend, weights)
    for a, b in zip(run(strided, backend, weights), expected, strict=True):
        assert torch.equal(a, b)


def test_empty_batch(backend):
    inputs = make(0, 2, 3, 4, 9, torch.float32)
    y, last, *grads = run(inputs, backend, draw_weights(inputs))
    assert y.shape == (0, 6, 9)
    assert last.shape == (0, 6, 4)
    assert all(not g.any() for g in grads)


@pytest.mark.parametrize("size", [1e4, 1e25])
def test_large_steps_decay_to_zero_and_nothing_overflows(backend, size):
    inputs = make(1, 2, 3, 4, 100, torch.float32)
    inputs["delta"] = (inputs["delta"].detach().abs() * size + size).requires_grad_()
    y, last, *grads = run(inputs, backend, draw_weights(inputs))
    assert all(torch.isfinite(v).all() for v in (y, last, *grads))
    d = inputs["delta"] + inputs["delta_bias"][:, None]
    h = (d * inputs["u"])[..., None] * inputs["B"].repeat_interleave(3, 1).transpose(-1, -2)  # only the last input
    torch.testing.assert_close(last, h[:, :, -1], rtol=1e-5, atol=0)


def test_vanishing_steps_keep_the_state(backend):
    inputs = make(1, 1, 3, 4, 200, torch.float32)
    inputs["delta"] = torch.full_like(inputs["delta"], -100.0).requires_grad_()  # softplus gives 0
    _, last = run(inputs, backend)
    assert torch.equal(last, inputs["initial_state"])


@pytest.mark.parametrize("decay", [1e-4, 1.0])
def test_no_drift_over_a_long_sequence(backend, decay):
    L = 65_536
    inputs = {k: v.detach() for k, v in make(1, 1, 2, 4, L).items()}
    inputs["A"] = inputs["A"] * decay  # a state that forgets over thousands of steps, and one that forgets at once
    expected = run(inputs, "torch")
    given = run({k: v.float() for k, v in inputs.items()}, backend)
    assert_close(given, expected, 1e-4, 0)


def test_nan_stays_visible(backend):
    inputs = make(1, 1, 2, 4, 40, torch.float32)
    with torch.no_grad():
        inputs["delta"][0, 0, 10] = float("nan")
    y, last = run(inputs, backend)
    assert y[0, 0, 10:].isnan().all()
    assert torch.isfinite(y[0, 1]).all()
    assert last[0, 0].isnan().all()


def test_same_bits_for_any_number_of_threads():
    if not available_backends()["cpp"].available:
        pytest.skip("no C compiler")
    inputs = make(3, 2, 20, 5, 70, torch.float32)
    weights = draw_weights(inputs)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5, 2):
        torch.set_num_threads(threads)
        results.append(run(inputs, "cpp", weights))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(backend, dtype):
    inputs = cast(make(2, 2, 3, 4, 60), dtype)
    weights = draw_weights(inputs)
    y, last = run(inputs, backend)
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    expected = run(cast(inputs, torch.float64), "reference", weights)
    assert_close(run(inputs, backend, weights), expected, 1e-2, 1e-2)


def test_float64_goes_to_torch_and_is_refused_by_compiled_backends():
    inputs = make(1, 1, 2, 2, 8)
    assert run(inputs, "auto")[0].dtype == torch.float64
    if available_backends()["cpp"].available:
        with pytest.raises(UserError, match="computes in float32"):
            run(inputs, "cpp")


def test_autocast_computes_in_float32(backend):
    inputs = cast(make(1, 2, 3, 4, 30), torch.bfloat16)
    expected = run(inputs, backend)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, last = run(inputs, backend)
    assert torch.equal(y, expected)
    assert last.dtype == torch.float32


def test_torch_backend_does_not_keep_all_states():
    batch, K, D, N, L = 1, 1, 16, 16, 1024
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run(make(batch, K, D, N, L, torch.float32), "torch")
    assert sum(kept) < batch * K * D * L * N


def test_the_native_operator_is_one_operator():
    if not available_backends()["cpp"].available:
        pytest.skip("no C compiler")
    inputs = make(2, 2, 3, 4, 40, torch.float32)
    names = ("u", "delta", "A", "B", "C", "D", "delta_bias")
    arguments = (*(inputs[n] for n in names), True, inputs["initial_state"])
    operator = torch.ops.lemamba.scan_cpp
    assert len(operator(*arguments)) == 2
    torch.library.opcheck(operator.default, arguments)
    torch.library.opcheck(operator.default, (*arguments[:5], None, None, False, None))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(inputs, "cpp")
    assert counter.get_total_flops() == 9 * 2 * 6 * 40 * 4

    y, last = operator(*arguments)  # called directly it saves nothing, so its backward reruns forward
    given = torch.autograd.grad(y.square().sum() + last.square().sum(), list(inputs.values()))
    y, last = run(inputs, "cpp")
    expected = torch.autograd.grad(y.square().sum() + last.square().sum(), list(inputs.values()))
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))

    def loss(u, others):
        y, last = selective_scan(u, **others, delta_softplus=True, return_last_state=True, backend="cpp")
        return y.square().sum() + last.square().sum()

    others = {k: v.detach() for k, v in inputs.items() if k != "u"}
    (expected,) = torch.autograd.grad(loss(inputs["u"], others), inputs["u"])
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (given,) = torch.autograd.grad(compiled(inputs["u"], others), inputs["u"])
    assert torch.equal(given, expected)
    (again,) = torch.autograd.grad(
        torch.utils.checkpoint.checkpoint(loss, inputs["u"], others, use_reentrant=False), inputs["u"]
    )
    assert torch.equal(again, expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("delta", (1, 4, 9)), ("A", (5, 3)), ("B", (1, 3, 3, 8)), ("C", (1, 2, 3, 9)), ("D", (5,)), ("delta_bias", (1,)),
     ("initial_state", (1, 4, 4)), ("u", (4, 8))],
)  # fmt: skip
def test_a_wrong_shape_names_the_argument(name, shape):
    inputs = {k: v.detach() for k, v in make(1, 2, 2, 3, 8).items()}
    inputs[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(UserError) as caught:
        selective_scan(**inputs)
    message = str(caught.value)
    assert f"expected {name} " in message
    assert str(tuple(shape)) in message
    assert "\n" not in message


def test_forcing_a_backend(monkeypatch):
    inputs = {k: v.detach() for k, v in make(1, 1, 2, 2, 4).items()}
    with pytest.raises(UserError, match='given "refrence".*did you mean "reference"'):
        selective_scan(**inputs, backend="refrence")
    monkeypatch.setenv("LEMAMBA_SCAN", "nonsense")
    with pytest.raises(UserError, match="LEMAMBA_SCAN"):
        selective_scan(**inputs)
    monkeypatch.setenv("LEMAMBA_SCAN", "reference")
    assert torch.equal(selective_scan(**inputs), selective_scan(**inputs, backend="reference"))
    monkeypatch.delenv("LEMAMBA_SCAN")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="mamba_ssm was asked for but is not available"):
            selective_scan(**inputs, backend="mamba_ssm")


def test_a_backend_is_what_it_declares(monkeypatch):
    def scan(inputs: ScanInputs):
        return torch.full_like(inputs.u, 7.0), inputs.u.new_zeros(*inputs.u.shape[:2], inputs.A.shape[1])

    new = Backend("new", lambda: (True, "for this test"), scan, devices=("cpu",), state_gradient=False)
    monkeypatch.setattr(backends, "BACKENDS", {"new": new, **BACKENDS})
    inputs = {k: v.detach().float() for k, v in make(1, 1, 2, 2, 4).items()}
    state = inputs.pop("initial_state")
    assert available_backends()["new"].available
    assert (selective_scan(**inputs) == 7).all()
    assert not (selective_scan(**inputs, initial_state=state) == 7).all()  # auto skips it
    with pytest.raises(UserError, match="new was asked for but cannot serve this call: it has no initial state"):
        selective_scan(**inputs, initial_state=state, backend="new")
    with pytest.raises(UserError, match="it computes in float32"):
        selective_scan(**{k: v.double() for k, v in inputs.items()}, backend="new")


@pytest.mark.parametrize(("header", "name"), [("scan.h", "Scan"), ("cross.h", "Cross"), ("cross.h", "Rows")])
def test_the_c_structs_have_the_fields_of_their_python_twins(header, name):
    source = re.sub(r"/\*.*?\*/", "", (SOURCES / header).read_text(), flags=re.DOTALL)
    (body,) = re.findall(rf"typedef struct {{([^}}]*)}} {name};", source)
    declared = [re.findall(r"(\w+)\s*(?:,|$)", line.strip()) for line in body.split(";")]
    twin = getattr(native_scan, f"_{name}")
    assert [field for line in declared for field in line] == [field for field, _ in twin._fields_]


_PRINT = """
import torch
from lemamba.model.ops import available_backends
from lemamba.model.ops import selective_scan
for state in available_backends().values():
    print(state.name, state.available, state.reason)
x = torch.randn(1, 2, 5)
print(selective_scan(x, x, -torch.ones(2, 3), torch.randn(1, 1, 3, 5), torch.randn(1, 1, 3, 5)).shape)
"""


def _python(code: str, **environment: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=-1, stderr=-1, text=True, cwd=ROOT)


def test_without_a_compiler_the_next_backend_serves(tmp_path):
    process = _python(_PRINT, PATH=str(tmp_path), CC="", LEMAMBA_CACHE=str(tmp_path / "cache"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "cpp False no C compiler" in out
    assert "torch True" in out
    assert "torch.Size([1, 2, 5])" in out


def test_two_processes_compile_at_once_into_one_cache(tmp_path):
    if not available_backends()["cpp"].available:
        pytest.skip("no C compiler")
    processes = [_python(_PRINT, LEMAMBA_CACHE=str(tmp_path)) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "cpp True" in out
    assert len(list(tmp_path.glob("scan-*.so"))) == 1
    assert not list(tmp_path.glob("*.part"))


def test_a_compiler_that_fails_is_reported_with_its_first_complaint(tmp_path):
    broken = tmp_path / "cc"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1 && exit 0\necho "x: error: no luck" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    process = _python(_PRINT, PATH=f"{tmp_path}:/nonexistent", CC="", LEMAMBA_CACHE=str(tmp_path / "cache"))
    out, err = process.communicate(timeout=300)
    if "No such file" in err:
        pytest.skip("no /bin/sh here")
    assert "cpp False the C kernels do not compile: cc: x: error: no luck" in out
