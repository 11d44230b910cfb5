"""The command `adapt`: train a network on the scene or the test set that it is to fuse, and fuse it.

Two parts: patches of the degraded scene, whose MS image is the ground truth; then the same with patches at full
resolution. Ground that is held out decides (`lemamba.datasets.own_ground`). The result is fused by the command `fuse`
with the weights that are saved, so whoever has them gets the same image.
"""

from __future__ import annotations

import copy
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lemamba.commands import fuse, planning
from lemamba.commands.choose import best, classical_methods, compare, fuse_samples, scene_gains, scores_of, unlike
from lemamba.commands.images import WRITERS, check_ending
from lemamba.commands.methods import GENERIC, load_method, sizes_of
from lemamba.commands.options import AdaptOptions, FuseOptions
from lemamba.commands.pairs import relation_of
from lemamba.commands.scores import command_line, measure
from lemamba.commands.train import build_network, build_optimizer_for, start_accelerator
from lemamba.datasets.content import check_content
from lemamba.datasets.opening import pair_paths
from lemamba.datasets.own_ground import (
    Area,
    Drawn,
    HeldOut,
    OwnGround,
    image_areas,
    own_geometry,
    own_ground,
    scene_area,
)
from lemamba.datasets.pair import open_pair
from lemamba.datasets.writers import Output, check_output
from lemamba.engine.fusing.cost import count_parameters
from lemamba.engine.training.checkpoint import Checkpoints, open_run
from lemamba.engine.training.fit import fit
from lemamba.engine.training.job import Job
from lemamba.engine.training.schedule import Schedule
from lemamba.engine.training.state import seed_all
from lemamba.engine.weights.files import read_weights, save_weights, weights_meta
from lemamba.losses import build_loss
from lemamba.losses.two_resolutions import TwoResolutions
from lemamba.model import model_class, model_entry
from lemamba.model.classical.base import Classical
from lemamba.reporting.pictures import (
    busiest_box,
    choose_bands,
    error_map,
    guide_rgb,
    save_panels,
    stretch_limits,
    to_rgb,
)
from lemamba.reporting.tables import print_table
from lemamba.utils import config
from lemamba.utils.atomic import check_writable, read_json, write_json
from lemamba.utils.device import usable_device, use_scan_backend
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.progress import ProgressBar, is_live
from lemamba.utils.sensors import get_sensor
from lemamba.utils.startup import INTERRUPTED_STATUS
from lemamba.utils.version import project_version

ROUND = 40  # optimizer steps between two looks at the held-out ground
LAST_SHARE = 0.2  # of the time, for the part with patches at full resolution
RATES = {True: 2e-3, False: 1e-3}  # from scratch, from weights
BAND_WISE = {"batch_size": 16, "clip_norm": 0.05}  # samples of one band, in units of 1/16 deviation
WORSE = 1.01  # the last part may cost so much ERGAS on the degraded scene, for a better HQNR
SURELY = 0.9  # share of the ERGAS of the generic weights that is needed where one part of a small scene serves twice
NOT_LOW_PASSED = "MS was not low-passed when it was made, so the degraded scene is of another kind than the scene"
MEANWHILE = 0.1  # of the training between two lines where there is no terminal
FIRST, LAST = "adapted, degraded", "adapted, both resolutions"
Row = dict[str, float]


@dataclass
class Start:
    """What is adapted.

    Attributes:
        network: with its initial weights.
        described: its name and constructor arguments.
        geometry: where it knows ms pixels.
        label: of its row.
        fallback: method that is used where training does not help: its own weights, or one that needs none.
        row: its scores on the ground that decides when to stop.
        needed: see `keep`.
        trained, ground: the network in the form in which it is trained, and on which samples; None = itself, on the
            ground.
    """

    network: nn.Module
    described: dict[str, Any]
    geometry: Geometry
    label: str
    fallback: dict[str, Any] = field(default_factory=dict)
    row: Row = field(default_factory=dict)
    needed: float = 1.0
    trained: nn.Module | None = None
    ground: OwnGround | None = None


