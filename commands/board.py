"""The command `board` (leaderboard.py): all methods on one test set, with scores, cost and pictures."""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from lemamba.commands.budget import Budget, train_with
from lemamba.commands.images import fuse_set
from lemamba.commands.methods import load_method
from lemamba.commands.options import BoardOptions
from lemamba.commands.rows import members_of, not_for_guides
from lemamba.commands.scores import notes_of, report, score
from lemamba.datasets.build import check_range, find_entry, find_file
from lemamba.datasets.h5 import H5Dataset
from lemamba.engine.fusing.cost import measure_cost
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiling import Tiling
from lemamba.engine.weights.files import PUBLISHED_PREFIX, resolve_weights
from lemamba.metrics import FULL_NAMES, REDUCED_NAMES
from lemamba.metrics.inputs import BLOCK
from lemamba.reporting.board import FILES, draw_board, made_by, merge_seeds, write_board, write_page
from lemamba.reporting.tables import format_value, heading
from lemamba.utils.atomic import check_writable, sha256
from lemamba.utils.device import usable_device
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.progress import track
from lemamba.utils.safe_yaml import read_yaml

_PRELOADED = ("torch", "torch.utils.flop_counter", "scipy.stats", "h5py", "accelerate", "rich.console")
INCOMPLETE_STATUS = 1  # with --strict
TRAINING = ("rate", "steps", "minutes", "searched", "given_up")  # of a training's record, on the board


def run(options: BoardOptions) -> int:
    """Run the command; return the exit status."""
    for name in ("train", "train_epochs"):
        given = getattr(options, name)
        if given is not None and not 0 < given < float("inf"):
            raise UserError(f"expected --{name} above 0, given {given:g}; choose another")
    columns = (*REDUCED_NAMES, *(FULL_NAMES if options.full else ()))
    if options.sort not in columns:
        raise UserError(f"expected --sort to be one of {', '.join(columns)}, given {options.sort}; choose one")
    jobs, files, left_out = plan(options)
    check_writable(*(options.out / name for name in FILES))  # before hours of work
    results, failures = run_all(jobs, options, files)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if not results:
        raise UserError("no method gave a result, see above")
    for name, result in results.items():
        for note in result["notes"]:
            print(f"note: {name}: {note}")
    if (earlier := made_by(options.out)) is not None:
        print(f"note: replaces the board in {options.out}, made by: {earlier}")
    facts = provenance(options, files, jobs[0])
    write_board(options.out, results, failures, facts, options.sort, options.against)
    sample = options.picture_sample % len(next(iter(next(iter(results.values()))["per_sample"].values())))
    write_page(options.out, results, failures, facts, options.sort, jobs[0]["rgb"], sample)
    draw_board(options.out, results, jobs[0]["sensor"], options.sort, jobs[0]["rgb"])
    print(f"written: {options.out}/ {' '.join(name for name in FILES if (options.out / name).is_file())}")
    return INCOMPLETE_STATUS if options.strict and (failures or left_out) else 0


def trains(options: BoardOptions) -> bool:
    """Return whether networks without weights are trained first."""
    return options.train is not None or options.train_epochs is not None


def open_files(options: BoardOptions) -> tuple[Path, dict[str, Any], H5Dataset]:
    """Return the test file, the sensor and divisor it is read with, and its data; --full is checked as well."""
    data = options.data or find_file(options.dataset, "test", options.data_root)
    sensor = options.sensor or find_entry(options.dataset, options.data_root, options.data).sensor or None
    dataset = H5Dataset(data, sensor=sensor, divisor=options.divisor, need_gt=True)
    opened = [dataset]
    if options.full:
        opened.append(H5Dataset(options.full, sensor=sensor, divisor=options.divisor))
        _check_full(options.full, opened[1], dataset)
    if options.divisor is None:
        for one in opened:
            check_range(one)
    return data, {"sensor": dataset.facts.sensor, "divisor": options.divisor}, dataset


