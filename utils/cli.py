"""The training command line, made from the declarations in `lemamba.utils.config`: each flag is an alias of one field.

The published command line runs word for word; `--set section.key=value` reaches every other field. Only what was
really given is returned, so that a flag's default can never override a YAML file. No torch here.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

from lemamba.utils.arguments import Parser
from lemamba.utils.config import SECTIONS
from lemamba.utils.errors import UserError
from lemamba.utils.safe_yaml import parse_yaml

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class CommandLine:
    """What was asked for: `flags` (nested, only what was given) and the options that are no part of a config."""

    flags: dict[str, Any]
    config_file: str | None = None
    resume: str | None = None
    replay: str | None = None
    overwrite: bool = False


def parse_bool(text: str) -> bool:
    """Read true/false, yes/no, on/off, 1/0 (any case). `--shuffle False` is False."""
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"expected true or false, given {text!r}")


def _nullable(kind: type) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() in ("none", "null") else kind(text)

    read.__name__ = kind.__name__  # argparse names the type in its message
    return read


def _add_flag(group: Any, section: str, name: str, kind: Any, meta: typing.Mapping[str, Any]) -> None:
    """Add the flags of one field; the destination is ``section.name``."""
    settings: dict[str, Any] = {"dest": f"{section}.{name}", "help": meta["help"], "default": argparse.SUPPRESS}
    optional = isinstance(kind, types.UnionType)
    base = typing.get_args(kind)[0] if optional else kind
    if typing.get_origin(base) is tuple:
        settings |= {"type": float, "nargs": len(typing.get_args(base)), "metavar": ("TRAIN", "VAL")}
    elif base is bool:
        settings |= {"type": parse_bool, "nargs": "?", "const": True, "metavar": "true|false"}
    else:
        settings |= {"type": _nullable(base) if optional else base, "metavar": base.__name__.upper()}
    group.add_argument(*meta["flags"], **settings)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `accelerate_main.py`."""
    parser = Parser(
        prog="accelerate_main.py",
        allow_abbrev=False,
        description="Train a fusion network. Defaults < configs/<Arch>_config.yaml < -c FILE < flags and --set.",
        epilog="Example: python accelerate_main.py --arch LEMamba --dataset wv3 --data_root data -e 800 -b 32",
    )
    parser.add_argument("-c", "--config_file", metavar="FILE", help="YAML with the sections " + ", ".join(SECTIONS))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="set any field")
    parser.add_argument("--resume_path", metavar="RUN|latest", help="go on with a run exactly where it stopped")
    parser.add_argument("--replay", metavar="FILE", help="run a batch saved by the NaN guard again and say what fails")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run of the same name")
    for section, cls in SECTIONS.items():
        group = parser.add_argument_group(section)
        kinds = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.metadata["flags"]:
                _add_flag(group, section, field.name, kinds[field.name], field.metadata)
    return parser


def _set_nested(values: dict[str, Any], dotted: str, value: Any) -> None:
    keys = dotted.split(".")
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {dotted}: {key} holds a value, not further keys")
    values[keys[-1]] = value


def parse(arguments: list[str] | None = None) -> CommandLine:
    """Read the command line (default: sys.argv) into a `CommandLine`; wrong use is a `UserError`."""
    given = vars(build_parser().parse_args(arguments))
    flags: dict[str, Any] = {}
    for key, value in given.items():
        if "." in key:
            _set_nested(flags, key, value)
    for assignment in given["set"]:
        dotted, equals, text = assignment.partition("=")
        if not equals or "." not in dotted or not all(dotted.split(".")):
            raise UserError(f"--set: expected section.key=value, given {assignment!r}")
        _set_nested(flags, dotted, parse_yaml(text, f"--set {dotted}"))
    return CommandLine(flags, given["config_file"], given["resume_path"], given["replay"], given["overwrite"])