@dataclass(frozen=True)
class Task:
    """One adaptation.

    Attributes:
        areas: the ground.
        facts: of the data.
        names: of MS and PAN, for messages.
        folder: of everything that is written but the fused image.
        options: of the command.
        device: where it runs.
    """

    areas: Sequence[Area]
    facts: DataFacts
    names: tuple[str, str]
    folder: Path
    options: AdaptOptions
    device: torch.device


class _StoppedError(Exception):
    """A signal ended the training; everything is saved."""


class _PlannedError(Exception):
    """--dry_run: what would be done is printed."""


def run(options: AdaptOptions) -> int:
    """Run the command; return the exit status."""
    use_scan_backend(options.scan_backend)
    device = usable_device(options.device)
    if bool(options.ms or options.pan) == bool(options.data or options.dataset):
        raise UserError("expected a scene (--ms, --pan) or a test set (--data, --dataset), one of the two; give one")
    folder = options.out.with_name(f"{options.out.stem}_adapted")
    try:
        if options.ms or options.pan:
            arguments = _adapt_scene(options, folder, device)
        else:
            arguments = _adapt_set(options, folder, device)
    except _PlannedError:
        return 0
    except _StoppedError as stopped:
        print(f"stopped by {stopped}, everything is saved; continue with the same command and --resume")
        return INTERRUPTED_STATUS
    given = {key: getattr(options, key) for key in ("sensor", "divisor", "device", "scan_backend", "out")}
    return fuse.run(FuseOptions(**given, **arguments))


def _adapt_scene(options: AdaptOptions, folder: Path, device: torch.device) -> dict[str, Any]:
    """Adapt to a pair of images; return the options of `fuse` that use the result."""
    ms, pan = pair_paths(options.ms, options.pan)
    relation = relation_of(options)
    numbers = fuse.scene_numbers(options)
    with open_pair(ms, pan, nodata=options.nodata, relation=relation, **numbers) as pair:
        check_output(options.out, pair, Output())
        for line in pair.notes:  # before the training: a collar that is not marked would be learnt
            print(f"note: {line}")
        if options.divisor is None:
            pair.check_range()
        task = Task([scene_area(pair)], pair.facts, (str(ms[0]), str(pan[0])), folder, options, device)
        result = adapt(task)
    names = ("assume_aligned", "register", "allow_remote", "nodata")
    return {"ms": ms, "pan": pan, **{key: getattr(options, key) for key in names}, **result}


def _adapt_set(options: AdaptOptions, folder: Path, device: torch.device) -> dict[str, Any]:
    check_ending(options.out, WRITERS)
    dataset, _ = fuse.open_data(options)
    names = (str(dataset.path), str(dataset.path))
    result = adapt(Task(image_areas(dataset), dataset.facts, names, folder, options, device))
    given = {key: getattr(options, key) for key in ("data", "dataset", "data_root", "split")}
    return given | result


# ---------------------------------------------------------------------------------------------------- the adaptation


