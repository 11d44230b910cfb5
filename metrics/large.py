"""Images that stay in their files: what an index cuts out of one is read when it computes with it.

Indices work tile by tile (`tiles.py`), so on a `LargeImage` they give the numbers they give on a tensor, and memory
does not grow with the image. An index that asks for more than a tile's worth at once is refused.
Legend: C bands, H W size, r ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lemamba.utils.errors import UserError

Read = Callable[[slice, slice], Tensor]
MOST = 2**24  # values that may be read at once
_SIDE = 256  # of the parts in which sums and ranges are formed
_RECENT = 4  # parts that are kept: an index takes the bands of one after the other, and a mask with them


class LargeImage:
    """A view of an image that is read by parts; slices are views, anything else computes with the pixels.

    Args:
        read: (rows, columns) -> (C, h, w); may be called by several threads.
        size: (C, H, W).
        dtype: of what is read: float32, float64, or bool for a mask.
        stored: NumPy dtype of the file, for its usual peak.
    """

    device = torch.device("cpu")
    requires_grad = False

    def __init__(self, read: Read, size: Sequence[int], dtype: torch.dtype, stored: Any = None) -> None:
        self.dtype, self.stored = dtype, stored
        self._recent = lru_cache(_RECENT)(lambda top, bottom, left, right: read(slice(top, bottom), slice(left, right)))
        self._bands: list[int] = list(range(size[0]))
        self._all = size[0]
        self._rows, self._columns = (0, int(size[1])), (0, int(size[2]))
        self._batched, self._banded = True, True

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, C, H, W), or without the axes that were indexed away."""
        size = (self._rows[1] - self._rows[0], self._columns[1] - self._columns[0])
        return (*((1,) if self._batched else ()), *((len(self._bands),) if self._banded else ()), *size)

    def tensor(self) -> Tensor:
        """Read the view; a `UserError` if it is larger than `MOST`."""
        if self.numel() > MOST:
            raise UserError(
                f"an index needs the whole image of {'x'.join(map(str, self.shape))} in memory; leave it out "
                "(--indices), or measure a part (gdal_translate -srcwin)"
            )
        pixels = self._recent(*self._rows, *self._columns)
        if self._bands != list(range(self._all)):
            pixels = pixels[self._bands]
        pixels = pixels if self._banded else pixels[0]
        return pixels[None] if self._batched else pixels

    # -- views ---------------------------------------------------------------------------------------------------

    def _view(self, **changed: Any) -> LargeImage:
        view = LargeImage.__new__(LargeImage)
        view.__dict__ |= self.__dict__ | changed
        return view

    def __getitem__(self, key: Any) -> Any:
        keys = list(key) if isinstance(key, tuple) else [key]
        dims = len(self.shape)
        if any(k is Ellipsis for k in keys):
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (dims - len(keys) + 1)
        keys += [slice(None)] * (dims - len(keys))
        if len(keys) != dims or not all(isinstance(k, int | slice | list) for k in keys):
            return self.tensor()[key]
        changed: dict[str, Any] = {}
        if self._batched:
            first = keys.pop(0)
            if isinstance(first, int):
                changed["_batched"] = False
        if self._banded:
            first = keys.pop(0)
            bands = [self._bands[i] for i in first] if isinstance(first, list) else self._bands[first]
            changed |= {"_bands": bands} if isinstance(bands, list) else {"_bands": [bands], "_banded": False}
        for name, k in zip(("_rows", "_columns"), keys, strict=True):
            if not isinstance(k, slice) or k.step not in (None, 1):
                return self.tensor()[key]
            start, end = getattr(self, name)
            low, high, _ = k.indices(end - start)
            changed[name] = (start + low, start + max(low, high))
        return self._view(**changed)

    def narrow(self, dim: int, start: int, length: int) -> LargeImage:
        """As `Tensor.narrow`, along rows and columns."""
        part = slice(start, start + length)
        return self[..., part, :] if dim % self.dim() == self.dim() - 2 else self[..., part]

    def detach(self) -> LargeImage:
        """Return itself: it has no gradient."""
        return self

    def unbind(self) -> list[LargeImage]:
        """Return the parts along the first axis."""
        return list(self)

    def __iter__(self) -> Iterator[LargeImage]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def is_complex(self) -> bool:
        """False."""
        return False

    # -- computing -----------------------------------------------------------------------------------------------

    def parts(self) -> Iterator[Tensor]:
        """Yield the view in parts that meet without overlap."""
        H, W = self.shape[-2:]
        for top in range(0, H, _SIDE):
            for left in range(0, W, _SIDE):
                yield self[..., top : min(top + _SIDE, H), left : min(left + _SIDE, W)].tensor()

    def sum(self, dim: Any = None) -> Tensor:
        """Sum of all values in float64 (or whole numbers), or over the last two axes."""
        return self._over(dim, torch.add, torch.sum)

    def amax(self, dim: Any = None) -> Tensor:
        """Largest value, of all or over the last two axes."""
        return self._over(dim, torch.maximum, torch.amax)

    def amin(self, dim: Any = None) -> Tensor:
        """Smallest value, of all or over the last two axes."""
        return self._over(dim, torch.minimum, torch.amin)

    def _over(self, dim: Any, combine: Callable[[Tensor, Tensor], Tensor], reduce: Callable[..., Tensor]) -> Tensor:
        total: Tensor | None = None
        for part in self.parts():
            part = part.double() if part.is_floating_point() and reduce is torch.sum else part
            own = reduce(part, dim=(-2, -1))
            total = own if total is None else combine(total, own)
        assert total is not None
        kept = len(self.shape) - 2
        asked = set(range(len(self.shape))) if dim is None else {d % len(self.shape) for d in dim}
        if not {kept, kept + 1} <= asked:
            raise UserError("an index reduces an image along its bands, which cannot be done by parts; leave it out")
        for axis in sorted(asked - {kept, kept + 1}, reverse=True):
            total = reduce(total, dim=axis)
        return total

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("new_zeros", "new_empty", "new_tensor"):
            return getattr(torch.empty(0, dtype=self.dtype), name)
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let torch's functions and operators take the pixels."""

        def read(value: Any) -> Any:
            if isinstance(value, LargeImage):
                return value.tensor()
            return type(value)(map(read, value)) if isinstance(value, list | tuple) else value

        return function(*map(read, args), **{name: read(value) for name, value in (kwargs or {}).items()})

    # -- other images made of it ---------------------------------------------------------------------------------

    def made(self, part: Callable[[slice, slice], Tensor], size: tuple[int, int], dtype: torch.dtype) -> LargeImage:
        """Return an image with the bands of this whole one, made part by part.

        Args:
            part: (rows, columns) of the new image -> (C, h, w).
            size: (H, W) of it.
            dtype: of it.
        """
        return LargeImage(part, (len(self._bands), *size), dtype, self.stored)

    def where(self, mask: LargeImage) -> LargeImage:
        """Return the image with 0 where a mask (1, 1, H, W) is False."""

        def part(rows: slice, columns: slice) -> Tensor:
            return torch.where(mask[0, :, rows, columns].tensor(), self[0, :, rows, columns].tensor(), 0.0)

        return self.made(part, self.shape[-2:], self.dtype)  # type: ignore[arg-type]
