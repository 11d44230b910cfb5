"""Fuse a scene that does not fit in memory with a classical method: one look for its statistics, one to fuse.

Boxes are spans (first, end) of rows and columns of sr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from lemamba.operators.window import Span, Window

SIDE = 1024  # of windows, for up to 8 bands
_BANDS = 8

Box = tuple[Span, Span]
Read = Callable[[Box, int], Window | None]


class TwoPass(Protocol):
    """What a classical method is here (`lemamba.model.classical.base.Classical`)."""

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


@torch.inference_mode()
def fuse_windows(
    method: TwoPass,
    read: Read,
    boxes: list[Box],
    like: Tensor,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (first row, first column, sr (1, C, h, w)) of every box.

    The method looks at the scene as often as its statistics need, some not at all; then every window is fused. At any
    time one window with its margins is in memory.

    Args:
        method: the method.
        read: (box, margin) -> window; None where no pixel has data (sr is 0).
        boxes: of the scene, without overlap.
        like: (1, C, ...) of sr, for its bands and dtype.
        on_progress: called with (what is done, boxes done, all boxes), anew in each pass.
    """

    def windows() -> Iterator[Window]:
        for done, box in enumerate(boxes, start=1):
            window = read(box, method.margin)
            if window is not None:
                yield window
            on_progress("statistics", done, len(boxes))

    fitted = method.fit(windows)
    for done, box in enumerate(boxes, start=1):
        (top, bottom), (left, right) = box
        window = read(box, method.margin)
        sr = like.new_zeros(1, like.shape[1], bottom - top, right - left)
        if window is not None:
            sr = window.crop(method.inject(window, fitted))
        on_progress("fusing", done, len(boxes))
        yield top, left, sr