def adapt(task: Task) -> dict[str, Any]:
    """Adapt a network to ground of the data themselves; save weights, picture and report in the folder.

    Returns:
        The options of `fuse` by which the data are fused best: the adapted weights, or the start.

    Raises:
        _StoppedError: a signal came; _PlannedError: that is all of a dry run.
        UserError: ground too small, images that do not belong together, a network that cannot be trained, or a folder
            that holds an adaptation already.
    """
    options, folder = task.options, task.folder
    check_writable(options.out, folder / "report.json", folder / "weights" / "best.safetensors")
    entry = _check_method(options, task.facts.guide_bands)
    by_band = issubclass(model_class(entry), Classical)
    geometry = _trained_geometry(options, task.facts, by_band)
    gains = scene_gains(task.areas, task.facts)
    if unlike(gains) and options.weights is None:
        raise UserError(
            f"--from scratch: {NOT_LOW_PASSED}; fuse it by the generic weights: lemamba fuse --weights generic"
        )
    with ProgressBar("reading", 1.0) as bar:
        ground = own_ground(
            task.areas, task.facts, trained=geometry, gains=gains, seed=options.seed, on_progress=bar.update
        )
    for line in check_content(ground, task.names):
        print(f"note: {line}")
    _claim(task)
    start = _start(task, ground, entry)
    judge = Judge(ground, task.device)
    rows = {} if options.dry_run else _rows_before(start, judge, options)
    networks: dict[str, nn.Module] = {}
    # not compared at full resolution: planes of single bands, whose loss needs all bands, and guides of several bands
    by_parts = ground.full and ground.full_test and not by_band and task.facts.guide_bands == 1
    parts = [FIRST, LAST] if by_parts else [FIRST]
    if unlike(gains):
        parts = []
    if by_band:
        from lemamba.commands.bandwise import LEMambaAny, band_ground, training_network

        assert isinstance(start.network, LEMambaAny), "the only classical-like network that is trained"
        start.trained, start.ground = (
            training_network(start.network, start.described),
            band_ground(start.network, ground),
        )
    if options.dry_run:
        if parts:
            _show_plan(task, start, ground, judge, len(parts))
        else:
            print(f"note: nothing will be trained: {NOT_LOW_PASSED}; the start fuses the scene")
        raise _PlannedError
    for number, part in enumerate(parts, start=1):
        state = train_part(task, start, ground, judge, number, len(parts))
        start.network.load_state_dict(state)
        rows[part] = judge.row(start.network)
        networks[part] = copy.deepcopy(start.network).eval()
    start.needed = SURELY if by_band and ground.one_held else 1.0
    chosen = keep(rows, start.label, start.needed)
    return _finish(task, ground, start, rows, networks, chosen)


def _show_plan(task: Task, start: Start, ground: OwnGround, judge: Judge, parts: int) -> None:
    """Print what would be trained on which ground, and measure one step of it."""
    settings = _settings(task, start.described["name"], 1, parts)
    job = _job(task, start, ground, judge, settings, task.folder / "part1", 1, lambda share, scores: None)
    held = {split: sum(s["gt"][0].numel() for s in getattr(ground, split)) for split in ("valid", "test")}
    taught = sum(int(valid.sum()) for _, valid in ground.train)
    pieces = f", then patches at full resolution, {LAST_SHARE:.0%} of the training" if parts > 1 else ""
    title = {
        "data": f"{' and '.join(dict.fromkeys(task.names))}; {planning.about(task.facts)}",
        "network": f"{start.described['name']} from {task.options.start}, {count_parameters(job.model):,} parameters",
        "ground": f"{taught:,} MS pixels to train on, {held['valid']:,} to stop by, {held['test']:,} to measure on",
        "parts": f"degraded patches of {ground.crop} pixels{pieces}; then the images are fused",
        "result": planning.files_text({task.options.out: "fused"}),
    }
    after = 0.0
    if parts > 1:
        rounds = task.options.rounds
        after = _last_rounds(rounds) / rounds if rounds is not None else LAST_SHARE / (1 - LAST_SHARE)
    planning.show_training(job, task.device, 1, overwrite=True, title=title, after=after)


def keep(rows: dict[str, Row], start: str, needed: float = 1.0) -> str:
    """Return the row to use: that of the start unless training helps.

    An adapted network must have a lower ERGAS than the start, less than `needed` times it, on ground that took no part
    in its training. The last part is taken if it has the higher HQNR and costs at most 1 % of ERGAS.
    """
    limit = needed * rows[start]["ergas"]
    better = {name: row for name, row in rows.items() if name in (FIRST, LAST) and row["ergas"] < limit}
    if LAST in better and FIRST in better:
        first, last = better[FIRST], better[LAST]
        return LAST if last["ergas"] <= WORSE * first["ergas"] and last["hqnr"] > first["hqnr"] else FIRST
    return next(iter(better), start)


