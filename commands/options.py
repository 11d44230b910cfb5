"""The options of every command, one frozen dataclass each; the docstring of a class is the text of its ``--help``.

Read with `lemamba.utils.command_line.parse_options`. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lemamba.utils.command_line import (
    REQUIRED,
    batch_option,
    device_option,
    option,
    precision_option,
    scan_option,
)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which data a command reads (base class)."""

    data: Path | None = option(
        None, "H5 file (default: the test file of --dataset below --data_root)", "--data", group="data"
    )
    dataset: str | None = option(None, "name of the data set: sensor, divisor, ratio, files", "--dataset", group="data")
    data_root: Path | None = option(None, "folder of the H5 files (default: LEMAMBA_DATA)", "--data_root", group="data")
    sensor: str | None = option(None, "overrides the data set's sensor", "--sensor", group="data")
    divisor: float | None = option(None, "overrides the sensor's divisor", "--divisor", group="data")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where and how a network runs (base class)."""

    device: str | None = device_option(group="run")
    batch_size: int | None = batch_option(
        None, "images or tiles at once (default: by their size and the device)", group="run"
    )
    mixed_precision: str = precision_option(group="run")
    scan_backend: str | None = scan_option(group="run")


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """Simulate data sets from real scenes or hyperspectral cubes by Wald's protocol."""

    scenes: tuple[Path, ...] = option((), ".mat scene or cube, or a folder of PNG bands (CAVE)", "SCENE")
    ms: Path | None = option(None, "GeoTIFF with the MS bands (with --pan, instead of SCENE)", "--ms")
    pan: Path | None = option(None, "GeoTIFF with the panchromatic band", "--pan")
    out: Path = option(REQUIRED, "output folder", "--out")
    sensor: str | None = option(None, "its MTF gains and divisor are used (default: what the file says)", "--sensor")
    name: str | None = option(None, "name in the file names (default: the sensor's, or the cube's)", "--name")
    ratio: int | None = option(None, "H/h: checked against a scene; for a cube 4 (default) or 8", "--ratio", low=1)
    stride: int = option(16, "step between training patches in pixels (default 16)", "--stride")
    divisor: float | None = option(
        None, "values are divided by it when read (default: 2^L - 1 of the file, or the sensor's)", "--divisor"
    )
    test_only: bool = option(False, "use the whole ground for the test files", "--test_only")
    wavelengths: str | None = option(
        None,
        "nm of the first and the last band (31 bands: 400:700)",
        "--wavelengths",
        metavar="START:END",
        group="hyperspectral cubes",
    )
    response: Path | None = option(
        None, ".mat table: wavelength, then one column per guide band", "--response", group="hyperspectral cubes"
    )
    guide_columns: str | None = option(
        None,
        "1-based columns of --response that become guide bands",
        "--guide_columns",
        metavar="N,N",
        group="hyperspectral cubes",
    )
    sigma: float | None = option(
        None, "of the Gaussian blur in pixels (default ratio / 2)", "--sigma", group="hyperspectral cubes"
    )
    blur_size: int | None = option(
        None, "odd side of the blur kernel (default 2 ratio + 1)", "--blur_size", group="hyperspectral cubes"
    )
    scale: float | None = option(
        None, "values are divided by it (default: 255, 65535, or the largest)", "--scale", group="hyperspectral cubes"
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """Draw synthetic scenes: a complete data set without a download."""

    out: Path = option(REQUIRED, "output folder", "--out")
    name: str = option("demo", "name in the file names (default demo)", "--name")
    size: int = option(288, "side of the training ground in MS pixels (default 288)", "--size")
    seed: int = option(0, "seed of the drawing (default 0)", "--seed")
    sensor: str = option("WV3", "a sensor of 4 or 8 bands (default WV3)", "--sensor")
    ratio: int = option(4, "H/h (default 4)", "--ratio")
    picture: Path | None = option(None, "also write a PNG of the test ground to this file", "--picture")


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Report keys, shapes, range, layout and likely sensor of files, and what is wrong with them."""

    files: tuple[Path, ...] = option(REQUIRED, "H5, .mat or GeoTIFF", "FILE")


@dataclass(frozen=True, kw_only=True)
class RepackOptions:
    """Rewrite an H5 file: one chunk per sample, a smaller dtype."""

    file: Path = option(REQUIRED, "the file to rewrite", "FILE.h5")
    out: Path = option(REQUIRED, "the new file", "--out", metavar="NEW.h5")
    dtype: str = option("float32", "uint16 only if lossless", "--dtype", choices=("float32", "uint16"))


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Reproduce a row of a results table and compare: data, training, fusing and measuring, from one recipe.

    A recipe (configs/recipes/*.yaml) holds the data, the commands, the seed, and the numbers with their bands. Each
    step is shown as the command that runs it. Existing results are reused; an interrupted training is resumed.
    Exit status: 0 all numbers in their bands, 1 some outside, 2 bad input, 130 interrupted.
    """

    recipe: str | None = option(None, "name of a recipe, or a YAML file", "recipe")
    list_recipes: bool = option(False, "list the recipes", "--list")
    scene: Path | None = option(None, "the scene's file, if the recipe simulates its data from one", "--scene")
    data_root: Path | None = option(
        None, "folder of the H5 files, if the recipe's data are published ones", "--data_root"
    )
    out: Path = option(
        Path("visualized_img/recipes"), "folder for data and results (default visualized_img/recipes)", "--out"
    )
    measure: Path | None = option(None, "only measure existing fused images", "--measure", metavar="FILE.mat")
    full: bool = option(False, "with --measure: at full resolution", "--full")
    device: str | None = device_option()


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Run everything once in under three minutes on two CPU cores: scene, H5, training, fused .mat, pictures, scores.

    Runs the project's own commands, shows each, and compares LE-Mamba with plain interpolation (EXP).
    """

    minutes: float = option(1.9, "training time in minutes (default 1.9)", "--minutes")
    out: Path = option(Path("visualized_img/demo"), "folder of data, results and summary", "--out")
