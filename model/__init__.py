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
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any

from torch import nn

from lemamba.utils.errors import UserError, nearest
from lemamba.utils.registry import ModelEntry, lookup, scan

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
        dotted = ".".join(("lemamba", *entry.path.relative_to(_FOLDER.parent).with_suffix("").parts))
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


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether `value` is of an annotated type; only plain types, lists of them and choices are looked at."""
    inner, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin in (typing.Union, UnionType):
        return any(_fits(value, k) for k in inner)
    if origin is typing.Literal:
        return value in inner
    if origin in (Sequence, list, tuple):
        return isinstance(value, list | tuple) and all(_fits(v, inner[0]) for v in value)
    if kind is int:  # of sizes and counts; to Python, a truth value is a number
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, str, NoneType) else True


def _check_types(name: str, cls: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    """Refuse an argument, which may come from a YAML file, that is not of the type the constructor declares."""
    try:
        hints = typing.get_type_hints(cls.__init__)
    except NameError:  # a name that a file imports for the type checker only
        return
    for key, value in arguments.items():
        kind = hints.get(key, Any)
        if not _fits(value, kind):
            words = kind.__name__ if isinstance(kind, type) else str(kind).replace("collections.abc.", "")
            words += " from 0 on" if kind is int else ""
            raise UserError(f'{name}: expected "{key}" to be of type {words}, given {value!r}; correct it')


def build_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a registered network or classical method.

    Args:
        name: registered name, e.g. ``"LEMamba"``; case, ``-`` and ``_`` do not matter.
        **kwargs: constructor arguments: ``img_channel`` (C), ``condition_channel`` (P), ``out_channel`` (C),
            ``ratio`` (H/h, default 4) and the architecture's own.

    Raises:
        UserError: unknown name, an argument that is unknown, missing or of a wrong type, or a ratio the method is not
            defined for.
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
    _check_types(entry.name, cls, kwargs)
    return cls(**kwargs)
