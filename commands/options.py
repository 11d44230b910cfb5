"""The options of every command, one frozen dataclass each; the docstring of a class is the text of its ``--help``.

Read with `lemamba.utils.command_line.parse_options`. No torch here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemamba.engine.fusing.tiling import OVERLAP, Tiling
from lemamba.utils.command_line import (
    REQUIRED,
    batch_option,
    device_option,
    dry_run_option,
    option,
    precision_option,
    scan_option,
    tf32_option,
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
    tf32: bool = tf32_option(group="run")
    scan_backend: str | None = scan_option(group="run")


PAIR: dict[str, Any] = {"group": "pair of images"}
_FILES: dict[str, Any] = {"many": True, "metavar": "F", **PAIR}


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """An MS and a PAN image, and how they lie to each other (base class); `commands.pairs.relation_of` reads it."""

    ms: tuple[Path, ...] = option(
        (),
        "MS image: a file, files of single bands, or a Landsat or Sentinel-2 folder; see docs/geotiff.md",
        "--ms",
        **_FILES,
    )
    pan: tuple[Path, ...] = option(
        (),
        "PAN image of the same ground; of several bands the mean (default: in the file or folder of --ms)",
        "--pan",
        **_FILES,
    )
    assume_aligned: bool = option(
        False,
        "the corners of both images agree, whatever their files say; the ratio is that of their sizes",
        "--assume_aligned",
        **PAIR,
    )
    allow_remote: bool = option(False, "also read addresses (https://…, s3://…, /vsicurl/…)", "--allow_remote", **PAIR)
    nodata: float | None = option(
        None, "pixels with this value in all bands are missing, though nothing marks them", "--nodata", **PAIR
    )


@dataclass(frozen=True, kw_only=True)
class RegisteredOptions(PairOptions):
    """A pair whose shift may be corrected (base class)."""

    register: bool = option(
        False,
        "estimate the shift between MS and PAN from the data and correct it (needs scikit-image)",
        "--register",
        **PAIR,
    )


@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """A command that can say what it would do (base class)."""

    dry_run: bool = dry_run_option()


CUBES: dict[str, Any] = {"group": "hyperspectral cubes"}


@dataclass(frozen=True, kw_only=True)
class ObservationOptions:
    """How a guide and a low-resolution image are made from a hyperspectral cube (base class)."""

    guide: str | None = option(
        None, "camera whose response gives the guide", "--guide", choices=("gaussian", "nikon_d700"), **CUBES
    )
    response: Path | None = option(
        None,
        "response of the guide instead (.mat, .npy, .csv): bands x guide bands, or a table: wavelength, one column per "
        "guide band",
        "--response",
        **CUBES,
    )
    guide_columns: str | None = option(
        None, "1-based columns of --response that become guide bands", "--guide_columns", metavar="N,N", **CUBES
    )
    sigma: float | None = option(None, "of the Gaussian blur in pixels (default ratio / 2)", "--sigma", **CUBES)
    blur_size: int | None = option(None, "side of the blur kernel (default 2 ratio + 1)", "--blur_size", low=1, **CUBES)
    psf: Path | None = option(None, "blur kernel instead (.mat, .npy, .csv)", "--psf", **CUBES)
    offset: int | None = option(
        None,
        "pixel at which the first low-resolution sample is taken (default: ratio // 2, or the protocol's)",
        "--offset",
        **CUBES,
    )
    snr: float | None = option(
        None, "add noise to guide and low-resolution image, in dB below each band", "--snr", metavar="DB", **CUBES
    )
    scale: float | None = option(
        None, "values are divided by it (default: 255, 65535, or the largest)", "--scale", **CUBES
    )


_OVERWRITE = "replace files of this name that were made from other scenes or another split"


@dataclass(frozen=True, kw_only=True)
class SimulateOptions(ObservationOptions, RegisteredOptions, DryRunOptions):
    """Simulate data sets from real scenes or hyperspectral cubes by Wald's protocol.

    Examples:
        scene.mat --sensor IKONOS --out data/ikonos
        --ms MS.tif --pan PAN.tif --sensor WV3 --out data/mine --dry_run
        cube.mat --ratio 8 --wavelengths 400:700 --out data/cube
    """

    scenes: tuple[Path, ...] = option(
        (), "a .mat scene, a cube (.mat, .npy, GeoTIFF, ENVI), or a folder of PNG bands (CAVE)", "SCENE"
    )
    out: Path = option(REQUIRED, "output folder", "--out")
    sensor: str | None = option(None, "its MTF gains and divisor are used (default: what the file says)", "--sensor")
    name: str | None = option(None, "name in the file names (default: the sensor's, or the cube's)", "--name")
    ratio: int | None = option(None, "H/h: checked against a scene; for a cube 2 to 64 (default 4)", "--ratio", low=1)
    stride: int | None = option(
        None,
        "step between training patches in pixels (default 16, or the multiple of the ratio next to it)",
        "--stride",
    )
    divisor: float | None = option(
        None, "values are divided by it when read (default: 2^L - 1 of the file, or the sensor's)", "--divisor"
    )
    test_only: bool = option(False, "use the whole ground for the test files", "--test_only")
    overwrite: bool = option(False, _OVERWRITE, "--overwrite")
    wavelengths: str | None = option(
        None,
        "nm of the first and the last band (31 bands: 400:700), and the number N of the sensor's bands if the file "
        "keeps some; or a list, or a file",
        "--wavelengths",
        metavar="START:END[:N]|LIST|FILE",
        **CUBES,
    )


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(ObservationOptions, DryRunOptions):
    """A data set of hyperspectral and RGB fusion from its download (base class)."""

    folder: Path = option(REQUIRED, "folder of the unpacked download", "FOLDER")
    out: Path = option(REQUIRED, "output folder", "--out")
    ratio: int = option(8, "H/h: 4, 8, 16, 32 …", "--ratio", low=2)
    protocol: str = option(
        "hsrnet",
        "published work whose blur, patches and scenes are taken",
        "--protocol",
        choices=("hsrnet", "psrt", "mhf"),
    )
    train_scenes: Path | None = option(
        None, "text file with the training scenes, one name a line (default: published, or the rest)", "--train_scenes"
    )
    test_scenes: Path | None = option(None, "the same for the test scenes", "--test_scenes")
    name: str | None = option(None, "name in the file names (default cave_x8, harvard_x8 …)", "--name")
    patch: int | None = option(None, "side of training patches (default: the protocol's)", "--patch", low=1)
    normalise: str | None = option(
        None,
        "divide by the largest value of each image or of the set, or by the full scale of the file (none)",
        "--normalise",
        choices=("none", "image", "set"),
    )
    overwrite: bool = option(False, _OVERWRITE, "--overwrite")

    stride: int = option(32, "step between training patches", "--stride", low=1)

    @property
    def sensor(self) -> str:
        """Return the sensor of the data set."""
        return "none"


@dataclass(frozen=True, kw_only=True)
class CaveOptions(BenchmarkOptions):
    """Make cave_x4, cave_x8, … from the download of CAVE: PNG bands in nested folders, scenes split as published.

    Examples:
        complete_ms_data --ratio 8 --out data/cave_x8
        complete_ms_data --ratio 4 --protocol psrt --out data/cave_x4 --dry_run
    """

    @property
    def sensor(self) -> str:
        """Return the sensor of the data set."""
        return "CAVE"


@dataclass(frozen=True, kw_only=True)
class HarvardOptions(BenchmarkOptions):
    """Make harvard_x4, harvard_x8, … from the download of Harvard (folder CZ_hsdb, one .mat a scene).

    Examples:
        CZ_hsdb --ratio 8 --out data/harvard_x8
        CZ_hsdb --test_scenes names.txt --out data/harvard_x8 --dry_run
    """

    stride: int = option(64, "step between training patches", "--stride", low=1)

    @property
    def sensor(self) -> str:
        """Return the sensor of the data set."""
        return "Harvard"


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(RegisteredOptions):
    """Estimate the spectral response and the PSF of a hyperspectral image and its guide, from the pair itself.

    Writes response.npy (guide bands x bands), response.csv, psf.npy, estimate.json and estimate.png. `simulate` and
    `evaluate` take the two matrices with --response and --psf.

    Examples:
        pair.mat --out estimate
        --ms HS.tif --pan RGB.tif --out estimate
    """

    pair: Path | None = option(None, "a file that holds both images (.mat, .npz)", "PAIR")
    ms: tuple[Path, ...] = option((), "the hyperspectral image (instead of PAIR)", "--ms", **_FILES)
    pan: tuple[Path, ...] = option((), "its guide of one or several bands", "--pan", **_FILES)
    out: Path = option(REQUIRED, "output folder", "--out")


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(DryRunOptions):
    """Draw synthetic scenes: a complete data set without a download.

    Examples:
        --out data/demo
        --out data/city --name city --landscape city --sensor GF2 --seed 7 --picture city.png
    """

    out: Path = option(REQUIRED, "output folder", "--out")
    name: str = option("demo", "name in the file names", "--name")
    size: int = option(288, "side of the training ground in MS pixels", "--size")
    seed: int = option(0, "seed of the drawing", "--seed")
    sensor: str = option("WV3", "a sensor of 4 or 8 bands", "--sensor")
    ratio: int = option(4, "H/h", "--ratio")
    landscape: str | None = option(
        None, "any, city, suburb, farmland, woodland, mountains, … (default: villages and fields)", "--landscape"
    )
    picture: Path | None = option(None, "also write a PNG of the test ground to this file", "--picture")


@dataclass(frozen=True, kw_only=True)
class GenericOptions(DryRunOptions):
    """Draw scenes of drawn sensors, and write the bands and guides that the weights for any sensor are trained on.

    Examples:
        --out data/generic
        --out data/generic --scenes 8 --held_out 2 --dry_run
    """

    out: Path = option(REQUIRED, "output folder", "--out")
    name: str = option("generic", "name in the file names", "--name")
    scenes: int = option(320, "scenes drawn for training", "--scenes", low=1)
    held_out: int = option(24, "scenes drawn for validation, and for the test", "--held_out", low=1)
    seed: int = option(1000, "of the first scene; those after it count on", "--seed", low=0)


@dataclass(frozen=True, kw_only=True)
class InspectOptions(PairOptions):
    """Report keys, shapes, range, layout and likely sensor of files, and what is wrong with them.

    Of --ms and --pan, the shift between them is estimated, too.

    Examples:
        data/ikonos/train_ikonos.h5
        --ms MS.tif --pan PAN.tif  # also estimates their shift
    """

    files: tuple[Path, ...] = option((), "H5, .mat, .npy, .npz, GeoTIFF, VRT, JPEG 2000, ENVI", "FILE")


@dataclass(frozen=True, kw_only=True)
class RepackOptions:
    """Rewrite an H5 file: one chunk per sample, a smaller dtype.

    Examples:
        old.h5 --out new.h5
        old.h5 --out new.h5 --dtype uint16
    """

    file: Path = option(REQUIRED, "the file to rewrite", "FILE.h5")
    out: Path = option(REQUIRED, "the new file", "--out", metavar="NEW.h5")
    dtype: str = option("float32", "uint16 only if lossless", "--dtype", choices=("float32", "uint16"))


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Reproduce a row of a results table and compare: data, training, fusing and measuring, from one recipe.

    A recipe (configs/recipes/*.yaml) holds the data, the commands, the seed, and the numbers with their bands. Each
    step is shown as the command that runs it. Existing results are reused; an interrupted training is resumed.
    Exit status: 0 all numbers in their bands, 1 some outside, 2 bad input, 130 interrupted.

    Examples:
        --list
        ikonos --scene SCENE.mat
        synthetic
    """

    recipe: str | None = option(None, "name of a recipe, or a YAML file", "recipe")
    list_recipes: bool = option(False, "list the recipes", "--list")
    scene: Path | None = option(
        None, "the scene's file, or the folder of the download, if the recipe makes its data from one", "--scene"
    )
    data_root: Path | None = option(
        None, "folder of the H5 files, if the recipe's data are published ones", "--data_root"
    )
    out: Path = option(Path("visualized_img/recipes"), "folder for data and results", "--out")
    measure: Path | None = option(None, "only measure existing fused images", "--measure", metavar="FILE.mat")
    full: bool = option(False, "with --measure: at full resolution", "--full")
    device: str | None = device_option()


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Run everything once, in three minutes on two free CPU cores: scene, H5, training, fused .mat, pictures, scores.

    Runs the project's own commands, shows each, and compares LE-Mamba with plain interpolation (EXP).

    Examples:
        --minutes 1.9
        --minutes 10 --out visualized_img/longer
    """

    minutes: float = option(
        1.9, "training time, in minutes in which it has a core to itself (default 1.9)", "--minutes", low=0
    )
    out: Path = option(
        Path("visualized_img/demo"), "folder of data, results and summary (default visualized_img/demo)", "--out"
    )


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """List, filter and compare training runs: settings, validation scores, cost, curves.

    Scores are those of the best weights on the validation set. A run is named proj/run.

    Examples:
        --sort psnr
        'demo/*' --where model.arch=PNN --compare
        first second --curves curves.png --curve train/total valid/ergas
    """

    patterns: tuple[str, ...] = option((), "proj/run, a part of it, or a pattern, e.g. 'demo/*' (default: all)", "RUN")
    log_dir: Path = option(Path("log_file"), "folder of the runs (default log_file)", "--log_dir")
    where: tuple[str, ...] = option(
        (), "only runs with these settings, e.g. model.arch=PNN train.seed=1", "--where", metavar="KEY=VALUE", many=True
    )
    state: str | None = option(None, "only runs in this state", "--state", choices=("training", "finished", "stopped"))
    sort: str = option("latest", "latest, name, or a score such as psnr (default latest)", "--sort")
    compare: bool = option(False, "show the settings that differ, scores and cost side by side", "--compare")
    curves: Path | None = option(None, "draw curves of the runs", "--curves", metavar="FILE.png")
    curve: tuple[str, ...] = option(
        (),
        "which curves (default train/total valid/ergas)",
        "--curve",
        metavar="NAME",
        many=True,
    )
    json: Path | None = option(None, "also write settings, scores and cost as JSON", "--json", metavar="FILE")
    csv: Path | None = option(None, "also write the table as CSV", "--csv", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write one HTML page of training runs: curves, scores, cost, settings, pictures, model card.

    The page needs no other file and no network. Of one run it has the settings that differ from the defaults, of
    several those that differ between them. If test images were fused with a run's weights (lemamba fuse --weights RUN,
    without --out), they are measured and shown.

    Examples:
        demo/first
        demo/first demo/second --out compare.html
        'sweep/*' --out sweep.html
    """

    runs: tuple[str, ...] = option(
        REQUIRED, "folder of a run, proj/run, a part of it, or a pattern, e.g. 'demo/*'", "RUN"
    )
    log_dir: Path = option(Path("log_file"), "folder of the runs (default log_file)", "--log_dir")
    out: Path | None = option(
        None, "the page (default: report.html in the run's folder)", "--out", "--html", metavar="FILE.html"
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a trained network as an ONNX file, and compare it with torch in onnxruntime (docs/deployment.md).

    Inputs are ms (B, C, h, w), lms (B, C, H, W) and pan (B, P, H, W), divided by the divisor; the output is sr, not
    clipped. Needs: pip install onnx onnxscript onnxruntime

    Examples:
        demo/first --out network.onnx
        dlpan:pnn.pth --arch PNN --bands 8 --out pnn.onnx
    """

    weights: str = option(REQUIRED, "run folder, proj/run, .safetensors, .pth; dlpan:FILE; hf:NAME", "WEIGHTS")
    out: Path = option(REQUIRED, "file to write, ends in .onnx", "--out")
    arch: str | None = option(None, "name of the network, if the weights do not name it", "--arch", "--method")
    fixed: bool = option(False, "fix batch 1 and --size, also where the network allows other sizes", "--fixed")
    size: int = option(16, "side of ms where sizes are fixed, and where the file is compared", "--size", low=8)
    bands: int | None = option(None, "of ms, for weights without a description", "--bands", low=1)
    guide_bands: int = option(1, "of pan, likewise (default 1)", "--guide_bands", low=1)
    ratio: int = option(4, "H / h, likewise (default 4)", "--ratio", low=1)


SCRATCH = "scratch"
COMPRESSIONS = ("none", "deflate", "zstd", "lzw")
DTYPES = ("uint8", "uint16", "float32")


def _numbers(text: str) -> tuple[int, ...]:
    """Read --bands."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected band numbers such as 4,3,2, given {text!r}")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True, kw_only=True)
