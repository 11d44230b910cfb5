"""Make and check data: simulate a real scene or cube, draw a synthetic one, inspect a file.

python prepare_data.py simulate SCENE.mat --sensor IKONOS --out data/ikonos
python prepare_data.py simulate --ms ms.tif --pan pan.tif --sensor WV3 --out data/mine --name mine
python prepare_data.py simulate CUBE.mat --wavelengths 380:2500 --ratio 4 --out data/jasper --name jasper
python prepare_data.py synthetic --out data/demo
python prepare_data.py inspect FILE …
python prepare_data.py repack FILE.h5 --out NEW.h5 --dtype uint16

What each route needs and writes: docs/data.md.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lemamba.utils.arguments import Parser
from lemamba.utils.errors import UserError, one_line

if TYPE_CHECKING:
    import numpy as np


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = Parser(prog="prepare_data.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    _simulate_options(commands.add_parser("simulate", help="Wald's protocol on real scenes or hyperspectral cubes"))
    synthetic = commands.add_parser("synthetic", help="drawn scenes: a whole data set with no download")
    synthetic.add_argument("--out", type=Path, required=True, help="output folder")
    synthetic.add_argument("--name", default="demo", help="name in the file names (default demo)")
    synthetic.add_argument(
        "--size", type=int, default=288, help="side of the training ground in MS pixels (default 288)"
    )
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.add_argument("--sensor", default="WV3", help="a sensor of 4 or 8 bands (default WV3)")
    synthetic.add_argument("--ratio", type=int, default=4)
    synthetic.add_argument("--picture", type=Path, help="also write a PNG of the test ground here")
    inspect = commands.add_parser("inspect", help="keys, shapes, range, layout, sensor guess, and what is wrong")
    inspect.add_argument("files", nargs="+", type=Path, metavar="FILE", help="H5, .mat or GeoTIFF")
    repack = commands.add_parser("repack", help="rewrite an H5 file: one sample one chunk, a smaller dtype")
    repack.add_argument("file", type=Path, metavar="FILE.h5")
    repack.add_argument("--out", type=Path, required=True, metavar="NEW.h5", help="the new file")
    repack.add_argument("--dtype", default="float32", choices=("float32", "uint16"), help="uint16 only if lossless")
    return top


def _simulate_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("scenes", nargs="*", type=Path, metavar="SCENE", help=".mat scene or cube, or a folder of PNG bands (CAVE)")
    add("--ms", type=Path, help="GeoTIFF with the MS bands (with --pan, instead of SCENE)")
    add("--pan", type=Path, help="GeoTIFF with the panchromatic band")
    add("--out", type=Path, required=True, help="output folder")
    add("--sensor", help="its MTF gains and divisor are used (default: what the file says)")
    add("--name", help="name in the file names (default: the sensor's, or the cube's)")
    add("--ratio", type=int, help="H/h: checked against a scene; for a cube 4 (default) or 8")
    add("--stride", type=int, default=16, help="step between training patches in pixels (default 16)")
    add(
        "--divisor",
        type=float,
        help="numbers are divided by it when read (default: 2^L - 1 of the file, or the sensor's)",
    )
    add("--test_only", action="store_true", help="use all ground for the test files")
    cube = command.add_argument_group("hyperspectral cubes")
    cube.add_argument("--wavelengths", metavar="START:END", help="nm of first and last band (31 bands: 400:700)")
    cube.add_argument("--response", type=Path, help=".mat table: wavelength, then one column per guide band")
    cube.add_argument("--guide_columns", metavar="N,N", help="1-based columns of --response that become guide bands")
    cube.add_argument("--sigma", type=float, help="of the Gaussian blur in pixels (default ratio / 2)")
    cube.add_argument("--blur_size", type=int, help="odd side of its kernel (default 2 ratio + 1)")
    cube.add_argument("--scale", type=float, help="values are divided by it (default: 255, 65535, or the largest)")


def _checked_name(name: str) -> str:
    plain = name.lower().replace("-", "_")
    if not (plain.isascii() and plain.isidentifier()):
        raise UserError(f'expected a name of letters, digits and "_", given "{name}"; choose another')
    return plain


def _simulate(args: argparse.Namespace) -> dict[str, int]:
    from lemamba.datasets.pair import load_pair
    from lemamba.datasets.readers import reader_of
    from lemamba.datasets.simulation.sources import Scene

    if (args.ms is None) != (args.pan is None):
        raise UserError("expected --ms and --pan together; give both GeoTIFF files")
    if bool(args.scenes) == bool(args.ms):
        raise UserError("expected either SCENE files or --ms and --pan; give one of the two")
    if args.ms is not None:
        return _scenes(args, [load_pair(args.ms, args.pan)])
    sources = [reader_of(path).load(path, args.scale) for path in args.scenes]
    scenes = [source for source in sources if isinstance(source, Scene)]
    if scenes and len(scenes) < len(sources):
        raise UserError("expected only scenes or only cubes, given both; prepare them separately")
    return _scenes(args, scenes) if scenes else _cubes(args, sources)


def _scenes(args: argparse.Namespace, scenes: list) -> dict[str, int]:
    from lemamba.datasets.simulation.prepare import prepare_scenes
    from lemamba.utils.sensors import get_sensor

    named = args.sensor or scenes[0].sensor
    if named is None:
        raise UserError(
            "the file does not say which sensor took it; give --sensor (or --sensor none for generic gains)"
        )
    sensor = get_sensor(named)
    if args.ratio not in (None, scenes[0].ratio):
        raise UserError(f"expected ratio {args.ratio}, the sizes of the scene say {scenes[0].ratio}; correct --ratio")
    return prepare_scenes(
        scenes,
        sensor,
        args.out,
        _checked_name(args.name or sensor.name),
        stride=args.stride,
        divisor=args.divisor,
        test_only=args.test_only,
    )


def _cubes(args: argparse.Namespace, cubes: list) -> dict[str, int]:
    from lemamba.datasets.simulation.prepare import prepare_cubes
    from lemamba.datasets.simulation.response import gaussian_rgb, parse_wavelengths, response_from_mat
    from lemamba.utils.sensors import get_sensor

    ratio = args.ratio or 4
    sensor = get_sensor(args.sensor or "none")
    bands = len(cubes[0].values)
    if sensor.bands not in (None, bands):
        raise UserError(f"expected {sensor.bands} bands for sensor {sensor.name}, given {bands}; name the right sensor")
    wavelengths = parse_wavelengths(args.wavelengths, bands)
    if args.response:
        columns = _columns(args.guide_columns)
        response = response_from_mat(args.response, wavelengths, columns)
    else:
        response = gaussian_rgb(wavelengths)
    default = f"{args.scenes[0].stem if sensor.bands is None else sensor.name}_x{ratio}"
    return prepare_cubes(
        cubes,
        response,
        args.out,
        _checked_name(args.name or default),
        ratio=ratio,
        sigma=args.sigma,
        blur_size=args.blur_size,
        stride=args.stride,
        sensor=sensor.name,
        guide=args.response.name if args.response else "gaussian RGB",
        test_only=args.test_only,
    )


def _columns(text: str | None) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UserError(f'expected guide columns as "3,4,5", given "{text}"; correct them') from None


def _synthetic(args: argparse.Namespace) -> dict[str, int]:
    from lemamba.datasets.simulation.synthetic import write_dataset
    from lemamba.utils.atomic import check_writable

    check_writable(args.picture)
    options = {"size": args.size, "seed": args.seed, "sensor": args.sensor, "ratio": args.ratio}
    show = partial(_draw, args.picture, args.sensor) if args.picture else None
    return write_dataset(args.out, _checked_name(args.name), show=show, **options)


def _draw(path: Path, sensor: str, ms: np.ndarray, pan: np.ndarray) -> None:
    from lemamba.reporting.pictures import save_scene
    from lemamba.utils.sensors import get_sensor

    save_scene(path, ms, pan, get_sensor(sensor).rgb, infrared=len(ms) * 3 // 4)


def _inspect(args: argparse.Namespace) -> int:
    from lemamba.datasets.readers import inspect_file

    reports = []
    for path in args.files:
        reports.append(inspect_file(path))
        print(reports[-1].text())
    unreadable = [report for report in reports if not report.readable]
    if unreadable:
        print(f"error: {one_line(unreadable[0].problems[0])}", file=sys.stderr)
    return max(report.status for report in reports)


def _repack(args: argparse.Namespace) -> int:
    from lemamba.datasets.repack import repack, report

    print(report(*repack(args.file, args.out, args.dtype)))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status (inspect: 1 where something is wrong, 2 where unreadable)."""
    args = parser().parse_args(argv)
    if args.command == "inspect":
        return _inspect(args)
    if args.command == "repack":
        return _repack(args)
    written = _simulate(args) if args.command == "simulate" else _synthetic(args)
    for file, count in written.items():
        print(f"{args.out / file}: {count} samples")
    return 0
