"""The command `fuse` (inference.py): a test set to .mat, pictures and metrics, or pairs of images to one image each."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lemamba.commands import planning
from lemamba.commands.adapting import TILE, Adapting
from lemamba.commands.choose import AUTO, choose
from lemamba.commands.images import (
    WRITERS,
    check_ending,
    facts_to_write,
    fuse_scene,
    fuse_set,
    picture_stem,
    save_images,
    save_pictures,
    save_rgb,
)
from lemamba.commands.methods import GENERIC, load_method, serve_any_size, trained_on
from lemamba.commands.options import AdaptOptions, FuseOptions
from lemamba.commands.pairs import read_pairs, relation_of
from lemamba.commands.scores import notes_of, report, rows, score, weights_sha256
from lemamba.datasets.build import build_dataset, check_range, find_entry, names_no_divisor
from lemamba.datasets.content import scene_notes
from lemamba.datasets.guide_order import (
    Centres,
    checked_order,
    dataset_centres,
    described,
    estimated_centres,
    order_to_match,
)
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.opening import pair_paths
from lemamba.datasets.own_ground import image_areas, scene_area
from lemamba.datasets.pair import ScenePair, open_pair
from lemamba.datasets.raster import MULTISPECTRAL
from lemamba.datasets.strips import hidden_folder, is_complete, job_name, mark_complete, remove_folder
from lemamba.datasets.writers import Output, check_output
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.shares import first_alone, joined_ranks, local_rank
from lemamba.engine.fusing.tiles import traits_of
from lemamba.engine.fusing.tiling import SCENE_TILE
from lemamba.engine.training.ranks import LostRankError, Ranks
from lemamba.engine.weights.files import PUBLISHED_PREFIX, SHIPPED, resolve_weights
from lemamba.reporting.tables import print_table, spread
from lemamba.utils.atomic import check_writable, write_json
from lemamba.utils.device import usable_device, use_scan_backend
from lemamba.utils.errors import UserError, one_line
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_dataset, get_sensor
from lemamba.utils.version import project_version

OUT = Path("visualized_img")
BRIGHTER = 0.1  # relative difference of brightness from which a note is printed
FEW = 2048  # MS pixels, 64 x 32: what `adapt` needs at least

Runners = dict[tuple[Any, ...], Runner]  # methods that are ready, by the data they are for


def run(options: FuseOptions) -> int:
    """Run the command; return the exit status: of a list 1 if a pair failed."""
    use_scan_backend(options.scan_backend)
    with joined_ranks() as ranks, nullcontext() if ranks.main else redirect_stdout(io.StringIO()):  # each line once
        if options.arch == GENERIC and options.weights in (None, GENERIC):  # as the table of --method auto names it
            options = replace(options, arch=None, weights=GENERIC)
        if options.weights is None and options.arch is None:
            options = replace(options, weights=GENERIC)
            print(f"method:   weights {GENERIC}, made without any data of yours; others: --arch GSA, --weights RUN")
        return _run(options, ranks)


def _run(options: FuseOptions, ranks: Ranks) -> int:
    name = options.device
    if ranks.world > 1 and name is None and torch.cuda.is_available():
        name = f"cuda:{local_rank() % torch.cuda.device_count()}"
    device = usable_device(name)
    if options.list:
        return fuse_list(options, device, ranks)
    if options.ms or options.pan:
        fuse_pair(options, device, ranks, {})
        return 0
    if options.resume:
        raise UserError("expected --resume with --ms and --pan or --list; a test set is fused again")
    if ranks.main:  # a test set is small
        fuse_test_set(options, device)
    return 0


def fuse_list(options: FuseOptions, device: torch.device, ranks: Ranks) -> int:
    """Fuse the pairs of a CSV file one after the other; return 1 if one of them failed, else 0."""
    if options.ms or options.pan or options.out or options.rgb_png or options.data:
        raise UserError("expected --list without --ms, --pan, --out, --rgb_png, --data; write them into the file")
    assert options.list is not None
    pairs = read_pairs(options.list, options)
    runners: Runners = {}
    failed = 0
    for number, pair in enumerate(pairs, start=1):
        assert pair.out is not None
        print(f"pair {number} of {len(pairs)}: {pair.out}")
        try:
            fuse_pair(pair, device, ranks, runners, listed=True)
        except LostRankError:
            raise
        except UserError as error:
            failed += 1
            if ranks.main:
                print(f"error: pair {number} ({pair.out}): {one_line(error)}", file=sys.stderr)
    print(f"list:     {len(pairs) - failed} of {len(pairs)} pairs {'can be ' if options.dry_run else ''}fused")
    if ranks.main and not failed and not options.dry_run:
        for pair in pairs:
            remove_folder(hidden_folder(Path(str(pair.out))))
    return 1 if failed else 0


def _ready(options: FuseOptions, dataset: H5Dataset, device: torch.device) -> tuple[FuseOptions, torch.nn.Module]:
    """Bring the guide into the order that is asked for, and load the method, chosen by measuring if it is "auto"."""
    if options.guide_order:
        dataset.reorder_guide(checked_order(options.guide_order, dataset.facts.guide_bands))
    if options.arch == AUTO:
        options = choose(options, image_areas(dataset), dataset.facts, device)
    model = load_method(options.arch, options.weights, dataset.facts, options.adapt_steps)
    check_guide_order(options, dataset.path, partial(dataset_centres, dataset))
    return options, model


def fuse_test_set(options: FuseOptions, device: torch.device) -> None:
    """Fuse an H5 file, write images and pictures, measure the result and print the scores."""
    dataset, name = open_data(options)
    options, model = _ready(options, dataset, device)
    method = str(model.model_name)
    out = options.out or default_output(method, name, dataset.facts, options.per_image, options.weights)
    if not options.per_image:
        check_ending(out, WRITERS)
    first = out / "output_mulExm_0.mat" if options.per_image else out
    check_writable(first, options.json)  # before the work
    folder = out if options.per_image else out.parent
    shown = [folder / f"{picture_stem(dataset.facts)}_0.png"] if options.pictures else []
    note_replaced(first, *shown)
    if options.tile and not traits_of(model).tileable:
        print(f"note: {method} uses statistics of the whole image, so --tile is not applied")
    if isinstance(model, Adapting):
        print(f"note: {model.plan}")
    runner = Runner(model, device, options.tiling(), compile=options.compile, tf32=options.tf32)
    if options.dry_run:
        planning.show_test_set(runner, dataset, _files_of_set(options, out, dataset))
        return
    images, seconds = fuse_set(runner, dataset, clip=not options.no_clip)

    save_images(images, out, options.per_image, facts_to_write(dataset))
    pictures = save_pictures(images, folder, dataset.facts, options.pictures)
    meters, protocol = {}, "reduced" if "gt" in images else "full"
    try:
        for row, role in {"EXP": "lms", method: "sr"}.items():  # plain interpolation, to compare with
            meters[row] = score(images, dataset.facts, role)
        title = f"{name}, {protocol} resolution, {spread(len(dataset))}"
        print_table({row: m.compute() for row, m in meters.items()}, title)
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


def _files_of_set(options: FuseOptions, out: Path, dataset: H5Dataset) -> dict[Path, str]:
    """Return the files that fusing a test set writes, and what is in them."""
    samples = {role: value.numel() for role, value in dataset[0].items()}
    stored = 4 * len(dataset) * (sum(samples.values()) + samples["lms"])  # float32; sr is as large as lms
    each = 4 * samples["lms"]
    files = {
        out: f"{len(dataset)} .mat of {planning.size_of(each)}"
        if options.per_image
        else f"{planning.size_of(stored)} before compression"
    }
    if pictures := min(options.pictures, len(dataset)):
        files[(out if options.per_image else out.parent) / "*.png"] = f"{pictures} pictures"
    if options.json:
        files[options.json] = "metrics"
    return files


def _check_scene_options(options: FuseOptions) -> None:
    if options.fill_dropped and not options.drop_dead:
        raise UserError("--fill_dropped writes bands that --drop_dead leaves out; give both, or neither")
    if options.data or options.per_image or options.json:
        raise UserError("expected --ms and --pan without --data, --per_image, --json; drop those")


def fuse_pair(
    options: FuseOptions, device: torch.device, ranks: Ranks, runners: Runners, *, listed: bool = False
) -> None:
    """Fuse an MS and a PAN image into one file.

    Args:
        options: of this pair.
        device: where the method runs.
        ranks: the processes that share the scene.
        runners: methods that are ready; a new one is added.
        listed: the pair is one of a list: a note that it is complete stays until all are.
    """
    ms, pan = pair_paths(options.ms, options.pan)
    _check_scene_options(options)
    started = time.perf_counter()
    relation = relation_of(options)
    how: dict[str, Any] = {"nodata": options.nodata, "relation": relation, "guide_order": options.guide_order}
    how["drop_dead"] = options.drop_dead
    with open_pair(ms, pan, **how, **scene_numbers(options)) as pair:
        output = Output(options.compress, options.cog, options.bands, options.dtype, fill=options.fill_dropped)
        if options.rgb_png:
            output = replace(output, rgb=get_sensor(pair.facts.sensor).rgb_for(pair.facts.bands))
        if options.arch == AUTO:
            options = first_alone(ranks, lambda: _chosen(options, pair, device))
        runner = _runner(options, pair.facts, device, runners)
        check_guide_order(options, pan[0], partial(pair_centres, pair))
        out = options.out or OUT.joinpath(*run_words(options.weights)) / f"{runner.model_name}_{ms[0].stem}.tif"
        check_output(out, pair, output)
        check_writable(out, options.rgb_png)
        _print_notes(options, pair, runner)
        facts = pair.facts  # the divisor may have been taken from the data
        if options.dry_run:
            planning.show_pair(runner, pair, _files_of_pair(options, pair, out))
            return
        job = _job(options, ms, pan, str(facts))
        if listed and options.resume and first_alone(ranks, lambda: is_complete(out, job)):
            print(f"result:   {out} is complete")
            return
        if not options.resume:
            note_replaced(out)
        trained = trained_geometry(options.weights, facts)
        picture = fuse_scene(
            runner,
            pair,
            out,
            clip=not options.no_clip,
            trained=trained,
            output=output,
            job=job,
            resume=options.resume,
            ranks=ranks,
        )
        if options.rgb_png and picture is not None:
            save_rgb(options.rgb_png, picture)
        if listed and ranks.main:
            mark_complete(out, job)
        H, W = pair.size
    bands = len(options.bands) or (pair.whole.count if options.fill_dropped else facts.bands)
    print(f"result:   {out} ({H} x {W} pixels, {bands} bands; sensor {facts.sensor}, divisor {facts.divisor:g})")
    if options.rgb_png:
        print(f"picture:  {options.rgb_png}")
    print(f"time:     {(time.perf_counter() - started) / (H * W / 1e6):.2f} s per megapixel on {device}")


def _print_notes(options: FuseOptions, pair: ScenePair, runner: Runner) -> None:
    """Print what the user should know of a pair before it is fused; its divisor may be taken from the data here."""
    # a method that is not clipped does not depend on the divisor
    remark = pair.check_range() if options.divisor is None and runner.traits.clipped else ""
    for line in (*pair.notes, *scene_notes(pair), *([remark] if remark else [])):
        print(f"note: {line}")
    if getattr(runner.network, "brightness_of_pan", False) and abs(pair.brightness - 1) > BRIGHTER:
        print(
            f"note: PAN's mean is {pair.brightness:.2f} times that of MS's bands, and this method gives the "
            "bands PAN's brightness; GSA or MTF-GLP-FS keep their own"
        )
    pixels = math.prod(n // pair.facts.ratio for n in pair.size)
    if pixels < FEW and (isinstance(runner.network, Adapting) or runner.traits.any_size):
        print(f"note: {pixels} MS pixels are few to take statistics from or to train on; compare with --method auto")
    if options.dtype and options.dtype != pair.ms.dtype.name:
        print(f"note: values are kept as {options.dtype}: rounded and clipped to its range, not scaled")
    if isinstance(runner.network, Adapting):
        print(f"note: {runner.network.plan}")


def _files_of_pair(options: FuseOptions, pair: ScenePair, out: Path) -> dict[Path, str]:
    """Return the files that fusing a pair writes, and what is in them."""
    (H, W) = pair.size
    bands = len(options.bands) or (pair.whole.count if options.fill_dropped else pair.facts.bands)
    bytes_each = int("".join(filter(str.isdigit, options.dtype or pair.ms.dtype.name))) // 8
    text = f"{H} x {W} x {bands}, {planning.size_of(H * W * bands * bytes_each)} before compression"
    return {out: text} | ({options.rgb_png: "picture"} if options.rgb_png else {})


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


def _chosen(options: FuseOptions, pair: ScenePair, device: torch.device) -> FuseOptions:
    """Choose the method of a scene; its facts stay as if that method had been named."""
    facts = pair.facts
    if options.divisor is None:
        pair.check_range()
    chosen = choose(options, [scene_area(pair)], pair.facts, device)
    pair.facts = facts
    return chosen


def _runner(options: FuseOptions, facts: DataFacts, device: torch.device, runners: Runners) -> Runner:
    """Return the method for data like these, from `runners` if it is there."""
    data = (facts.bands, facts.guide_bands, facts.ratio, facts.sensor, facts.geometry)
    key = (options.arch, options.weights, *data)
    if key not in runners:
        model = load_method(options.arch, options.weights, facts, options.adapt_steps)
        tile = TILE if isinstance(model, Adapting) else SCENE_TILE
        runners[key] = Runner(
            model, device, options.tiling(tile, facts.ratio), compile=options.compile, tf32=options.tf32
        )
    return runners[key]


# what the pixels of a result do not depend on
_FREE = ("resume", "dry_run", "list", "out", "device", "scan_backend", "memory", "pictures", "json", "per_image")


def _job(options: FuseOptions, ms: Sequence[Path], pan: Sequence[Path], facts: str) -> str:
    """Return a text that differs where a strip of an earlier run may not be used."""
    about = {name: repr(value) for name, value in vars(options).items() if name not in _FREE}
    about |= {"facts": facts, "version": project_version(), "rgb": str(options.rgb_png is not None)}
    about |= weights_sha256({"weights": options.weights})
    return job_name(about, (*ms, *pan))


def open_data(options: FuseOptions | AdaptOptions) -> tuple[H5Dataset, str]:
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


def scene_numbers(options: FuseOptions | AdaptOptions) -> dict[str, Any]:
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


def default_output(method: str, name: str, facts: DataFacts, per_image: bool, weights: str | None = None) -> Path:
    """Return where results go unless --out is given: the folder names the run, so no run replaces another's images."""
    stem, kind = f"{method}_{name}", "ref" if facts.has_gt else "unref"
    folder = OUT.joinpath(stem, *run_words(weights))
    return folder / kind if per_image else folder / f"data_{stem}_{kind}.mat"


def run_words(weights: str | None) -> tuple[str, ...]:
    """Return the folders that name weights in the path of a result: project and run, or the name of the file."""
    if weights is None:
        return ()
    if weights in SHIPPED:
        return (weights,)
    path = resolve_weights(weights.removeprefix(PUBLISHED_PREFIX)).resolve()
    run = next((p for p in list(path.parents)[:3] if (p / "config.yaml").is_file()), None)
    if run is None:
        return (path.stem,)
    file = path.relative_to(run).with_suffix("").parts  # the best weights are those that the run stands for
    return (*run.parts[-2:], *(part for part in file if part not in ("weights", "checkpoints", "best")))


def note_replaced(*paths: Path) -> None:
    """Say which results of an earlier call, or of another method in the same folder, are replaced."""
    there = [str(path) for path in paths if path.exists()]
    if there:
        print(f"note: replaces {' and '.join(there)}; choose another --out to keep both")
