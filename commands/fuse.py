"""The command `fuse` (inference.py): a test set to .mat, pictures and metrics, or a GeoTIFF pair to a GeoTIFF."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lemamba.commands.images import (
    WRITERS,
    check_ending,
    facts_to_write,
    fuse_scene,
    fuse_set,
    save_images,
    save_pictures,
    save_rgb,
)
from lemamba.commands.methods import GENERIC, load_method, serve_any_size, trained_on
from lemamba.commands.options import FuseOptions
from lemamba.commands.scores import notes_of, report, rows, score, weights_sha256
from lemamba.datasets.build import build_dataset, check_range, find_entry, names_no_divisor
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.opening import Relation, pair_paths
from lemamba.datasets.pair import open_pair
from lemamba.datasets.writers import Output, check_output
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiles import traits_of
from lemamba.engine.fusing.tiling import SCENE_TILE
from lemamba.reporting.tables import print_table
from lemamba.utils.atomic import check_writable, write_json
from lemamba.utils.device import usable_device
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_dataset, get_sensor

OUT = Path("visualized_img")


def run(options: FuseOptions) -> int:
    """Run the command; return the exit status."""
    if options.scan_backend:
        os.environ["LEMAMBA_SCAN"] = options.scan_backend
    if options.weights is None and options.arch is None:
        options = replace(options, weights=GENERIC)
        print(f"method:   weights {GENERIC}, made without any data of yours; others: --arch GSA, --weights RUN")
    fuse = fuse_pair if options.ms or options.pan else fuse_test_set
    fuse(options, usable_device(options.device))
    return 0


def fuse_test_set(options: FuseOptions, device: torch.device) -> None:
    """Fuse an H5 file, write images and pictures, measure the result and print the scores."""
    dataset, name = open_data(options)
    model = load_method(options.arch, options.weights, dataset.facts)
    method = str(model.model_name)
    out = options.out or default_output(method, name, dataset.facts, options.per_image)
    if not options.per_image:
        check_ending(out, WRITERS)
    check_writable(out / "output_mulExm_0.mat" if options.per_image else out, options.json)  # before the work
    if options.tile and not traits_of(model).tileable:
        print(f"note: {method} uses statistics of the whole image, so --tile is not applied")
    runner = Runner(model, device, options.tiling(), compile=options.compile)
    images, seconds = fuse_set(runner, dataset, clip=not options.no_clip)

    save_images(images, out, options.per_image, facts_to_write(dataset))
    pictures = save_pictures(images, out if options.per_image else out.parent, dataset.facts, options.pictures)
    meters, protocol = {}, "reduced" if "gt" in images else "full"
    try:
        for row, role in {"EXP": "lms", method: "sr"}.items():  # plain interpolation, to compare with
            meters[row] = score(images, dataset.facts, role)
        count = f"{len(dataset)} image{'s' if len(dataset) > 1 else ''}"
        print_table({row: m.compute() for row, m in meters.items()}, f"{name}, {protocol} resolution, {count}")
        for row, meter in meters.items():
            for note in notes_of(meter):
                print(f"note: {row}: {note}")
    except UserError as error:  # an index may be undefined for such images; they are fused all the same
        if options.json:
            raise
        print(f"note: not measured: {error}")
    speed = seconds / (images["sr"][:, 0].numel() / 1e6)
    if options.json:
        content = report(
            {row: rows(meter) for row, meter in meters.items()},
            file=dataset.path.name,
            sensor=dataset.facts.sensor,
            divisor=dataset.facts.divisor,
            weights=weights_sha256({method: options.weights}),
            protocol=protocol,
            ratio=dataset.facts.ratio,
            seconds_per_megapixel=speed,
            device=str(device),
        )
        write_json(options.json, content)
    print(f"result:   {out}")
    if pictures:
        print(f"pictures: {str(pictures[0]).removesuffix('0.png')}*.png ({len(pictures)})")
    print(f"time:     {speed:.2f} s per megapixel on {device}{', compiling included' if options.compile else ''}")


def fuse_pair(options: FuseOptions, device: torch.device) -> None:
    """Fuse an MS and a PAN image into one file."""
    ms, pan = pair_paths(options.ms, options.pan)
    if options.data or options.per_image or options.json:
        raise UserError("expected --ms and --pan without --data, --per_image, --json; drop those")
    started = time.perf_counter()
    relation = Relation(options.allow_remote, options.assume_aligned, options.register)
    with open_pair(ms, pan, nodata=options.nodata, relation=relation, **scene_numbers(options)) as pair:
        facts = pair.facts
        output = Output(options.compress, options.cog, options.bands, options.dtype)
        if options.rgb_png:
            output = replace(output, rgb=get_sensor(facts.sensor).rgb_for(facts.bands))
        model = load_method(options.arch, options.weights, facts)
        out = options.out or OUT / f"{model.model_name}_{ms[0].stem}.tif"
        check_output(out, pair, output)
        check_writable(out, options.rgb_png)
        # a method that is not clipped does not depend on the divisor
        remark = pair.check_range() if options.divisor is None and traits_of(model).clipped else ""
        for line in (*pair.notes, *([remark] if remark else [])):
            print(f"note: {line}")
        if options.dtype and options.dtype != pair.ms.dtype.name:
            print(f"note: values are kept as {options.dtype}: rounded and clipped to its range, not scaled")
        facts = pair.facts  # the divisor may have been taken from the data
        runner = Runner(model, device, options.tiling(SCENE_TILE), compile=options.compile)
        trained = trained_geometry(options.weights, facts)
        picture = fuse_scene(runner, pair, out, clip=not options.no_clip, trained=trained, output=output)
        if options.rgb_png and picture is not None:
            save_rgb(options.rgb_png, picture)
        H, W = pair.size
    bands = len(options.bands) or facts.bands
    print(f"result:   {out} ({H} x {W} pixels, {bands} bands; sensor {facts.sensor}, divisor {facts.divisor:g})")
    if options.rgb_png:
        print(f"picture:  {options.rgb_png}")
    print(f"time:     {(time.perf_counter() - started) / (H * W / 1e6):.2f} s per megapixel on {device}")


def open_data(options: FuseOptions) -> tuple[H5Dataset, str]:
    """Open the H5 file; also return the name under which its results are filed."""
    sensor = options.sensor
    name = options.dataset or trained_on(options.weights).get("dataset")
    if options.data is not None:
        if options.dataset and not sensor:
            sensor = find_entry(options.dataset, options.data_root, options.data).sensor or None
        dataset, name = H5Dataset(options.data, sensor=sensor, divisor=options.divisor), name or options.data.stem
    elif name is None:
        raise UserError("expected --data FILE.h5 or --dataset NAME, given neither; name the images to fuse")
    else:
        dataset = build_dataset(name, options.split, root=options.data_root, sensor=sensor, divisor=options.divisor)
    known = trained_on(options.weights).get("divisor")
    if options.divisor is None and known and names_no_divisor(dataset):
        dataset.facts = replace(dataset.facts, divisor=float(known))
    elif options.divisor is None:
        check_range(dataset)
    return dataset, name


def scene_numbers(options: FuseOptions) -> dict[str, Any]:
    """Return sensor and divisor of a GeoTIFF pair: as given, else the data set's, else those of the training data."""
    known = {} if options.sensor or options.dataset else trained_on(options.weights)
    sensor = get_dataset(options.dataset).sensor if options.dataset else known.get("sensor")
    divisor = known.get("divisor") if options.divisor is None else options.divisor
    numbers = {"sensor": options.sensor or sensor, "divisor": divisor}
    if options.weights and not any(numbers.values()) and not serve_any_size(options.weights):
        raise UserError("the weights do not name their sensor; give --sensor or --divisor")
    if options.divisor is None and sensor and divisor == get_sensor(sensor).divisor:
        numbers["divisor"] = None  # the sensor's own: an 8-bit scene has another
    return numbers


def trained_geometry(weights: str | None, facts: DataFacts) -> Geometry:
    """Return the geometry of the data that a network was trained with; the research toolboxes' where none is named."""
    offset = trained_on(weights).get("offset")
    ratio = float(facts.ratio)
    return Geometry((ratio, ratio), (float(offset[0]), float(offset[1]))) if offset else Geometry.toolbox(ratio)


def default_output(method: str, name: str, facts: DataFacts, per_image: bool) -> Path:
    """Return where results go unless --out is given; the MATLAB package looks for them there."""
    stem, kind = f"{method}_{name}", "ref" if facts.has_gt else "unref"
    return OUT / stem / kind if per_image else OUT / stem / f"data_{stem}_{kind}.mat"
