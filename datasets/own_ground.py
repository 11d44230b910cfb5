"""The ground of a scene, or of test images, as samples to train and measure on: Wald's protocol on the data themselves.

The ground is split into three parts that never overlap, the way `lemamba.datasets.simulation.wald.split_boxes` splits a
scene (about 60, 20 and 20 per cent of the longer side): one to train on, one that decides when to stop, one that takes
no part in either, to measure on. In a small scene one part serves the last two. Five or more test images are split by
whole images. Of a large scene, windows at random places are read until `PIXELS` are reached, so memory does not grow
with the scene. Only pixels with data count.
Legend: C bands, H W size of gt (MS pixels), h w size of ms, r = H / h. Values are divided by the divisor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair import ScenePair
from lemamba.datasets.pair_windows import windows_of
from lemamba.datasets.raster import Window
from lemamba.datasets.simulation.pairs import degraded, observe
from lemamba.datasets.simulation.wald import Box, cell, split_boxes, tiles, wald
from lemamba.datasets.transforms import Augment
from lemamba.operators import resample
from lemamba.operators.observation import Observation
from lemamba.operators.window import Window as SceneWindow
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor

Sample = dict[str, Tensor]
SPLITS = ("train", "valid", "test")
# MS pixels read of each part, for 8 bands: training ground is kept in memory, held-out ground is fused again and again
PIXELS = {"train": 2**21, "valid": 2**16, "test": 2**16}
SIDE = {"train": 256, "valid": 128, "test": 128}  # of the windows, where the ground is larger than that
WHOLE = 512  # of the windows of smaller ground
FULL_SIDE, FULL_COUNT = 64, 16  # of the windows at full resolution, in MS pixels
SMALL = 5  # shorter ground than so many units has no third part
IMAGES = 5  # from so many images on, whole images are split
BANDS = 8
ESTIMATED = 192  # largest side, in MS pixels, of the ground that PSF and response are estimated on
LEAST = 32  # side of an image that Q2n is defined for


@dataclass(frozen=True)
class Area:
    """A scene or a test image.

    Attributes:
        name: for messages.
        size: (h, w) in MS pixels.
        read: box of MS pixels -> the pair there: ms (C, h, w), lms (C, H, W), pan (P, H, W), and "valid" (h, w), True
            where MS pixels and all their PAN pixels have data.
        inner: box around the pixels with data.
    """

    name: str
    size: tuple[int, int]
    read: Callable[[Window], Sample]
    inner: Box


def own_geometry(facts: DataFacts) -> Geometry:
    """Return the geometry of the samples: that of the data, its ratio the nearest whole one."""
    return Geometry((facts.ratio, facts.ratio), facts.geometry.offset)


def scene_area(pair: ScenePair) -> Area:
    """Return the ground of an open scene; it is read as networks see it when they fuse (`NetworkGrid`).

    Raises:
        UserError: no pixel with data.
    """
    r, grid = pair.facts.ratio, pair.grid(own_geometry(pair.facts))
    h, w = (n // r for n in pair.size)
    bands = {"ms": pair.facts.bands, "lms": pair.facts.bands, "pan": pair.facts.guide_bands}

    def read(box: Window) -> Sample:
        (top, bottom), (left, right) = box
        fine = (r * top, r * bottom), (r * left, r * right)
        found = grid.read((fine[0][0], fine[1][0], fine[0][1] - fine[0][0], fine[1][1] - fine[1][0]))
        valid = pair.valid(fine).reshape(bottom - top, r, right - left, r).all(axis=(1, 3))
        if found is None:
            sizes = {role: 1 if role == "ms" else r for role in bands}
            sample = {role: torch.zeros(n, *(sizes[role] * k for k in valid.shape)) for role, n in bands.items()}
        else:
            sample = {role: image[0] for role, image in zip(bands, found, strict=True)}
        return sample | {"valid": torch.from_numpy(valid)}

    name = f"{pair.ms.raster.path} and {pair.pan.raster.path}"
    return Area(name, (h, w), read, _with_data(pair, (h, w), name))


def _with_data(pair: ScenePair, size: tuple[int, int], name: str) -> Box:
    """Return the box, in steps of one pixel of the overview, around the MS pixels with data."""
    if not pair.gaps:
        return 0, size[0], 0, size[1]
    valid, box = pair.overview.valid, list[int]()
    if not valid.any():
        raise UserError(f"no pixel has data in both {name}")
    for axis, n in enumerate(size):
        places = pair.pan.small[2][axis] / pair.facts.ratio
        seen = places[valid.any(1 - axis)]
        step = float(np.diff(places).mean()) if len(places) > 1 else 1.0
        box += [min(max(0, math.floor(seen[0] - step)), n), max(0, min(n, math.ceil(seen[-1] + step)))]
    return box[0], box[1], box[2], box[3]


def image_areas(dataset: H5Dataset) -> list[Area]:
    """Return the ground of every image of a test file; a ground truth in it is not looked at."""
    h, w = dataset.contents.shapes["ms"][2:]
    return [
        Area(f"image {i} of {dataset.path}", (h, w), _image_reader(dataset, i), (0, h, 0, w))
        for i in range(len(dataset))
    ]


def _image_reader(dataset: H5Dataset, number: int) -> Callable[[Window], Sample]:
    def read(box: Window) -> Sample:
        sample, r = dataset[number], dataset.facts.ratio
        (top, bottom), (left, right) = box
        found = {
            role: sample[role][:, k * top : k * bottom, k * left : k * right]
            for role, k in (("ms", 1), ("lms", r), ("pan", r))
        }
        return found | {"valid": torch.ones(found["ms"].shape[1:], dtype=torch.bool)}

    return read


# ---------------------------------------------------------------------------------------------------- splitting


def split_ground(areas: Sequence[Area], ratio: int) -> list[dict[str, Box]]:
    """Return which box of every area belongs to which part.

    Raises:
        UserError: ground too small to hold anything out.
    """
    unit = cell(ratio)
    if len(areas) >= IMAGES and all(min(area.size) >= unit for area in areas):
        held = len(areas) // 5
        names = ["train"] * (len(areas) - 2 * held) + ["valid"] * held + ["test"] * held
        return [{name: _whole(area.size, ratio)} for name, area in zip(names, areas, strict=True)]
    return [_split(area, unit, ratio) for area in areas]


def _whole(size: tuple[int, int], ratio: int) -> Box:
    return 0, size[0] - size[0] % ratio, 0, size[1] - size[1] % ratio


def _split(area: Area, unit: int, ratio: int) -> dict[str, Box]:
    top, bottom, left, right = area.inner
    rows, columns = bottom - top, right - left
    if max(rows, columns) < 2 * unit or min(rows, columns) < unit:
        raise UserError(
            f"{area.name}: expected at least {2 * unit} x {unit} MS pixels with data, to train on and to hold out, "
            f"given {rows} x {columns}; take a larger scene, or fuse it without training: lemamba fuse"
        )
    if max(rows, columns) >= SMALL * unit:
        boxes, _ = split_boxes(rows, columns, ratio)
        return {name: (t + top, b + top, x + left, y + left) for name, (t, b, x, y) in boxes.items()}
    _, high, _, wide = _whole((rows, columns), ratio)
    if rows >= columns:
        cut, held = (top, top + high - unit, left, left + wide), (top + high - unit, top + high, left, left + wide)
    else:
        cut, held = (top, top + high, left, left + wide - unit), (top, top + high, left + wide - unit, left + wide)
    return {"train": cut, "valid": held, "test": held}


def windows(box: Box, pixels: float, side: int, unit: int, random: np.random.Generator) -> list[Window]:
    """Cut a box into windows that meet without overlap, their sides multiples of `unit` where the box allows it.

    A box of at most `pixels` is cut as little as possible; windows of a larger one come in random order.
    """
    top, bottom, left, right = box
    small = (bottom - top) * (right - left) <= pixels
    rows, columns = (_parts(*edges, WHOLE if small else side, unit) for edges in ((top, bottom), (left, right)))
    found = [(r, c) for r in rows for c in columns]
    return found if small else [found[i] for i in random.permutation(len(found))]


def _parts(first: int, last: int, side: int, unit: int) -> list[tuple[int, int]]:
    count = math.ceil((last - first) / side)
    cuts = [first + round((last - first) * k / count / unit) * unit for k in range(count)] + [last]
    return [(a, b) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]


# ---------------------------------------------------------------------------------------------------- samples


def observation(areas: Sequence[Area], facts: DataFacts) -> Observation | None:
    """Return how a pair with a guide of several bands was observed: as its file says, else estimated; None for a PAN.

    The estimate is made on the middle of the first area.
    """
    if facts.guide_bands == 1:
        return None
    given = [None if x is None else np.asarray(x, np.float64) for x in (facts.response, facts.psf)]
    return observe(middle_of(areas, facts), own_geometry(facts), *given)


def middle_of(areas: Sequence[Area], facts: DataFacts) -> Callable[[], Iterator[SceneWindow]]:
    """Return a function that gives the windows of the middle of the first area, to estimate how it was observed."""
    top, bottom, left, right = areas[0].inner
    sides = ((first, end, min(end - first, ESTIMATED)) for first, end in ((top, bottom), (left, right)))
    rows, columns = ((first + (end - first - side) // 2, side) for first, end, side in sides)
    seen = areas[0].read(((rows[0], sum(rows)), (columns[0], sum(columns))))
    return windows_of(seen["ms"].numpy(), seen["pan"].numpy(), own_geometry(facts), seen["valid"].numpy())


def reduced(
    area: Area,
    box: Window,
    facts: DataFacts,
    observed: Observation | None = None,
    gains: Sequence[float] | None = None,
) -> tuple[Sample, np.ndarray]:
    """Return gt, ms, lms, pan of a window by Wald's protocol, and which pixels of gt have data.

    Args:
        area: the ground.
        box: rows and columns of MS pixels, as many as multiples of the ratio.
        facts: of the scene.
        observed: of a pair with a guide of several bands: its PSF takes the place of the gains.
        gains: MTF gains of the bands; None = those of the sensor.
    """
    seen, own = area.read(box), own_geometry(facts)
    ms, pan = seen["ms"].numpy(), seen["pan"].numpy()
    if observed is None:
        made = wald(ms, pan, gains or get_sensor(facts.sensor).gains(facts.bands), facts.ratio, own)
    else:
        made = degraded(ms, pan, observed, own)
    sample = {role: torch.from_numpy(np.asarray(value, np.float32)) for role, value in made.items()}
    return sample, seen["valid"].numpy()


def full(area: Area, box: Window) -> Sample | None:
    """Return ms, lms, pan of a window as observed; None where data are missing."""
    seen = area.read(box)
    return seen if bool(seen.pop("valid").all()) else None


def as_trained(sample: Sample, facts: DataFacts, trained: Geometry) -> Sample:
    """Return a sample whose ms pixels lie where a network knows them, as when it fuses."""
    moved = [(t - o) / facts.ratio for t, o in zip(trained.offset, facts.geometry.offset, strict=True)]
    if all(abs(m) < 1e-6 for m in moved):
        return sample
    ms = sample["ms"]
    return sample | {"ms": resample(ms, *((m, 1.0, n) for m, n in zip(moved, ms.shape[1:], strict=True)))}


@dataclass
class OwnGround:
    """Samples of one's own ground.

    Attributes:
        facts: of the data, with the geometry of the samples.
        crop: side of training patches in pixels of gt.
        train: windows to draw patches from, each with the pixels that have data.
        valid, test: samples without missing pixels, of several sizes.
        full: windows of the training ground at full resolution.
        full_test: the same of the ground to measure on; at most one.
        one_held: valid and test are the same.
        seed: of the choice of windows.
    """

    facts: DataFacts
    crop: int
    train: list[tuple[Sample, np.ndarray]] = field(default_factory=list)
    valid: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    full: list[Sample] = field(default_factory=list)
    full_test: list[Sample] = field(default_factory=list)
    one_held: bool = False
    seed: int = 0


def own_ground(
    areas: Sequence[Area],
    facts: DataFacts,
    *,
    trained: Geometry | None = None,
    gains: Sequence[float] | None = None,
    seed: int = 0,
    on_progress: Callable[[float], None] = lambda share: None,
) -> OwnGround:
    """Read the samples of one's own ground.

    Args:
        areas: scenes or images of one geometry.
        facts: of them.
        trained: where a network knows ms pixels; None = where those of the data lie.
        gains: see `reduced`.
        seed: of the choice of windows.
        on_progress: called with the share that is done.

    Raises:
        UserError: ground too small, or too little of it without missing pixels.
    """
    unit, trained = cell(facts.ratio), trained or own_geometry(facts)
    ground = OwnGround(replace(facts, geometry=trained, has_gt=True), unit, seed=seed)
    boxes, random = split_ground(areas, facts.ratio), np.random.default_rng(seed)

    observed = observation(areas, facts)

    def moved(sample: Sample) -> Sample:
        return as_trained(sample, facts, trained)

    for done, split in enumerate(SPLITS):
        limit = PIXELS[split] * min(1.0, BANDS / facts.bands)
        places = [
            (area, window)
            for area, own in zip(areas, boxes, strict=True)
            if split in own
            for window in windows(own[split], limit, SIDE[split], unit, random)
        ]
        if len(areas) > 1:
            places = [places[i] for i in random.permutation(len(places))]
        pixels = 0
        for area, window in places:
            sample, valid = reduced(area, window, facts, observed, gains)
            if split == "train" and len(corners(valid, unit, facts.ratio)):
                ground.train.append((moved(sample), valid))
            elif split != "train":
                getattr(ground, split).extend(map(moved, _without_gaps(sample, valid, unit, facts.ratio)))
            pixels += int(valid.sum())
            on_progress((done + min(1.0, pixels / limit)) / (len(SPLITS) + 1))
            if pixels >= limit:
                break
        if not getattr(ground, split):
            raise UserError(
                f"{areas[0].name}: expected {unit} x {unit} MS pixels without gaps in each of the parts "
                f"{', '.join(SPLITS)} of the ground, found none in {split}; take a scene with fewer gaps, or fuse it "
                "without training: lemamba fuse"
            )
    _read_full(ground, areas, boxes, moved, random)
    ground.one_held = any("valid" in own and own["valid"] == own.get("test") for own in boxes)
    on_progress(1.0)
    return ground


def reduced_ground(
    areas: Sequence[Area], facts: DataFacts, *, gains: Sequence[float] | None = None, seed: int = 0
) -> list[Sample]:
    """Return gap-free samples with ground truth from all of the ground, to compare methods that need no training.

    Args:
        areas, facts, gains, seed: see `own_ground`.

    Raises:
        UserError: no ground of at least 32 x 32 MS pixels without gaps.
    """
    unit, random, observed = cell(facts.ratio), np.random.default_rng(seed), observation(areas, facts)
    limit, found, pixels = PIXELS["test"] * min(1.0, BANDS / facts.bands), list[Sample](), 0
    for number in random.permutation(len(areas)):
        top, bottom, left, right = areas[number].inner
        _, high, _, wide = _whole((bottom - top, right - left), facts.ratio)
        for window in windows((top, top + high, left, left + wide), limit, SIDE["test"], unit, random):
            if pixels < limit and min(b - a for a, b in window) >= LEAST:
                sample, valid = reduced(areas[number], window, facts, observed, gains)
                found += _without_gaps(sample, valid, unit, facts.ratio)
                pixels += int(valid.sum())
    if not found:
        h, w = areas[0].size
        raise UserError(
            f"{areas[0].name}: expected at least {LEAST} x {LEAST} MS pixels without gaps to measure methods on, given "
            f"{h} x {w} in all; name a method with --arch"
        )
    return found


def corners(valid: np.ndarray, side: int, step: int) -> np.ndarray:
    """Return (n, 2) first rows and columns, multiples of `step`, of squares in which all pixels have data."""
    total = np.pad(valid.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    if min(valid.shape) < side:
        return np.zeros((0, 2), int)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.argwhere(sums[::step, ::step] == side * side) * step


def _without_gaps(sample: Sample, valid: np.ndarray, side: int, ratio: int) -> Iterator[Sample]:
    if valid.all():
        yield sample
        return
    arrays = {role: value.numpy() for role, value in sample.items()} | {"valid": valid[None]}
    for tile in tiles(arrays, (side, side), (side, side), ratio):
        if tile.pop("valid").all():
            yield {role: torch.from_numpy(value.copy()) for role, value in tile.items()}


def _read_full(
    ground: OwnGround,
    areas: Sequence[Area],
    boxes: list[dict[str, Box]],
    moved: Callable[[Sample], Sample],
    random: np.random.Generator,
) -> None:
    """Read windows at full resolution, as far as there are some without gaps."""
    for split, kept, count in (("train", ground.full, FULL_COUNT), ("test", ground.full_test, 1)):
        found = []
        for area, own in zip(areas, boxes, strict=True):
            if split in own:
                top, bottom, left, right = own[split]
                side = min(FULL_SIDE, (bottom - top) // 32 * 32, (right - left) // 32 * 32)
                rows, columns = (range(a, b - side + 1, side or 1) for a, b in ((top, bottom), (left, right)))
                found += [(area, ((r, r + side), (c, c + side))) for r in rows for c in columns if side]
        for i in random.permutation(len(found)):
            sample = full(*found[i])
            if sample is not None:
                kept.append(moved(sample))
            if len(kept) == count:
                break


class HeldOut:
    """Samples to validate on, addressed as `lemamba.engine.training.job.Samples`."""

    def __init__(self, facts: DataFacts, samples: list[Sample]) -> None:
        self.facts, self.samples = facts, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return a sample; the epoch does not matter."""
        return self.samples[key[1]]


