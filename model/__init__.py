"""Architectures: torch in, torch out. `forward(ms, lms, pan) -> sr` for every one of them.

Shapes, everywhere: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), sr (B, C, H, W), H = ratio * h.
A network is imported only when it is asked for; `list_models` reads names from the sources.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from torch import nn

from lemamba.utils.errors import UserError, nearest
from lemamba.utils.registry import ModelEntry, load_class, lookup, scan

__all__ = ["build_model", "list_models", "model_class", "model_entry"]

_FOLDER = Path(__file__).resolve().parent
_NAMED = 5  # methods that a message names


def list_models(task: str | None = None, family: str | None = None) -> list[str]:
    """Return the registered names, sorted; optionally only those of a task or of a family ("learned", "classical")."""
    entries: dict[str, ModelEntry] = scan([_FOLDER])
    chosen = [e.name for e in entries.values() if task in (None, *e.tasks) and family in (None, e.family)]
    return sorted(chosen, key=str.lower)


def model_entry(name: str) -> ModelEntry:
    """Return what is registered under `name` (any case, ``-`` and ``_`` ignored) without importing it."""
    return lookup(scan([_FOLDER]), name, "architecture")


def model_class(name: str) -> type[nn.Module]:
    """Import and return the class registered under `name`."""
    return load_class(model_entry(name), _FOLDER)


def _fits(value: Any, kind: Any) -> bool:
    """Return whether `value` has an annotated type; only plain types, lists of them and choices are checked."""
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
        **kwargs: constructor arguments. Every method has

            - ``img_channel``: C, bands of ms and lms;
            - ``condition_channel``: P, bands of pan; networks stack or embed a guide of several bands;
            - ``out_channel``: bands of sr; equal to C, since most networks add lms to their output;
            - ``ratio``: H / h, default 4; networks that work at the full size only are the same for every ratio.

            The classes document their other arguments, and where these four differ.

    Raises:
        UserError: unknown name, an argument that is unknown, missing or of a wrong type, or a ratio the method is not
            defined for.
    """
    entry = model_entry(name)
    cls = load_class(entry, _FOLDER)
    ratio = kwargs.get("ratio", 4)
    if ratio not in entry.ratios:
        known = ", ".join(map(str, entry.ratios))
        fitting = [n for n in list_models(entry.tasks[0], entry.family) if ratio in model_entry(n).ratios]
        some = ", ".join(fitting[:_NAMED]) + (" …" if len(fitting) > _NAMED else "")
        advice = f"choose a method for it ({some})" if fitting else "resample one of the images"
        raise UserError(f"{entry.name} is defined for ratio {known}, given {ratio}; {advice}")
    signature = inspect.signature(cls)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in kwargs:
        if key not in signature.parameters and not accepts_any:
            arguments = ", ".join(signature.parameters)
            hint = nearest(key, signature.parameters)
            raise UserError(f'{entry.name} has no argument "{key}"{hint}; known: {arguments}')
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise UserError(f"{entry.name}: {error}; give img_channel, condition_channel and out_channel") from None
    _check_types(entry.name, cls, kwargs)
    return cls(**kwargs)
