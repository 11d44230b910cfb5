"""Fuse a data set or a scene with a method that is ready, and write the images.

Shapes: ms (N, C, h, w), lms, gt, sr (N, C, H, W), pan (N, P, H, W), N samples of one size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemamba.commands.adapting import Adapting, Target, scene_targets
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair import ScenePair
from lemamba.datasets.writers import Output, Pieces, check_output, write_scene
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.scene import fuse_windows, window_boxes
from lemamba.engine.fusing.tiles import fuse, fuse_rows
from lemamba.model.classical.base import Classical
from lemamba.reporting.pictures import choose_bands, quick_look, save_panels
from lemamba.utils.atomic import write_atomically
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.formats.fused import INFO
from lemamba.utils.formats.mat import write_mat
from lemamba.utils.geometry import Geometry
from lemamba.utils.numbers import to_numbers
from lemamba.utils.progress import ProgressBar
from lemamba.utils.sensors import get_sensor

# A further output format is a function and a line here: ending of the file -> writer.
WRITERS: dict[str, Callable[[Path, Mapping[str, Tensor], Mapping[str, Any]], None]] = {
    ".mat": lambda path, images, info: write_mat(path, {r: v.float().numpy() for r, v in images.items()}, info=info),
}


def facts_to_write(dataset: H5Dataset) -> dict[str, Any]:
    """Return what a file of fused images says of them; `lemamba.utils.formats.fused` reads it."""
    facts, attributes = dataset.facts, dataset.contents.attributes
    info: dict[str, Any] = {"sensor": facts.sensor, "divisor": facts.divisor, "ratio": facts.ratio}
    guide = "PAN" if facts.guide_bands == 1 else attributes.get("guide")
    if isinstance(guide, str) and guide:
        info["guide"] = guide
    wavelengths = np.asarray(attributes.get("wavelengths", ()))
    if wavelengths.size == facts.bands and wavelengths.dtype.kind in "iuf":
        info["wavelengths"] = wavelengths.ravel()
    return {f"{INFO}{name}": value for name, value in info.items()}


def check_ending(out: Path, writers: Mapping[str, object]) -> None:
    """Raise a `UserError` unless one of `writers` writes the format that the ending of `out` names."""
    if out.suffix.lower() not in writers:
        raise UserError(f'expected --out to end in {" or ".join(writers)}, given "{out}"; choose another ending')


def fuse_set(runner: Runner, dataset: H5Dataset, *, clip: bool = True) -> tuple[dict[str, Tensor], float]:
    """Fuse every sample of a data set in memory, in batches or in tiles; a method that adapts starts anew for each.

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
    adapts = isinstance(runner.network, Adapting)
    together = 1 if tiling.tile or adapts else tiling.batch or 1
    clipped = clip and runner.traits.clipped
    images: dict[str, list[Tensor]] = {}
    seconds = 0.0
    with ProgressBar("fusing", len(dataset)) as bar:
        for first in range(0, len(dataset), together):
            samples = [dataset[i] for i in range(first, min(first + together, len(dataset)))]
            sample = {role: torch.stack([one[role] for one in samples]) for role in samples[0]}
            started = time.perf_counter()
            if adapts:
                adapt_to(runner, sample["ms"], sample["lms"], sample["pan"], facts.geometry, bar, first)
            fused = fuse(runner, sample["ms"], sample["lms"], sample["pan"], tiling)
            seconds += time.perf_counter() - started
            for i, image in enumerate(fused):
                numbers = to_numbers(image, facts.divisor, clip=clipped, where=f"sample {first + i}: ")
                images.setdefault("sr", []).append(numbers[None])
            for role, value in sample.items():
                images.setdefault(role, []).append(value * facts.divisor)
            bar.update(first + len(samples))
    return {role: torch.cat(parts) for role, parts in images.items()}, seconds


def adapt_to(
    runner: Runner, ms: Tensor, lms: Tensor, pan: Tensor, geometry: Geometry, bar: ProgressBar, done: float = 0.0
) -> None:
    """Adapt a method to one image in memory, (1, ·, ·, ·); the bar moves from `done` towards `done` + 1."""
    method = runner.network
    if isinstance(method, Adapting):
        ms, lms, pan = (x.float().to(runner.device) for x in (ms, lms, pan))
        method.adapt([Target(ms, lms, pan, geometry)], _shown(bar, method.steps, done))


def _shown(bar: ProgressBar, steps: int, done: float = 0.0) -> Callable[[str, int, float], None]:
    return lambda title, step, loss: bar.update(done + step / (steps + 1), f"{title}, loss {loss:.4g}")


