"""Fuse a test set or a GeoTIFF pair with a trained network or a classical method: .mat, pictures, metrics; or GeoTIFF.

Examples::

    python inference.py --weights log_file/LE-Mamba/RUN --dataset wv3 --data_root DATA
    python inference.py --weights LE-Mamba/RUN --data test.h5 --dataset wv3 --out sr.mat --tile 64 --overlap 16
    python inference.py --arch fusionnet --weights dlpan:fusionnet.pth --data test.h5 --dataset wv3
    python inference.py --arch MTF-GLP-FS --data test.h5 --dataset ikonos
    python inference.py --weights LE-Mamba/RUN --ms ms.tif --pan pan.tif --out fused.tif --tile 256 --overlap 32

Values are divided by the sensor's divisor before the network and multiplied back after it; the result of a learned
network is clipped to [0, 1] in between, as the published scripts do; classical methods are not clipped.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemamba.utils.command_line import Parser
from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import Dataset


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, given {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, given {text!r}")
    return int(text)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    method = parser.add_argument_group("method")
    method.add_argument("--weights", help="run folder, proj/run, .safetensors, .pth; dlpan:FILE for DLPan-Toolbox")
    method.add_argument("--arch", help="network or classical method; needed where the weights do not name it")
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="H5 file; default: the test file of --dataset below --data_root")
    data.add_argument("--dataset", help="name of the data set: sensor, divisor and ratio (default: of the weights)")
    data.add_argument("--data_root", type=Path, help="folder with the H5 files (default: LEMAMBA_DATA)")
    data.add_argument("--split", choices=("valid", "test", "test_full"), default="test")
    data.add_argument("--sensor", help="overrides the data set's sensor")
    data.add_argument("--divisor", type=float, help="overrides the sensor's divisor")
    data.add_argument("--ms", type=Path, help="MS GeoTIFF, instead of an H5 file: any size, see docs/geotiff.md")
    data.add_argument("--pan", type=Path, help="PAN GeoTIFF of the same ground")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, help="file (default: in visualized_img/), or folder with --per_image")
    out.add_argument("--per_image", action="store_true", help="one output_mulExm_<i>.mat per image, H x W x C")
    out.add_argument("--pictures", type=_count, default=8, help="quick-looks of at most this many samples (default 8)")
    out.add_argument("--json", type=Path, help="also write the metrics here")
    run = parser.add_argument_group("run")
    run.add_argument(
        "--tile", type=_positive, help="side of tiles in pixels of the result (default: none; GeoTIFF: 256)"
    )
    run.add_argument("--overlap", type=_count, default=32, help="pixels shared by neighbouring tiles (default 32)")
    run.add_argument("--memory", type=float, default=4, help="GiB for methods that need a whole scene (default 4)")
    run.add_argument("--no_clip", action="store_true", help="do not clip a network's result to [0, 1]")
    run.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    run.add_argument("--batch", type=_positive, help="images or tiles at once (default: by their size and the device)")
    run.add_argument("--precision", choices=("float32", "bf16", "fp16"), default="float32", help="fp16: on a GPU only")
    run.add_argument("--compile", action="store_true", help="torch.compile, with CUDA graphs on a GPU; slower on a CPU")
    run.add_argument(
        "--scan_backend", help="force a scan backend (see lemamba.model.ops.scan.selective.available_backends)"
    )
    return parser.parse_args(argv)


def load_method(arch: str | None, weights: str | None, dataset: Dataset) -> tuple[nn.Module, str]:
    """Build the network with its weights, or the classical method; return it in evaluation mode, and its name.

    Args:
        arch: registered name; None where the weights name their network.
        weights: run, file or ``dlpan:FILE``; None for classical methods.
        dataset: gives bands, guide bands, ratio and sensor.
    """
    from lemamba.model import build_model, model_entry

    sizes = {"img_channel": dataset.bands, "condition_channel": dataset.guide_bands, "out_channel": dataset.bands}
    if weights is not None:
        return _load_network(arch, weights, sizes, dataset.ratio)
    if arch is None:
        raise UserError(
            "expected --weights (a trained network) or --arch (a classical method), given neither; name one"
        )
    entry = model_entry(arch)
    if not entry.classical:
        raise UserError(f"{entry.name} is a learned network and needs --weights; train it or give a weight file")
    return build_model(entry.name, **sizes, ratio=dataset.ratio, sensor=dataset.sensor), entry.name


def _load_network(arch: str | None, weights: str, sizes: dict[str, int], ratio: int) -> tuple[nn.Module, str]:
    from lemamba.engine.weights.files import load_weights, open_weights
    from lemamba.model import build_model, model_entry
    from lemamba.model.convert import convert_state_dict

    file = open_weights(weights)
    described = file.meta.get("model", {})
    name = described.get("name") or arch
    if name is None:
        raise UserError(f"{file.path} does not say which network it belongs to; add --arch")
    if arch is not None and model_entry(arch).name != model_entry(name).name:
        raise UserError(f"{file.path} holds weights of {name}, --arch says {arch}; drop --arch or take other weights")
    model_arguments = described.get("args") or {**sizes, "ratio": ratio}
    for key, given in {**sizes, "ratio": ratio}.items():
        if model_arguments.get(key, given) != given:
            raise UserError(
                f"{file.path} was trained with {key} {model_arguments[key]}, the data have {given}; take matching data"
            )
    network = load_weights(build_model(name, **model_arguments), file, partial(convert_state_dict, name))
    return network.eval(), model_entry(name).name


def open_data(arguments: argparse.Namespace) -> tuple[Dataset, str]:
    """Open the H5 file and say under which name its results are filed."""
    from lemamba.datasets.build import build_dataset, check_range, find_entry, open_h5

    overrides = {"sensor": arguments.sensor, "divisor": arguments.divisor}
    name = arguments.dataset or _data_of_weights(arguments.weights).get("dataset")
    if arguments.data is not None:
        if arguments.dataset and not arguments.sensor:
            overrides["sensor"] = find_entry(arguments.dataset, arguments.data_root, arguments.data).sensor or None
        dataset, name = open_h5(arguments.data, **overrides), name or arguments.data.stem
    elif name is None:
        raise UserError("expected --data FILE.h5 or --dataset NAME, given neither; name the images to fuse")
    else:
        dataset = build_dataset(name, arguments.split, root=arguments.data_root, **overrides)
    if arguments.divisor is None:
        check_range(dataset)
    return dataset, name


def _data_of_weights(weights: str | None) -> dict[str, Any]:
    """What a run was trained on (dataset, sensor, divisor), as far as its weights say so."""
    from lemamba.engine.weights.files import weights_meta

    return weights_meta(weights).get("data", {}) if weights else {}


def make_runner(
    model: nn.Module, arguments: argparse.Namespace, size: tuple[int, int], device: torch.device
) -> tuple[nn.Module, int]:
    """Make the method ready as the command line says, for images or tiles of `size`; also return the batch."""
    from lemamba.engine.fusing.runner import Runner, default_batch

    batch = arguments.batch or default_batch(*size, device)
    speed = {"precision": arguments.precision, "compile": arguments.compile, "batch": batch}
    return Runner(model, device, **speed), batch


def scene_numbers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sensor and divisor of a GeoTIFF pair: as given, else the data set's, else what the weights were trained on."""
    from lemamba.utils.sensors import get_dataset, get_sensor

    known = {} if arguments.sensor or arguments.dataset else _data_of_weights(arguments.weights)
    sensor = get_dataset(arguments.dataset).sensor if arguments.dataset else known.get("sensor")
    divisor = known.get("divisor") if arguments.divisor is None else arguments.divisor
    numbers = {"sensor": arguments.sensor or sensor, "divisor": divisor}
    if arguments.weights and not any(numbers.values()):
        raise UserError("the weights do not say for which sensor they are; give --sensor or --divisor")
    if arguments.divisor is None and sensor and divisor == get_sensor(sensor).divisor:
        numbers["divisor"] = None  # the sensor's own: then an 8-bit scene has another
    return numbers


