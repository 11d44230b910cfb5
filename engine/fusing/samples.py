"""Fuse every sample of a data set in memory, in batches or in tiles; scene.py is for what does not fit there.

Shapes: ms (N, C, h, w), lms, gt, sr (N, C, H, W), pan (N, P, H, W), N samples of one size.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lemamba.engine.fusing.tiles import fuse
from lemamba.utils.errors import UserError
from lemamba.utils.progress import track


def fuse_samples(
    model: nn.Module,
    dataset: Dataset,
    device: torch.device,
    *,
    tile: int | None = None,
    overlap: int = 16,
    batch: int = 1,
    clip: bool = True,
) -> tuple[dict[str, Tensor], float]:
    """Fuse every sample; return "sr" and the samples' own images by role, on the CPU, and the seconds in the model.

    Args:
        model: a network in evaluation mode or a classical method, or an `lemamba.engine.fusing.runner.Runner` of it.
        dataset: the images, divided by its `divisor`; what is returned is multiplied by it again.
        device: where the model runs.
        tile, overlap: see `engine.fusing.tiles.fuse`; not applied to methods that use statistics of the whole image.
        batch: images, or tiles of one image, that go through the model together.
        clip: clip a learned network's result to [0, 1]; a classical method's never is.

    Raises:
        UserError: a tiling that cannot be, or a result that is not finite.
    """
    if tile and not model.tileable:
        print(f"note: {model.model_name} uses statistics of the whole image, so --tile is not applied")
        tile = None
    clip = clip and not model.classical
    model.to(device)
    together = 1 if tile and tile < max(dataset[0]["lms"].shape[-2:]) else batch
    images: dict[str, list[Tensor]] = {}
    seconds = 0.0
    for first in track(range(0, len(dataset), together), "fusing"):
        samples = [dataset[i] for i in range(first, min(first + together, len(dataset)))]
        sample = {role: torch.stack([one[role] for one in samples]) for role in samples[0]}
        inputs = (sample["ms"], sample["lms"], sample["pan"])
        started = time.perf_counter()
        sr = fuse(model, *inputs, tile=tile, overlap=overlap, tiles_per_batch=batch, device=device)
        seconds += time.perf_counter() - started
        bad = [first + i for i, image in enumerate(sr) if not torch.isfinite(image).all()]
        if bad:
            raise UserError(f"sample {bad[0]}: the result holds NaN or infinite values; check weights and divisor")
        sample["sr"] = sr.clamp(0, 1) if clip else sr
        for role, value in sample.items():
            images.setdefault(role, []).append(value * dataset.divisor)
    return {role: torch.cat(parts) for role, parts in images.items()}, seconds
