"""All methods on one test set: scores, cost, pictures.

Examples::

    python leaderboard.py --data test.h5 --dataset wv3 --out boards/wv3
    python leaderboard.py --dataset ikonos --data_root DATA --full DATA/test_ikonos_OrigScale_multiExm1.h5 \
        --weights LEMamba=LE-Mamba/RUN --weights PNN=dlpan:pnn.pth --out boards/ikonos
    python leaderboard.py --dataset ikonos --data_root DATA --train 10 --out boards/ikonos

Classical methods run as they are; a learned one runs where weights are given, or after training with equal time for
all (--train MINUTES). Every method runs in a process of its own: one that breaks is reported and the others go on,
and its peak memory is its own.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemamba.utils.command_line import Parser
from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from lemamba.commands.budget import Budget

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SORT = "qn"
BUDGET_CONFIG = ROOT / "configs" / "budget.yaml"
TRAINING = ("rate", "steps", "minutes", "searched", "given_up")  # of a training's record, on the board


def _rates(text: str) -> tuple[float, ...]:
    """Read --rates."""
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = (0.0,)
    if not all(0 < rate < float("inf") for rate in rates):
        raise argparse.ArgumentTypeError(f"expected rates above 0 such as 2e-3,5e-4, given {text!r}")
    return rates


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="H5 test file (default: the test file of --dataset)")
    data.add_argument("--dataset", required=True, help="name of the data set: sensor, divisor, ratio, files")
    data.add_argument("--data_root", type=Path, help="folder with the H5 files (default: LEMAMBA_DATA)")
    data.add_argument("--full", type=Path, help="H5 file at full resolution, for D_lambda, D_s, HQNR")
    data.add_argument("--sensor", help="overrides the data set's sensor")
    data.add_argument("--divisor", type=float, help="overrides the sensor's divisor")
    methods = parser.add_argument_group("methods")
    methods.add_argument("--methods", default="all", help="all, classical, learned, or names with commas")
    methods.add_argument(
        "--weights", action="append", default=[], metavar="NAME=PATH", help="weights of a network; repeat"
    )
    methods.add_argument("--train", type=float, metavar="MINUTES", help="train each learned method for so long first")
    methods.add_argument("--train_epochs", type=int, metavar="N", help="instead: train each for N epochs (equal steps)")
    methods.add_argument(
        "--rates",
        type=_rates,
        default=(),
        metavar="R,R,…",
        help="learning rates that each method tries for a tenth of the budget before it trains with its best",
    )
    methods.add_argument(
        "--train_config", type=Path, default=BUDGET_CONFIG, help="settings shared by all (default configs/budget.yaml)"
    )
    methods.add_argument("--seed", type=int, default=3407)
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, required=True, help="folder for the tables and pictures")
    out.add_argument("--sort", default=DEFAULT_SORT, help="column to rank by (default %(default)s)")
    out.add_argument("--picture_sample", type=int, default=0, help="sample shown in the grid")
    out.add_argument("--device", help="cpu, cuda … (default: cuda where there is one)")
    return parser.parse_args(argv)


def chosen_methods(wanted: str, task: str, ratio: int) -> list[str]:
    """Resolve --methods to registered names that are defined for the task and the ratio."""
    from lemamba.model import list_models, model_entry

    if wanted in ("all", "classical", "learned"):
        classical = {"all": None, "classical": True, "learned": False}[wanted]
        names = list_models(task=task, classical=classical)
        return [n for n in names if ratio in model_entry(n).ratios]
    return [model_entry(name.strip()).name for name in wanted.split(",") if name.strip()]


def given_weights(pairs: list[str]) -> dict[str, str]:
    """Read --weights NAME=PATH into registered name -> path."""
    from lemamba.model import model_entry

    weights = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not path:
            raise UserError(f"expected --weights NAME=PATH, given {pair}; for example --weights PNN=dlpan:pnn.pth")
        weights[model_entry(name).name] = path
    return weights


def measure_method(job: dict[str, Any]) -> dict[str, Any]:
    """Fuse and measure one method (runs in a process of its own).

    Args:
        job: name, weights, data, full, sensor, divisor, device, sample, seed, rgb; all plain values.

    Returns:
        Scores and per-sample values of both protocols, the cost, and the images of one sample: see `board_pages`.
    """
    import torch

    from lemamba.commands import fuse as inference
    from lemamba.datasets.build import open_h5
    from lemamba.engine.fusing.cost import measure_cost
    from lemamba.engine.fusing.samples import fuse_samples

    torch.manual_seed(job["seed"])
    device = torch.device(job["device"])
    numbers = {"sensor": job["sensor"], "divisor": job["divisor"]}
    dataset = open_h5(job["data"], **numbers)
    model, name = inference.load_method(job["name"], job["weights"], dataset)
    model.to(device)
    images: dict[str, torch.Tensor] = {}

    def fuse_all() -> float:
        fused, seconds = fuse_samples(model, dataset, device)
        images.update(fused)
        return seconds

    first = {role: value[None].to(device) for role, value in dataset[0].items()}
    H, W = first["lms"].shape[-2:]
    cost = measure_cost(model, first, fuse_all, len(dataset) * H * W / 1e6, device)
    scores, per_sample = inference.measure_one(images, dataset, "sr")
    if job["full"]:
        full_set = open_h5(job["full"], **numbers)
        fused, _ = fuse_samples(model, full_set, device)
        full_scores, full_per_sample = inference.measure_one(fused, full_set, "sr")
        scores, per_sample = scores | full_scores, per_sample | full_per_sample
    shown = job["sample"] % len(dataset)
    arrays = {role: value[shown].numpy() for role, value in images.items()}
    return {"name": name, "cost": vars(cost), "scores": scores, "per_sample": per_sample, "arrays": arrays}


def _worker(job: dict[str, Any], connection: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends this process
    try:
        connection.send(("done", measure_method(job)))
    except UserError as error:
        connection.send(("failed", str(error)))
    except Exception as error:  # whatever a method does wrong, the board reports it and goes on
        connection.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"))


def run_isolated(job: dict[str, Any]) -> dict[str, Any] | str:
    """Run `measure_method` in a new process; return its result, or what went wrong in one line."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(job, there), daemon=True)  # ends with its parent
    process.start()
    there.close()
    try:
        status, content = here.recv()
    except EOFError:
        process.join()
        return f"the process died with status {process.exitcode} (out of memory?)"
    process.join()
    return content