def fuse_pair(arguments: argparse.Namespace, device: torch.device) -> None:
    """Fuse an MS and a PAN GeoTIFF into a GeoTIFF."""
    from lemamba.datasets.pair import open_pair
    from lemamba.engine.fusing.scene import TILE, fuse_scene
    from lemamba.utils.atomic import check_writable

    if not (arguments.ms and arguments.pan) or arguments.data or arguments.per_image or arguments.json:
        raise UserError("expected --ms and --pan together, without --data, --per_image, --json; give both, drop those")
    started = time.perf_counter()
    with open_pair(arguments.ms, arguments.pan, **scene_numbers(arguments)) as pair:
        model, method = load_method(arguments.arch, arguments.weights, pair)
        out = arguments.out or Path("visualized_img") / f"{method}_{arguments.ms.stem}.tif"
        check_writable(out)
        remark = pair.check_range() if arguments.divisor is None and not model.classical else ""
        if remark:
            print(f"note: {remark}")
        size = tuple(min(arguments.tile or TILE, side) for side in pair.size)
        model, batch = make_runner(model, arguments, size, device)
        tiling = {"tile": arguments.tile, "overlap": arguments.overlap, "batch": batch, "memory": arguments.memory}
        fuse_scene(model, pair, out, **tiling, clip=not arguments.no_clip, device=device)
    H, W = pair.size
    print(f"result:   {out} ({H} x {W} pixels, {pair.bands} bands; sensor {pair.sensor}, divisor {pair.divisor:g})")
    print(f"time:     {(time.perf_counter() - started) / (H * W / 1e6):.2f} s per megapixel on {device}")


def measure_one(
    images: dict[str, torch.Tensor], dataset: Dataset, key: str
) -> tuple[dict[str, tuple[float, float]], dict[str, list[float]]]:
    """Measure images[key], at reduced resolution where there is a gt, else at full resolution.

    Returns:
        index -> (mean, std), and index -> value of every sample.
    """
    from lemamba.metrics import Meter, full_resolution, reduced_resolution

    meter = Meter()
    for i in range(len(images["lms"])):
        one = {k: v[i : i + 1].double() for k, v in images.items()}
        if "gt" in one:
            meter.update(reduced_resolution(one[key], one["gt"], ratio=dataset.ratio, const=dataset.divisor))
        else:
            guides = (one["ms"], one["lms"], one["pan"])
            meter.update(full_resolution(one[key], *guides, ratio=dataset.ratio, sensor=dataset.sensor))
    return meter.compute(), {name: values.tolist() for name, values in meter.per_sample().items()}