def fuse_scene(
    runner: Runner,
    pair: ScenePair,
    out: Path,
    *,
    clip: bool = True,
    trained: Geometry | None = None,
    output: Output | None = None,
    show: bool | None = None,
) -> np.ndarray | None:
    """Fuse a scene that is read by windows into a file that is written by windows, with a progress bar.

    Args:
        runner: the method. A classical one looks at the scene for its statistics first, one that adapts trains on the
            scene, or windows of it; a network fuses tiles.
        pair: the scene.
        out: the file.
        clip: clip to [0, 1] the result of a method that is clipped.
        trained: geometry of the network's training data, see `ScenePair.grid`.
        output: how it is written.
        show: see `lemamba.utils.progress.ProgressBar`.

    Returns:
        The quick-look that `output` asks for, see `write_scene`.

    Raises:
        UserError: an impossible tiling, or what reading and writing refuse.
    """
    check_output(out, pair, output or Output())
    method = runner.network
    if isinstance(method, Adapting):
        targets = scene_targets(pair, runner.device)
        with ProgressBar("training on the scene", 1.0, show) as bar:
            losses = method.adapt(targets, _shown(bar, method.steps))
        if losses:
            place = "the scene" if len(targets) == 1 else f"{len(targets)} windows of the scene"
            print(f"note: trained on {place}: loss {losses[0]:.4g} -> {min(losses):.4g} in the last stage")
    with ProgressBar("fusing", 1.0, show) as bar:
        pieces = _classical(method, pair, bar) if isinstance(method, Classical) else _tiles(runner, pair, trained, bar)
        return write_scene(out, pair, pieces, clip=clip and runner.traits.clipped, output=output)


def save_rgb(path: Path, image: np.ndarray) -> None:
    """Write a quick-look (3, H, W), NaN where there are no data (black), as PNG; 2 to 98 % of each band are shown."""
    from PIL import Image

    seen = image[:, np.isfinite(image).all(0)]
    low, high = np.percentile(seen, (2, 98), axis=1) if seen.size else (np.zeros(3), np.ones(3))
    scaled = (np.moveaxis(image, 0, -1) - low) / np.maximum(high - low, 1e-12)
    picture = np.rint(255 * np.nan_to_num(scaled).clip(0, 1)).astype(np.uint8)
    write_atomically(path, lambda temporary: Image.fromarray(picture).save(temporary, format="PNG"))


def _classical(method: Classical, pair: ScenePair, bar: ProgressBar) -> Pieces:
    method.geometry = pair.facts.geometry  # of the windows that it is given
    boxes = window_boxes(pair.size, pair.facts.bands, pair.block)
    like = torch.empty(1, pair.facts.bands, 0, 0, dtype=pair.dtype)
    return fuse_windows(method, pair.window, boxes, like, lambda what, done, total: bar.update(done / total, what))


def _tiles(runner: Runner, pair: ScenePair, trained: Geometry | None, bar: ProgressBar) -> Pieces:
    """Fuse in tiles on the network's grid and cut the result to the scene."""
    grid, (H, W) = pair.grid(trained), pair.size
    if grid.resampled and not isinstance(runner.network, Adapting):  # these do not look at ms when they fuse
        print(f"note: the scene has {pair.facts.geometry}; its MS pixels are resampled to where the network knows them")
    top, left = (-first for first in grid.first)
    strips = fuse_rows(
        runner,
        grid.read,
        torch.empty(1, pair.facts.bands, 0, 0),
        grid.size,
        ratio=pair.facts.ratio,
        tiling=runner.plan(grid.size, pair.facts.ratio),
        align=pair.block,
        on_progress=lambda done, total: bar.update(done / total),
    )
    for row, strip in strips:
        first, last = max(row, top), min(row + strip.shape[-2], top + H)
        if last > first:
            yield first - top, 0, strip[..., first - row : last - row, left : left + W]


def save_images(images: Mapping[str, Tensor], out: Path, per_image: bool, info: Mapping[str, Any]) -> None:
    """Write one file of all images, (B, C, H, W), or a folder with one output_mulExm_<i>.mat (H, W, C) per image.

    `info` goes into every file, see `facts_to_write`.
    """
    if not per_image:
        WRITERS[out.suffix.lower()](out, images, info)
        return
    for i in range(len(images["sr"])):
        one = {role: value[i].permute(1, 2, 0) for role, value in images.items()}
        WRITERS[".mat"](out / f"output_mulExm_{i}.mat", one, info)


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
