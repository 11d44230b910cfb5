"""Command lines from dataclasses: each option of each command is declared once, as a field.

A field declares its default, help, flags and bounds with `option`. `parse_options` reads a command line into an
instance; the class docstring is the text of ``--help``. Training nests such dataclasses as the sections of a
configuration (`lemamba.utils.config`). No torch here, so ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lemamba.utils.errors import UserError, nearest
from lemamba.utils.startup import VERBOSITY

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
REQUIRED: Any = dataclasses.MISSING
Options = TypeVar("Options")


class _Verbosity(argparse.Action):
    """Sets how much the process and its children print; no option of a command, so no result depends on it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        os.environ[VERBOSITY] = self.const


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises a one-line `UserError`, naming the nearest flag, instead of exiting.

    Every command has --quiet and --verbose. The docstring of a dataclass of options becomes the text of the help, its
    part "Examples:" the end of it; there, the lines are arguments, optionally with a comment after "#".

    Args:
        cls: the dataclass, whose options are added; None = none.
        **settings: of `argparse.ArgumentParser`.
    """

    def __init__(self, cls: type | None = None, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        if cls is not None:
            text, _, examples = (inspect.getdoc(cls) or "").partition("\n\nExamples:\n")
            self.description = text
            if examples:
                start = f"{'python ' if self.prog.partition(' ')[0].endswith('.py') else ''}{self.prog}"
                lines = "\n".join(f"  {start} {line}" for line in inspect.cleandoc(examples).splitlines())
                self.epilog = f"examples:\n{lines}"
        if cls is not None:
            add_options(self, cls)
        output = self.add_argument_group("messages")
        common: dict[str, Any] = {"action": _Verbosity, "nargs": 0, "dest": argparse.SUPPRESS}
        common["default"] = argparse.SUPPRESS
        output.add_argument("--quiet", const="quiet", help="print errors only; files are written as ever", **common)
        text = "at the end print time and peak memory; with an error, where it came from"
        output.add_argument("--verbose", const="verbose", help=text, **common)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as a `UserError`."""
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
    many: bool = False,
) -> Any:
    """Declare a field.

    Args:
        default: value when the option is not given; `REQUIRED` makes it mandatory.
        text: its help.
        *flags: all spellings, the preferred one first. A name without dashes is a positional argument. A field
            without flags is set by YAML or ``--set`` only.
        choices: the allowed words.
        low: the smallest allowed number.
        group: heading in the help.
        metavar: placeholder for the value in the help.
        read: converts the text, where the field's type does not say how; raises `argparse.ArgumentTypeError`.
        many: of a tuple: one flag takes several values (``--ms A B``); given again, the last one counts.
    """
    meta: dict[str, Any] = {"help": text, "flags": flags, "choices": choices, "low": low, "group": group}
    meta |= {"metavar": metavar, "read": read, "many": many}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def dry_run_option(**more: Any) -> Any:
    """Declare `--dry_run`."""
    text = "check the input and print what would be done and written, with time and memory; write nothing"
    return option(False, text, "--dry_run", **more)


def device_option(**more: Any) -> Any:
    """Declare `--device`, spelled alike in every command; `more` goes to `option`."""
    return option(None, "cpu, cuda, cuda:1 … (default: cuda if available)", "--device", **more)


def batch_option(default: int | None, text: str, **more: Any) -> Any:
    """Declare `--batch_size`."""
    return option(default, text, "--batch_size", "-b", "--batch", low=1, **more)


def precision_option(**more: Any) -> Any:
    """Declare `--mixed_precision`; float32, the word of the older `--precision`, means no."""
    words = ("no", "bf16", "fp16")
    text = "autocast to bf16 or fp16 (GPU only); no: float32"
    flags = ("--mixed_precision", "--precision")
    return option("no", text, *flags, choices=words, read=lambda word: "no" if word == "float32" else word, **more)


def tf32_option(**more: Any) -> Any:
    """Declare `--tf32`."""
    text = "float32 products and convolutions of a GPU in TF32, 10 bits of mantissa: faster, docs/performance.md"
    return option(False, text, "--tf32", **more)


def scan_option(**more: Any) -> Any:
    """Declare `--scan_backend`."""
    return option(None, "use this scan backend (docs/performance.md; default: the fastest)", "--scan_backend", **more)


def check_bounds(value: Any, meta: Mapping[str, Any], where: str) -> None:
    """Raise a `UserError` unless `value` is one of meta["choices"] and at least meta["low"], where these are set.

    None, where a field may be None, is within all bounds.
    """
    choices, low = meta.get("choices"), meta.get("low")
    if choices and value is not None and value not in choices:
        raise UserError(f"{where}: expected {' or '.join(choices)}, given {value!r}{nearest(str(value), choices)}")
    if low is not None and value is not None and not value >= low:  # NaN is not
        raise UserError(f"{where}: expected at least {low:g}, given {value:g}")


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