def _check_full(path: Path, full: H5Dataset, reduced: H5Dataset) -> None:
    """Refuse a file for --full that is not measured at full resolution, or is not of the kind of the test file."""
    if full.facts.has_gt:
        raise UserError(
            f'expected a file without ground truth as --full, "{path}" has gt: it would be measured at reduced '
            "resolution; give test_<name>_OrigScale_multiExm1.h5"
        )
    for what in ("bands", "guide_bands", "ratio", "geometry"):
        given, expected = getattr(full.facts, what), getattr(reduced.facts, what)
        if given != expected:
            raise UserError(
                f'expected {what.replace("_", " ")} {expected} in the --full file, as in the test file, "{path}" has '
                f"{given}; give the full resolution of the same data set"
            )
    H, W = full[0]["lms"].shape[-2:]
    step = math.lcm(BLOCK, full.facts.ratio)
    if full.facts.guide_bands == 1 and (H % step or W % step):
        raise UserError(
            f'full resolution needs sides that are multiples of {step}, "{path}" has images of {H} x {W}; crop them'
        )


def plan(options: BoardOptions) -> tuple[list[dict[str, Any]], dict[str, Path], list[str]]:
    """Return one job per member of a row (see `run_job`), the files whose sha256 is recorded, and what is left out."""
    data, numbers, dataset = open_files(options)
    facts = dataset.facts
    members, left_out = members_of(options, facts)
    if other := not_for_guides(options.methods, facts):
        print(f"note: {other}")
    for name in left_out:
        print(f"note: {name} is left out: no --weights {name}=PATH and no --train MINUTES")
    if options.against is not None and options.against not in (labels := [m.label for m in members]):
        raise UserError(f"--against: no row is called {options.against}{nearest(options.against, labels)}")
    device = str(usable_device(options.device))
    shared = {"data": str(data), "full": str(options.full) if options.full else None, **numbers}
    shared |= {
        "device": device,
        "sample": options.picture_sample,
        "seed": options.seed,
        "rgb": facts.rgb,
        "peak": facts.divisor,
    }
    jobs = [{"member": m, "name": m.name, "weights": m.weights, **shared} for m in members]
    return jobs, {"data": data} | ({"full": options.full} if options.full else {}), left_out


def run_all(
    jobs: list[dict[str, Any]], options: BoardOptions, files: dict[str, Path]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Train if asked to, and measure every member; return results by label and failures by title.

    The weights that were measured are added to `files`.
    """
    measured: dict[str, dict[str, dict[str, Any]]] = {}  # label -> title -> result
    failures = {}
    budget = shared_budget(options) if trains(options) else None
    for done, job in enumerate(track(jobs, "methods"), start=1):
        member, training = job["member"], None
        try:
            if budget is not None and member.is_trained:
                own = replace(budget, seed=member.seed, settings=member.settings)
                folder, training = train_with(member.name, own)
                job["weights"] = str(folder)
            if job["weights"]:
                files[f"weights of {member.title}"] = resolve_weights(job["weights"].removeprefix(PUBLISHED_PREFIX))
        except UserError as error:
            failures[member.title] = str(error)
            continue
        outcome = run_isolated(job)
        if isinstance(outcome, str):
            failures[member.title] = outcome
            continue
        if training is not None:
            outcome["training"] = {"run": job["weights"], **{key: training[key] for key in TRAINING}}
            outcome["cost"]["steps"] = training["steps"]
        measured.setdefault(member.label, {})[member.title] = outcome | {"seed": member.seed}
        shown = format_value(options.sort, outcome["scores"][options.sort])
        print(f"{done} of {len(jobs)}: {member.title}: {heading(options.sort)} {shown}", flush=True)
    return {label: merge_seeds(runs) for label, runs in measured.items()}, failures


def shared_budget(options: BoardOptions) -> Budget:
    """Return what every network is trained with."""
    read_yaml(options.train_config)  # raises its errors before the first training
    files = [find_file(options.dataset, split, options.data_root) for split in ("train", "valid")]
    return Budget(
        dataset=options.dataset,
        data_root=str(options.data_root) if options.data_root else None,
        sensor=options.sensor,
        divisor=options.divisor,
        minutes=options.train,
        epochs=None if options.train is not None else options.train_epochs,
        rates=options.rates,
        config=str(options.train_config),
        seed=options.seed,
        sha256=tuple(sha256(file) for file in files),
    )


def run_isolated(job: dict[str, Any]) -> dict[str, Any] | str:
    """Run `run_job` in a new process; return its result, or what went wrong in one line."""
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(job, there, dict(os.environ)), daemon=True)  # ends with its parent
    with _main_left_out():
        process.start()
    there.close()
    try:
        outcome = here.recv()
    except EOFError:
        process.join()
        return f"the process died with status {process.exitcode} (out of memory?)"
    process.join()
    return outcome


def _context() -> Any:
    """Return how processes are started: forked from one that has imported torch and computed nothing, if there can be.

    A new interpreter for every method would spend seconds on imports. A fork of this process would inherit its memory,
    whose peak is measured, and the threads of its libraries.
    """
    root = str(Path(str(sys.modules["lemamba"].__file__)).resolve().parent.parent)
    if root not in sys.path:  # found from the working folder, for which children take that of this process's start
        sys.path.append(root)
    if sys.platform != "linux":  # Windows has none; macOS's libraries may not be forked
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # not our own modules: the server looks for them in the working folder, which may be that of another clone
    context.set_forkserver_preload(list(_PRELOADED))
    return context


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Start processes that do not import the script of this one, which may call the board without a main guard."""
    names = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: names.pop(name) for name in ("__file__", "__spec__") if name in names}
    names["__spec__"] = None
    try:
        yield
    finally:
        names.update(hidden)


