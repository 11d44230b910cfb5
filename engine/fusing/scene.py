"""Fuse a scene that is read by windows and written by rows: tiles where the method allows it, else as a whole.

Legend: H, W size of the scene in pixels of sr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lemamba.engine.fusing.tiles import fuse_rows
from lemamba.utils.progress import ProgressBar

TILE = 256  # side of tiles unless another is asked for


def fuse_scene(
    model: nn.Module,
    pair: Any,
    out: Path,
    *,
    tile: int | None = None,
    overlap: int = 32,
    batch: int = 1,
    clip: bool = True,
    memory: float = 4.0,
    device: torch.device,
    show: bool | None = None,
) -> None:
    """Fuse `pair` into the file `out`, with a progress bar.

    Args:
        model: a network in evaluation mode or a classical method; classical ones get float64 and are never clipped.
        pair: an opened scene with `size` (H, W), `ratio`, `like`, `dtype`, `block`, `read`, `write`, `check_memory`
            (`lemamba.datasets.geotiff.ScenePair`).
        out: the file.
        tile: side of tiles in pixels of sr; None = `TILE`. Not applied to methods that use statistics of the image.
        overlap: see `lemamba.engine.fusing.tiles.fuse_rows`.
        batch: tiles that go through the network together.
        clip: clip a network's result to [0, 1].
        memory: GiB that a method may need which takes the scene as a whole.
        device: where the method runs.
        show: see `lemamba.utils.progress.ProgressBar`.

    Raises:
        UserError: too large a scene for such a method, a tiling that cannot be, or what reading and writing refuse.
    """
    pair.dtype = torch.float64 if model.classical else torch.float32
    if model.tileable:
        tile = tile or TILE
    else:
        needed = pair.check_memory(memory)
        print(
            f"note: {model.model_name} uses statistics of the whole image: no tiles, about {needed:.2f} GiB of memory"
        )
        tile = None
    tiling = {"ratio": pair.ratio, "tile": tile, "overlap": overlap, "tiles_per_batch": batch, "align": pair.block}
    model.to(device)
    with ProgressBar("fusing", 1.0, show) as bar:
        report = {"on_progress": lambda done, total: bar.update(done / total)}
        strips = fuse_rows(model, pair.read, pair.like, pair.size, **tiling, device=device, **report)
        pair.write(out, strips, clip=clip and not model.classical)