def _check_method(options: AdaptOptions, guide_bands: int) -> str:
    """Return the name of the network that is trained."""
    if guide_bands > 1 and options.weights == GENERIC:
        raise UserError(
            f"the generic weights are for one PAN band, the guide has {guide_bands}; add --from scratch, or weights of "
            "such data"
        )
    named = options.arch
    if options.weights is not None:
        named = weights_meta(options.weights).get("model", {}).get("name") or named
        if named is None:
            raise UserError(f"{options.weights} does not name its network; add --arch")
        if options.arch is not None and model_entry(options.arch).name != model_entry(named).name:
            raise UserError(
                f"{options.weights} holds weights of {named}, given --arch {options.arch}; drop one of them"
            )
        if options.variant is not None:
            raise UserError("--variant is for --from scratch; the weights have their own variant")
    entry = model_entry(named or config.ModelConfig().arch)
    if not entry.traits.trained or entry.traits.adapts:
        kind = "adapts by itself when it fuses" if entry.traits.adapts else "has nothing to train"
        raise UserError(f"{entry.name} {kind}; fuse with it: lemamba fuse --arch {entry.name}")
    return entry.name


def _trained_geometry(options: AdaptOptions, facts: DataFacts, by_band: bool) -> Geometry:
    """Return where the network knows ms pixels: from its training, else where the data have them."""
    if options.weights is None or by_band:
        return own_geometry(facts)
    return fuse.trained_geometry(options.weights, facts)


def _claim(task: Task) -> None:
    """Make the folder this adaptation's: new, resumed with equal options, or replaced.

    Raises:
        UserError: the folder holds another adaptation, or nothing to resume.
    """
    options, folder = task.options, task.folder
    left_out = ("resume", "dry_run", "overwrite", "device", "out")
    request = {key: _plain(value) for key, value in asdict(options).items() if key not in left_out}
    found = read_json(folder / "request.json")
    if options.resume:
        if found is None:
            raise UserError(f"--resume: expected an interrupted adaptation in {folder}, found none; start without it")
        other = next((key for key in request if found.get(key) != request[key]), None)
        if other is not None:
            raise UserError(
                f"--resume: {folder} was started with {other} {found.get(other)}, given {request[other]}; give the "
                "same options"
            )
        return
    if found is not None and not options.overwrite:
        raise UserError(
            f"{folder} holds an adaptation; --resume continues it, --overwrite replaces it, or give another --out"
        )
    if options.dry_run:
        return
    for name in ("part1", "part2", "weights"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / "request.json", request)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _start(task: Task, ground: OwnGround, name: str) -> Start:
    """Build the network with the weights that it starts from."""
    options, facts = task.options, ground.facts
    if options.weights is None:
        settings = _settings(task, name, 1, 1)
        seed_all(options.seed)
        network, described, _ = build_network(settings, Drawn(ground, 1))
        return Start(network, described, ground.facts.geometry, "")
    network = load_method(name, options.weights, facts)
    described = weights_meta(options.weights).get("model") or {"name": name, "args": sizes_of(facts)}
    label = f"start ({Path(options.weights).name})"
    return Start(network, described, facts.geometry, label, {"weights": options.weights, "arch": name})


def _rows_before(start: Start, judge: Judge, options: AdaptOptions) -> dict[str, Row]:
    """Measure what there is before training: the best method without training, and the start; complete `start`."""
    facts = judge.ground.facts
    scores, _ = compare(classical_methods(facts), judge.ground.test, facts, judge.device)
    rows = {"EXP": scores["EXP"]} if "EXP" in scores else {}
    name = best(scores)
    method = load_method(name, None, facts)
    rows[name] = judge.row(method)
    if options.weights is None:
        start.label, start.fallback, start.row = name, {"arch": name}, judge.valid(method)
    else:
        rows[start.label], start.row = judge.row(start.network), judge.valid(start.network)
    return rows