class Drawn:
    """Patches at random places of one's own ground; a patch depends on (seed, epoch, index) only.

    Every second patch is one at full resolution if `with_full`: it has no ground truth ("gt" is its lms), and its
    "full" is 1 instead of 0.
    """

    def __init__(self, ground: OwnGround, count: int, *, crop: int | None = None, with_full: bool = False) -> None:
        """Take `count` patches an epoch, of `crop` pixels (default: the ground's)."""
        self.facts, self.count, self.seed = ground.facts, count, ground.seed
        self.crop, self.train, self.full = crop or ground.crop, ground.train, ground.full if with_full else []
        self.augment = Augment(prob=0.5, seed=ground.seed)
        starts = [corners(valid, self.crop, self.facts.ratio) for _, valid in self.train]
        self.starts = np.concatenate([np.insert(s, 0, i, axis=1) for i, s in enumerate(starts)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return patch (epoch, index)."""
        epoch, index = key
        random = np.random.default_rng([self.seed, epoch, index])
        if self.full and index % 2:
            window = self.full[random.integers(len(self.full))]
            most = (window["ms"].shape[-1] * self.facts.ratio - self.crop) // self.facts.ratio
            y, x = (int(v) * self.facts.ratio for v in random.integers(most + 1, size=2))
            sample = self._cut(window, y, x)
            return sample | {"gt": sample["lms"], "full": torch.ones(())}
        which, y, x = self.starts[random.integers(len(self.starts))]
        arrays = {role: value.numpy() for role, value in self._cut(self.train[which][0], int(y), int(x)).items()}
        arrays = self.augment(arrays, self.facts.ratio, epoch, index)
        sample = {role: torch.from_numpy(np.ascontiguousarray(value)) for role, value in arrays.items()}
        return sample | {"full": torch.zeros(())} if self.full else sample

    def _cut(self, window: Sample, y: int, x: int) -> Sample:
        r, side = self.facts.ratio, self.crop
        return {
            role: value[..., y // r : (y + side) // r, x // r : (x + side) // r]
            if role == "ms"
            else value[..., y : y + side, x : x + side]
            for role, value in window.items()
        }