def measure(
    images: dict[str, torch.Tensor], dataset: Dataset, method: str
) -> dict[str, dict[str, tuple[float, float]]]:
    """Measure the result and, beside it, plain interpolation (EXP): method -> index -> (mean, std)."""
    return {name: measure_one(images, dataset, key)[0] for name, key in {"EXP": "lms", method: "sr"}.items()}


def save_images(images: dict[str, torch.Tensor], out: Path, per_image: bool) -> None:
    """Write one .mat (B, C, H, W), or a folder with one output_mulExm_<i>.mat (H, W, C) per image."""
    from lemamba.utils.formats.mat import write_mat

    arrays = {k: v.float().numpy() for k, v in images.items()}
    if not per_image:
        write_mat(out, arrays)
        return
    for i in range(len(arrays["sr"])):
        one = {k: v[i].transpose(1, 2, 0) for k, v in arrays.items()}
        write_mat(out / f"output_mulExm_{i}.mat", one)


def save_pictures(images: dict[str, torch.Tensor], folder: Path, dataset: Dataset, count: int) -> list[Path]:
    """Draw the first `count` samples: lms | pan | sr | gt | error, one PNG each.

    Both resolutions of a data set go into one folder, so images without gt are called full_sample_<i>.png.
    """
    from lemamba.reporting.pictures import choose_bands, quick_look, save_panels
    from lemamba.utils.sensors import get_sensor

    rgb = choose_bands(
        get_sensor(dataset.sensor), images["lms"][0].numpy(), images["pan"][0].numpy(), own=dataset.own_rgb
    )
    stem, paths = "sample" if dataset.has_gt else "full_sample", []
    for i in range(min(count, len(images["sr"]))):
        path = folder / f"{stem}_{i}.png"
        save_panels(path, [quick_look({k: v[i].numpy() for k, v in images.items()}, rgb)])
        paths.append(path)
    return paths


def default_output(method: str, name: str, dataset: Dataset, per_image: bool) -> Path:
    """Where results go unless --out says otherwise."""
    stem = f"{method}_{name}"
    kind = "ref" if dataset.has_gt else "unref"
    folder = Path("visualized_img") / stem
    return folder / kind if per_image else folder / f"data_{stem}_{kind}.mat"


def fuse_test_set(arguments: argparse.Namespace, device: torch.device) -> None:
    """Fuse an H5 file into `.mat` and pictures, measure the result and show the scores."""
    from lemamba.engine.fusing.samples import fuse_samples
    from lemamba.reporting.tables import print_table
    from lemamba.utils.atomic import check_writable, write_json

    dataset, name = open_data(arguments)
    model, method = load_method(arguments.arch, arguments.weights, dataset)
    out = arguments.out or default_output(method, name, dataset, arguments.per_image)
    if not arguments.per_image and out.suffix != ".mat":
        raise UserError(f'expected --out to end in .mat, given "{out}"; or a folder with --per_image')
    check_writable(out / "output_mulExm_0.mat" if arguments.per_image else out, arguments.json)  # before the work
    H, W = dataset[0]["lms"].shape[-2:]
    model, batch = make_runner(model, arguments, (min(arguments.tile or H, H), min(arguments.tile or W, W)), device)
    tiling = {"tile": arguments.tile, "overlap": arguments.overlap, "batch": batch}
    images, seconds = fuse_samples(model, dataset, device, **tiling, clip=not arguments.no_clip)

    save_images(images, out, arguments.per_image)
    pictures = save_pictures(images, out if arguments.per_image else out.parent, dataset, arguments.pictures)
    try:
        scores = measure(images, dataset, method)
        count = f"{len(dataset)} image{'s' if len(dataset) > 1 else ''}"
        print_table(scores, f"{name}, {'reduced' if 'gt' in images else 'full'} resolution, {count}")
    except UserError as error:  # an index may not be defined for such images; they are fused all the same
        if arguments.json:
            raise
        print(f"note: not measured: {error}")
    speed = seconds / (len(dataset) * H * W / 1e6)
    if arguments.json:
        write_json(arguments.json, {"scores": scores, "seconds_per_megapixel": speed, "device": str(device)})
    print(f"result:   {out}")
    if pictures:
        print(f"pictures: {str(pictures[0]).removesuffix('0.png')}*.png ({len(pictures)})")
    print(f"time:     {speed:.2f} s per megapixel on {device}{', compiling included' if arguments.compile else ''}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    arguments = parse_arguments(argv)
    if arguments.scan_backend:
        os.environ["LEMAMBA_SCAN"] = arguments.scan_backend
    from lemamba.utils.device import usable_device

    fuse = fuse_pair if arguments.ms or arguments.pan else fuse_test_set
    fuse(arguments, usable_device(arguments.device))
    return 0