def provenance(arguments: argparse.Namespace, files: dict[str, Path]) -> dict[str, Any]:
    """What the numbers depend on: seed, versions, machine, sha256 of every file read."""
    import numpy
    import torch

    from lemamba.utils.atomic import sha256

    return {
        "dataset": arguments.dataset,
        "seed": arguments.seed,
        "train_minutes": arguments.train,
        "train_epochs": arguments.train_epochs,
        "rates": arguments.rates,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
        "machine": {"system": platform.platform(), "threads": torch.get_num_threads()},
        "sha256": {name: {"file": path.name, "sha256": sha256(path)} for name, path in files.items()},
    }


def open_files(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any], Dataset]:
    """Return the test file, the sensor and divisor it is read with, and its data; --full is checked as well."""
    from lemamba.datasets.build import check_range, find_entry, find_file, open_h5

    data = arguments.data or find_file(arguments.dataset, "test", arguments.data_root)
    sensor = arguments.sensor or find_entry(arguments.dataset, arguments.data_root, arguments.data).sensor or None
    numbers = {"sensor": sensor, "divisor": arguments.divisor}
    dataset = open_h5(data, **numbers, need_gt=True)
    for opened in (dataset, open_h5(arguments.full, **numbers) if arguments.full else None):
        if opened is not None and arguments.divisor is None:
            check_range(opened)
    return data, numbers | {"sensor": dataset.sensor}, dataset


