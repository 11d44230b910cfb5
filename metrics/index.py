"""The record of a quality index: everything that tables, boards, model cards and recipes need to know about it.

A new index is one file in this folder (and its twin in the MATLAB package)::

    @on_pairs
    @register_index("sam", heading="SAM", direction=-1, unit="degrees", column=1)
    def sam(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor: ...

The names of the function's parameters are what it is given; see `Index.measure`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

F = TypeVar("F", bound=Callable[..., Tensor])
Protocol = Literal["reduced", "full"]


@dataclass(frozen=True)
class Index:
    """Facts about one quality index.

    Attributes:
        name: key in results, files and options, e.g. ``"sam"``.
        heading: name in tables, e.g. ``"SAM"``.
        direction: +1 if larger is better, -1 if smaller is better.
        function: computes it on checked float64 images, (B, C, H, W) -> (B,).
        column: its place among the indices of its protocol.
        protocol: "reduced" (with reference) or "full" (without).
        unit: "" for none.
        digits: decimals shown of a mean.
        matlab: field name in the results of the MATLAB package.
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

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what the function is given.

        Reduced resolution: sr, gt, mask, ratio, const, published. Full resolution: sr, lms, pan, mask, ratio, sensor,
        const, published, bands; q_sr and q_lms, the `band_quality` of (sr, pan) and of (lms, low-passed pan); and names
        of indices in columns before its own.
        """
        return tuple(inspect.signature(self.function).parameters)

    def measure(self, known: Mapping[str, Any]) -> Tensor:
        """Call the function with what it needs out of `known`."""
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


def registered(protocol: Protocol) -> dict[str, Index]:
    """Return the indices of a protocol by name, in the order of their columns."""
    chosen = (i for i in _registered.values() if i.protocol == protocol)
    return {i.name: i for i in sorted(chosen, key=lambda i: (i.column, i.name))}
