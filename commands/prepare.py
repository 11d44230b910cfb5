"""Prepare data: simulate from a real scene or cube, draw a synthetic scene, inspect a file, repack an H5 file.

docs/data.md describes what each route needs and writes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lemamba.commands import estimate
from lemamba.commands.generic import write_generic
from lemamba.commands.options import (
    BenchmarkOptions,
    CaveOptions,
    EstimateOptions,
    GenericOptions,
    InspectOptions,
    ObservationOptions,
    RepackOptions,
    SimulateOptions,
    SyntheticOptions,
)
from lemamba.commands.pairs import relation_of
from lemamba.commands.planning import files_text, print_plan, size_of, span_of
from lemamba.datasets.arrays import holds_pair
from lemamba.datasets.opening import files_of, inspect_pair, pair_paths
from lemamba.datasets.pair import load_pair
from lemamba.datasets.raster import MULTISPECTRAL
from lemamba.datasets.readers import inspect_file, reader_of
from lemamba.datasets.repack import repack
from lemamba.datasets.repack import report as repacked
from lemamba.datasets.simulation import benchmarks
from lemamba.datasets.simulation.benchmarks import Protocol
from lemamba.datasets.simulation.pairs import prepare_guided, prepare_pairs
from lemamba.datasets.simulation.prepare import prepare_benchmark, prepare_cubes, prepare_scenes
from lemamba.datasets.simulation.response import CAMERAS, parse_wavelengths, read_matrix, read_psf, read_response
from lemamba.datasets.simulation.sources import Cube, Scene
from lemamba.datasets.simulation.synthetic import write_dataset
from lemamba.datasets.simulation.wald import Degradation, gaussian_kernel
from lemamba.datasets.writers import planned_files
from lemamba.engine.fusing.cost import peak_bytes
from lemamba.reporting.pictures import save_scene
from lemamba.utils.atomic import check_writable
from lemamba.utils.errors import UserError, one_line
from lemamba.utils.progress import ProgressBar, track
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
    relation = relation_of(options)
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
        overwrite=options.overwrite,
    )


def _cubes(options: SimulateOptions, cubes: list[Cube]) -> dict[str, int]:
    ratio = options.ratio or 4
    sensor = get_sensor(options.sensor or "none")
    bands = len(cubes[0].values)
    if sensor.bands not in (None, bands):
        raise UserError(f"expected {sensor.bands} bands for sensor {sensor.name}, given {bands}; name the right sensor")
    wavelengths = parse_wavelengths(options.wavelengths, bands, cubes[0].kept, cubes[0].kept_name)
    degradation, facts = _degradation(options, wavelengths, ratio, "gaussian")
    default = f"{options.scenes[0].stem if sensor.bands is None else sensor.name}_x{ratio}"
    return prepare_cubes(
        cubes,
        degradation,
        wavelengths,
        options.out,
        _checked_name(options.name or default),
        stride=options.stride,
        test_only=options.test_only,
        overwrite=options.overwrite,
        facts={"sensor": sensor.name, **facts},
    )


_CAMERA_NAMES = {"gaussian": "gaussian RGB", "nikon_d700": "Nikon D700"}


def _degradation(
    options: ObservationOptions, wavelengths: np.ndarray, ratio: int, camera: str, protocol: Protocol | None = None
) -> tuple[Degradation, dict[str, Any]]:
    """Return how guide and low-resolution image are made, and attributes that name it.

    Args:
        options: what the user chose.
        wavelengths: of the cube's bands in nm.
        ratio: r.
        camera: gives the guide where the user chose nothing.
        protocol: gives blur and offset where the user chose nothing; None is a Gaussian of sigma r / 2.
    """
    if options.response and options.guide:
        raise UserError("expected --guide or --response, given both; drop one")
    columns = _columns(options.guide_columns)
    if options.response:
        response = read_response(options.response, wavelengths, columns)
        guide = options.response.name
    elif columns:
        raise UserError("--guide_columns chooses columns of --response, which is not given; drop it")
    else:
        named = options.guide or camera
        response, guide = CAMERAS[named](wavelengths), _CAMERA_NAMES[named]
    facts: dict[str, Any] = {"guide": guide}
    gaussian = options.sigma is not None or options.blur_size is not None
    if options.psf and gaussian:
        raise UserError("expected --psf, or --sigma and --blur_size, given both; drop one")
    offset = options.offset
    if options.psf:
        psf, facts["blur"] = read_psf(options.psf), options.psf.name
    elif protocol and not gaussian:
        psf, facts["blur"] = protocol.psf(ratio), protocol.blur
        offset = protocol.offset(ratio) if offset is None else offset
    else:
        sigma = ratio / 2 if options.sigma is None else options.sigma
        size = 2 * ratio + 1 if options.blur_size is None else options.blur_size
        psf, facts["blur"] = gaussian_kernel(size, sigma), f"gaussian {size}x{size}, sigma {sigma:g}"
        facts |= {"blur_sigma": sigma, "blur_size": size}
    return Degradation(response, ratio, psf, offset, options.snr), facts


def _benchmark(options: BenchmarkOptions) -> dict[str, int]:
    """Make CAVE or Harvard."""
    cave = isinstance(options, CaveOptions)
    protocol = benchmarks.PROTOCOLS[options.protocol]
    scenes = (benchmarks.cave_scenes if cave else benchmarks.harvard_scenes)(options.folder)
    splits = benchmarks.split_scenes(
        scenes,
        benchmarks.read_names(options.train_scenes) if options.train_scenes else None,
        benchmarks.read_names(options.test_scenes) if options.test_scenes else None,
        lambda: benchmarks.cave_split(options.protocol) if cave else benchmarks.harvard_split(scenes),
    )
    wavelengths = np.linspace(400, 700, 31) if cave else np.linspace(420, 720, 31)
    degradation, facts = _degradation(options, wavelengths, options.ratio, "nikon_d700", protocol)
    read = benchmarks.load_cave if cave else benchmarks.load_harvard
    scale = _scale(options, read, [path for split in splits.values() for path in split.values()])
    facts |= {"sensor": options.sensor, "protocol": options.protocol}
    with ProgressBar("scenes", sum(map(len, splits.values()))) as bar:
        done = count(1)

        def load(path: Path) -> Cube:
            cube = scale(path)
            bar.update(next(done), path.name)
            return cube

        return prepare_benchmark(
            splits,
            load,
            degradation,
            wavelengths,
            options.out,
            _checked_name(options.name or f"{options.sensor}_x{options.ratio}"),
            patch=options.patch or protocol.patch,
            stride=options.stride,
            crop=None if cave else protocol.crop,
            overwrite=options.overwrite,
            facts=facts,
        )


def _scale(
    options: BenchmarkOptions, read: Callable[[Path, float | None], Cube], paths: list[Path]
) -> Callable[[Path], Cube]:
    """Return the function that reads a scene and divides it as --scale and --normalise say."""
    cave = isinstance(options, CaveOptions)
    normalise = options.normalise or ("none" if cave else "image")
    if options.scale is not None and options.normalise:
        raise UserError("expected --scale or --normalise, given both; drop one")
    if options.scale is not None and not 0 < options.scale < float("inf"):
        raise UserError(f"expected a positive scale, given {options.scale:g}; correct it")
    if options.scale is not None:
        return lambda path: read(path, options.scale)
    if normalise == "set":
        largest = benchmarks.largest_value(track(paths, "largest value"), read)
        return lambda path: read(path, largest)
    if normalise == "none":  # Harvard's values have no full scale
        return lambda path: read(path, None if cave else 1.0)
    if not cave:
        return lambda path: read(path, None)

    def by_image(path: Path) -> Cube:
        cube = read(path, None)
        top = float(cube.values.max())
        return replace(cube, values=cube.values / np.float32(top), scale=cube.scale * top)

    return by_image


def _columns(text: str | None) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UserError(f'expected guide columns as "3,4,5", given "{text}"; correct them') from None


def _synthetic(options: SyntheticOptions) -> dict[str, int]:
    check_writable(options.picture)
    picture = None if options.dry_run else options.picture
    show = partial(_draw, picture, options.sensor) if picture else None
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


def _generic(options: GenericOptions) -> dict[str, int]:
    name, numbers = _checked_name(options.name), {"scenes": options.scenes, "held_out": options.held_out}
    return write_generic(options.out, name, **numbers, seed=options.seed)


def _draw(path: Path, sensor: str, ms: np.ndarray, pan: np.ndarray) -> None:
    save_scene(path, ms, pan, get_sensor(sensor).rgb, infrared=len(ms) * 3 // 4)


def _inspect(options: InspectOptions) -> int:
    paired = bool(options.ms or options.pan)
    if not (options.files or paired):
        raise UserError("expected files to inspect, or --ms and --pan; name some")
    reports = [inspect_file(path, options.nodata) for path in options.files]
    if paired:
        ms, pan = pair_paths(options.ms, options.pan)
        reports.append(inspect_pair(ms, pan, relation_of(options), options.nodata))
    for report in reports:
        print(report.text())
    unreadable = [found for found in reports if not found.readable]
    if unreadable:
        print(f"error: {one_line(unreadable[0].problems[0])}", file=sys.stderr)
    return max(found.status for found in reports)


def run(
    options: SimulateOptions
    | BenchmarkOptions
    | EstimateOptions
    | SyntheticOptions
    | GenericOptions
    | InspectOptions
    | RepackOptions,
) -> int:
    """Run the subcommand of these options; return its exit status (inspect: 1 a problem found, 2 unreadable)."""
    if isinstance(options, InspectOptions):
        return _inspect(options)
    if isinstance(options, RepackOptions):
        print(repacked(*repack(options.file, options.out, options.dtype)))
        return 0
    if isinstance(options, EstimateOptions):
        return estimate.run(options)
    if options.dry_run:
        return _show_plan(options)
    for file, samples in _write(options).items():
        print(f"{options.out / file}: {samples} samples")
    return 0


def _write(options: SimulateOptions | BenchmarkOptions | SyntheticOptions | GenericOptions) -> dict[str, int]:
    if isinstance(options, SimulateOptions):
        return _simulate(options)
    if isinstance(options, BenchmarkOptions):
        return _benchmark(options)
    return _generic(options) if isinstance(options, GenericOptions) else _synthetic(options)


def _show_plan(options: SimulateOptions | BenchmarkOptions | SyntheticOptions | GenericOptions) -> int:
    """Make the samples without writing them, and print the files that they would fill."""
    started = time.perf_counter()
    with planned_files() as files:
        _write(options)
    seconds = time.perf_counter() - started
    whole = all(file.whole for file in files)
    found = {
        file.path: f"{'' if file.whole else 'more than '}{file.samples} samples, {size_of(file.bytes)}"
        for file in files
    }
    print_plan(
        {
            "found": f"{len(files)} files can be made",
            "samples": f"{sum(f.samples for f in files)}{'' if whole else ' and more: counting stopped'}",
            "time": f"{'' if whole else 'more than '}{span_of(seconds)} without writing",
            "memory": f"at most {size_of(peak_bytes(torch.device('cpu')))} in this process",
            "would write": files_text(found),
        }
    )
    return 0
