"""Fuse a scene that does not fit in memory with a classical method: one look for its statistics, one to fuse.

Boxes are spans (first, end) of rows and columns of sr.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lemamba.operators.window import Span, Window
from lemamba.utils.threads import ahead, in_order, two_at_once

SIDE = 1024  # of windows, for up to 8 bands
_BANDS = 8
QUICK = 2**30  # numbers of a result that a classical method computes again in the time that keeping its strips takes

Box = tuple[Span, Span]
Read = Callable[[Box, int], Window | None]


class TwoPass(Protocol):
    """What a classical method is here (`lemamba.model.classical.base.Classical`)."""

    light: bool  # whether a window takes so little memory that two may be computed at once

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        ...

    def fit(self, windows: Callable[[], Iterator[Window]]) -> Any:
        """Look at the whole scene."""
        ...

    def inject(self, window: Window, fitted: Any) -> Tensor:
        """Fuse a window."""
        ...


def window_boxes(size: tuple[int, int], bands: int, block: int) -> list[Box]:
    """Return square windows that cover (H, W), row by row, on multiples of `block`: smaller ones for many bands."""
    side = SIDE
    while side > block and bands * side * side > _BANDS * SIDE * SIDE:
        side //= 2
    side = max(block, side // block * block)
    H, W = size
    return [
        ((top, min(top + side, H)), (left, min(left + side, W)))
        for top in range(0, H, side)
        for left in range(0, W, side)
    ]


def strip_rows(boxes: list[Box]) -> list[Span]:
    """Return the strips of a scene: the rows of windows of its full width, top to bottom."""
    return sorted({rows for rows, _ in boxes})


def is_quick(size: tuple[int, int], bands: int) -> bool:
    """Return whether a classical method fuses (H, W) sooner than strips for a later `--resume` would pay."""
    return size[0] * size[1] * bands <= QUICK


@torch.inference_mode()
def _read(read: Read, boxes: list[Box], margin: int) -> Iterator[Window | None]:
    for box in boxes:
        yield read(box, margin)


@torch.inference_mode()
def fit_scene(
    method: TwoPass, read: Read, boxes: list[Box], on_progress: Callable[[int, int], None] = lambda *_: None
) -> Any:
    """Let a method look at the scene as often as its statistics need, some not at all; return what it has learnt.

    The next window is read while one is looked at, or two of a method that is `light`.

    Args:
        method: the method.
        read: (box, margin) -> window; None where no pixel has data.
        boxes: all of the scene, without overlap.
        on_progress: called with (boxes done, all boxes), anew in each pass.
    """

    def windows() -> Iterator[Window]:
        for done, window in enumerate(ahead(_read(read, boxes, method.margin)), start=1):
            if window is not None:
                yield window
            on_progress(done, len(boxes))

    with two_at_once(method.light):
        return method.fit(windows)


@torch.inference_mode()
def fuse_windows(
    method: TwoPass, fitted: Any, read: Read, boxes: list[Box], like: Tensor
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (first row, first column, sr (1, C, h, w)) of every box.

    The next window is read while one is fused, or two of a method that is `light`.

    Args:
        method: the method.
        fitted: what `fit_scene` returned for the whole scene.
        read: (box, margin) -> window; None where no pixel has data (sr is 0).
        boxes: those to fuse.
        like: (1, C, ...) of sr, for its bands and dtype.
    """

    def fused(window: Window | None) -> Tensor | None:
        return None if window is None else window.crop(method.inject(window, fitted))

    with two_at_once(method.light):
        for box, sr in zip(boxes, in_order(fused, ahead(_read(read, boxes, method.margin))), strict=True):
            (top, bottom), (left, right) = box
            yield top, left, like.new_zeros(1, like.shape[1], bottom - top, right - left) if sr is None else sr


def numbers_name(value: Any) -> str:
    """Return a text that names the numbers in statistics: tensors, numbers, and dataclasses and tuples of them."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, Tensor):
            digest.update(f"{tuple(item.shape)} {item.dtype}".encode() + item.cpu().contiguous().numpy().tobytes())
        elif is_dataclass(item):
            for part in fields(item):
                add(getattr(item, part.name))
        elif isinstance(item, list | tuple):
            for part in item:
                add(part)
        else:
            digest.update(repr(item).encode())

    add(value)
    return digest.hexdigest()
