"""The four-direction scan: its definition pixel by pixel, then every backend against it in float64.

Shapes: x (B, D, H, W); dt, Bt, Ct, gate (B, K, R or N, H, W); A (K*D, N); states (B, K*D, N).
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lemamba.model.ops import available_backends, cross_selective_scan
from lemamba.utils.errors import UserError

SIZES = [  # (B, K, D, N, R, H, W)
    (2, 4, 3, 4, 2, 5, 6),
    (1, 4, 16, 5, 1, 8, 9),
    (3, 4, 33, 33, 4, 1, 7),
    (2, 4, 5, 3, 2, 7, 1),
    (1, 4, 64, 16, 5, 20, 7),
    (2, 3, 20, 8, 2, 8, 8),
    (1, 1, 4, 1, 1, 1, 1),
    (70, 4, 8, 1, 2, 4, 3),
]
SHARED = ("shared_state", "gate", "rho")


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


def make(B: int, K: int, D: int, N: int, R: int, H: int, W: int, shared: bool = True, dtype=torch.float64) -> dict:
    def draw(*shape):
        return torch.randn(*shape, dtype=dtype)

    inputs = {
        "x": draw(B, D, H, W), "dt": draw(B, K, R, H, W), "Bt": draw(B, K, N, H, W), "Ct": draw(B, K, N, H, W),
        "A": -torch.rand(K * D, N, dtype=dtype) * 4 - 0.05, "D": draw(K * D), "dt_weight": draw(K, D, R),
        "dt_bias": draw(K * D) - 1,
    }  # fmt: skip
    if shared:
        inputs |= {"shared_state": draw(B, K * D, N), "gate": draw(B, K, N, H, W), "rho": draw(1, K, D, 1)}
    return {k: v.requires_grad_() for k, v in inputs.items()}


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return x with the memory of a (B, H, W, .) tensor, the network's own layout."""
    if x.dim() == 5:
        return x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def cast(inputs: dict, dtype=torch.float32, last: bool = False) -> dict:
    out = {}
    for name, value in inputs.items():
        value = value.detach().to(dtype)
        image = value.dim() >= 4 and name != "rho"
        out[name] = (channels_last(value) if last and image else value).requires_grad_()
    return out


def run(inputs: dict, backend: str, weights=None) -> list[torch.Tensor]:
    """Return y, the last states, and the gradients of all inputs under random weights on both outputs."""
    y, last = cross_selective_scan(**inputs, backend=backend)
    if weights is None:
        return [y, last]
    loss = (y * weights[0].to(y.dtype)).sum() + (last * weights[1].to(last.dtype)).sum()
    return [y, last, *torch.autograd.grad(loss, list(inputs.values()))]


def draw_weights(inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    B = inputs["x"].shape[0]
    return (
        torch.randn(inputs["x"].shape, dtype=torch.float64),
        torch.randn(B, *inputs["A"].shape, dtype=torch.float64),
    )


def assert_close(given: list, expected: list, forward: float = 1e-5, gradients: float = 1e-4) -> None:
    for i, (a, b) in enumerate(zip(given, expected, strict=True)):
        error = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30)
        assert error <= (forward if i < 2 else gradients), f"output {i}: relative error {error:.2e}"