class FuseOptions(DeviceOptions, DataOptions, RegisteredOptions, DryRunOptions):
    """Fuse a test set or a GeoTIFF pair with a trained network or a classical method.

    A test set gives .mat files, pictures and metrics; a pair gives a GeoTIFF, COG, ENVI image, array, or a VRT over
    strips; --list fuses many pairs, torchrun shares a scene over processes. Values are divided by the sensor's divisor
    before fusing and multiplied by it afterwards; the result of a network is clipped to [0, 1] in between, as
    the published scripts do, that of a classical method is not.

    Examples:
        --ms MS.tif --pan PAN.tif --out FUSED.tif  # weights that serve any sensor
        --weights demo/first --dataset ikonos --data_root data/ikonos
        --arch MTF-GLP-FS --data test.h5 --sensor WV3 --dry_run
    """

    weights: str | None = option(
        None,
        "generic (serves any sensor; the default without --arch), run folder, proj/run, .safetensors, .pth; dlpan:FILE "
        "for DLPan-Toolbox",
        "--weights",
        group="method",
    )
    arch: str | None = option(
        None,
        "network or classical method (default: the network that the weights name); auto: the best on the data "
        "themselves, degraded by their ratio: of the methods within 1 % of the lowest ERGAS, that of the highest Q2n",
        "--arch",
        "--method",
        group="method",
    )
    adapt_steps: int | None = option(
        None,
        "steps that A-PNN-FT, Z-PNN, lambda-PNN, ZS-Pan or SpectraLift trains on each image (default: those of its "
        "paper)",
        "--adapt_steps",
        low=0,
        group="method",
    )
    split: str = option(
        "test", "file of --dataset (default test)", "--split", choices=("valid", "test", "test_full"), group="data"
    )
    drop_dead: bool = option(
        False, "of --ms: leave out hyperspectral bands that hold one value, or noise only", "--drop_dead", group="data"
    )
    fill_dropped: bool = option(
        False,
        "write the bands that --drop_dead leaves out as bands without data, so that all keep their numbers",
        "--fill_dropped",
        group="output",
    )
    guide_order: tuple[int, ...] = option(
        (),
        "guide bands in the order in which the network learnt them (from 1; 3,2,1 turns BGR to RGB)",
        "--guide_order",
        metavar="N,N",
        read=_numbers,
        group="data",
    )
    list: Path | None = option(
        None,
        "CSV of many pairs, columns ms, pan, out and perhaps sensor, divisor, nodata, bands, dtype, rgb_png",
        "--list",
        metavar="FILE.csv",
        group="data",
    )
    resume: bool = option(False, "continue a scene, or a list, that was interrupted", "--resume", group="run")
    out: Path | None = option(
        None, "file (default: in visualized_img/), or folder with --per_image", "--out", group="output"
    )
    per_image: bool = option(
        False, "write one output_mulExm_<i>.mat per image, H x W x C", "--per_image", group="output"
    )
    pictures: int = option(8, "draw quick-looks of at most this many samples", "--pictures", low=0, group="output")
    json: Path | None = option(None, "also write the metrics to this file", "--json", group="output")
    compress: str = option("deflate", "of a GeoTIFF", "--compress", choices=COMPRESSIONS, group="output")
    cog: bool = option(False, "write a cloud-optimised GeoTIFF: overviews, statistics", "--cog", group="output")
    bands: tuple[int, ...] = option(
        (),
        "bands of the scene to write, in this order (from 1)",
        "--bands",
        metavar="N,N",
        read=_numbers,
        group="output",
    )
    dtype: str | None = option(
        None,
        "of the written scene (default: that of MS); values are kept and clipped, not scaled",
        "--dtype",
        choices=DTYPES,
        group="output",
    )
    rgb_png: Path | None = option(
        None, "also write a picture of the scene, 2 to 98 % of each band", "--rgb_png", metavar="FILE", group="output"
    )
    tile: int | None = option(
        None, "side of tiles in pixels of the result (default: none; GeoTIFF: 256)", "--tile", low=1, group="run"
    )
    overlap: int = option(
        OVERLAP,
        f"pixels shared by neighbouring tiles (default {OVERLAP}, or the multiple of the ratio above it)",
        "--overlap",
        low=0,
        group="run",
    )
    memory: float | None = option(None, "no longer needed: memory does not grow with a scene", "--memory", group="run")
    no_clip: bool = option(False, "do not clip a network's result to [0, 1]", "--no_clip", group="run")
    compile: bool = option(False, "torch.compile, with CUDA graphs on a GPU; slower on a CPU", "--compile", group="run")

    def tiling(self, tile: int | None = None, ratio: int = 1) -> Tiling:
        """Return how images are cut; if --tile is not given, `tile`, made a multiple of the ratio."""
        return Tiling(self.tile or tile and tile // ratio * ratio, self.overlap, self.batch_size, self.mixed_precision)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(DataOptions, RegisteredOptions, DryRunOptions):
    """Train a network on the very scene, or test set, that it is to fuse, and fuse it. No other data are needed.

    The scene is degraded by its own ratio, so that its MS image becomes the ground truth (Wald's protocol); then
    patches at full resolution are added, whose details must agree with both images. Part of the ground is held out: it
    decides when to stop, and if the result is no better there, the start is used. Next to --out, a folder
    <name>_adapted gets the weights (for lemamba fuse --weights), their card, a picture before/after and report.json.

    Examples:
        --ms MS.tif --pan PAN.tif --out FUSED.tif
        --data test.h5 --sensor WV3 --minutes 10 --out fused.mat --dry_run
    """

    start: str = option(
        "generic",
        "weights to start from (as for lemamba fuse --weights), or scratch",
        "--from",
        metavar="WEIGHTS|scratch",
        group="method",
    )
    arch: str | None = option(
        None, "network (default: the one that the weights name; LEMamba from scratch)", "--arch", group="method"
    )
    variant: str | None = option(None, "variant of the network, from scratch", "--variant", group="method")
    minutes: float = option(2.0, "training time; measuring and fusing come on top", "--minutes", low=0)
    rounds: int | None = option(
        None, "instead of --minutes: train N rounds of 40 steps; the result is then reproducible", "--rounds", low=1
    )
    seed: int = option(3407, "of weights and patches", "--seed", low=0)
    resume: bool = option(False, "continue an interrupted adaptation", "--resume")
    overwrite: bool = option(False, "replace an earlier adaptation of this name", "--overwrite")
    split: str = option("test", "file of --dataset", "--split", choices=("valid", "test", "test_full"), group="data")
    out: Path = option(REQUIRED, "the fused image: GeoTIFF of a scene, .mat of a test set", "--out", group="output")
    device: str | None = device_option(group="run")
    scan_backend: str | None = scan_option(group="run")

    @property
    def weights(self) -> str | None:
        """The weights to start from; None from scratch."""
        return None if self.start == SCRATCH else self.start


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RegisteredOptions):
    """Measure fused images, as the MATLAB package does: a table per sample, mean and std.

    Images are measured at reduced resolution if there is a gt, otherwise (or with --full) at full resolution from
    ms, lms and pan. Files may be .mat, .npz, .npy or GeoTIFF: one image, a batch, or a folder of them. What is not
    given (sensor, peak, ratio) is taken from the file if it says so.

    Examples:
        visualized_img/LEMamba_wv3/data_LEMamba_wv3_ref.mat --html report.html
        fused.npy --gt test.h5 --sensor WV3 --indices rmse cc
        FUSED.tif --ms MS.tif --pan PAN.tif  # at full resolution; with --register and --nodata as it was fused
    """

    path: Path | None = option(
        None, "a file with sr (B,C,H,W) or (H,W,C), or a folder of output_mulExm_<i>.mat or other names", "PATH"
    )
    sr: Path | None = option(None, "the same as PATH", "--sr")
    gt: Path | None = option(
        None,
        "ground truth, if PATH holds sr only: H5 of the test set, .mat, .npz, .npy, GeoTIFF, or a folder; an H5 "
        "without gt gives ms, lms, pan",
        "--gt",
    )
    ratio: int | None = option(None, "resolution ratio (default: the file's, else 4)", "--ratio")
    const: float | None = option(
        None, "peak value of the data, e.g. 2047 (default: the file's, else that of --sensor)", "--const"
    )
    sensor: str | None = option(
        None, "WV3, WV2, QB, IKONOS, GF2, …, none: gains of the filters at full resolution", "--sensor"
    )
    full: bool = option(False, "full resolution even if the file holds gt", "--full", "--full_res")
    published: bool = option(False, "reproduce the defects of the published scripts", "--published")
    indices: tuple[str, ...] = option(
        (), "further indices, e.g. rmse cc psnr_cube, or all (docs/metrics.md)", "--indices", metavar="NAME", many=True
    )
    cut: int = option(0, "border in pixels that does not count; papers use 21 or 30", "--cut", low=0)
    coregister: bool = option(
        False, "r_q2n, r_sam, r_ergas: sample each band where it fits PAN best (Scarpa, Ciotola)", "--coregister"
    )
    nodata: float | None = option(
        None,
        "pixels are missing where all bands of gt (lms at full resolution; --ms or --pan) have this value",
        "--nodata",
    )
    response: Path | None = option(
        None,
        "response.npy of `prepare_data.py estimate`: consistency with a guide of several bands",
        "--response",
    )
    psf: Path | None = option(None, "psf.npy of the same", "--psf")
    mask: Path | None = option(
        None,
        "only pixels count where this image is not 0: .npy, .npz, .mat, .h5 or GeoTIFF, (H,W) or one per sample; "
        "variable mask or valid",
        "--mask",
        metavar="FILE",
    )
    device: str = option("cpu", "cpu or cuda", "--device")
    json: Path | None = option(None, "also write the result as JSON", "--json", metavar="FILE")
    csv: Path | None = option(None, "also write the result as CSV", "--csv", metavar="FILE")
    latex: Path | None = option(None, "also write mean and std as a LaTeX table", "--latex", metavar="FILE")
    html: Path | None = option(None, "also write one HTML page with pictures", "--html", metavar="FILE")
    hqnr_map: Path | None = option(
        None,
        "with --ms and --pan: also write HQNR, D_lambda_K and D_s of each block of 32 x 32 pixels as a GeoTIFF",
        "--hqnr_map",
        metavar="FILE.tif",
    )


