"""The data sets of `benchmarks.bench_hmif`: hyperspectral images with a guide of several bands, split in space.

The test ground shares no pixel with the training or validation ground: the image is cut first, and each part is
degraded by itself. Every set is written in the field's H5 files, so that the project's own commands train and fuse.
Legend: C bands, P guide bands, H W size, r ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat

from lemamba.commands import parse, prepare
from lemamba.datasets.pair_windows import windows_of
from lemamba.datasets.simulation import wald
from lemamba.datasets.simulation.landscape import draw_ground
from lemamba.datasets.simulation.materials import FARMLAND
from lemamba.datasets.simulation.sources import Cube, load_mat
from lemamba.datasets.writers import write_h5
from lemamba.operators.observation import estimate_response
from lemamba.utils.atomic import sha256
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import files_of

PATCH, STRIDE = 32, 8  # of training patches
# nm; the reflective bands of Landsat's TM, as a guide of a cube that reaches 2500 nm
GUIDE_BANDS = ((450, 515), (525, 605), (630, 690), (775, 900), (1550, 1750), (2090, 2350))
AVIRIS = np.linspace(380, 2500, 224)  # nm, its bands before some are left out
HYPERION = 426.0, 10.1  # nm of band 8, and step of the bands
SPLIT = {"train": (slice(0, 64), slice(0, 72)), "valid": (slice(0, 64), slice(72, 96))}
JASPER = SPLIT | {"test": (slice(64, 96), slice(0, 96))}  # of 100 x 100 pixels
PARIS = {  # of 72 x 72
    "train": (slice(0, 40), slice(0, 48)),
    "valid": (slice(0, 40), slice(48, 72)),
    "test": (slice(40, 72), slice(0, 72)),
}
SCENES = {"train": 5, "test": 2}  # of the set in CAVE's layout; the last of train validates
SIDE = 192  # pixels of such a scene


@dataclass(frozen=True)
class HmifSet:
    """One data set.

    Attributes:
        name: in file names and results.
        title: on the page.
        ratio: r.
        shown: wavelengths in nm that a picture shows as red, green, blue.
        make: writes the files into a folder, from the folder of shared data.
        marks: pixels (row, column) of the first test image whose spectra are drawn.
    """

    name: str
    title: str
    ratio: int
    shown: tuple[float, float, float]
    make: Callable[[Path, Path], None]
    marks: tuple[tuple[int, int], ...]

    def files(self, folder: Path) -> dict[str, Path]:
        """Return the files by split."""
        return {split: folder / file for split, file in files_of("hmif", self.name).items()}

    def ensure(self, folder: Path, shared: Path) -> dict[str, Path]:
        """Make the files that are missing; return them by split."""
        files = self.files(folder)
        if not all(file.is_file() for file in files.values()):
            self.make(folder, shared)
        return files


def _write(
    name: str,
    folder: Path,
    boxes: dict[str, tuple[slice, slice]],
    degrade: Callable[[tuple[slice, slice]], dict[str, np.ndarray]],
    ratio: int,
    facts: dict[str, object],
) -> None:
    """Write a file per split; the training ground is cut into overlapping patches, the others stay whole."""
    for split, file in files_of("hmif", name).items():
        sample = degrade(boxes[split])
        height, width = sample["gt"].shape[1:]
        size, step = ((PATCH, PATCH), (STRIDE, STRIDE)) if split == "train" else ((height, width), (height, width))
        about = {"split": split, "ratio": ratio, "divisor": 1.0, "sensor": "none", "tile": size, **facts}
        write_h5(folder / file, wald.tiles(sample, size, step, ratio), about, "hmif")


def landsat_guide(wavelengths: np.ndarray) -> np.ndarray:
    """Return the response (P, C) of boxes over the bands."""
    return np.stack([(wavelengths >= low) & (wavelengths <= high) for low, high in GUIDE_BANDS]).astype(np.float64)


def _read(path: Path) -> Cube:
    if not path.is_file():
        raise UserError(f'expected the file "{path}", it does not exist; give the folder of the data with --shared')
    cube = load_mat(path)
    if not isinstance(cube, Cube):
        raise UserError(f"{path}: expected a hyperspectral cube; give the file that the page names")
    return cube


def jasper(folder: Path, shared: Path, name: str, ratio: int) -> None:
    """Write Jasper Ridge (AVIRIS, 198 bands), with a guide of six bands made from it."""
    path = shared / "data/jasper_ridge_r198.mat"
    cube = _read(path)
    assert cube.kept is not None
    wavelengths = AVIRIS[cube.kept - 1]
    psf = wald.gaussian_kernel(2 * ratio + 1, ratio / 2)
    seen = wald.Degradation(landsat_guide(wavelengths), ratio, psf)

    def degrade(box: tuple[slice, slice]) -> dict[str, np.ndarray]:
        return wald.hyperspectral(cube.values[(slice(None), *box)], seen)

    facts = {"wavelengths": wavelengths, "psf": psf, "offset": ratio // 2, "source": path.name, "sha256": sha256(path)}
    facts |= {"scale": [cube.scale], "response": seen.response / seen.response.sum(1, keepdims=True)}
    _write(name, folder, JASPER, degrade, ratio, facts)


def paris(folder: Path, shared: Path, name: str, ratio: int) -> None:
    """Write Paris: Hyperion (128 bands), degraded, and the nine bands that ALI observed as the guide."""
    path = shared / "data/paris_hs_ms.mat"
    cube, images = _read(path), loadmat(path)
    guide = np.moveaxis(images["MSim"], -1, 0).astype(np.float64) / cube.scale
    first, step = HYPERION
    wavelengths = first + step * (images["non_del_bands"].ravel().astype(float) - 8)
    geometry = Geometry.toolbox(ratio)
    psf = wald.gaussian_kernel(2 * ratio + 1, ratio / 2)
    train = (slice(None), *PARIS["train"])
    windows = windows_of(cube.values[train], guide[train], Geometry.corners(1))  # test ground gives no response
    response = estimate_response(windows, torch.ones(1, 1), blur=0.0).numpy()
    seen = wald.Degradation(response, ratio, psf)

    def degrade(box: tuple[slice, slice]) -> dict[str, np.ndarray]:
        sample = wald.hyperspectral(cube.values[(slice(None), *box)], seen)
        return sample | {"pan": guide[(slice(None), *box)]}

    facts = {"wavelengths": wavelengths, "psf": psf, "offset": geometry.offset[0], "source": path.name}
    facts |= {"sha256": sha256(path), "scale": [cube.scale], "response": response, "guide": "observed"}
    _write(name, folder, PARIS, degrade, ratio, facts)


def draw_cube(seed: int, side: int = SIDE) -> np.ndarray:
    """Draw a scene of 31 bands, 400 to 700 nm, (31, side, side) in 0..1: made-up materials, light, shadow, texture."""
    generator = np.random.default_rng([seed, 31])
    ground = draw_ground(generator, (side, side))
    wavelengths = np.linspace(400, 700, 31)
    library = FARMLAND.reflectance(wavelengths)
    tilt = generator.normal(0, 0.15, (len(library), 2)) @ np.stack([np.ones(31), np.linspace(-1, 1, 31)])
    library = library * np.exp(tilt)
    share = ground.mix[..., None]
    surface = library[ground.first] * (1 - share) + library[ground.second] * share
    lit = 1 - ground.shade[..., None] * (1 - 0.25 * (600 / wavelengths) ** 1.6)
    cube = np.moveaxis(surface * ground.light[..., None] * lit, -1, 0)
    return np.clip(cube / np.quantile(cube, 0.999), 0, 1)


def cave_like(folder: Path, shared: Path, name: str, ratio: int) -> None:
    """Write drawn scenes in the layout of CAVE's download, and the data set by `prepare_data.py cave`."""
    download, names = folder / f"{name}_download", {}
    for split, count in SCENES.items():
        names[split] = [f"{split}{number}" for number in range(count)]
        for number, scene in enumerate(names[split]):
            inner = download / f"{scene}_ms" / f"{scene}_ms"
            inner.mkdir(parents=True, exist_ok=True)
            for band, values in enumerate(draw_cube(number if split == "train" else 1000 + number), 1):
                image = Image.fromarray(np.round(values * 65535).astype(np.uint16))
                image.save(inner / f"{scene}_ms_{band:02d}.png")
        (folder / f"{split}.txt").write_text("\n".join(names[split]), encoding="utf-8")
    words = [download, "--ratio", ratio, "--name", name, "--out", folder, "--overwrite"]
    words += ["--train_scenes", folder / "train.txt", "--test_scenes", folder / "test.txt"]
    prepare.run(parse("prepare", ["cave", *map(str, words)]))


def _sets() -> Iterator[HmifSet]:
    infrared = (850.0, 1650.0, 650.0)
    marks = ((8, 20), (16, 50), (24, 80))
    for ratio in (4, 8):
        name = f"jasper_x{ratio}"
        yield HmifSet(name, f"Jasper Ridge ×{ratio}", ratio, infrared, partial(jasper, name=name, ratio=ratio), marks)
    marks = ((8, 12), (16, 36), (24, 60))
    yield HmifSet("paris_x4", "Paris ×4", 4, (650.0, 550.0, 480.0), partial(paris, name="paris_x4", ratio=4), marks)
    marks = ((40, 40), (40, 155), (160, 100))
    make = partial(cave_like, name="cavelike_x8", ratio=8)
    yield HmifSet("cavelike_x8", "Drawn scenes in CAVE's layout ×8", 8, (650.0, 540.0, 460.0), make, marks)


SETS = {one.name: one for one in _sets()}
