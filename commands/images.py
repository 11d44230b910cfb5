"""Fuse a data set or a scene with a method that is ready, and write the images.

Shapes: ms (N, C, h, w), lms, gt, sr (N, C, H, W), pan (N, P, H, W), N samples of one size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lemamba.commands.adapting import Adapting, Target, scene_targets
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair import ScenePair
from lemamba.datasets.raster import Span, Window
from lemamba.datasets.strips import Strips, StripWriter, hidden_folder, remove_folder
from lemamba.datasets.writers import SCENE_WRITERS, VRT, Output, Pieces, Preview, Put, check_output, write_scene
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.scene import fit_scene, fuse_windows, is_quick, numbers_name, strip_rows, window_boxes
from lemamba.engine.fusing.shares import first_alone, together
from lemamba.engine.fusing.tiles import fuse, fuse_rows
from lemamba.engine.training.ranks import Ranks
from lemamba.model.classical.base import Classical
from lemamba.model.classical.unseen import CELL
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
from lemamba.utils.threads import Behind

# A further output format is a function and a line here: ending of the file -> writer.
WRITERS: dict[str, Callable[[Path, Mapping[str, Tensor], Mapping[str, Any]], None]] = {
    ".mat": lambda path, images, info: write_mat(path, {r: v.float().numpy() for r, v in images.items()}, info=info),
}


def facts_to_write(dataset: H5Dataset) -> dict[str, Any]:
    """Return what a file of fused images says of them; `lemamba.utils.formats.fused` reads it."""
    facts, attributes = dataset.facts, dataset.contents.attributes
    info: dict[str, Any] = {"sensor": facts.sensor, "divisor": facts.divisor, "ratio": facts.ratio}
    if facts.geometry is not None and facts.geometry != Geometry.toolbox(facts.ratio):
        info["offset"] = np.array(facts.geometry.offset)
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
    job: str = "",
    resume: bool = False,
    ranks: Ranks | None = None,
) -> np.ndarray | None:
    """Fuse a scene that is read by windows into a file that is written by windows, with a progress bar.

    Pixels are read ahead and written behind the computing. A scene of more than one strip is kept in strips next to
    `out` until it is complete (`lemamba.datasets.strips`); several processes share them, and rank 0 joins them. One
    process with a classical method needs none, unless the scene is very large (`is_quick`).

    Args:
        runner: the method. A classical one looks at the scene for its statistics first, one that adapts trains on the
            scene, or windows of it; a network fuses tiles.
        pair: the scene.
        out: the file.
        clip: clip to [0, 1] the result of a method that is clipped.
        trained: geometry of the network's training data, see `ScenePair.grid`.
        output: how it is written.
        show: see `lemamba.utils.progress.ProgressBar`.
        job: names everything the result depends on (`job_name`); "" = it cannot be continued.
        resume: continue with the strips that a killed run of the same job left.
        ranks: the processes that share the scene, all of which call this; None = those of this job.

    Returns:
        The quick-look that `output` asks for, see `write_scene`; None on other ranks than 0.

    Raises:
        UserError: an impossible tiling, or what reading and writing refuse.
    """
    output, ranks = output or Output(), ranks or Ranks()
    check_output(out, pair, output)
    spans = strip_rows(window_boxes(pair.size, pair.facts.bands, pair.block))
    with ProgressBar("fusing", 1.0, show if ranks.main else False) as bar:
        method, strips = runner.network, Strips(out, pair, output, spans)
        learnt: dict[str, Tensor] | None = None
        work: _Work
        if isinstance(method, Classical):
            work = _Windows(method, pair, bar, ranks)
        else:
            if isinstance(method, Adapting):
                kept = job if resume else ""
                learnt = first_alone(ranks, lambda: strips.learnt(kept) or _adapted(runner, pair, bar))
            work = _Tiles(runner, pair, trained, learnt)
        clipped = clip and runner.traits.clipped
        direct = isinstance(method, Classical) and ranks.world == 1 and is_quick(pair.size, pair.facts.bands)
        if (len(spans) > 1 and not direct) or out.suffix.lower() == VRT:
            return _in_strips(strips, work, bar, clipped, (job, work.fitted_name, resume), ranks, learnt)
        remove_folder(hidden_folder(out))  # of a run that was killed
        return together(ranks, lambda: _whole(out, pair, output, work, bar, clipped) if ranks.main else None)


class _Work(Protocol):
    """What fuses rows of a scene; `fitted_name` names the statistics of the scene that it uses."""

    fitted_name: str
    in_boxes: bool  # whether the pieces are the windows of `window_boxes`, strip by strip

    def fuse(self, rows: Span, on_progress: Callable[[float], None]) -> Pieces:
        """Yield the pieces of these rows; `on_progress` takes the part that is done, 0 to 1."""
        ...


def _whole(out: Path, pair: ScenePair, output: Output, work: _Work, bar: ProgressBar, clip: bool) -> np.ndarray | None:
    return write_scene(out, pair, work.fuse((0, pair.size[0]), bar.update), clip=clip, output=output)


def _in_strips(
    strips: Strips,
    work: _Work,
    bar: ProgressBar,
    clip: bool,
    job: tuple[str, str, bool],
    ranks: Ranks,
    learnt: dict[str, Tensor] | None,
) -> np.ndarray | None:
    """Fuse the strips that are missing, this rank's share of them, and join all on rank 0."""
    missing = first_alone(ranks, lambda: strips.begin(*job))
    if learnt is not None and job[0] and ranks.main:
        strips.keep_learnt(learnt)
    share = missing[len(missing) * ranks.rank // ranks.world : len(missing) * (ranks.rank + 1) // ranks.world]
    try:
        with _Joined(strips) if ranks.main else nullcontext(_Joined(strips)) as joined:
            added = joined.add_ready if ranks.main else lambda _: None
            writer = StripWriter(strips, clip, added, joined.add if work.in_boxes and ranks.world == 1 else _ignored)
            together(ranks, lambda: _fuse_strips(strips, share, work, bar, writer))
            if not ranks.main:
                return None
            joined.add_ready()
        if strips.stay:
            strips.join()
        strips.remove()
        return joined.preview.image
    except UserError:
        if ranks.main and not job[2]:
            strips.remove()
        raise
    except KeyboardInterrupt:
        if job[0] and ranks.main:
            print(f"note: the strips that are done are kept in {strips.folder}; add --resume to continue")
        raise


def _ignored(*_: Any) -> None:
    pass


def _fuse_strips(strips: Strips, share: list[int], work: _Work, bar: ProgressBar, writer: StripWriter) -> None:
    """Fuse strips; neighbouring ones in one go."""
    begun = 0.0
    with writer as put, Behind(put, depth=1) as behind:
        for _, group in groupby(enumerate(share), key=lambda pair: pair[1] - pair[0]):
            run = [i for _, i in group]
            part = len(run) / len(share)
            rows = strips.spans[run[0]][0], strips.spans[run[-1]][1]
            for piece in work.fuse(rows, lambda f, a=begun, b=part: bar.update(a + b * f, "fusing")):  # type: ignore[misc]
                behind(piece)
            begun += part


class _Joined:
    """The result, into which strips are copied in their order as soon as they are there, or the pieces they consist of.

    Both ways write the same windows in the same order, so the files have the same bytes.
    """

    def __init__(self, strips: Strips) -> None:
        self.strips, self.preview = strips, Preview(strips.pair, strips.output)
        self._next, self._added = 0, -1  # the strip that follows; the one whose pieces are added
        self._boxes = window_boxes(strips.pair.size, strips.pair.facts.bands, strips.pair.block)
        self._files = ExitStack()

    def __enter__(self) -> _Joined:
        out, strips = self.strips.out, self.strips
        self._put: Put | None = None
        if not strips.stay:
            self._put = self._files.enter_context(SCENE_WRITERS[out.suffix.lower()](out, strips.pair, strips.output))
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def add(self, i: int, window: Window, numbers: np.ndarray) -> None:
        """Take a piece of strip `i` if it is the one that follows; the pieces of a strip come one after the other."""
        if i != self._added:
            self.add_ready()
        if self._put is not None and i == self._next:
            self._added = i
            self._put(window, numbers)

    def add_ready(self, _: int = 0) -> None:
        """Copy the strips that follow."""
        strips = self.strips
        while self._next < len(strips.spans) and strips.path(self._next).is_file():
            span = strips.spans[self._next]
            if self._put is not None and self._added != self._next:
                for window, numbers in strips.read(self._next, [box for box in self._boxes if box[0] == span]):
                    self._put(window, numbers)
            strips.read_preview(self._next, self.preview)
            self._next += 1


def save_rgb(path: Path, image: np.ndarray) -> None:
    """Write a quick-look (3, H, W), NaN where there are no data (black), as PNG; 2 to 98 % of each band are shown."""
    from PIL import Image

    seen = image[:, np.isfinite(image).all(0)]
    low, high = np.percentile(seen, (2, 98), axis=1) if seen.size else (np.zeros(3), np.ones(3))
    scaled = (np.moveaxis(image, 0, -1) - low) / np.maximum(high - low, 1e-12)
    picture = np.rint(255 * np.nan_to_num(scaled).clip(0, 1)).astype(np.uint8)
    write_atomically(path, lambda temporary: Image.fromarray(picture).save(temporary, format="PNG"))


def _adapted(runner: Runner, pair: ScenePair, bar: ProgressBar) -> dict[str, Tensor]:
    """Train a method that adapts on the scene; return its weights."""
    method = runner.network
    assert isinstance(method, Adapting)
    targets = scene_targets(pair, runner.device)
    losses = method.adapt(targets, _shown(bar, method.steps))
    if losses:
        place = "the scene" if len(targets) == 1 else f"{len(targets)} windows of the scene"
        print(f"note: trained on {place}: loss {losses[0]:.4g} -> {min(losses):.4g} in the last stage")
    return {name: value.cpu() for name, value in method.state_dict().items()}


class _Windows:
    """A classical method, fitted to the whole scene by rank 0."""

    in_boxes = True

    def __init__(self, method: Classical, pair: ScenePair, bar: ProgressBar, ranks: Ranks) -> None:
        method.geometry = pair.facts.geometry  # of the windows that it is given
        method.other_units = pair.pan_factor != 1
        self._method, self._pair = method, pair
        self._boxes = window_boxes(pair.size, pair.facts.bands, pair.block)
        self._fitted = first_alone(
            ranks,
            lambda: fit_scene(method, pair.window, self._boxes, lambda n, all_: bar.update(n / all_, "statistics")),
        )
        self.fitted_name = numbers_name(self._fitted)
        if ranks.main and getattr(self._fitted, "unseen", None) is not None:
            print(
                "note: PAN sees light that no band of MS sees; what they differ by, averaged over "
                f"{CELL} x {CELL} MS pixels, is not taken for details"
            )

    def fuse(self, rows: Span, on_progress: Callable[[float], None]) -> Pieces:
        boxes = [box for box in self._boxes if rows[0] <= box[0][0] < rows[1]]
        like = torch.empty(1, self._pair.facts.bands, 0, 0, dtype=self._pair.dtype)
        pieces = fuse_windows(self._method, self._fitted, self._pair.window, boxes, like)
        for done, piece in enumerate(pieces, start=1):
            on_progress(done / len(boxes))
            yield piece


class _Tiles:
    """A network, in tiles on its own grid; the result is cut to the scene. `learnt`: weights adapted to the scene."""

    in_boxes = False

    def __init__(
        self, runner: Runner, pair: ScenePair, trained: Geometry | None, learnt: dict[str, Tensor] | None
    ) -> None:
        self._runner, self._pair, self._grid = runner, pair, pair.grid(trained)
        self.fitted_name = ""
        if learnt is not None:
            runner.network.load_state_dict(learnt)
            self.fitted_name = numbers_name(list(learnt.values()))
        elif self._grid.resampled:  # a method that adapts does not look at ms when it fuses
            where = "its MS pixels are resampled to where the network knows them"
            print(f"note: the scene has {pair.facts.geometry}; {where}")
        self._tiling = runner.plan(self._grid.size, pair.facts.ratio)

    def fuse(self, rows: Span, on_progress: Callable[[float], None]) -> Pieces:
        pair, grid = self._pair, self._grid
        top, left = (-first for first in grid.first)
        strips = fuse_rows(
            self._runner,
            grid.read,
            torch.empty(1, pair.facts.bands, 0, 0),
            grid.size,
            ratio=pair.facts.ratio,
            tiling=self._tiling,
            align=pair.block,
            span=(rows[0] + top, rows[1] + top),
            on_progress=lambda done, total: on_progress(done / total),
        )
        for row, strip in strips:
            yield row - top, 0, strip[..., left : left + pair.size[1]]


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


def picture_stem(facts: DataFacts) -> str:
    """Return what the names of pictures begin with: both resolutions of a data set go into one folder."""
    return "sample" if facts.has_gt else "full_sample"


def save_pictures(images: Mapping[str, Tensor], folder: Path, facts: DataFacts, count: int) -> list[Path]:
    """Draw the first `count` samples, lms | pan | sr | gt | error, as one PNG each; return their paths."""
    arrays = {role: value.numpy() for role, value in images.items()}
    rgb = choose_bands(get_sensor(facts.sensor), arrays["lms"][0], arrays["pan"][0], own=facts.rgb)
    stem, paths = picture_stem(facts), []
    for i in range(min(count, len(arrays["sr"]))):
        paths.append(folder / f"{stem}_{i}.png")
        save_panels(paths[-1], [quick_look({role: value[i] for role, value in arrays.items()}, rgb)])
    return paths