def pixel_by_pixel(i: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's definition written with explicit paths over pixels."""
    x, N = i["x"], i["A"].shape[1]
    B, D, H, W = x.shape
    rows = [(r, c) for r in range(H) for c in range(W)]
    columns = [(r, c) for c in range(W) for r in range(H)]
    y, states = torch.zeros_like(x), []
    for k, path in enumerate([rows, columns, rows[::-1], columns[::-1]]):
        own = slice(k * D, (k + 1) * D)
        h = x.new_zeros(B, D, N)
        for r, c in path:
            raw = i["dt"][:, k, :, r, c] @ i["dt_weight"][k].T + i["dt_bias"][own]
            step = torch.log1p(torch.exp(raw))
            mixed = torch.einsum("bdn,bn->bd", i["shared_state"][:, own], i["gate"][:, k, :, r, c])
            u = x[:, :, r, c] + i["rho"][0, k, :, 0] * mixed
            h = torch.exp(step[..., None] * i["A"][own]) * h + (step * u)[..., None] * i["Bt"][:, k, None, :, r, c]
            y[:, :, r, c] += (h * i["Ct"][:, k, None, :, r, c]).sum(-1) + i["D"][own] * u
        states.append(h)
    return y, torch.cat(states, dim=1)


def test_the_definition():
    inputs = {k: v.detach() for k, v in make(2, 4, 3, 4, 2, 3, 5).items()}
    y, states = pixel_by_pixel(inputs)
    given = cross_selective_scan(**inputs, backend="reference")
    torch.testing.assert_close(given[0], y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(given[1], states, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_float32_against_the_definition(backend, sizes, shared, poisoned):
    inputs = make(*sizes, shared=shared)
    weights = draw_weights(inputs)
    expected = run(inputs, "reference", weights)
    assert_close(run(cast(inputs), backend, weights), expected)


def test_a_larger_image(backend):
    inputs = make(1, 4, 8, 16, 2, 48, 40)
    weights = draw_weights(inputs)
    assert_close(run(cast(inputs, last=True), backend, weights), run(inputs, "torch", weights))


def test_layout_and_threads_change_no_bit():
    if not available_backends()["cpp"].available:
        pytest.skip("no C compiler")
    inputs = make(3, 4, 20, 5, 2, 9, 8)
    weights = draw_weights(inputs)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 6):
        torch.set_num_threads(threads)
        for last in (False, True):
            results.append(run(cast(inputs, last=last), "cpp", weights))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_views_of_one_projection(backend):
    """dt, Bt, Ct and gate as slices of one (B, H, W, K, .) product, the way the network passes them."""
    inputs = make(2, 4, 6, 5, 3, 4, 7, dtype=torch.float32)
    names, sizes = ("dt", "Bt", "Ct", "gate"), (3, 5, 5, 5)
    joined = torch.cat([inputs[n].detach() for n in names], dim=2)
    joined = channels_last(joined).requires_grad_()
    views = dict(zip(names, joined.split(sizes, dim=2), strict=True))
    weights = draw_weights(inputs)
    expected = run(inputs, backend, weights)
    given = run({**inputs, **views}, backend, weights)
    for a, b in zip(given, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_flat_rho_is_the_same():
    inputs = cast(make(1, 4, 3, 2, 2, 4, 4))
    flat = {**inputs, "rho": inputs["rho"].detach().flatten()}
    assert torch.equal(run(inputs, "auto")[0], run(flat, "auto")[0])


def test_empty_batch(backend):
    inputs = make(0, 4, 3, 4, 2, 3, 3, dtype=torch.float32)
    y, last, *grads = run(inputs, backend, draw_weights(inputs))
    assert y.shape == (0, 3, 3, 3)
    assert last.shape == (0, 12, 4)
    assert all(not g.any() for g in grads)


def test_half_types_come_back_in_their_type(backend):
    inputs = cast(make(1, 4, 6, 4, 2, 6, 5), torch.bfloat16)
    weights = draw_weights(inputs)
    expected = run(cast(inputs, torch.float64), "reference", weights)
    given = run(inputs, backend, weights)
    assert given[0].dtype == torch.bfloat16
    assert given[1].dtype == torch.float32
    assert_close(given, expected, 1e-2, 1e-2)


def test_the_fused_operator_is_one_operator():
    if not available_backends()["cpp"].available:
        pytest.skip("no C compiler")
    inputs = cast(make(2, 4, 3, 4, 2, 5, 4), last=True)
    arguments = tuple(v.detach().reshape(-1).requires_grad_() if k == "rho" else v for k, v in inputs.items())
    operator = torch.ops.lemamba.cross_scan_cpp
    assert len(operator(*arguments)) == 2
    torch.library.opcheck(operator.default, arguments)
    torch.library.opcheck(operator.default, (*arguments[:8], None, None, None))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(inputs, "cpp")
    assert counter.get_total_flops() == 9 * 2 * 12 * 20 * 4

    def loss(x, others):
        y, last = cross_selective_scan(x, **others, backend="cpp")
        return y.square().sum() + last.square().sum()

    others = {k: v.detach() for k, v in inputs.items() if k != "x"}
    (expected,) = torch.autograd.grad(loss(inputs["x"], others), inputs["x"])
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (given,) = torch.autograd.grad(compiled(inputs["x"], others), inputs["x"])
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (4, 5)), ("dt", (1, 5, 2, 4, 4)), ("Bt", (1, 4, 3, 4, 5)), ("Ct", (1, 4, 2, 4, 4)), ("A", (12,)),
     ("D", (3,)), ("dt_weight", (4, 3, 1)), ("dt_bias", (4, 3)), ("shared_state", (1, 12, 4)),
     ("gate", (1, 4, 4, 4, 4)), ("rho", (4, 3))],
)  # fmt: skip
def test_a_wrong_shape_names_the_argument(name, shape):
    inputs = {k: v.detach() for k, v in make(1, 4, 3, 3, 2, 4, 4).items()}
    inputs[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(UserError) as caught:
        cross_selective_scan(**inputs)
    assert f"expected {name} of shape" in str(caught.value)
    assert str(tuple(shape)) in str(caught.value)


def test_a_shared_state_needs_its_gate():
    inputs = {k: v.detach() for k, v in make(1, 4, 3, 3, 2, 4, 4).items() if k != "gate"}
    with pytest.raises(UserError, match="together or none"):
        cross_selective_scan(**inputs)
