"""Register kernels as torch.library operators in the namespace `lemamba`.

`register_scan("scan_x", ...)` makes three operators of one scan kernel:

    scan_x(...)                               -> (y, last)         the scan
    scan_x_saving(...)                        -> (y, last, saved)  the same, keeping what backward starts from
    scan_x_backward(gy, glast, saved, ...)    -> Tensor[]          gradients of the given tensors, in order

each with a fake implementation; the first two with autograd, autocast (a recurrence in a half type would lose the
state) and a FLOP formula. So torch.compile, autocast, FLOP counting and activation checkpointing see one operator. The
function it returns calls the saving operator where a gradient is needed, so that training does no forward work twice.

Operators are defined by `torch.library.Library`: a call of a `torch.library.custom_op` costs 50 microseconds, as much
as a small layer. For the same reason layers attach their gradient by a `torch.autograd.Function`, which takes 20
microseconds less per call than `register_autograd`. Source: torch's documentation of torch.library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, get_type_hints

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake
from torch.utils.flop_counter import register_flop_formula

from lemamba.model.ops.scan.interface import CrossInputs, Inputs, ScanInputs, given

NAMESPACE = "lemamba"
FLOPS_PER_STATE = 9  # of one state and step: the convention of the Mamba papers
_LIBRARY = Library(NAMESPACE, "FRAGMENT")
_ANY_DEVICE = "CompositeExplicitAutograd"
_SCHEMA_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool"}


def register(name: str, signature: str, kernel: Callable, fake: Callable, key: str = "CPU") -> Callable:
    """Register `lemamba::name` without a gradient and return it.

    Args:
        name: name of the operator.
        signature: arguments and results in torch's schema language.
        kernel: the implementation.
        fake: the same on tensors without memory: allocates the results.
        key: dispatch key of the implementation.
    """
    _LIBRARY.define(name + signature, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, key)
    register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name)


@dataclass(frozen=True)
class ScanKernel(Generic[Inputs]):
    """One implementation of a scan, to be registered.

    Args:
        inputs: the type of its inputs, which is also the operator's schema.
        forward: (inputs, save) -> (y, last, saved); `saved` is empty unless `save`.
        backward: (gy, glast or None, saved, inputs) -> gradients by name, for the inputs that are given.
        outputs: like `forward`, but allocates only.
        gradients: inputs -> what `backward` returns, allocated only.
        device: device type it works on ("cpu", "cuda"); autocast is disabled there.
        everywhere: it accepts any device (a kernel that an interpreter runs on the CPU).
        state_gradient: a gradient may come back through the last state.
        joined: inputs whose gradients `backward` and `gradients` return as one tensor, under the name "rows".
        cut: (inputs, rows) -> these gradients by name, as views.
    """

    inputs: type[Inputs]
    forward: Callable[[Inputs, bool], tuple[Tensor, Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor | None, Tensor, Inputs], dict[str, Tensor]]
    outputs: Callable[[Inputs, bool], tuple[Tensor, Tensor, Tensor]]
    gradients: Callable[[Inputs], dict[str, Tensor]]
    device: str
    everywhere: bool = False
    state_gradient: bool = True
    joined: tuple[str, ...] = ()
    cut: Callable[[Inputs, Tensor], dict[str, Tensor]] = lambda inputs, rows: {}

    def returned(self, inputs: Inputs) -> list[str]:
        """Return the names of what `backward` returns, in order."""
        return [n for n in given(inputs) if n not in self.joined] + (["rows"] if self.joined else [])

    def by_name(self, inputs: Inputs, gradients: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the gradients by name of the inputs, from what `backward` returns."""
        named = dict(zip(self.returned(inputs), gradients, strict=True))
        return named | self.cut(inputs, named["rows"]) if self.joined else named


def _half(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)


