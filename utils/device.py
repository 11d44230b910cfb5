"""The device a command runs on, tried before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lemamba.utils.errors import UserError


def usable_device(name: str | None = None) -> torch.device:
    """Return the device called `name`; None: the GPU if there is one, else the CPU.

    Raises:
        UserError: no device of that name, or one that cannot be used on this machine.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depending on what is missing
        raise UserError(
            f'expected a --device of this machine (cpu, cuda, cuda:1 …), given "{name}"; use --device cpu'
        ) from error
    if device.type == "meta":  # shapes without values
        raise UserError('expected a --device that holds values, given "meta"; use --device cpu')
    return device


def use_tf32(wanted: bool) -> None:
    """Set what a GPU of compute capability 8 or later computes float32 products and convolutions in.

    TF32 has 10 bits of mantissa. torch's own default is TF32 for convolutions only; here both are full float32 unless
    `wanted`.
    """
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """The same inside the block; afterwards as it was."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    use_tf32(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def use_scan_backend(name: str | None) -> None:
    """Use this backend for all selective scans of the process and its children; None: no change.

    An unknown name, or a backend that does not work here, is a `UserError` at the first scan.
    """
    if name is not None:
        os.environ["LEMAMBA_SCAN"] = name
