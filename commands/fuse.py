"""The command `fuse` (inference.py): a test set to .mat, pictures and metrics, or a GeoTIFF pair to a GeoTIFF."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lemamba.commands.adapting import TILE, Adapting
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
from lemamba.commands.methods import load_method, trained_on
from lemamba.commands.options import FuseOptions
from lemamba.commands.scores import notes_of, report, rows, score, weights_sha256
from lemamba.datasets.build import build_dataset, check_range, find_entry, names_no_divisor
from lemamba.datasets.guide_order import (
    Centres,
    checked_order,
    dataset_centres,
    described,
    estimated_centres,
    order_to_match,
)
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.opening import Relation, pair_paths
from lemamba.datasets.pair import ScenePair, open_pair
from lemamba.datasets.raster import MULTISPECTRAL
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
    fuse = fuse_pair if options.ms or options.pan else fuse_test_set
    fuse(options, usable_device(options.device))
    return 0


def fuse_test_set(options: FuseOptions, device: torch.device) -> None:
    """Fuse an H5 file, write images and pictures, measure the result and print the scores."""
    dataset, name = open_data(options)
    if options.guide_order:
        dataset.reorder_guide(checked_order(options.guide_order, dataset.facts.guide_bands))
    model = load_method(options.arch, options.weights, dataset.facts, options.adapt_steps)
    check_guide_order(options, dataset.path, partial(dataset_centres, dataset))
    method = str(model.model_name)
    out = options.out or default_output(method, name, dataset.facts, options.per_image)
    if not options.per_image:
        check_ending(out, WRITERS)
    check_writable(out / "output_mulExm_0.mat" if options.per_image else out, options.json)  # before the work
    if options.tile and not traits_of(model).tileable:
        print(f"note: {method} uses statistics of the whole image, so --tile is not applied")
    if isinstance(model, Adapting):
        print(f"note: {model.plan}")
    runner = Runner(model, device, options.tiling(), compile=options.compile, tf32=options.tf32)
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
    how: dict[str, Any] = {"nodata": options.nodata, "relation": relation, "guide_order": options.guide_order}
    how["drop_dead"] = options.drop_dead
    with open_pair(ms, pan, **how, **scene_numbers(options)) as pair:
        facts = pair.facts
        output = Output(options.compress, options.cog, options.bands, options.dtype)
        if options.rgb_png:
            output = replace(output, rgb=get_sensor(facts.sensor).rgb_for(facts.bands))
        model = load_method(options.arch, options.weights, facts, options.adapt_steps)
        check_guide_order(options, pan[0], partial(pair_centres, pair))
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
        if isinstance(model, Adapting):
            print(f"note: {model.plan}")
        tile = TILE if isinstance(model, Adapting) else SCENE_TILE
        runner = Runner(model, device, options.tiling(tile), compile=options.compile, tf32=options.tf32)
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


def check_guide_order(options: FuseOptions, path: Path, centres: Callable[[], Centres | None]) -> None:
    """Refuse a guide whose bands are ordered otherwise than those that the network learnt.

    Weights that do not name their order are not checked, nor is an order that --guide_order names.

    Raises:
        UserError: another order; the line names the one to give.
    """
    known = trained_on(options.weights).get("guide_centres")
    if options.guide_order or not known:
        return
    found = centres()
    order = None if found is None else order_to_match(tuple(known), found)
    if found is not None and order is not None:
        raise UserError(
            f"the weights were trained with guide bands in the order {described(tuple(known))}, {path} has "
            f"{described(found)}; add --guide_order {','.join(map(str, order))} (or "
            f"{','.join(str(i + 1) for i in range(len(order)))} to keep the file's)"
        )


def pair_centres(pair: ScenePair) -> Centres | None:
    """Return where the guide bands of a scene lie, by one window in its middle; None where that cannot be found."""
    if pair.facts.guide_bands < 2 or pair.facts.bands <= MULTISPECTRAL:
        return None
    spans = [(n // 2 - min(n // 2, 256), n // 2 + min(n - n // 2, 256)) for n in pair.size]
    window = pair.window((spans[0], spans[1]), 4 * pair.facts.ratio)
    try:
        return None if window is None else estimated_centres(lambda: [window])
    except UserError:  # a ratio that is not whole
        return None


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
    if options.weights and not any(numbers.values()):
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
