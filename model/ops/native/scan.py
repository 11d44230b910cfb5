"""Backend `cpp`: the scans in C for CPUs, compiled at first use by the machine's C compiler. float32.

Operators: `lemamba::scan_cpp` and `lemamba::cross_scan_cpp` (see `registration.py`). Backward starts from the state
before each tile of the sequence, which forward keeps only where a gradient is needed.

The plain scan takes contiguous tensors. The scan in several directions reads and writes the channels of a pixel side by
side: a tensor (B, C, H, W) or (B, K, C, H, W) whose memory is that of a (B, H, W, .) one passes without a copy, any
other layout is copied to that one.
"""

from __future__ import annotations

import ctypes
from typing import get_type_hints

import torch
from torch import Tensor

from lemamba.model.ops.native.build import count, fill, library, run
from lemamba.model.ops.registration import ScanKernel, register_scan
from lemamba.model.ops.scan.interface import (
    SEQUENCES,
    Backend,
    CrossInputs,
    Inputs,
    ScanInputs,
    given,
    replace_tensors,
)


class _Rows(ctypes.Structure):
    """`Rows` of cross.h: where the channels of a pixel lie."""

    _fields_ = [("data", ctypes.c_void_p)] + [(n, ctypes.c_int64) for n in ("batch", "pixel", "k")]


def _structure(name: str, inputs: type[Inputs], sizes: str, rows: frozenset[str]) -> type[ctypes.Structure]:
    """Return the ctypes twin of a C struct of a scan; inputs that are no tensors join the sizes."""
    numbers: list[str] = [field for field, kind in get_type_hints(inputs).items() if kind is bool]
    tensors = [field for field in inputs._fields if field not in numbers]
    fields: list[tuple[str, type]] = [(n, ctypes.c_int64) for n in (*sizes.split(), *numbers)]
    fields += [(n, _Rows if n in rows else ctypes.c_void_p) for n in tensors]
    fields += [(n, ctypes.c_void_p) for n in ("y", "last", "saved")]
    fields += [("gy", _Rows if rows else ctypes.c_void_p), ("glast", ctypes.c_void_p)]
    fields += [(f"g{n}", ctypes.c_void_p) for n in tensors]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_Scan = _structure("Scan", ScanInputs, "batch K channels N length threads", frozenset())
_Cross = _structure("Cross", CrossInputs, "batch K channels N R height width threads", SEQUENCES)


def _gradient_fields(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"g{name}": gradient for name, gradient in gradients.items()}


def _saved_floats(batch: int, K: int, channels: int, N: int, length: int) -> int:
    """Return how many floats forward keeps for backward."""
    return count("scan_saved_floats", batch, K, channels, N, length)


# The plain scan.