class Judge:
    """Measures networks on the held-out ground."""

    def __init__(self, ground: OwnGround, device: torch.device) -> None:
        self.ground, self.device = ground, device

    def valid(self, network: nn.Module) -> Row:
        """Return the scores on the ground that decides when to stop."""
        return scores_of(network, self.ground.valid, self.ground.facts, self.device)

    def row(self, network: nn.Module) -> Row:
        """Return the scores on the ground that is only measured on, HQNR at full resolution."""
        ground, facts = self.ground, self.ground.facts
        network.eval()
        row = scores_of(network, ground.test, facts, self.device)
        if ground.full_test and facts.guide_bands == 1:
            sample = ground.full_test[0]
            images = {role: sample[role][None].double() * facts.divisor for role in ("ms", "lms", "pan")}
            images["sr"] = fuse_samples(network, [sample], facts, self.device)[0]
            found = measure(images, "full", ratio=facts.ratio, sensor=facts.sensor, geometry=facts.geometry)
            row["hqnr"] = float(found["hqnr"][0])
        return row


# ---------------------------------------------------------------------------------------------------- training


def _last_rounds(rounds: int) -> int:
    """Return how many rounds the last of two parts has."""
    return max(1, round(rounds * LAST_SHARE))


def _settings(task: Task, name: str, number: int, parts: int) -> config.Config:
    """Return the configuration of a part of the training."""
    by_band = issubclass(model_class(name), Classical)
    options = task.options
    share = 1.0 if parts == 1 else LAST_SHARE if number == 2 else 1 - LAST_SHARE
    rounds, minutes = options.rounds, options.minutes * share
    if rounds is not None:
        length: dict[str, Any] = {"epochs": _last_rounds(rounds) if number == 2 else rounds}
    else:
        length = {"epochs": 10**6, "max_minutes": minutes}
    rate = RATES[options.weights is None] * (0.2 if number == 2 else 1.0)
    model: dict[str, Any] = {"arch": name}
    if options.variant is not None:
        model["variant"] = options.variant
    flags = {
        "model": model | ({"pretrained": options.weights} if options.weights else {}),
        "data": {"sensor": task.facts.sensor, "crop": None},
        "optimizer": {"lr": rate},
        "schedule": {"warmup": 0.5 if rounds is None or length["epochs"] > 1 else 0.0},
        "train": {"seed": options.seed, "device": options.device, **length, **(BAND_WISE if by_band else {})},
        "log": {"log_dir": str(task.folder), "proj_name": "part", "run_name": f"part{number}"},
    }
    return config.resolve(flags, "configs/adapt.yaml")


def train_part(task: Task, start: Start, ground: OwnGround, judge: Judge, number: int, parts: int) -> dict[str, Any]:
    """Train a part, resuming it where it was interrupted; return the weights that were best on the held-out ground.

    Raises:
        _StoppedError: a signal came.
    """
    folder = task.folder / f"part{number}"
    kept = "best" if number == 1 else "last"  # the last part is not trained for the ERGAS that chooses the best
    weights = folder / "weights" / f"{kept}.safetensors"
    if not (folder / "finished").exists():
        settings = _settings(task, start.described["name"], number, parts)
        with _reporting(number, parts, start.row, task) as report:
            job = _job(task, start, ground, judge, settings, folder, number, report)
            lock = open_run(folder, None, resuming=job.resume is not None, overwrite=True)
            try:
                accelerator = start_accelerator(settings)
                outcome = fit(job, accelerator)
                accelerator.free_memory()
            finally:
                lock.close()
        if outcome.reason != "finished":
            raise _StoppedError(outcome.reason)
        (folder / "finished").touch()
    return read_weights(weights)[0]


