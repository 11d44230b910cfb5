"""Hyperspectral fusion, all methods on the same data: `python -m benchmarks.bench_hmif --shared ../shared`.

A row is one method on one set (`benchmarks.hmif_sets`). Classical methods run as they are. Learned methods are trained
with an equal budget of processor minutes each, of which a tenth per candidate goes into the choice of the learning
rate; settings are those of configs/budget.yaml. A row is written to the results as soon as it is measured, so the
command continues where it was stopped; rows that are there are not measured again, failed ones are. ``--page`` writes
tables and pictures from all rows that are there.

Methods are ``classical``, ``learned``, ``all``, or names; ``LEMamba:spectral_rank=16`` is a network with an argument.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the clock of a training counts the main thread only

from lemamba.utils.startup import prepare_process, run_cli

prepare_process()  # as every entry point does, before torch is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.hmif_sets import SETS, HmifSet  # noqa: E402
from lemamba.commands.budget import Budget, train_with  # noqa: E402
from lemamba.commands.images import fuse_set  # noqa: E402
from lemamba.commands.methods import load_method  # noqa: E402
from lemamba.commands.rows import chosen_methods  # noqa: E402
from lemamba.commands.scores import notes_of, score  # noqa: E402
from lemamba.datasets.h5 import H5Dataset  # noqa: E402
from lemamba.engine.fusing.cost import count_flops, count_parameters, held_bytes, peak_bytes  # noqa: E402
from lemamba.engine.fusing.runner import Runner  # noqa: E402
from lemamba.engine.fusing.tiling import Tiling  # noqa: E402
from lemamba.model import model_entry  # noqa: E402
from lemamba.utils.atomic import read_json, sha256, write_json  # noqa: E402
from lemamba.utils.command_line import Parser  # noqa: E402
from lemamba.utils.errors import UserError, nearest, one_line  # noqa: E402
from lemamba.utils.progress import track  # noqa: E402
from lemamba.utils.safe_yaml import parse_yaml, read_yaml, write_yaml  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/hmif_results.md"
RESULTS = PAGE.with_suffix(".json")
SETTINGS = ROOT / "configs/budget.yaml"
Rows = dict[str, dict[str, Any]]  # "set|method|seed|minutes" -> row


@dataclass(frozen=True)
class Method:
    """A method as it is asked for: its registered name, and arguments of its constructor."""

    name: str
    arguments: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, text: str) -> Method:
        """Read ``NAME`` or ``NAME:argument=value,…``."""
        name, _, rest = text.partition(":")
        pairs = [tuple(part.strip().partition("=")[::2]) for part in rest.split(",") if part.strip()]
        if any(not key or not value for key, value in pairs):
            raise UserError(f'expected a method such as LEMamba:spectral_rank=16, given "{text}"; correct it')
        return cls(model_entry(name.strip()).name, tuple(sorted((key, value) for key, value in pairs)))

    @property
    def trained(self) -> bool:
        """Return whether it is trained on the set."""
        return model_entry(self.name).traits.trained

    def __str__(self) -> str:
        """Return the text that `read` reads."""
        return ":".join([self.name, ",".join(f"{k}={v}" for k, v in self.arguments)]).rstrip(":")


def methods_of(words: str, ratio: int) -> list[Method]:
    """Return the methods that --methods names, for sets of a ratio."""
    if words in ("all", "classical", "learned"):
        return [Method(name) for name in chosen_methods(words, "hmif", ratio)]
    parts: list[str] = []
    for part in words.split(","):  # an argument after a comma belongs to the method before it
        parts = [*parts[:-1], f"{parts[-1]},{part}"] if "=" in part and ":" not in part and parts else [*parts, part]
    return [Method.read(part) for part in parts if part.strip()]


def train(method: Method, one: HmifSet, files: dict[str, Path], options: argparse.Namespace, seed: int) -> Any:
    """Train a network with the budget, or reuse the training that did; return its folder and record."""
    slug = "_".join([f"seed{seed}", *(f"{k}_{v}" for k, v in method.arguments)])
    place = options.work / f"trained_{options.minutes:g}" / slug
    settings = place / "settings.yaml"
    content = read_yaml(SETTINGS)
    content["model"] = {"args": {key: parse_yaml(value, key) for key, value in method.arguments}}
    write_yaml(settings, content)
    budget = Budget(
        dataset=one.name,
        data_root=str(files["train"].parent),
        sensor=None,
        minutes=options.minutes,
        epochs=None,
        rates=tuple(options.rates),
        config=str(settings),
        seed=seed,
        sha256=tuple(sha256(files[split]) for split in ("train", "valid")),
    )
    before = Path.cwd()
    os.chdir(place)  # a training's folder lies below log_file/
    try:
        folder, record = train_with(method.name, budget)
        return (place / folder).resolve(), record
    finally:
        os.chdir(before)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Fuse and measure (in a process of its own, as peak memory is that of the whole process)."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    dataset = H5Dataset(job["data"], need_gt=True)
    model = load_method(job["method"], job["weights"], dataset.facts)
    sample = {role: value[None] for role, value in dataset[0].items()}
    trained = job["weights"] is not None
    flops = count_flops(model, sample) if trained else 0
    before, runner = held_bytes(device), Runner(model, device, Tiling(batch=1))
    if trained:
        fuse_set(runner, dataset)  # compiles kernels
    started = time.process_time()
    images, _ = fuse_set(runner, dataset)
    seconds = time.process_time() - started
    peak = max(0, peak_bytes(device) - before)
    pixels = images["sr"][:, 0].numel()
    meter = score(images, dataset.facts)
    np.save(job["keep"], images["sr"][0].numpy().astype(np.float32))
    return {
        "scores": {index: list(value) for index, value in meter.compute().items()},
        "notes": notes_of(meter),
        "parameters": count_parameters(model) if trained else None,
        "gflops_per_mpx": flops / sample["lms"][0, 0].numel() / 1e3 if flops else None,
        "cpu_s_per_mpx": seconds / pixels * 1e6,
        "peak_mib": peak / 2**20,
    }


def row(method: Method, one: HmifSet, files: dict[str, Path], options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return a row: scores, cost, training; or why there is none."""
    about: dict[str, Any] = {"set": one.name, "method": str(method), "seed": seed}
    about |= {"date": datetime.date.today().isoformat(), "torch": torch.__version__, "machine": platform.machine()}
    about |= {"test_sha256": sha256(files["test"])}
    keep = options.work / "fused" / one.name
    keep.mkdir(parents=True, exist_ok=True)
    try:
        job = {"method": method.name, "weights": None, "data": files["test"], "keep": keep / f"{method}_{seed}.npy"}
        if method.trained:
            folder, record = train(method, one, files, options, seed)
            about["training"] = {k: record[k] for k in ("rate", "steps", "minutes", "searched", "given_up")}
            job |= {"method": None, "weights": str(folder)}
        context = multiprocessing.get_context("forkserver")  # imports once, not once a row
        context.set_forkserver_preload(["lemamba.commands.board"])
        with ProcessPoolExecutor(1, context) as pool:
            return about | pool.submit(measure, job).result()
    except Exception as error:  # whatever a method does wrong, the others continue
        return about | {
            "failed": one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        }


