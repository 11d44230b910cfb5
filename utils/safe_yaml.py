"""Safe YAML loading: plain types only, no duplicate keys, and errors in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lemamba.utils.atomic import write_text
from lemamba.utils.errors import UserError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if double := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"key {min(double)!r} is given twice")
        return super().construct_mapping(node, deep)


# read 1e-3 as a number, as YAML 1.2 does; PyYAML implements 1.1, where it is a text
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, source: str = "YAML") -> Any:
    """Parse one YAML document; anything refused is a one-line `UserError` that starts with `source`."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # TypeError: an unhashable key such as {[1]: 2}; ValueError: dates and numbers that do not exist
        raise UserError(f"{source}: not valid YAML: {error}; correct it") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file, which must hold a mapping; a missing or wrong file is a `UserError`."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"expected a YAML file, {path} {what}; correct the path")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text: {error}; save it as UTF-8") from None
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: expected sections (data: …, model: …), given {type(values).__name__}")
    return values or {}


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write a mapping as YAML; see `lemamba.utils.atomic.renamed`."""
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
