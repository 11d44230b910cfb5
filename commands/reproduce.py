"""Reproduce a results-table row and compare: data, training, fusing and measuring, from one recipe."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lemamba.commands import published
from lemamba.commands.generic import export_weights
from lemamba.commands.options import ReproduceOptions
from lemamba.commands.recipes import SPLITS, Recipe, check_scene, known_recipes, read_recipe
from lemamba.commands.steps import run_step
from lemamba.datasets.build import data_root, find_file
from lemamba.engine.fusing.cost import count_flops, count_parameters
from lemamba.model import build_model
from lemamba.reporting.tables import heading
from lemamba.utils.atomic import read_json, write_json
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import files_of
from lemamba.utils.startup import INTERRUPTED_STATUS

RUN = "run"  # <out>/<recipe>/run is the folder of the training, next to data and results
OUTSIDE_STATUS = 1


def claim(recipe: Recipe, out: Path) -> None:
    """Record what the recipe's folder is made from; if the recipe has changed since, raise a `UserError`.

    The expected numbers may change: they are compared anew each time.
    """
    record = out / recipe.name / "recipe.json"
    made_of = {key: getattr(recipe, key) for key in ("dataset", "prepare", "sha256", "train", "seed")}
    before = read_json(record)
    if not isinstance(before, dict):
        write_json(record, made_of)
        return
    changed = [key for key in made_of if before.get(key) != made_of[key]]
    if changed:
        raise UserError(
            f'"{record.parent}" was made with another {" and ".join(changed)} than the recipe now has; remove it, or '
            "choose another folder with --out"
        )


def data_of(recipe: Recipe, options: ReproduceOptions) -> Path:
    """Return the folder of the recipe's H5 files; missing ones are made if the recipe says how."""
    splits = ("train", "valid", *(SPLITS[protocol] for protocol in recipe.expect))
    if not recipe.prepare or (options.data_root and not options.scene):
        root = data_root(options.data_root)
        for split in splits:
            find_file(recipe.dataset, split, root)  # its error names the missing file and the folder
        claim(recipe, options.out)
        return root
    out = options.out / recipe.name / "data"
    files = files_of(recipe.task, recipe.dataset)
    there = all((out / files[split]).is_file() for split in splits)
    if recipe.scene and not there:
        _check_scene(recipe, options.scene)
    claim(recipe, options.out)
    if there:
        print(f"\n== data: reusing {out} (remove the folder to make them again)")
    else:
        run_step("make the data", "prepare", *recipe.prepare_words(options.scene, out))
    return out


def _check_scene(recipe: Recipe, scene: Path | None) -> None:
    if not recipe.sha256:
        if scene is None:
            raise UserError(
                f"not run: data not here; recipe {recipe.name} is made from {recipe.scene}: give it with --scene, or "
                "the folder of its H5 files with --data_root"
            )
        if not scene.is_dir():
            raise UserError(f'expected {recipe.scene}, "{scene}" is no folder; correct --scene')
        return
    check_scene(recipe.name, recipe.scene, recipe.sha256, scene)


