"""One value of a configuration: brought to its declared type and held to its declared bounds. No torch here."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from lemamba.utils.errors import UserError, nearest


def converted(value: Any, kind: Any, where: str) -> Any:
    """Bring a YAML value to the declared type.

    Args:
        value: as YAML or a flag gave it.
        kind: bool, int, float, str, dict[…], tuple[float, float], tuple[float, ...], or one of these or None.
        where: file and key, for the message.

    Raises:
        UserError: the value does not fit. A number may be given as text, as in ``1e-3``; NaN and infinity are refused.
    """
    if isinstance(kind, types.UnionType):
        return None if value is None else converted(value, typing.get_args(kind)[0], where)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _convert_tuple(value, typing.get_args(kind), where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping (key: value), given {value!r}")
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float) and not isinstance(value, bool):
        return _convert_number(value, kind, where)
    raise UserError(f"{where}: expected {_describe(kind)}, given {value!r}")


def _convert_tuple(value: Any, kinds: tuple, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: expected a list of numbers, given {value!r}")
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise UserError(f"{where}: expected {len(kinds)} numbers, given {len(value)}: {list(value)}")
    return tuple(converted(v, kinds[0], where) for v in value)


def _convert_number(value: Any, kind: type, where: str) -> float | int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: expected {_describe(kind)}, given {value!r}") from None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise UserError(f"{where}: expected {_describe(kind)}, given {value!r}")
    return kind(number)


def _describe(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(kind, str(kind))


def check_bounds(value: Any, meta: Mapping[str, Any], where: str) -> None:
    """Raise a `UserError` unless `value` is one of meta["choices"] and at least meta["low"], where these are set."""
    choices, low = meta.get("choices"), meta.get("low")
    if choices and value not in choices:
        raise UserError(f"{where}: expected {' or '.join(choices)}, given {value!r}{nearest(str(value), choices)}")
    if low is not None and value is not None and value < low:
        raise UserError(f"{where}: expected at least {low:g}, given {value:g}")
