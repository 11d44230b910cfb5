"""Find the first module that gives a NaN or Inf, and save the batch for replay.

The loop calls `find_culprit` only after a step whose loss or gradient norm was not finite. It runs the batch again with
a hook on every module, forward and then backward, and stops at the first offender.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lemamba.engine.weights.files import tensor_bytes
from lemamba.utils.atomic import renamed
from lemamba.utils.errors import UserError

Batch = dict[str, Tensor]


class _FoundError(Exception):
    """Carries the sentence about the first offender out of a hook."""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _describe(tensor: Tensor) -> str:
    nan, inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {inf} Inf among {tensor.numel()} values, shape {tuple(tensor.shape)}"


@torch.no_grad()  # what is computed inside a recomputed block (--grad_ckpt) must save nothing for backward
def first_not_finite(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Return a description of the first tensor that holds a NaN or Inf, or None."""
    for name, tensor in named:
        if tensor is not None and tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name}: {_describe(tensor)}"
    return None


@contextmanager
def _watch(model: nn.Module) -> Iterator[None]:
    """Raise `_FoundError` at the first module (innermost first) whose output is not finite."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            wrong = first_not_finite([("its output", t) for t in _tensors(output)])
            if wrong:
                raise _FoundError(f'module "{name}" ({type(module).__name__}), {wrong}')

        return check

    handles = [m.register_forward_hook(hook(n or "the network")) for n, m in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def wrong_input(batch: Batch, parameters: Mapping[str, Tensor]) -> str | None:
    """Return what is not finite before the network has run: a part of the batch, a parameter, or None."""
    wrong = first_not_finite([(f'batch["{k}"]', v) for k, v in batch.items()])
    return wrong or first_not_finite([(f'parameter "{n}"', p.detach()) for n, p in parameters.items()])


def parts_of(loss: Callable[..., dict[str, Tensor]], sr: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Return the parts of a loss of sr (B, C, H, W) against gt, or against the batch if the loss takes it whole."""
    return loss(sr, batch if getattr(loss, "takes_batch", False) else batch["gt"])


def keep_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers, which a forward pass may change: a NaN stays in running statistics for ever."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def restore_buffers(model: nn.Module, kept: Mapping[str, Tensor], where: Tensor | None = None) -> None:
    """Give the buffers the values of `keep_buffers`; only if `where` is true, a scalar that stays on the device."""
    for name, buffer in model.named_buffers():
        if name in kept:  # a network may make one in its first pass
            buffer.copy_(kept[name] if where is None else torch.where(where, kept[name], buffer))


def find_culprit(model: nn.Module, loss: Callable[..., dict[str, Tensor]], batch: Batch) -> str:
    """Run one batch again and return, as one sentence, what is first not finite.

    The network runs eager, because a compiled one calls no hooks. Its gradients are cleared, its buffers stay.
    """
    wrong = wrong_input(batch, dict(model.named_parameters()))
    if wrong:
        return wrong
    model.zero_grad(set_to_none=True)
    kept = keep_buffers(model)
    try:
        with _watch(model), torch.compiler.set_stance("force_eager"):
            sr = model(batch["ms"], batch["lms"], batch["pan"])
        parts = parts_of(loss, sr.float(), batch)
        wrong = first_not_finite([(f'loss part "{n}"', v.detach()) for n, v in parts.items()])
        if wrong:
            return wrong
        parts["total"].backward()
        # backward runs from the output to the input: the last parameter with a bad gradient was reached first
        gradients = [(f'gradient of "{n}"', p.grad) for n, p in model.named_parameters()]
        return first_not_finite(gradients[::-1]) or "not reproduced by this batch alone (accumulated or overflowed)"
    except _FoundError as found:
        return str(found)
    finally:
        model.zero_grad(set_to_none=True)
        restore_buffers(model, kept)


def save_batch(path: Path, state: Mapping[str, Tensor], batch: Batch, meta: dict[str, Any]) -> None:
    """Save a batch and the current weights (whole) for `--replay`; meta as for weights, plus "step" and "culprit"."""
    tensors = {f"batch.{k}": v for k, v in batch.items()} | {f"model.{k}": v for k, v in state.items()}
    with renamed(path, fsync=True) as temporary:
        temporary.write_bytes(tensor_bytes(tensors, meta))


def load_batch(path: Path) -> tuple[Batch, dict[str, Tensor], dict[str, Any]]:
    """Read what `save_batch` wrote: (batch, state_dict, meta)."""
    if not path.is_file():
        raise UserError(f"--replay: expected a saved batch, {path} is not there; correct the path")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            meta = json.loads(file.metadata()["meta"])
            tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--replay: {path} is no batch saved by the NaN guard ({error}); see <run>/nan") from None
    batch = {n.removeprefix("batch."): t for n, t in tensors.items() if n.startswith("batch.")}
    state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    return batch, state, meta


class DeferredFlag:
    """A boolean that is read one step later, so that reading it never makes the loop wait for a GPU."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event | None] | None = None

    def put(self, bad: Tensor | None) -> bool:
        """Start copying this step's flag (None: there is none) and return the previous step's."""
        previous = False
        if self._pending is not None:
            copy, event = self._pending
            if event is not None:
                event.synchronize()
            previous = bool(copy)
        self._pending = None
        if bad is not None:
            self._pending = self._copy(bad) if bad.is_cuda else (bad.clone(), None)
        return previous

    @staticmethod
    def _copy(bad: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        copy = torch.empty((), dtype=torch.bool, pin_memory=True)
        copy.copy_(bad, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return copy, event
