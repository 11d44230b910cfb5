"""Pictures of large images for an HTML page: a pyramid of 8-bit tiles in WebP, within a limit of bytes.

Level l holds means of 2^l x 2^l pixels, cut into tiles of `SIDE`. The page decodes a tile when it is visible. Finest
levels that would not fit at the lowest quality are left out. Pillow is imported when a tile is encoded.
Legend: H W size, h w size of a level.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lemamba.reporting.blocks import SIDE, Draw, blocks, shrunk_size

QUALITIES = (85, 75, 65, 55, 45, 35, 25)  # of WebP; below the last one, fine texture is gone
_SAMPLED = 12  # tiles of a picture that are encoded to find the quality
_MARGIN = 1.1  # on the size that they promise
_COARSER = 1.4  # all levels to the finest one: a third more pixels, with more bits in each


@dataclass(frozen=True)
class Picture:
    """One image of a pyramid.

    Attributes:
        draw: draws a part of it.
        size: (H, W).
        finest: levels below it hold nothing that it does not.
    """

    draw: Draw
    size: tuple[int, int]
    finest: int = 0


def encoded(pixels: np.ndarray, quality: int) -> str:
    """Return (h, w, 4) uint8 as base64 of a WebP file."""
    from PIL import Image

    opaque = bool((pixels[..., 3] == 255).all())
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., :3] if opaque else pixels)).save(
        data, "WEBP", quality=quality, method=4
    )
    return base64.b64encode(data.getvalue()).decode()


def _halved(pixels: np.ndarray) -> np.ndarray:
    """Return means of 2 x 2 pixels (h, w, 4); transparent where one of them is, edges repeated."""
    padded = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
    four = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, 4)
    means = np.round(four.mean(axis=(1, 3))).astype(np.uint8)
    means[..., 3] = four[..., 3].min(axis=(1, 3))
    return means


def _drawn(picture: Picture, level: int, rows: slice, columns: slice) -> np.ndarray:
    """Return a part of a level, (h, w, 4); no more than a block of the image is read at once."""
    if level == 0:
        return picture.draw(rows, columns)
    h, w = shrunk_size(picture.size, 2 ** (level - 1))
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start, 4), np.uint8)
    for inner in blocks(out.shape[:2], SIDE // 2):
        wide = (
            slice(2 * (span.start + at.start), min(2 * (span.start + at.stop), end))
            for span, at, end in zip((rows, columns), inner, (h, w), strict=True)
        )
        out[inner] = _halved(_drawn(picture, level - 1, *wide))
    return out


def pyramid(
    pictures: Mapping[str, Picture], levels: int, room: int, on_progress: Callable[[float], None] = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Return key -> {"first": finest level, "levels": [its tiles, row by row, …]}, at most `room` characters of base64.

    Args:
        pictures: of one size.
        levels: how many there are below the pixel values, which the page has as well.
        room: for all pictures together.
        on_progress: called with the part that is done, 0 to 1.
    """
    for first in range(levels):
        chosen = {key: replace(one, finest=max(one.finest, first)) for key, one in pictures.items()}
        chosen = {key: one for key, one in chosen.items() if one.finest < levels}
        fitting = _fitting(chosen, room)
        for quality in QUALITIES[fitting:]:
            found = _encoded(chosen, levels, quality, room, on_progress)
            if found is not None:
                return found
    return {}


def _fitting(pictures: Mapping[str, Picture], room: int) -> int:
    """Return the number of the best of `QUALITIES` at which the pictures probably fit."""
    samples = {key: _samples(one) for key, one in pictures.items()}
    for number, quality in enumerate(QUALITIES):
        expected = 0.0
        for key, one in pictures.items():
            h, w = shrunk_size(one.size, 2**one.finest)
            mean = sum(len(encoded(pixels, quality)) for pixels in samples[key]) / sum(
                pixels[..., 0].size for pixels in samples[key]
            )
            expected += _COARSER * mean * h * w
        if _MARGIN * expected <= room:
            return number
    return len(QUALITIES)


def _samples(picture: Picture) -> list[np.ndarray]:
    """Return tiles of the finest level, spread over the picture."""
    all_tiles = list(blocks(shrunk_size(picture.size, 2**picture.finest)))
    count = min(_SAMPLED, len(all_tiles))
    chosen = [all_tiles[(2 * i + 1) * len(all_tiles) // (2 * count)] for i in range(count)]
    return [_drawn(picture, picture.finest, *tile) for tile in chosen]


def _encoded(
    pictures: Mapping[str, Picture], levels: int, quality: int, room: int, on_progress: Callable[[float], None]
) -> dict[str, dict[str, Any]] | None:
    """Return the tiles at a quality, None as soon as they are more than `room`."""
    found: dict[str, dict[str, Any]] = {}
    used = 0
    for number, (key, one) in enumerate(pictures.items()):
        h, w = shrunk_size(one.size, 2**one.finest)
        level = np.empty((*shrunk_size((h, w), 2), 4), np.uint8)
        tiles: list[list[str]] = [[]]
        grid = list(blocks((h, w)))
        for done, (rows, columns) in enumerate(grid):
            pixels = _drawn(one, one.finest, rows, columns)
            tiles[0].append(encoded(pixels, quality))
            used += len(tiles[0][-1]) + 3  # quotes and comma
            if used > room:
                return None
            half = _halved(pixels)
            top, left = rows.start // 2, columns.start // 2
            level[top : top + half.shape[0], left : left + half.shape[1]] = half
            on_progress((number + (done + 1) / len(grid)) / len(pictures))
        for _ in range(one.finest + 1, levels):
            tiles.append([encoded(level[block], quality) for block in blocks(level.shape[:2])])
            used += sum(len(text) + 3 for text in tiles[-1])
            level = _halved(level)
        found[key] = {"first": one.finest, "levels": tiles}
    return found if used <= room else None
