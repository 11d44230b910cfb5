"""How images are cut and computed while they are fused: one value instead of four arguments that travel together."""

from __future__ import annotations

from dataclasses import dataclass

OVERLAP = 32  # pixels of sr; 16 has seams of up to 57 of 2047 (docs/geotiff.md)


@dataclass(frozen=True)
class Tiling:
    """Tiles, batch and precision of a fusion.

    Attributes:
        tile: side of tiles in pixels of sr; None = whole images.
        overlap: pixels of sr shared by neighbouring tiles.
        batch: images or tiles that go through the network together; None = by their size and the device.
        precision: "no" (float32), "bf16" or "fp16", the words of `--mixed_precision`.
    """

    tile: int | None = None
    overlap: int = OVERLAP
    batch: int | None = None
    precision: str = "no"
