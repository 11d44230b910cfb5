"""Prepare data: simulate from a real scene or cube, draw a synthetic scene, inspect a file, repack an H5 file.

docs/data.md describes what each route needs and writes.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from lemamba.commands import estimate
from lemamba.commands.options import EstimateOptions, InspectOptions, RepackOptions, SimulateOptions, SyntheticOptions
from lemamba.datasets.arrays import holds_pair
from lemamba.datasets.opening import Relation, files_of, inspect_pair, pair_paths
from lemamba.datasets.pair import load_pair
from lemamba.datasets.raster import MULTISPECTRAL
from lemamba.datasets.readers import inspect_file, reader_of
from lemamba.datasets.repack import repack
from lemamba.datasets.repack import report as repacked
from lemamba.datasets.simulation.pairs import prepare_guided, prepare_pairs
from lemamba.datasets.simulation.prepare import prepare_cubes, prepare_scenes
from lemamba.datasets.simulation.response import gaussian_rgb, parse_wavelengths, read_matrix, response_from_mat
from lemamba.datasets.simulation.sources import Cube, Scene
from lemamba.datasets.simulation.synthetic import write_dataset
from lemamba.reporting.pictures import save_scene
from lemamba.utils.atomic import check_writable
from lemamba.utils.errors import UserError, one_line
from lemamba.utils.sensors import get_sensor


def _checked_name(name: str) -> str:
    """Return the name as it appears in file names."""
    plain = name.lower().replace("-", "_")
    if not (plain.isascii() and plain.isidentifier()):
        raise UserError(f'expected a name of letters, digits and "_", given "{name}"; choose another')
    return plain


def _simulate(options: SimulateOptions) -> dict[str, int]:
    if bool(options.scenes) == bool(options.ms or options.pan):
        raise UserError("expected either SCENE files or --ms and --pan; give one of the two")
    if options.ms or options.pan:
        ms, pan = pair_paths(options.ms, options.pan)
        sources, product = [_pair(options, ms, pan)], files_of(ms, "ms")[1]
    else:
        sources = [
            _pair(options, (path,), (path,)) if holds_pair(path) else reader_of(path).load(path, options.scale)
            for path in options.scenes
        ]
        product = None
    scenes = [source for source in sources if isinstance(source, Scene)]
    if scenes and len(scenes) < len(sources):
        raise UserError("expected only scenes or only cubes, given both; prepare them separately")
    if not scenes:
        cubes = [source for source in sources if isinstance(source, Cube)]
        guided = any(cube.guide is not None for cube in cubes)
        return _guided(options, cubes) if guided else _cubes(options, cubes)
    if any(len(scene.ms) > MULTISPECTRAL for scene in scenes):
        return _hyperspectral_pairs(options, scenes)
    return _scenes(options, scenes, product)


def _pair(options: SimulateOptions, ms: tuple[Path, ...], pan: tuple[Path, ...]) -> Scene | Cube:
    relation = Relation(options.allow_remote, options.assume_aligned, options.register)
    return load_pair(ms, pan, relation, nodata=options.nodata, scale=options.scale)


def _refuse(options: SimulateOptions, *names: str) -> None:
    """Refuse options that a hyperspectral image with its own guide does not use."""
    given = next((name for name in names if getattr(options, name) is not None), None)
    if given:
        raise UserError(
            f"--{given} is not used for a hyperspectral image with its own guide (--psf, --response); drop it"
        )


def _check_ratio(options: SimulateOptions, scene: Scene) -> None:
    if options.ratio not in (None, scene.ratio):
        raise UserError(f"expected ratio {options.ratio}, the sizes of the scene say {scene.ratio}; correct --ratio")


def _hyperspectral_pairs(options: SimulateOptions, scenes: list[Scene]) -> dict[str, int]:
    _check_ratio(options, scenes[0])
    _refuse(options, "sigma", "blur_size", "scale", "guide_columns", "wavelengths")
    name = (options.scenes or options.ms)[0].stem
    return prepare_pairs(
        scenes,
        options.out,
        _checked_name(options.name or f"{name}_x{scenes[0].ratio}"),
        response=None if options.response is None else read_matrix(options.response),
        psf=None if options.psf is None else read_matrix(options.psf),
        stride=options.stride,
        divisor=options.divisor,
        test_only=options.test_only,
    )


def _guided(options: SimulateOptions, cubes: list[Cube]) -> dict[str, int]:
    ratio = options.ratio or 4
    name = (options.scenes or options.ms)[0].stem
    print(f"note: the guide has the size of the hyperspectral image, which is degraded by {ratio}; the guide is kept")
    _refuse(options, "blur_size", "guide_columns", "wavelengths", "nodata", "divisor")
    return prepare_guided(
        cubes,
        options.out,
        _checked_name(options.name or f"{name}_x{ratio}"),
        ratio=ratio,
        sigma=options.sigma,
        psf=None if options.psf is None else read_matrix(options.psf),
        response=None if options.response is None else read_matrix(options.response),
        stride=options.stride,
        test_only=options.test_only,
    )


def _scenes(options: SimulateOptions, scenes: list, product: str | None = None) -> dict[str, int]:
    named = options.sensor or scenes[0].sensor or product
    if named is None:
        raise UserError(
            "the file does not say which sensor took it; give --sensor (or --sensor none for generic gains)"
        )
    sensor = get_sensor(named)
    _check_ratio(options, scenes[0])
    return prepare_scenes(
        scenes,
        sensor,
        options.out,
        _checked_name(options.name or sensor.name),
        stride=options.stride,
        divisor=options.divisor,
        test_only=options.test_only,
    )


def _cubes(options: SimulateOptions, cubes: list) -> dict[str, int]:
    ratio = options.ratio or 4
    sensor = get_sensor(options.sensor or "none")
    bands = len(cubes[0].values)
    if sensor.bands not in (None, bands):
        raise UserError(f"expected {sensor.bands} bands for sensor {sensor.name}, given {bands}; name the right sensor")
    wavelengths = parse_wavelengths(options.wavelengths, bands)
    if options.response:
        columns = _columns(options.guide_columns)
        response = response_from_mat(options.response, wavelengths, columns)
    else:
        response = gaussian_rgb(wavelengths)
    default = f"{options.scenes[0].stem if sensor.bands is None else sensor.name}_x{ratio}"
    return prepare_cubes(
        cubes,
        response,
        wavelengths,
        options.out,
        _checked_name(options.name or default),
        ratio=ratio,
        sigma=options.sigma,
        blur_size=options.blur_size,
        stride=options.stride,
        sensor=sensor.name,
        guide=options.response.name if options.response else "gaussian RGB",
        test_only=options.test_only,
    )


def _columns(text: str | None) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UserError(f'expected guide columns as "3,4,5", given "{text}"; correct them') from None


def _synthetic(options: SyntheticOptions) -> dict[str, int]:
    check_writable(options.picture)
    show = partial(_draw, options.picture, options.sensor) if options.picture else None
    return write_dataset(
        options.out,
        _checked_name(options.name),
        show=show,
        size=options.size,
        seed=options.seed,
        sensor=options.sensor,
        ratio=options.ratio,
        landscape=options.landscape,
    )


def _draw(path: Path, sensor: str, ms: np.ndarray, pan: np.ndarray) -> None:
    save_scene(path, ms, pan, get_sensor(sensor).rgb, infrared=len(ms) * 3 // 4)


def _inspect(options: InspectOptions) -> int:
    paired = bool(options.ms or options.pan)
    if not (options.files or paired):
        raise UserError("expected files to inspect, or --ms and --pan; name some")
    reports = [inspect_file(path) for path in options.files]
    if paired:
        ms, pan = pair_paths(options.ms, options.pan)
        reports.append(inspect_pair(ms, pan, Relation(options.allow_remote, options.assume_aligned)))
    for report in reports:
        print(report.text())
    unreadable = [found for found in reports if not found.readable]
    if unreadable:
        print(f"error: {one_line(unreadable[0].problems[0])}", file=sys.stderr)
    return max(found.status for found in reports)


def run(options: SimulateOptions | EstimateOptions | SyntheticOptions | InspectOptions | RepackOptions) -> int:
    """Run the subcommand of these options; return its exit status (inspect: 1 a problem found, 2 unreadable)."""
    if isinstance(options, InspectOptions):
        return _inspect(options)
    if isinstance(options, RepackOptions):
        print(repacked(*repack(options.file, options.out, options.dtype)))
        return 0
    if isinstance(options, EstimateOptions):
        return estimate.run(options)
    written = _simulate(options) if isinstance(options, SimulateOptions) else _synthetic(options)
    for file, count in written.items():
        print(f"{options.out / file}: {count} samples")
    return 0