def _rates(text: str) -> tuple[float, ...]:
    """Read --rates."""
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = (0.0,)
    if not all(0 < rate < float("inf") for rate in rates):
        raise argparse.ArgumentTypeError(f"expected rates above 0 such as 2e-3,5e-4, given {text!r}")
    return rates


def _seeds(text: str) -> tuple[int, ...]:
    """Read --seeds."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise argparse.ArgumentTypeError(f"expected different whole numbers such as 1,2,3, given {text!r}")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True, kw_only=True)
class BoardOptions(DataOptions):
    """Compare methods, and any number of runs of one network, on one test set: scores, tests, cost, pictures.

    Methods that need no weights run as they are; a network runs if weights are given, or after training with equal
    time for all (--train MINUTES), with every seed of --seeds and every combination of --grid. Every method runs in a
    process of its own: a method that fails is reported and the others continue, and its peak memory is its own.
    An interrupted board continues when the same command is run again.

    Exit status: 0 a board was written; 1 with --strict, if a method failed or was left out; 2 bad input, or no method
    gave a result; 130 interrupted.

    Examples:
        --dataset ikonos --data_root data/ikonos --methods classical --out boards/ikonos
        --dataset wv3 --weights LEMamba=LE-Mamba/RUN --weights PNN=dlpan:pnn.pth --out boards/wv3
        --dataset wv3 --train 30 --rates 2e-3,5e-4 --out boards/wv3
    """

    dataset: str = option(REQUIRED, "name of the data set: sensor, divisor, ratio, files", "--dataset", group="data")
    full: Path | None = option(None, "H5 file at full resolution, for D_lambda_K, D_s, HQNR", "--full", group="data")
    methods: str = option(
        "all",
        "separated by commas: all (without those that train on each image), classical, learned, or names (default all)",
        "--methods",
        group="methods",
    )
    weights: tuple[str, ...] = option(
        (),
        "a row of the board: run folder, proj/run or file, under a label of your choice; repeat for others. Runs under "
        "one label are its seeds. If the weights do not name their network, the label starts with its name",
        "--weights",
        metavar="LABEL=RUN",
        group="methods",
    )
    train: float | None = option(
        None, "train each network this long first", "--train", metavar="MINUTES", group="methods"
    )
    train_epochs: int | None = option(
        None, "or: train each network for N epochs (equal steps)", "--train_epochs", metavar="N", group="methods"
    )
    rates: tuple[float, ...] = option(
        (),
        "learning rates that each network tries for a tenth of the budget before it trains with its best",
        "--rates",
        metavar="R,R,…",
        read=_rates,
        group="methods",
    )
    train_config: Path = option(
        Path(__file__).resolve().parent.parent / "configs" / "budget.yaml",
        "settings shared by all networks (default configs/budget.yaml)",
        "--train_config",
        group="methods",
    )
    seed: int = option(3407, "seed of weights, order and augmentation (default 3407)", "--seed", group="methods")
    seeds: tuple[int, ...] = option(
        (),
        "train each network once with each of these seeds instead; its row has the deviation over them, too",
        "--seeds",
        metavar="N,N,…",
        read=_seeds,
        group="methods",
    )
    grid: tuple[str, ...] = option(
        (),
        "train each network with every combination of values: arguments of the network, or section.key of the "
        "configuration, e.g. state_grad=detached,full optimizer.lr=1e-3,5e-4",
        "--grid",
        metavar="KEY=V,V,…",
        many=True,
        group="methods",
    )
    out: Path = option(REQUIRED, "folder for the tables and pictures", "--out", group="output")
    sort: str = option("qn", "index to rank by (default qn)", "--sort", group="output")
    against: str | None = option(
        None,
        "row with which the paired tests compare the others (default: the best of --sort)",
        "--against",
        metavar="LABEL",
        group="output",
    )
    strict: bool = option(False, "exit status 1 if a method failed or was left out", "--strict", group="output")
    picture_sample: int = option(0, "sample shown in the picture grid (default 0)", "--picture_sample", group="output")
    device: str | None = device_option(group="output")


SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """Print a script by which a shell completes the commands, options and names of `lemamba`.

    The script starts no Python; print it again after an update. Names are those of methods, losses, sensors and data
    sets that are known when it is printed.

    Examples:
        bash  # > ~/.local/share/bash-completion/completions/lemamba
        zsh   # > ~/.zfunc/_lemamba, a folder of $fpath named before compinit
        fish  # > ~/.config/fish/completions/lemamba.fish
    """

    shell: str = option(REQUIRED, "bash, zsh or fish", "SHELL", choices=SHELLS)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Examine this machine: packages, compiler, scan backend and its speed, threads, GPU, data, weights, disk.

    Each problem has a line that says what to do. Exit status: 0 no problem, 1 a problem.

    Examples:
        --data_root data
        --device cuda
    """

    data_root: Path | None = option(None, "folder of the H5 files (default: LEMAMBA_DATA)", "--data_root")
    device: str | None = device_option()
    scan_backend: str | None = scan_option()