def key_of(one: HmifSet, method: Method, seed: int, minutes: float) -> str:
    """Return the key of a row: classical methods have no seed and no budget."""
    return "|".join([one.name, str(method), *([f"{seed}", f"{minutes:g}"] if method.trained else ["-", "-"])])


def plan(options: argparse.Namespace, rows: Rows) -> list[tuple[HmifSet, Method, int, str]]:
    """Return what is to be measured, set by set."""
    jobs = []
    for one in options.sets:
        for method in methods_of(options.methods, one.ratio):
            for seed in options.seeds if method.trained else [0]:
                key = key_of(one, method, seed, options.minutes)
                if options.again or "scores" not in rows.get(key, {}):
                    jobs.append((one, method, seed, key))
    return jobs


def _sets(text: str) -> list[HmifSet]:
    names = list(SETS) if text == "all" else text.split(",")
    for name in names:
        if name not in SETS:
            raise UserError(f'unknown set "{name}"{nearest(name, SETS)}; known: {", ".join(SETS)}')
    return [SETS[name] for name in names]


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of the shared data")
    parser.add_argument("--work", type=Path, default=ROOT / "build/hmif", help="data, trainings, fused images")
    parser.add_argument("--sets", default="all", help=f"all, or of {', '.join(SETS)} (default all)")
    parser.add_argument("--methods", default="classical", help="classical (default), learned, all, or names")
    parser.add_argument("--minutes", type=float, default=10, help="processor minutes per training (default 10)")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 5e-4], help="learning rates (2e-3 5e-4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3407], help="of trainings (default 3407)")
    parser.add_argument("--again", action="store_true", help="measure rows again that are there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON of the rows (default docs/)")
    parser.add_argument("--page", action="store_true", help="write the page and its pictures from the rows")
    options = parser.parse_args()
    options.sets, options.work = _sets(options.sets), options.work.resolve()
    if not options.minutes > 0:
        raise UserError(f"expected --minutes above 0, given {options.minutes:g}; choose another")
    return options


def shown_of(found: dict[str, Any]) -> str:
    """Return what is printed of a row."""
    scores = found.get("scores", {})
    return found.get("failed") or ", ".join(f"{index} {scores[index][0]:.4f}" for index in ("sam", "ergas", "psnr"))


def main() -> None:
    """Measure what is missing; write the page."""
    options = read_options()
    rows: Rows = read_json(options.results) or {}
    for one, method, seed, key in track(plan(options, rows), "rows"):
        found = row(method, one, one.ensure(options.work / "data", options.shared), options, seed)
        rows = read_json(options.results) or {}  # another process may have added rows
        rows[key] = found
        write_json(options.results, dict(sorted(rows.items())))
        print(f"{key}: {shown_of(found)}", flush=True)
    if options.page:
        from benchmarks.hmif_page import write_page

        write_page(PAGE, rows, options.work)
        print(f"written: {PAGE}")


if __name__ == "__main__":
    run_cli(main)