def _settings(kind: Any, meta: Mapping[str, Any], in_config: bool) -> dict[str, Any]:
    """Return the arguments of `add_argument` that follow from a field's type `kind`."""
    optional = isinstance(kind, types.UnionType)
    base = typing.get_args(kind)[0] if optional else kind
    metavar = meta["metavar"]
    if meta["read"] is not None:
        return {"type": meta["read"], "metavar": metavar}
    if typing.get_origin(base) is tuple:
        kinds = typing.get_args(base)
        if kinds[-1] is not Ellipsis:
            return {"type": kinds[0], "nargs": len(kinds), "metavar": metavar}
        if meta.get("many"):
            return {"type": kinds[0], "metavar": metavar, "nargs": "+"}
        several = {"action": "append"} if meta["flags"][0].startswith("-") else {"nargs": "*"}
        return {"type": kinds[0], "metavar": metavar, **several}
    if base is bool:
        # YAML may have switched a field of a configuration on: its flag can also switch it off
        return (
            {"type": parse_bool, "nargs": "?", "const": True, "metavar": "true|false"}
            if in_config
            else {"action": "store_true"}
        )
    if base is Path:  # a file may well be called "none"
        return {"type": Path, "metavar": metavar or "PATH"}
    # the defaults of a configuration can be switched off, too; elsewhere "none" is a word (a sensor's name)
    return {"type": _nullable(base) if optional and in_config else base, "metavar": metavar or base.__name__.upper()}


def shown_default(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field as one would type it; "" where it has none or it is off."""
    value = field.default
    if value is REQUIRED or value is None or value is False or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "true" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _help(field: dataclasses.Field[Any]) -> str:
    """Return the help of a field, with its default unless the text has it."""
    text, default = field.metadata["help"], shown_default(field)
    shown = f"{text} (default {default})" if default and "default" not in text else text
    return shown.replace("%", "%%")  # argparse formats it


def add_options(parser: argparse.ArgumentParser, cls: type, section: str | None = None) -> None:
    """Add the flags of a dataclass to `parser`; an option that is not given leaves no trace in the namespace.

    Args:
        parser: gets the flags.
        cls: a dataclass whose fields are declared with `option`.
        section: the dataclass is this section of a configuration: its heading in the help, and ``section.field`` is
            the name in the namespace.
    """
    kinds = typing.get_type_hints(cls)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        meta = field.metadata
        if not meta.get("flags"):
            continue
        heading = section or meta["group"]
        if heading not in groups:
            groups[heading] = parser if heading == "options" else parser.add_argument_group(heading)
        required = field.default is REQUIRED and field.default_factory is REQUIRED
        settings: dict[str, Any] = {"help": _help(field), "default": argparse.SUPPRESS}
        settings |= _settings(kinds[field.name], meta, section is not None)
        if meta["choices"]:
            settings |= {"choices": meta["choices"], "metavar": None}
        if meta["flags"][0].startswith("-"):
            dest = f"{section}.{field.name}" if section else field.name
            groups[heading].add_argument(*meta["flags"], dest=dest, required=required, **settings)
        else:
            settings["nargs"] = ("+" if required else "*") if "nargs" in settings else None if required else "?"
            if settings["nargs"] == "?":
                settings["default"] = field.default  # argparse would convert SUPPRESS to the type of the field
            settings["metavar"] = settings["metavar"] or meta["flags"][0].upper()
            groups[heading].add_argument(field.name, **settings)


def read_options(cls: type[Options], given: Mapping[str, Any]) -> Options:
    """Build a dataclass of options from the given values and check their bounds.

    Args:
        cls: the dataclass.
        given: field name -> value, e.g. ``vars(parser.parse_args())``; other keys are ignored.

    Raises:
        UserError: a value out of bounds.
    """
    chosen = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in given:
            value = given[field.name]
            chosen[field.name] = tuple(value) if isinstance(value, list) else value
            check_bounds(value, field.metadata, next(iter(field.metadata["flags"]), field.name))
    return cls(**chosen)


def parse_options(cls: type[Options], argv: list[str] | None = None, prog: str | None = None) -> Options:
    """Read a command line into an instance of `cls`.

    Args:
        cls: a dataclass whose fields are declared with `option`.
        argv: the arguments; default: those of the process.
        prog: name of the program in the usage line; default: the script's.

    Raises:
        UserError: an unknown flag, a missing argument or a bad value.
    """
    return read_options(cls, vars(Parser(cls, prog=prog).parse_args(argv)))
