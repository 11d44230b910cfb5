"""The device a command runs on: refused in one line where this machine does not have it."""

from __future__ import annotations

import torch

from utils.errors import UserError


def usable_device(name: str | None = None) -> torch.device:
    """Return the device called `name` after using it once; None: cuda where there is a GPU, else cpu.

    Raises:
        UserError: an unknown name, or a device that this machine, or this build of torch, does not have.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # an assertion: torch without CUDA
        raise UserError(f'expected a device of this machine, given "{name}", which cannot be used; try cpu') from error
    return torch.device(name)