def _worker(job: dict[str, Any], connection: Connection, environment: dict[str, str]) -> None:
    os.environ.clear()  # that of the parent may have changed since the server started
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends this process
    try:
        connection.send(run_job(job))
    except UserError as error:
        connection.send(str(error))
    except Exception as error:  # whatever a method does wrong, the board reports it and continues
        connection.send(f"{type(error).__name__}: {' '.join(str(error).split())}")


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Fuse and measure one method (runs in a process of its own).

    Args:
        job: name (None = the one that the weights name), weights, data, full, sensor, divisor, device, sample, seed,
            rgb, peak (the divisor that is used).

    Returns:
        Scores and per-sample values of both protocols, the cost, and the images of one sample: see
        `lemamba.reporting.board`.
    """
    torch.manual_seed(job["seed"])
    device = torch.device(job["device"])
    numbers = {"sensor": job["sensor"], "divisor": job["divisor"]}
    dataset = H5Dataset(job["data"], **numbers)
    model = load_method(job["name"], job["weights"], dataset.facts).to(device)
    runner = Runner(model, device, Tiling(batch=1))
    images: dict[str, Tensor] = {}

    def fuse_all() -> float:
        fused, seconds = fuse_set(runner, dataset)
        images.update(fused)
        return seconds

    first = {role: value[None].to(device) for role, value in dataset[0].items()}
    H, W = first["lms"].shape[-2:]
    cost = measure_cost(model, first, fuse_all, len(dataset) * H * W / 1e6, device)
    meters = [score(images, dataset.facts)]
    if job["full"]:
        full_set = H5Dataset(job["full"], **numbers)
        meters.append(score(fuse_set(runner, full_set)[0], full_set.facts))
    shown = job["sample"] % len(dataset)
    return {
        "name": model.model_name,
        "cost": vars(cost),
        "scores": {name: value for meter in meters for name, value in meter.compute().items()},
        "per_sample": {name: value.tolist() for meter in meters for name, value in meter.per_sample().items()},
        "notes": [note for meter in meters for note in notes_of(meter)],
        "arrays": {role: value[shown].numpy() for role, value in images.items()},
    }


def provenance(options: BoardOptions, files: dict[str, Path], job: dict[str, Any]) -> dict[str, Any]:
    """Return what the results depend on: seed, versions, machine, sha256 of every file that was read."""
    digests = {name: sha256(path) for name, path in files.items()}
    mark = "weights of "
    about = report(
        {},
        file=files["data"].name,
        sensor=job["sensor"],
        divisor=job["peak"],
        weights={name.removeprefix(mark): digest for name, digest in digests.items() if name.startswith(mark)},
    )
    return about | {
        "dataset": options.dataset,
        "seed": options.seed,
        "grid": options.grid,
        "train_minutes": options.train,
        "train_epochs": options.train_epochs,
        "rates": options.rates,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
        "machine": {"system": platform.platform(), "threads": torch.get_num_threads()},
        "sha256": {name: {"file": path.name, "sha256": digests[name]} for name, path in files.items()},
    }
