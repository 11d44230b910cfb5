"""The device a command runs on, found and tried before any work is done."""

from __future__ import annotations

import torch

from lemamba.utils.errors import UserError


def usable_device(name: str | None = None) -> torch.device:
    """Return the device called `name`; None takes the GPU where there is one, else the CPU.

    Raises:
        UserError: no device of that name, or one that cannot be used on this machine.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has a type for each way of absence
        raise UserError(
            f'expected a --device of this machine (cpu, cuda, cuda:1 …), given "{name}"; use --device cpu'
        ) from error
    if device.type == "meta":  # a device of shapes without values
        raise UserError('expected a --device that holds values, given "meta"; use --device cpu')
    return device
