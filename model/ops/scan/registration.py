"""One scan kernel as torch.library operators: what the backends `cpp`, `triton` and `mamba_ssm` have in common.

`register("scan_x", ...)` makes three operators in the namespace `lemamba`:

    scan_x(...)           -> (y, last)                what is called; under autograd it runs the next one
    scan_x_saving(...)    -> (y, last, saved)         the same pass, keeping what backward starts from
    scan_x_backward(gy, glast, ..., saved) -> Tensor[]   gradients of the tensor arguments that were given, in order

each with a fake implementation; the first two with autograd, autocast (a recurrence in a half type would lose the
state) and a FLOP formula. So torch.compile, autocast, FLOP counting and activation checkpointing see one operator, and
training does no forward work twice. Source: torch's documentation of torch.library.

Shapes: y as the input, last (B, K*D, N); the rest is the kernel's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.library import Library, custom_op, infer_schema
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "lemamba"
FLOPS_PER_STATE = 9  # of one state and step: the convention of the Mamba papers
_LIBRARY = Library(NAMESPACE, "FRAGMENT")


@dataclass(frozen=True)
class ScanKernel:
    """What a backend gives of its own.

    Args:
        forward: (…, save=bool) -> (y, last, saved); `saved` is empty unless `save`. Its annotations are the schema.
        backward: (gy, glast or None, …, saved) -> gradients of the tensor arguments that are not None, in order.
        fake: like `forward`, on tensors without memory.
        gradient_like: (tensor) -> empty tensor with the shape, type and strides that its gradient has.
        states: (shapes of the arguments) -> B * K * D * L * N.
        device: device type the kernel works on ("cpu", "cuda"); autocast is stopped there.
        everywhere: the kernel accepts any device (a kernel that an interpreter runs on the CPU).
        state_gradient: a gradient may come back through the last state.
    """

    forward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    backward: Callable[..., list[Tensor]]
    fake: Callable[..., tuple[Tensor, Tensor, Tensor]]
    gradient_like: Callable[[Tensor], Tensor]
    states: Callable[..., int]
    device: str
    everywhere: bool = False
    state_gradient: bool = True


def register_cpu(name: str, signature: str, kernel: Callable, fake: Callable) -> Callable:
    """Register `lemamba::name` for CPU tensors, without a gradient of its own, and return it.

    By hand: `torch.library.custom_op` costs 50 microseconds a call, as much as a small layer.
    """
    _LIBRARY.define(name + signature)
    _LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name)


def _given(arguments: tuple) -> list[Tensor]:
    return [a for a in arguments if isinstance(a, Tensor)]


def _arguments_of(function: Callable) -> str:
    """Return the arguments of `function` in schema language, without `save`."""
    schema = infer_schema(function, mutates_args=())
    arguments = schema[1 : schema.rindex(") ->")]
    return re.sub(r",( \*,)? bool save(=\w+)?$", "", arguments)


def _backward_operator(name: str, arguments: str, kernel: ScanKernel) -> Callable[..., list[Tensor]]:
    """Register and return `name_backward`."""
    schema = f"(Tensor gy, Tensor? glast, {arguments}, Tensor saved) -> Tensor[]"
    devices = None if kernel.everywhere else kernel.device
    operator = custom_op(f"{NAMESPACE}::{name}_backward", kernel.backward, mutates_args=(), device_types=devices,
                         schema=schema)  # fmt: skip

    @operator.register_fake
    def _(gy, glast, *rest):
        return [kernel.gradient_like(a) for a in _given(rest[:-1])]

    return operator


def _saving_operator(name: str, arguments: str, kernel: ScanKernel) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Register and return `name_saving`, which owns the gradient."""
    backward = _backward_operator(name, arguments, kernel)
    operator = custom_op(
        f"{NAMESPACE}::{name}_saving", lambda *a: kernel.forward(*a, save=True), mutates_args=(),
        device_types=None if kernel.everywhere else kernel.device,
        schema=f"({arguments}) -> (Tensor, Tensor, Tensor)",
    )  # fmt: skip
    operator.register_fake(lambda *a: kernel.fake(*a, save=True))

    def setup(ctx, inputs, output):
        ctx.set_materialize_grads(False)  # no tensor of zeros where nothing arrives
        ctx.others = [None if isinstance(a, Tensor) else (a,) for a in inputs]
        ctx.save_for_backward(*_given(inputs), output[2])

    def backpropagate(ctx, gy, glast, _gsaved):
        *tensors, saved = ctx.saved_tensors
        tensors = iter(tensors)
        inputs = [next(tensors) if other is None else other[0] for other in ctx.others]
        gy = torch.zeros_like(inputs[0]) if gy is None else gy  # y has the first argument's shape
        gradients = iter(backward(gy, glast, *inputs, saved))
        return tuple(next(gradients) if isinstance(a, Tensor) else None for a in inputs)

    operator.register_autograd(backpropagate, setup_context=setup)
    return operator


def _stop_autocast(name: str, operator: Callable, device: str) -> None:
    """Let an operator compute in float32 under autocast (torch.library has a function for it since torch 2.7)."""

    def kernel(*arguments):
        with torch.autocast(device, enabled=False):
            return operator(*(a.float() if _half(a) else a for a in arguments))

    _LIBRARY.impl(name, kernel, f"Autocast{device.upper()}")


def _half(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)


def register(name: str, kernel: ScanKernel) -> Callable[..., tuple[Tensor, Tensor]]:
    """Register `lemamba::name` and return it."""
    arguments = _arguments_of(kernel.forward)
    saving = _saving_operator(name, arguments, kernel)
    _LIBRARY.define(f"{name}({arguments}) -> (Tensor, Tensor)", tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(getattr(torch.ops, NAMESPACE), name)

    def forward(*a):
        return kernel.forward(*a, save=False)[:2]

    def differentiable(*a):
        if torch.is_grad_enabled() and any(t.requires_grad for t in _given(a)):
            y, last, _ = saving(*a)
            return y, last if kernel.state_gradient else last.detach()
        with torch._C._AutoDispatchBelowAutograd():  # what torch.library's own operators do
            return operator(*a)

    _LIBRARY.impl(name, forward, "CompositeExplicitAutograd" if kernel.everywhere else kernel.device.upper())
    _LIBRARY.impl(name, differentiable, "Autograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *a: kernel.fake(*a, save=False)[:2], lib=_LIBRARY)
    saving_packet = getattr(getattr(torch.ops, NAMESPACE), f"{name}_saving")
    for packet, qualified in ((operator, name), (saving_packet, f"{name}_saving")):
        _stop_autocast(qualified, packet, kernel.device)
        register_flop_formula(packet)(lambda *shapes, out_shape=None, **_: FLOPS_PER_STATE * kernel.states(*shapes))
    return operator
