"""Command lines from dataclasses: every option of every command is declared once, as a field.

A field declares its default, its help, its flags and its bounds with `option`; `read_options` turns a dataclass into a
parser and the command line into an instance. Training nests such dataclasses as the sections of a configuration
(`lemamba.utils.config`). No torch here: `--help` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lemamba.utils.errors import UserError, nearest
from lemamba.utils.values import check_bounds

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
Options = TypeVar("Options")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UserError`, naming the nearest flag, instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as one line."""
        hint = ""
        if message.startswith("unrecognized arguments: "):
            given = message.removeprefix("unrecognized arguments: ").split()[0]
            hint = nearest(given, self._option_string_actions)
        raise UserError(f"{message}{hint}; see --help")


def option(
    default: Any,
    text: str,
    *flags: str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    group: str = "options",
    metavar: str | tuple[str, ...] | None = None,
    read: Callable[[str], Any] | None = None,
) -> Any:
    """Declare a field.

    Args:
        default: its default; `dataclasses.MISSING` makes the option required.
        text: its help.
        *flags: its spellings, the first one preferred, older ones behind it; a name without dashes is positional.
            None: the field is set by YAML or `--set` only.
        choices: the allowed words.
        low: the smallest allowed number.
        group: heading in the help.
        metavar: what stands for the value in the help.
        read: turns the text into the value, where the field's type does not say how; raises
            `argparse.ArgumentTypeError`.
    """
    meta = {"help": text, "flags": flags, "choices": choices, "low": low, "group": group, "metavar": metavar}
    meta["read"] = read
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=meta)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def parse_bool(text: str) -> bool:
    """Read true/false, yes/no, on/off, 1/0 (any case). `--shuffle False` is False."""
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"expected true or false, given {text!r}")


def _nullable(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text.lower() in ("none", "null") else kind(text)

    read.__name__ = kind.__name__  # argparse names the type in its message
    return read


def _reading(kind: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return argparse's settings for a field of type `kind`."""
    optional = isinstance(kind, types.UnionType)
    base = typing.get_args(kind)[0] if optional else kind
    if meta["read"] is not None:
        return {"type": meta["read"], "metavar": meta["metavar"]}
    if typing.get_origin(base) is tuple:
        kinds = typing.get_args(base)
        if kinds[-1] is not Ellipsis:
            return {"type": kinds[0], "nargs": len(kinds), "metavar": meta["metavar"]}
        several = {"nargs": "*"} if not meta["flags"][0].startswith("-") else {"action": "extend", "nargs": "+"}
        return {"type": kinds[0], "metavar": meta["metavar"], **several}
    if base is bool:
        return {"type": parse_bool, "nargs": "?", "const": True, "metavar": "true|false"}
    if base is Path:  # a file may well be called "none"
        return {"type": Path, "metavar": meta["metavar"] or "PATH"}
    return {"type": _nullable(base) if optional else base, "metavar": meta["metavar"] or base.__name__.upper()}


def add_options(parser: argparse.ArgumentParser, cls: type, prefix: str = "", group: str | None = None) -> None:
    """Add the flags of a dataclass to `parser`; what was not given leaves no trace in the namespace.

    Args:
        parser: gets the flags.
        cls: a dataclass whose fields are declared with `option`.
        prefix: stands before the field's name in the namespace, e.g. ``"data."``.
        group: heading for all of them; None = each field's own.
    """
    kinds = typing.get_type_hints(cls)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        meta = field.metadata
        if not meta.get("flags"):
            continue
        heading = group or meta["group"]
        target = groups.setdefault(heading, None) or parser.add_argument_group(heading)
        groups[heading] = target
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        settings = {"help": meta["help"], "default": argparse.SUPPRESS, **_reading(kinds[field.name], meta)}
        if meta["choices"]:
            settings |= {"choices": meta["choices"], "metavar": None}
        if meta["flags"][0].startswith("-"):
            target.add_argument(*meta["flags"], dest=prefix + field.name, required=required, **settings)
        else:
            if not required and "nargs" not in settings:
                settings["nargs"] = "?"
            settings["metavar"] = settings["metavar"] or meta["flags"][0].upper()
            target.add_argument(prefix + field.name, **settings)


def read_options(cls: type[Options], given: Mapping[str, Any]) -> Options:
    """Build a dataclass of options from what was given; its bounds are checked.

    Args:
        cls: the dataclass.
        given: field name -> value, e.g. ``vars(parser.parse_args())``; other keys are ignored.

    Raises:
        UserError: a value outside its bounds.
    """
    chosen = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in given:
            value = given[field.name]
            chosen[field.name] = tuple(value) if isinstance(value, list) else value
            check_bounds(chosen[field.name], field.metadata, field.metadata["flags"][0])
    return cls(**chosen)
