"""Published weights to our parameter names, by architecture.

A network that has published weights defines ``from_published(state_dict) -> dict``; it renames keys and drops
duplicates, and changes values only where its docstring says so (PSRT). `convert_state_dict` finds it through the
registry, so a new network defines its conversion in its own file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lemamba.model import model_class, model_entry
from lemamba.utils.errors import UserError, nearest

_WRAPPED_PREFIXES = ("module.", "model.")  # added by DistributedDataParallel and by wrappers of many published codes


def convert_state_dict(arch: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published state dict to the parameter names of ``build_model(arch, ...)``.

    Args:
        arch: registered name, any case.
        state_dict: published parameters by name (a plain mapping; nothing is unpickled here).

    Returns:
        A new dict that loads strictly; the tensors are not copied.

    Raises:
        UserError: no conversion is known for `arch`, or a key is not one of its published names.
    """
    entry = model_entry(arch)
    cls = model_class(arch)
    convert = getattr(cls, "from_published", None)
    if convert is None:
        raise UserError(f"{entry.name} has no known published weights; use a checkpoint trained here")
    for prefix in _WRAPPED_PREFIXES:
        if state_dict and all(k.startswith(prefix) for k in state_dict):
            state_dict = {k.removeprefix(prefix): v for k, v in state_dict.items()}
    return dict(convert(state_dict))


def rename_modules(
    state_dict: Mapping[str, Tensor],
    names: Mapping[str, str],
    *,
    arch: str,
    duplicates: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Rename the modules in the keys of a state dict: ``"res1.conv20.weight" -> "blocks.0.conv1.weight"``.

    Args:
        state_dict: published parameters; a key is ``module path + "." + parameter``.
        names: published module path -> ours, without the parameter's name.
        arch: shown in errors.
        duplicates: published module path -> the published path it shares its storage with; such keys are checked to
            be equal and dropped.

    Raises:
        UserError: an unknown key, a missing module, or a duplicate that differs from its original.
    """
    duplicates = duplicates or {}
    known = [*names, *duplicates]
    renamed: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        module, _, parameter = key.rpartition(".")
        if module in duplicates:
            twin = state_dict.get(f"{duplicates[module]}.{parameter}")
            if twin is None or not torch.equal(twin, value):
                raise UserError(f"{arch} weights: {key} should repeat {duplicates[module]}; the file is not {arch}'s")
        elif module in names:
            renamed[f"{names[module]}.{parameter}"] = value
        else:
            hint = nearest(module, known)
            raise UserError(f'{arch} weights: unknown key "{key}"{hint}; give a published {arch} state dict')
    present = {key.rpartition(".")[0] for key in state_dict}
    missing = [module for module in names if module not in present]
    if missing:
        raise UserError(f'{arch} weights: key "{missing[0]}.*" is missing; give a complete {arch} state dict')
    return renamed
