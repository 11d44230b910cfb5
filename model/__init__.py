"""Architectures: torch in, torch out. `forward(ms, lms, pan) -> sr` for every one of them.

Shapes, everywhere: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), sr (B, C, H, W), H = ratio * h.
A network is imported only when it is asked for; `list_models` reads names from the sources.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from utils.errors import UserError, nearest
from utils.registry import ModelEntry, lookup, scan

_FOLDER = Path(__file__).resolve().parent


def list_models(task: str | None = None, classical: bool | None = None) -> list[str]:
    """Return the registered names, sorted; optionally only those of a task, only classical or only learned ones."""
    chosen = [
        e.name
        for e in scan([_FOLDER]).values()
        if (task is None or task in e.tasks) and (classical is None or e.classical == classical)
    ]
    return sorted(chosen, key=str.lower)


def model_entry(name: str) -> ModelEntry:
    """Return what is registered under `name` (any case, ``-`` and ``_`` ignored) without importing it."""
    return lookup(scan([_FOLDER]), name)


def _import(entry: ModelEntry) -> ModuleType:
    """Import the file of an entry: as a module of this package, or under a private name for foreign folders."""
    if entry.path.is_relative_to(_FOLDER):
        dotted = ".".join(entry.path.relative_to(_FOLDER.parent).with_suffix("").parts)
        return importlib.import_module(dotted)
    digest = hashlib.sha256(str(entry.path.resolve()).encode()).hexdigest()[:8]
    name = f"_lemamba_model_{entry.path.stem}_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, entry.path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def model_class(name: str) -> type[nn.Module]:
    """Import and return the class registered under `name`."""
    entry = model_entry(name)
    return getattr(_import(entry), entry.class_name)


def build_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a registered network or classical method.

    Args:
        name: registered name, e.g. ``"LEMamba"``; case, ``-`` and ``_`` do not matter.
        **kwargs: constructor arguments: ``img_channel`` (C), ``condition_channel`` (P), ``out_channel`` (C),
            ``ratio`` (H/h, default 4) and the architecture's own.

    Raises:
        UserError: unknown name, unknown or missing argument, or a ratio the method is not defined for.
    """
    entry = model_entry(name)
    cls = getattr(_import(entry), entry.class_name)
    ratio = kwargs.get("ratio", 4)
    if ratio not in entry.ratios:
        known = ", ".join(map(str, entry.ratios))
        raise UserError(f"{entry.name} is defined for ratio {known}, given {ratio}; choose another method or data")
    signature = inspect.signature(cls)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in kwargs:
        if key not in signature.parameters and not accepts_any:
            known = [p for p in signature.parameters]
            raise UserError(f'{entry.name} has no argument "{key}"{nearest(key, known)}; known: {", ".join(known)}')
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise UserError(f"{entry.name}: {error}; give img_channel, condition_channel and out_channel") from None
    return cls(**kwargs)
