"""The record of a quality index: the facts that tables, boards, model cards and recipes use.

A new index is one file in this folder (and its twin in the MATLAB package)::

    @on_pairs
    @register_index("sam", heading="SAM", direction=-1, unit="degrees", column=1)
    def sam(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor: ...

The function is called by its parameter names; see `Index.needs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

from lemamba.utils.errors import UserError, nearest

F = TypeVar("F", bound=Callable[..., Tensor])
Protocol = Literal["reduced", "full"]


@dataclass(frozen=True)
class Index:
    """Facts about one quality index.

    Attributes:
        name: key in results, files and options, e.g. ``"sam"``.
        heading: name in tables, e.g. ``"SAM"``.
        direction: +1 if larger is better, -1 if smaller is better.
        function: computes it on checked images, float32 or float64, (B, C, H, W) -> (B,) float64. Convert a tile at
            a time (`tiles.py`).
        column: its place among the indices of its protocol.
        protocol: "reduced" (with reference) or "full" (without).
        unit: "" for none.
        digits: decimals shown of a mean.
        matlab: field name in the results of the MATLAB package.
        extra: not among the published ones; measured on request only, see `chosen`.
    """

    name: str
    heading: str
    direction: int
    function: Callable[..., Tensor]
    column: int
    protocol: Protocol = "reduced"
    unit: str = ""
    digits: int = 4
    matlab: str = ""
    extra: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the function's parameters, which must be among these.

        Reduced resolution: sr, gt, mask, ratio, const, published, block. Full resolution: sr, lms, pan, mask, ratio,
        sensor, const, published, bands, block, geometry; or, where none of the three images is needed, ms and its mask
        mask_ms; sr_ms and gt_ms, the fused image reduced to the size of ms, and ms, both without the border that is
        cut, and their mask valid_ms; q_sr and q_lms, the `band_quality` of (sr, pan) and of (lms, low-passed pan); and
        names of indices in columns before its own.
        """
        return tuple(inspect.signature(self.function).parameters)

    def measure(self, known: Mapping[str, Any]) -> Tensor:
        """Call the function with the entries of `known` that it needs."""
        missing = [n for n in self.needs if n not in known]
        if missing:
            raise ValueError(f"index {self.name}: unknown parameter {', '.join(missing)}; known: {', '.join(known)}")
        return self.function(**{n: known[n] for n in self.needs})


_registered: dict[str, Index] = {}


def register_index(name: str, **facts: Any) -> Callable[[F], F]:
    """Register the decorated function as the index `name`; for `facts` see the attributes of `Index`."""

    def register(function: F) -> F:
        if name in _registered and _registered[name].function.__module__ != function.__module__:
            raise ValueError(f"index {name!r} is registered twice, in {function.__module__} too; rename one")
        _registered[name] = Index(name=name, function=function, **({"matlab": name} | facts))
        return function

    return register


def registered(protocol: Protocol, extra: bool = False) -> dict[str, Index]:
    """Return the published (or the extra) indices of a protocol by name, in the order of their columns."""
    found = (i for i in _registered.values() if i.protocol == protocol and i.extra == extra)
    return {i.name: i for i in sorted(found, key=lambda i: (i.column, i.name))}


def chosen(protocol: Protocol, extra: str | Sequence[str] = ()) -> dict[str, Index]:
    """Return the published indices of a protocol and the extra ones that are asked for.

    Args:
        protocol: "reduced" or "full".
        extra: names, as a sequence or as text with commas; "all" for all. Published names may be among them.

    Raises:
        UserError: an unknown name, or one of the other protocol.
    """
    published, others = registered(protocol), registered(protocol, extra=True)
    names = [n.strip() for n in extra.split(",") if n.strip()] if isinstance(extra, str) else list(extra)
    if names == ["all"]:
        names = list(others)
    for name in names:
        if name in published or name in others:
            continue
        if name in _registered:
            raise UserError(f"index {name} is of {_registered[name].protocol} resolution; known here: {_list(others)}")
        raise UserError(f"unknown index {name!r}{nearest(str(name), _registered)}; known: {_list(others)}, all")
    return published | {name: index for name, index in others.items() if name in names}


def _list(indices: Mapping[str, Index]) -> str:
    return ", ".join(indices)
