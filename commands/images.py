"""Fuse a data set or a scene with a method that is ready, and write the images.

Shapes: ms (N, C, h, w), lms, gt, sr (N, C, H, W), pan (N, P, H, W), N samples of one size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair import ScenePair
from lemamba.datasets.writers import Output, check_output, write_scene
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiles import fuse, fuse_rows
from lemamba.reporting.pictures import choose_bands, quick_look, save_panels
from lemamba.utils.atomic import write_atomically
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.mat import write_mat
from lemamba.utils.numbers import to_numbers
from lemamba.utils.progress import ProgressBar, track
from lemamba.utils.sensors import get_sensor

# A further output format is a function and a line here: ending of the file -> writer.
WRITERS: dict[str, Callable[[Path, Mapping[str, Tensor]], None]] = {
    ".mat": lambda path, images: write_mat(path, {role: value.float().numpy() for role, value in images.items()}),
}


def check_ending(out: Path, writers: Mapping[str, object]) -> None:
    """Raise a `UserError` unless one of `writers` writes the format that the ending of `out` names."""
    if out.suffix.lower() not in writers:
        raise UserError(f'expected --out to end in {" or ".join(writers)}, given "{out}"; choose another ending')


def fuse_set(runner: Runner, dataset: H5Dataset, *, clip: bool = True) -> tuple[dict[str, Tensor], float]:
    """Fuse every sample of a data set in memory, in batches or in tiles.

    Args:
        runner: the method; its tiling sets batch and tiles.
        dataset: the images, divided by their divisor.
        clip: clip to [0, 1] the result of a method that is clipped.

    Returns:
        "sr" and the samples' own images by role, in the numbers of the sensor, on the CPU; and the seconds spent in
        the method.

    Raises:
        UserError: an impossible tiling, or a result that is not finite.
    """
    facts = dataset.facts
    H, W = dataset[0]["lms"].shape[-2:]
    tiling = runner.plan((H, W), facts.ratio)
    together = 1 if tiling.tile else tiling.batch or 1
    clipped = clip and runner.traits.clipped
    images: dict[str, list[Tensor]] = {}
    seconds = 0.0
    for first in track(range(0, len(dataset), together), "fusing"):
        samples = [dataset[i] for i in range(first, min(first + together, len(dataset)))]
        sample = {role: torch.stack([one[role] for one in samples]) for role in samples[0]}
        started = time.perf_counter()
        fused = fuse(runner, sample["ms"], sample["lms"], sample["pan"], tiling)
        seconds += time.perf_counter() - started
        for i, image in enumerate(fused):
            numbers = to_numbers(image, facts.divisor, clip=clipped, where=f"sample {first + i}: ")
            images.setdefault("sr", []).append(numbers[None])
        for role, value in sample.items():
            images.setdefault(role, []).append(value * facts.divisor)
    return {role: torch.cat(parts) for role, parts in images.items()}, seconds


def fuse_scene(
    runner: Runner,
    pair: ScenePair,
    out: Path,
    *,
    clip: bool = True,
    memory: float = 4.0,
    output: Output | None = None,
    show: bool | None = None,
) -> np.ndarray | None:
    """Fuse a scene that is read by windows into a file that is written by rows, with a progress bar.

    Args:
        runner: the method. If it uses statistics of the whole image, the scene is fused as a whole, else in tiles.
        pair: the scene; its tensors become float64 if the method computes in float64.
        out: the file.
        clip: clip to [0, 1] the result of a method that is clipped.
        memory: most GiB that fusing as a whole may need.
        output: how it is written.
        show: see `lemamba.utils.progress.ProgressBar`.

    Returns:
        The quick-look that `output` asks for, see `write_scene`.

    Raises:
        UserError: a scene too large for such a method, an impossible tiling, or what reading and writing refuse.
    """
    check_output(out, pair, output or Output())
    traits = runner.traits
    pair.dtype = torch.float64 if traits.float64 else torch.float32
    if not traits.tileable:
        needed = pair.check_memory(memory)
        print(
            f"note: {runner.model_name} uses statistics of the whole image: no tiles, about {needed:.2f} GiB of memory"
        )
    (H, W), ratio = pair.size, pair.facts.ratio
    tiling = runner.plan((H, W), ratio)
    with ProgressBar("fusing", 1.0, show) as bar:
        strips = fuse_rows(
            runner,
            pair.read,
            pair.like,
            (H, W),
            ratio=ratio,
            tiling=tiling,
            align=pair.block,
            on_progress=lambda done, total: bar.update(done / total),
        )
        pieces = ((row, 0, strip) for row, strip in strips)
        return write_scene(out, pair, pieces, clip=clip and traits.clipped, output=output)


def save_rgb(path: Path, image: np.ndarray) -> None:
    """Write a quick-look (3, H, W), NaN where there are no data (black), as PNG; 2 to 98 % of each band are shown."""
    from PIL import Image

    seen = image[:, np.isfinite(image).all(0)]
    low, high = np.percentile(seen, (2, 98), axis=1) if seen.size else (np.zeros(3), np.ones(3))
    scaled = (np.moveaxis(image, 0, -1) - low) / np.maximum(high - low, 1e-12)
    picture = np.rint(255 * np.nan_to_num(scaled).clip(0, 1)).astype(np.uint8)
    write_atomically(path, lambda temporary: Image.fromarray(picture).save(temporary, format="PNG"))


def save_images(images: Mapping[str, Tensor], out: Path, per_image: bool) -> None:
    """Write one file of all images, (B, C, H, W), or a folder with one output_mulExm_<i>.mat (H, W, C) per image."""
    if not per_image:
        WRITERS[out.suffix.lower()](out, images)
        return
    for i in range(len(images["sr"])):
        one = {role: value[i].permute(1, 2, 0) for role, value in images.items()}
        WRITERS[".mat"](out / f"output_mulExm_{i}.mat", one)


def save_pictures(images: Mapping[str, Tensor], folder: Path, facts: DataFacts, count: int) -> list[Path]:
    """Draw the first `count` samples, lms | pan | sr | gt | error, as one PNG each; return their paths.

    Both resolutions of a data set go into one folder, so images without gt are called full_sample_<i>.png.
    """
    arrays = {role: value.numpy() for role, value in images.items()}
    rgb = choose_bands(get_sensor(facts.sensor), arrays["lms"][0], arrays["pan"][0], own=facts.rgb)
    stem, paths = "sample" if facts.has_gt else "full_sample", []
    for i in range(min(count, len(arrays["sr"]))):
        paths.append(folder / f"{stem}_{i}.png")
        save_panels(paths[-1], [quick_look({role: value[i] for role, value in arrays.items()}, rgb)])
    return paths
