"""YAML from strangers: safe tags only, bounded size, depth and expansion, no doubled keys.

An alias may multiply what it names ("billion laughs"), so the *expanded* number of nodes is counted on the graph,
where it costs nothing, before anything is built. `1e-3` is read as a number, as YAML 1.2 and everybody expects.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lemamba.utils.atomic import write_text
from lemamba.utils.errors import UserError

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 32


class _Loader(yaml.SafeLoader):
    """The safe loader, with numbers such as 1e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _expanded_size(node: yaml.Node, depth: int, sizes: dict[int, int]) -> int:
    """Count the nodes below `node` as if every alias were written out; refuse loops, depth and doubled keys."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise UserError("an alias that contains itself is not allowed")
        return sizes[id(node)]
    if depth > MAX_DEPTH:
        raise UserError(f"nested deeper than {MAX_DEPTH} levels")
    sizes[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        double = {k for k in keys if keys.count(k) > 1}
        if double:
            raise UserError(f"key {min(double)!r} is given twice")
    total = 1 + sum(_expanded_size(child, depth + 1, sizes) for child in children)
    if total > MAX_NODES:
        raise UserError(f"more than {MAX_NODES} values once its aliases are written out")
    sizes[id(node)] = total
    return total


def parse_yaml(text: str, source: str = "YAML") -> Any:
    """Parse one YAML document; anything refused is a one-line `UserError` that starts with `source`."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _expanded_size(node, 0, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except RecursionError:
        raise UserError(f"{source}: nested deeper than {MAX_DEPTH} levels") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        # TypeError: an unhashable key such as {[1]: 2}; ValueError: dates and numbers that do not exist
        raise UserError(f"{source}: not valid YAML: {error}; correct the file") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file: a mapping with text keys; missing, too large or wrong files are `UserError`s."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise UserError(f"expected a YAML file, {path} {what}; correct the path")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES} bytes, which no configuration is")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text: {error}; save it as UTF-8") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected sections (data: …, model: …), given {type(values).__name__}")
    return values


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write a mapping as YAML, whole or not at all; where that cannot be done, a `UserError`."""
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