def _disable_autocast(name: str, operator: Callable, device: str) -> None:
    """Let an operator compute in float32 under autocast (torch.library has a function for it since torch 2.7)."""

    def kernel(*arguments: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return operator(*(a.float() if _half(a) else a for a in arguments))

    _LIBRARY.impl(name, kernel, f"Autocast{device.upper()}")


def _flops(kind: type[Inputs], shapes: Any) -> int:
    """Return the FLOPs of a scan, by convention, from its inputs with shapes in place of tensors."""
    if kind is ScanInputs:
        return FLOPS_PER_STATE * math.prod(shapes.u) * shapes.A[1]
    return FLOPS_PER_STATE * shapes.x[0] * math.prod(shapes.x[2:]) * math.prod(shapes.A)


def schema_of(kind: type[ScanInputs] | type[CrossInputs]) -> str:
    """Return the arguments of a scan's operators in torch's schema language."""
    hints = get_type_hints(kind)
    return ", ".join(f"{_SCHEMA_TYPES[hints[field]]} {field}" for field in kind._fields)


def count_flops(operator: Callable, kind: type[Inputs]) -> None:
    """Let torch count the FLOPs of an operator whose arguments are the inputs of a scan."""
    register_flop_formula(operator)(lambda *shapes, out_shape=None, **_: _flops(kind, kind(*shapes)))


def register_scan(name: str, kernel: ScanKernel[Inputs]) -> Callable[[Inputs], tuple[Tensor, Tensor]]:
    """Register the operators of a scan kernel and return the function that calls them: inputs -> (y, last).

    Args:
        name: name of the operator.
        kernel: what it runs.
    """
    fields = schema_of(kernel.inputs)
    key = _ANY_DEVICE if kernel.everywhere else kernel.device.upper()

    def run(inputs: Inputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        empty = inputs[0].numel() == 0  # no sample: nothing to launch
        return kernel.outputs(inputs, save) if empty else kernel.forward(inputs, save)

    def run_backward(gy: Tensor, glast: Tensor | None, saved: Tensor, *arguments: Any) -> list[Tensor]:
        inputs = kernel.inputs(*arguments)
        if inputs[0].numel() == 0:
            empty = kernel.gradients(inputs)
            return [empty[name].zero_() for name in kernel.returned(inputs)]
        gradients = kernel.backward(gy, glast, saved, inputs)
        return [gradients[name] for name in kernel.returned(inputs)]

    def fake_backward(gy: Tensor, glast: Tensor | None, saved: Tensor, *arguments: Any) -> list[Tensor]:
        inputs = kernel.inputs(*arguments)
        gradients = kernel.gradients(inputs)
        return [gradients[name] for name in kernel.returned(inputs)]

    backward = register(
        f"{name}_backward",
        f"(Tensor gy, Tensor? glast, Tensor saved, {fields}) -> Tensor[]",
        run_backward,
        fake_backward,
        key,
    )
    saving = register(
        f"{name}_saving",
        f"({fields}) -> (Tensor, Tensor, Tensor)",
        lambda *a: run(kernel.inputs(*a), True),
        lambda *a: kernel.outputs(kernel.inputs(*a), True),
        key,
    )
    operator = register(
        name,
        f"({fields}) -> (Tensor, Tensor)",
        lambda *a: run(kernel.inputs(*a), False)[:2],
        lambda *a: kernel.outputs(kernel.inputs(*a), False)[:2],
        key,
    )

    def setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)  # no tensor of zeros where nothing arrives
        if not kernel.state_gradient:
            ctx.mark_non_differentiable(output[1])
        ctx.others = [None if isinstance(a, Tensor) else (a,) for a in inputs]
        ctx.save_for_backward(*(a for a in inputs if isinstance(a, Tensor)), *output[2:])

    def backpropagate(ctx: Any, gy: Tensor | None, glast: Tensor | None, *gsaved: Tensor | None) -> tuple:
        tensors = iter(ctx.saved_tensors)
        inputs = kernel.inputs(*(next(tensors) if other is None else other[0] for other in ctx.others))
        # `scan_x` called by itself has kept nothing: once more forward
        saved = next(tensors) if gsaved else saving(*(a.detach() if isinstance(a, Tensor) else a for a in inputs))[2]
        gy = torch.zeros_like(inputs[0]) if gy is None else gy  # y has the first argument's shape
        gradients = kernel.by_name(inputs, backward(gy, glast, saved, *inputs))
        return tuple(gradients.get(field) for field in inputs._fields)

    for qualified, packet in ((name, operator), (f"{name}_saving", saving)):
        register_autograd(f"{NAMESPACE}::{qualified}", backpropagate, setup_context=setup, lib=_LIBRARY)
        _disable_autocast(qualified, packet, kernel.device)
        count_flops(packet, kernel.inputs)

    def scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and any(a.requires_grad for a in inputs if isinstance(a, Tensor)):
            y, last, _ = saving(*inputs)
            return y, last
        return operator(*inputs)

    return scan