def _scan_sizes(inputs: ScanInputs) -> dict[str, int]:
    (batch, channels, length), K, N = inputs.u.shape, inputs.B.shape[1], inputs.A.shape[1]
    return {"batch": batch, "K": K, "channels": channels // K, "N": N, "length": length}


def _scan_outputs(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    u = inputs.u
    kept = _saved_floats(**_scan_sizes(inputs)) if save else 0
    return u.new_empty(u.shape), u.new_empty(*u.shape[:2], inputs.A.shape[1]), u.new_empty(kept)


def _scan_gradients(inputs: ScanInputs) -> dict[str, Tensor]:
    return {name: t.new_empty(t.shape) for name, t in given(inputs).items()}


def _fill_scan(inputs: ScanInputs) -> ctypes.Structure:
    return fill(_Scan(), **_scan_sizes(inputs), threads=torch.get_num_threads(), **inputs._asdict())


def _scan_forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    inputs = replace_tensors(inputs, lambda _, t: t.contiguous())
    y, last, saved = _scan_outputs(inputs, save)
    run("scan_forward", fill(_fill_scan(inputs), y=y, last=last, saved=saved if save else None))
    return y, last, saved


def _scan_backward(gy: Tensor, glast: Tensor | None, saved: Tensor, inputs: ScanInputs) -> dict[str, Tensor]:
    inputs = replace_tensors(inputs, lambda _, t: t.contiguous())
    gradients, gy, glast = _scan_gradients(inputs), gy.contiguous(), None if glast is None else glast.contiguous()
    run("scan_backward", fill(_fill_scan(inputs), saved=saved, gy=gy, glast=glast, **_gradient_fields(gradients)))
    return gradients


# The scan of an image in several directions.


def _pixel_rows(x: Tensor) -> Tensor:
    """Return x with channels side by side and equally spaced pixels: itself where it is so, else a copy.

    x (B, C, H, W) or (B, K, C, H, W); a copy has the memory of (B, H, W, C) or (B, H, W, K, C).
    """
    *_, channels, height, width = x.shape
    unit = channels == 1 or x.stride(-3) == 1
    even = height == 1 or x.stride(-2) == width * x.stride(-1)
    if unit and even and (width > 1 or height == 1):
        return x
    return _empty_pixels(x).copy_(x)


def _empty_pixels(x: Tensor) -> Tensor:
    """Return an uninitialised tensor of x's shape with packed pixel rows."""
    if x.dim() == 4:
        batch, channels, height, width = x.shape
        return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
    batch, K, channels, height, width = x.shape
    return x.new_empty(batch, height, width, K, channels).permute(0, 3, 4, 1, 2)


def _rows(x: Tensor | None) -> _Rows:
    """Return the strides of what `_pixel_rows` gave."""
    if x is None:
        return _Rows(None, 0, 0, 0)
    return _Rows(x.data_ptr(), x.stride(0), x.stride(-1), x.stride(1) if x.dim() == 5 else 0)


def _cross_outputs(inputs: CrossInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, A = inputs.x, inputs.A
    batch, channels, height, width = x.shape
    kept = _saved_floats(batch, inputs.dt.shape[1], channels, A.shape[1], height * width) if save else 0
    return _empty_pixels(x), x.new_empty(batch, *A.shape), x.new_empty(kept)


def _cross_gradients(inputs: CrossInputs) -> dict[str, Tensor]:
    named = given(inputs).items()
    return {name: _empty_pixels(t) if name in SEQUENCES else t.new_empty(t.shape) for name, t in named}


def _cross_contiguous(inputs: CrossInputs) -> CrossInputs:
    return replace_tensors(inputs, lambda name, t: _pixel_rows(t) if name in SEQUENCES else t.contiguous())


def _fill_cross(inputs: CrossInputs) -> ctypes.Structure:
    batch, channels, height, width = inputs.x.shape
    sizes = {"batch": batch, "K": inputs.dt.shape[1], "channels": channels, "N": inputs.A.shape[1]}
    sizes |= {"R": inputs.dt.shape[2], "height": height, "width": width, "threads": torch.get_num_threads()}
    tensors = {name: _rows(t) if name in SEQUENCES else t for name, t in inputs._asdict().items()}
    return fill(_Cross(), **sizes, **tensors)


def _cross_forward(inputs: CrossInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    inputs = _cross_contiguous(inputs)
    y, last, saved = _cross_outputs(inputs, save)
    run("cross_forward", fill(_fill_cross(inputs), y=y, last=last, saved=saved if save else None))
    return y, last, saved


def _cross_backward(gy: Tensor, glast: Tensor | None, saved: Tensor, inputs: CrossInputs) -> dict[str, Tensor]:
    inputs, gy = _cross_contiguous(inputs), _pixel_rows(gy)
    gradients, glast = _cross_gradients(inputs), None if glast is None else glast.contiguous()
    fields = {"saved": saved, "gy": _rows(gy), "glast": glast, **_gradient_fields(gradients)}
    run("cross_backward", fill(_fill_cross(inputs), **fields))
    return gradients


scan = register_scan(
    "scan_cpp",
    ScanKernel(ScanInputs, _scan_forward, _scan_backward, _scan_outputs, _scan_gradients, device="cpu"),
)
cross_scan = register_scan(
    "cross_scan_cpp",
    ScanKernel(CrossInputs, _cross_forward, _cross_backward, _cross_outputs, _cross_gradients, device="cpu"),
)


def probe() -> tuple[bool, str]:
    """Return whether the kernels compile and load here, and with what, or why not."""
    found, reason = library()
    return found is not None, reason


BACKEND = Backend("cpp", probe, scan, cross_scan, devices=("cpu",))