def _job(
    task: Task,
    start: Start,
    ground: OwnGround,
    judge: Judge,
    settings: config.Config,
    folder: Path,
    number: int,
    report: Callable[[float, Row], None],
) -> Job:
    last, facts = number == 2, ground.facts
    network, count = start.trained or start.network, ROUND * settings.train.batch_size
    drawn = Drawn(start.ground or ground, count, crop=_last_crop(ground) if last else None, with_full=last)

    def held_out(network: nn.Module) -> Row:
        if network is start.network:
            return judge.valid(network)
        start.network.load_state_dict(network.state_dict())
        return judge.valid(start.network)

    gains = get_sensor(facts.sensor).gains(facts.bands)
    start.network.to(task.device)
    network.to(task.device)
    return Job(
        config=settings,
        model=network,
        optimizer=build_optimizer_for(settings, network, task.device),
        schedule=Schedule(settings.schedule, settings.optimizer.lr, settings.train.epochs),
        loss=(TwoResolutions(gains, facts.geometry) if last else build_loss("l1")).to(task.device),
        train_set=drawn,
        valid_set=HeldOut(drawn.facts, ground.valid),  # measured by `held_out`
        folder=folder,
        meta=_meta(task, start, facts),
        resume=Checkpoints(folder / "checkpoints").latest() if task.options.resume else None,
        measure=held_out,
        on_progress=report,
    )


def _last_crop(ground: OwnGround) -> int:
    """Return the side of patches of the last part: twice that of the first, if all windows are large enough."""
    sides = [side for sample, _ in ground.train for side in sample["gt"].shape[1:]]
    sides += [side for sample in ground.full for side in sample["lms"].shape[1:]]
    gaps = any(not valid.all() for _, valid in ground.train)
    return ground.crop if gaps or min(sides) < 2 * ground.crop else 2 * ground.crop


