"""CAVE and Harvard, the data sets of hyperspectral and RGB fusion: scenes of a download, splits, published protocols.

CAVE (Yasuma et al., IEEE TIP 2010): 32 scenes 512x512 with 31 bands from 400 to 700 nm, a PNG each.
Harvard (Chakrabarti, Zickler, CVPR 2011): 50 outdoor and indoor scenes 1040x1392 with 31 bands from 420 to 720 nm,
`ref` of a `.mat` each.
Legend: C bands, H W size of a scene, r ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lemamba.datasets.simulation.sources import Cube, check_finite, cube_from_png
from lemamba.datasets.simulation.wald import gaussian_kernel
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.formats.mat import read_mat

BANDS = 31
NORMALISE = ("none", "image", "set")
Splits = dict[str, dict[str, Path]]  # split -> name of a scene -> its folder or file

# The twelve test scenes of MHF-net (XieQi2015/MHF-net, CMHF-net/CAVE_dataReader.py, the last twelve of `Ind`, which
# counts the 32 scenes by name); the other twenty are its training scenes. HSRNet, PSRT and Fusformer leave out
# watercolors, which gives their 20 and 11 scenes: 20 x 196 = 3920 patches of 64x64 in steps of 32.
_CAVE_TEST = (
    "balloons", "cd", "chart_and_stuffed_toy", "clay", "fake_and_real_beers", "fake_and_real_lemon_slices",
    "fake_and_real_tomatoes", "feathers", "flowers", "hairs", "jelly_beans", "watercolors",
)  # fmt: skip
_CAVE_TRAIN = (
    "beads", "cloth", "egyptian_statue", "face", "fake_and_real_food", "fake_and_real_lemons", "fake_and_real_peppers",
    "fake_and_real_strawberries", "fake_and_real_sushi", "glass_tiles", "oil_painting", "paints", "photo_and_face",
    "pompoms", "real_and_fake_apples", "real_and_fake_peppers", "sponges", "stuffed_toys", "superballs",
    "thread_spools",
)  # fmt: skip
_HARVARD_SCENES, _HARVARD_TRAIN = 50, 30


@dataclass(frozen=True)
class Protocol:
    """How published work makes samples of a scene.

    Attributes:
        patch: side of a training patch.
        psf: gives the blur kernel (S, S) for a ratio.
        offset: gives the decimation offset for a ratio, None for r // 2.
        without: CAVE scenes that are left out.
        crop: side of the square at the top left that is used of a Harvard scene, None for all.
        blur: the kernel in words.
    """

    patch: int
    psf: Callable[[int], np.ndarray]
    offset: Callable[[int], int | None]
    without: tuple[str, ...]
    crop: int | None
    blur: str


def _three(_: int) -> np.ndarray:
    return gaussian_kernel(3, 0.5)


def _block(ratio: int) -> np.ndarray:
    return np.full((ratio, ratio), 1 / ratio**2)


_HSRNET = Protocol(64, _three, lambda _: None, ("watercolors",), 1000, "gaussian 3x3, sigma 0.5")
PROTOCOLS = {
    "hsrnet": _HSRNET,
    "psrt": _HSRNET,  # the same data: PSRT and Fusformer are measured on HSRNet's
    "mhf": Protocol(96, _block, lambda r: (r - 1) // 2, (), None, "mean of r x r pixels"),
}


def cave_scenes(folder: Path) -> dict[str, Path]:
    """Return the scenes below a folder, at any depth: name -> folder of its PNG bands.

    Raises:
        UserError: no scenes, or one twice.
    """
    _check_folder(folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*_01.png")):
        if not _hidden(path.relative_to(folder)):
            _add(found, scene_name(path.stem.removesuffix("_01")), path.parent)
    return _some(found, folder, "CAVE", "folders like balloons_ms with balloons_ms_01.png and 30 others")


def harvard_scenes(folder: Path) -> dict[str, Path]:
    """Return the scenes below a folder, at any depth: name -> `.mat` file. Errors as `cave_scenes`."""
    _check_folder(folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("img*.mat")):
        if not _hidden(path.relative_to(folder)):
            _add(found, path.stem, path)
    return _some(found, folder, "Harvard", "files like imga1.mat")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file; unpack the download" if folder.exists() else "does not exist; check the path"
        raise UserError(f'expected the folder of the unpacked download, "{folder}" {what}')


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _add(found: dict[str, Path], name: str, path: Path) -> None:
    if name in found:
        raise UserError(f'scene {name} lies in "{found[name]}" and in "{path}"; give the folder of one')
    found[name] = path


def _some(found: dict[str, Path], folder: Path, title: str, like: str) -> dict[str, Path]:
    if not found:
        raise UserError(f'expected scenes of {title} below "{folder}" ({like}), found none; check the folder')
    return found


def scene_name(text: str) -> str:
    """Return the name of a scene without what its files add to it: ``balloons_ms`` is ``balloons``."""
    return text.strip().removesuffix(".mat").removesuffix("_ms")


def read_names(path: Path) -> list[str]:
    """Return the scenes in a text file, one name a line; blank lines and lines that begin with # are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'expected a text file with one scene a line, "{path}" cannot be read; check it') from error
    names = [scene_name(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names or len(set(names)) != len(names):
        raise UserError(f"{path}: expected names of scenes, each once, one a line; correct it")
    return names


def cave_split(protocol: str) -> tuple[list[str], list[str]]:
    """Return the published (training, test) scenes of CAVE."""
    without = PROTOCOLS[protocol].without
    return list(_CAVE_TRAIN), [name for name in _CAVE_TEST if name not in without]


def harvard_split(scenes: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """Return the first 30 scenes by name and the last 20: no list by name is published.

    Raises:
        UserError: other than 50 scenes.
    """
    names = sorted(scenes)
    if len(names) != _HARVARD_SCENES:
        raise UserError(
            f"expected the {_HARVARD_SCENES} scenes of Harvard (folder CZ_hsdb), found {len(names)}; give that folder, "
            "or --test_scenes FILE with the names to test on"
        )
    return names[:_HARVARD_TRAIN], names[_HARVARD_TRAIN:]


def split_scenes(
    scenes: Mapping[str, Path],
    train: Sequence[str] | None,
    test: Sequence[str] | None,
    published: Callable[[], tuple[list[str], list[str]]],
) -> Splits:
    """Distribute scenes by name; one of ten training scenes, the last by name, validates.

    Args:
        scenes: name -> place.
        train: training scenes (with those that validate), or None.
        test: test scenes, or None. If only one of both is given, the other has the remaining scenes.
        published: gives (train, test) if none is given.

    Raises:
        UserError: a scene that is not there or in both, or fewer than two training scenes.
    """
    if train is None and test is None:
        train, test = published()
    rest = [name for name in sorted(scenes) if name not in {*(train or ()), *(test or ())}]
    train, test = sorted(rest if train is None else train), sorted(rest if test is None else test)
    missing = [name for name in (*train, *test) if name not in scenes]
    if missing:
        more = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
        raise UserError(
            f"scenes missing: {', '.join(missing[:3])}{more}{nearest(missing[0], scenes)}; complete the download, or "
            "name the scenes to use with --train_scenes and --test_scenes"
        )
    both = sorted(set(train) & set(test))
    if both:
        raise UserError(f"expected a scene for training or for testing, {both[0]} is named for both; correct the lists")
    if len(train) < 2 or not test:
        raise UserError(
            f"expected at least two training scenes (one validates) and one test scene, given {len(train)} and "
            f"{len(test)}; correct the lists"
        )
    held = max(1, len(train) // 10)
    chosen = {"train": train[:-held], "valid": train[-held:], "test": test}
    return {split: {name: scenes[name] for name in names} for split, names in chosen.items()}


def load_cave(path: Path, scale: float | None = None) -> Cube:
    """Read a scene of CAVE, float32; divided by 65535 or 255 (by the bits of the PNG), or by `scale`."""
    cube = cube_from_png(path, scale)
    return _checked(Cube(cube.values.astype(np.float32), cube.scale, cube.paths))


def load_harvard(path: Path, scale: float | None = None) -> Cube:
    """Read a scene of Harvard, float32; divided by its largest value, or by `scale`."""
    ref = read_mat(path, ["ref"])["ref"]
    if ref.ndim != 3 or ref.dtype.kind not in "iuf":
        raise UserError(f'{path}: expected "ref" (H, W, {BANDS}), given {ref.shape}; give a scene of Harvard')
    check_finite("ref", ref, path)
    used = scale or float(ref.max(initial=0))
    if used <= 0:
        raise UserError(f'{path}: "ref" has no value above 0; copy the file again')
    values = np.empty((ref.shape[2], *ref.shape[:2]), np.float32)
    for band in range(len(values)):
        np.divide(ref[..., band], used, out=values[band], casting="same_kind")
    return _checked(Cube(values, used, (path,)))


def _checked(cube: Cube) -> Cube:
    if len(cube.values) != BANDS:
        raise UserError(f"{cube.paths[0]}: expected {BANDS} bands, given {len(cube.values)}; copy the scene again")
    dead = [band for band, values in enumerate(cube.values, 1) if not values.any()]
    if dead:
        raise UserError(
            f"{cube.paths[0]}: band {dead[0]} is 0 everywhere, ERGAS is infinite then; copy the scene again"
        )
    return cube


def largest_value(paths: Iterable[Path], load: Callable[[Path, float | None], Cube]) -> float:
    """Return the largest value of all scenes, in the units of the files; each is read once."""
    return max(float(cube.values.max()) * cube.scale for cube in (load(path, None) for path in paths))