def plan(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Turn the command line into one job per method; also return the files whose sha256 is recorded."""
    from lemamba.model import model_entry
    from lemamba.utils.device import usable_device

    data, numbers, dataset = open_files(arguments)
    task = "pansharpening" if dataset.guide_bands == 1 else "hmif"
    weights = given_weights(arguments.weights)
    names = chosen_methods(arguments.methods, task, dataset.ratio)
    names += [name for name in weights if name not in names]  # whoever gives weights wants them compared
    runnable = [n for n in names if model_entry(n).classical or n in weights or trains(arguments)]
    for name in (n for n in names if n not in runnable):
        print(f"note: {name} is left out: no --weights {name}=PATH and no --train MINUTES")
    if not runnable:
        raise UserError("expected at least one method that can run, found none; give --weights or --train")
    device = str(usable_device(arguments.device))
    shared = {"data": str(data), "full": str(arguments.full) if arguments.full else None, **numbers}
    shared |= {"device": device, "sample": arguments.picture_sample, "seed": arguments.seed, "rgb": dataset.own_rgb}
    jobs = [{"name": n, "weights": weights.get(n), **shared} for n in runnable]
    return jobs, {"data": data} | ({"full": arguments.full} if arguments.full else {})


def trains(arguments: argparse.Namespace) -> bool:
    """Tell whether networks without weights are to be trained first."""
    return arguments.train is not None or arguments.train_epochs is not None


def shared_budget(arguments: argparse.Namespace) -> Budget:
    """Return what every network is trained with."""
    from lemamba.commands.budget import Budget
    from lemamba.datasets.build import find_file
    from lemamba.utils.atomic import sha256
    from lemamba.utils.safe_yaml import read_yaml

    read_yaml(arguments.train_config)  # for its complaints, before a network is trained
    files = [find_file(arguments.dataset, split, arguments.data_root) for split in ("train", "valid")]
    return Budget(
        dataset=arguments.dataset,
        data_root=str(arguments.data_root) if arguments.data_root else None,
        sensor=arguments.sensor,
        divisor=arguments.divisor,
        minutes=arguments.train,
        epochs=None if arguments.train is not None else arguments.train_epochs,
        rates=arguments.rates,
        config=arguments.train_config,
        seed=arguments.seed,
        sha256=tuple(sha256(file) for file in files),
    )


def run_all(
    jobs: list[dict[str, Any]], arguments: argparse.Namespace, files: dict[str, Path]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Train where asked, measure every method; return results by name and failures by name.

    The weights that were measured are added to `files`.
    """
    from lemamba.commands.budget import train_with
    from lemamba.engine.weights.files import PUBLISHED_PREFIX, resolve_weights
    from lemamba.model import model_entry
    from lemamba.utils.progress import track

    results, failures = {}, {}
    budget = shared_budget(arguments) if trains(arguments) else None
    for job in track(jobs, "methods"):
        name, training = job["name"], None
        try:
            if budget is not None and job["weights"] is None and not model_entry(name).classical:
                folder, training = train_with(name, budget, ROOT / "accelerate_main.py")
                job["weights"] = str(folder)
            if job["weights"]:
                files[f"weights of {name}"] = resolve_weights(job["weights"].removeprefix(PUBLISHED_PREFIX))
        except UserError as error:
            failures[name] = str(error)
            continue
        outcome = run_isolated(job)
        if isinstance(outcome, str):
            failures[name] = outcome
            continue
        if training is not None:
            outcome["training"] = {key: training[key] for key in TRAINING}
            outcome["cost"]["steps"] = training["steps"]
        results[name] = outcome
    return results, failures


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    arguments = parse_arguments(argv)
    from lemamba.commands.board_pages import FILES, draw_board, write_board
    from lemamba.metrics import FULL_NAMES, REDUCED_NAMES
    from lemamba.utils.atomic import check_writable

    for name in ("train", "train_epochs"):
        given = getattr(arguments, name)
        if given is not None and not 0 < given < float("inf"):
            raise UserError(f"expected --{name} above 0, given {given:g}; choose another")
    columns = (*REDUCED_NAMES, *(FULL_NAMES if arguments.full else ()))
    if arguments.sort not in columns:
        raise UserError(f"expected --sort to be one of {', '.join(columns)}, given {arguments.sort}; choose one")
    jobs, files = plan(arguments)
    check_writable(*(arguments.out / name for name in FILES))  # before hours of work
    results, failures = run_all(jobs, arguments, files)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if not results:
        raise UserError("no method gave a result, see above")
    write_board(arguments.out, results, failures, provenance(arguments, files), arguments.sort)
    draw_board(arguments.out, results, jobs[0]["sensor"], arguments.sort, jobs[0]["rgb"])
    print(f"written: {arguments.out}/leaderboard.md .csv .tex .json grid.png scatter.png")
    return 0