def _meta(task: Task, start: Start, facts: DataFacts) -> dict[str, Any]:
    """Return what is stored with the weights about network, data and machine."""
    data: dict[str, Any] = {
        "scene": ", ".join(dict.fromkeys(Path(name).name for name in task.names)),
        "sensor": facts.sensor,
        "divisor": facts.divisor,
        "ratio": facts.ratio,
    }
    if start.geometry != Geometry.toolbox(facts.ratio):
        data["offset"] = list(start.geometry.offset)
    recorded = {
        "task": "pansharpening" if facts.guide_bands == 1 else "hmif",
        "parameters": f"{count_parameters(start.network):,}",
        "device": str(task.device),
        "project": project_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return {"model": start.described, "data": data, "facts": recorded}


@contextmanager
def _reporting(number: int, parts: int, before: Row, task: Task) -> Iterator[Callable[[float, Row], None]]:
    """Yield a function that shows the share done and the held-out scores, as a bar or as lines."""
    title = f"training {number}/{parts}"
    shown = is_live()
    due = 0.0
    if not shown:
        length = f"{task.options.rounds} rounds" if task.options.rounds else f"{task.options.minutes:g} minutes"
        print(f"{title}: {length} in all; start: held-out ERGAS {before['ergas']:.3f}", flush=True)
    with ProgressBar(title, 1.0, shown) as bar:

        def report(share: float, scores: Row) -> None:
            nonlocal due
            text = f"held-out ERGAS {scores['ergas']:.3f}" if scores else "not measured yet"
            bar.update(share, f"{text} (start {before['ergas']:.3f})")
            if not shown and scores and share >= due:
                print(f"{title}: {share:4.0%}  {text}", flush=True)
                due = share + MEANWHILE

        yield report


# ---------------------------------------------------------------------------------------------------- the result


def _finish(
    task: Task, ground: OwnGround, start: Start, rows: dict[str, Row], networks: dict[str, nn.Module], chosen: str
) -> dict[str, Any]:
    """Print and save what was found; return the options of `fuse` that use the chosen method."""
    folder, facts = task.folder, ground.facts
    pixels = sum(s["gt"][0].numel() for s in ground.test)
    print_table(rows, f"{pixels:,} MS pixels of held-out ground")
    adapted = chosen in networks
    if not networks:
        print(f"note: nothing was trained: {NOT_LOW_PASSED}; the start is used, {start.label}")
    elif not adapted:
        asked = f"; on so small a scene at least {1 - start.needed:.0%} less is needed" if start.needed < 1 else ""
        print(
            f"note: training does not help on the held-out ground (ERGAS {rows[FIRST]['ergas']:.3f} after, "
            f"{rows[start.label]['ergas']:.3f} before{asked}): the start is used, {start.label}"
        )
    rivals = {name: row for name, row in rows.items() if name not in networks and name != chosen}
    rival = min(rivals, key=lambda name: rivals[name]["ergas"], default=None)
    if networks and rival is not None and rivals[rival]["ergas"] < rows[chosen]["ergas"]:
        print(f"note: {rival} has the lower ERGAS on this ground; to use it: lemamba fuse --arch {rival}")
    if adapted:
        weights, used = folder / "weights" / "best.safetensors", networks[chosen]
        settings = _settings(task, start.described["name"], 1, 1)
        meta = _meta(task, start, facts) | {"metrics": rows[chosen], "config": config.to_dict(settings)}
        save_weights(weights, used.state_dict(), meta, card=True)
    _picture(task, ground, start, networks.get(chosen))
    report = {
        "command": command_line(),
        "version": project_version(),
        "rows": rows,
        "start": start.label,
        "used": chosen,
        "ground": {split: sum(s["gt"][0].numel() for s in getattr(ground, split)) for split in ("valid", "test")},
    }
    write_json(folder / "report.json", report)
    shown = "weights, card, before_after.png, report.json" if adapted else "before_after.png, report.json"
    print(f"adapted:  {folder} ({shown})")
    return {"weights": str(folder)} if adapted else start.fallback


def _picture(task: Task, ground: OwnGround, start: Start, after: nn.Module | None) -> None:
    """Draw before and after: at full resolution with a detail, and against the ground truth of the degraded scene."""
    facts = ground.facts
    before = load_method(start.fallback.get("arch"), start.fallback.get("weights"), facts)
    methods = {"before": before} | ({"after": after} if after is not None else {})
    rows: list[dict[str, np.ndarray | None]] = []
    for samples, reduced in ((ground.full_test[:1], False), (ground.test[:1], True)):
        if not samples:
            continue
        sample = {role: (value * facts.divisor).numpy() for role, value in samples[0].items()}
        fused = {name: fuse_samples(m, samples, facts, task.device)[0][0].cpu().numpy() for name, m in methods.items()}
        rgb = choose_bands(get_sensor(facts.sensor), sample["lms"], sample["pan"], own=facts.rgb)
        limits = stretch_limits(sample["gt"] if reduced else sample["lms"], rgb)
        images = {"MS, interpolated": to_rgb(sample["lms"], rgb, limits), "PAN": guide_rgb(sample["pan"])}
        images |= {name: to_rgb(image, rgb, limits) for name, image in fused.items()}
        if reduced:
            side = min(sample["gt"].shape[1:])
            images["ground truth"] = to_rgb(sample["gt"], rgb, limits)
            images |= {f"{name}, error": error_map(image, sample["gt"]) for name, image in fused.items()}
            rows.append({f"degraded: {name}": i[:side, :side] for name, i in images.items() if name != "PAN"})
        else:
            box = busiest_box(sample["pan"], max(24, sample["pan"].shape[-1] // 4))
            rows.append(dict(images))
            rows.append({f"{name}, detail": image[box] for name, image in images.items()})
    save_panels(task.folder / "before_after.png", rows)