def train(recipe: Recipe, data: Path, options: ReproduceOptions) -> Path:
    """Train, resume an interrupted training, or reuse a finished one; return the folder of the run."""
    folder = options.out / recipe.name / RUN
    if finished(folder):
        print(f"\n== training: reusing {folder} (remove the folder to train again)")
        return folder
    places = ["--data_root", data, "--log_dir", options.out, "--proj_name", recipe.name, "--run_name", RUN]
    resume = ["--resume_path", folder] if any(folder.glob("checkpoints/step_*")) else ["--overwrite"]
    device = ["--device", options.device] if options.device else []
    run_step("train", "train", *recipe.train_words(), "--dataset", recipe.dataset, *places, *resume, *device)
    if not finished(folder):  # after a scheduler's signal, the training saves and exits with status 0
        print("\nthe training was stopped before its end; run the same command again to resume it", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    return folder


def finished(run: Path) -> bool:
    """Return whether the last weights of a run have all the epochs of its configuration."""
    try:
        facts = read_json(run / "weights/last.json")
        return facts["training"]["epoch"] >= facts["config"]["train"]["epochs"]
    except (TypeError, KeyError):
        return False


def fuse(recipe: Recipe, run: Path, data: Path, options: ReproduceOptions) -> dict[str, dict[str, float]]:
    """Fuse and measure the test images of every protocol; return protocol -> index -> mean over the images."""
    folder, device = options.out / recipe.name, ["--device", options.device] if options.device else []
    found = {}
    for protocol in recipe.expect:
        scores = folder / f"{protocol}.json"
        run_step(
            f"fuse and measure at {protocol} resolution",
            *("fuse", "--weights", run, "--dataset", recipe.dataset, "--data_root", data),
            *("--split", SPLITS[protocol], "--out", folder / f"{protocol}.mat", "--json", scores, *device),
        )
        rows = json.loads(scores.read_text(encoding="utf-8"))["scores"]
        found[protocol] = _means(rows[recipe.network.arch])
    return found


def measured(recipe: Recipe, options: ReproduceOptions) -> dict[str, dict[str, float]]:
    """Measure a file of fused images; return protocol -> index -> mean over the images."""
    protocol = "full" if options.full else "reduced"
    if protocol not in recipe.expect:
        raise UserError(f"recipe {recipe.name} expects nothing at {protocol} resolution; measure the other")
    scores = options.out / recipe.name / "measured.json"
    run_step(
        f"measure {options.measure}",
        *("evaluate", options.measure, "--ratio", recipe.network.ratio, "--sensor", recipe.sensor),
        *(["--full"] if options.full else []),
        *("--json", scores),
    )
    (rows,) = json.loads(scores.read_text(encoding="utf-8"))["scores"].values()
    return {protocol: _means(rows)}


def _means(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return index -> mean of one label of a report; "inf" and "nan" are texts there."""
    return {index: float(row["mean"]) for index, row in rows.items()}


def count(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Build the network; return (counted, expected) parameters and GFLOPs per megapixel."""
    network = recipe.network
    bands = {"img_channel": network.img_channel, "out_channel": network.img_channel}
    model = build_model(network.arch, condition_channel=network.condition_channel, ratio=network.ratio, **bands)
    side, small = network.side, network.side // network.ratio
    sample = {
        "ms": torch.zeros(1, network.img_channel, small, small),
        "lms": torch.zeros(1, network.img_channel, side, side),
        "pan": torch.zeros(1, network.condition_channel, side, side),
    }
    gflops = count_flops(model, sample) / side**2 * 1e-3
    return {"parameters": (count_parameters(model), network.parameters), "gflops": (gflops, network.gflops)}


def compare(recipe: Recipe, found: dict[str, dict[str, float]]) -> bool:
    """Print found next to expected numbers; return whether all lie in their bands."""
    table = Table("", "expected", "found", "", title=f"{recipe.title}")
    good = True
    for what, (number, expected) in count(recipe).items():
        exact = what == "parameters"
        same = number == expected if exact else abs(number - expected) <= 0.05
        table.add_row(heading(what), f"{expected:,}", f"{number:,}" if exact else f"{number:.1f}", _verdict(same))
        good &= same
    for protocol, numbers in found.items():
        for index, target in recipe.expect[protocol].items():
            number = numbers.get(index, math.nan)
            if target is None:
                table.add_row(f"{heading(index)} ({protocol})", "not published", f"{number:.4f}", "")
                good &= math.isfinite(number)
                continue
            inside = target.met_by(number)
            wanted = f"{target.value:g} ± {target.band:g}"
            table.add_row(f"{heading(index)} ({protocol})", wanted, f"{number:.4f}", _verdict(inside))
            good &= inside
    Console(highlight=False).print(table)
    print(f"source: {recipe.source}\nbands:  {recipe.bands}")
    if not recipe.measured:
        print("note:   this recipe has not been run with this project yet; the expected numbers are the published ones")
    return good


def _verdict(good: bool) -> str:
    return "[green]in its band[/]" if good else "[red]outside[/]"


def show_list() -> None:
    """Print the names and titles of the recipes."""
    for name in known_recipes():
        recipe = read_recipe(name)
        print(f"{name:<12}{recipe.title}{'' if recipe.measured else ' (published, not run here)'}")
    for name, path in published.known_tables().items():
        print(f"{name:<12}{published.read_table(path).title}")


def run(options: ReproduceOptions) -> int:
    """Reproduce a row; return the exit status, see `ReproduceOptions`."""
    if options.list_recipes:
        show_list()
        return 0
    if options.recipe is None:
        raise UserError(
            f"expected the name of a recipe; known: {', '.join([*known_recipes(), *published.known_tables()])}"
        )
    if options.recipe in published.known_tables():
        table = published.read_table(published.known_tables()[options.recipe])
        return 0 if published.reproduce(table, options.scene, options.out) else OUTSIDE_STATUS
    recipe = read_recipe(options.recipe, published.known_tables())
    if options.measure:
        found = measured(recipe, options)
    else:
        data = data_of(recipe, options)
        folder = train(recipe, data, options)
        if recipe.export:
            file = options.out / recipe.name / recipe.export
            print(f"\n== weights: {file}, sha256 {export_weights(folder, file)}")
        found = fuse(recipe, folder, data, options)
    return 0 if compare(recipe, found) else OUTSIDE_STATUS
