"""Make a row of a table again and compare: data, training, fusing and measuring, from one recipe.

Examples::

    python reproduce.py --list
    python reproduce.py synthetic
    python reproduce.py ikonos --scene SCENE.mat
    python reproduce.py wv3 --data_root DATA
    python reproduce.py ikonos --measure fused.mat

A recipe (configs/recipes/*.yaml) holds the data, the commands, the seed, and the numbers with their bands. Every step
is shown as the command that does it; what is there already is not made again, and a training that was interrupted
goes on. Exit status: 0 all numbers in their bands, 1 some outside, 2 bad input, 130 stopped on the way.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from lemamba.commands.recipes import SPLITS, Recipe, known_recipes, read_recipe
from lemamba.commands.steps import INTERRUPTED_STATUS, ROOT, run_step
from lemamba.utils.arguments import Parser
from lemamba.utils.atomic import read_json, sha256, write_json
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import files_of

OUT = Path("visualized_img/recipes")
RUN = "run"  # <out>/<recipe>/run is the training's folder, beside data and results
OUTSIDE_STATUS = 1


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or a YAML file")
    parser.add_argument("--list", action="store_true", help="show the recipes there are")
    parser.add_argument("--scene", type=Path, help="the scene's file, where the recipe simulates its data from one")
    parser.add_argument("--data_root", type=Path, help="folder of the H5 files, where the recipe's data are published")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for data and results (default %(default)s)")
    parser.add_argument("--measure", type=Path, metavar="FILE.mat", help="only measure fused images that are there")
    parser.add_argument("--full", action="store_true", help="with --measure: at full resolution")
    parser.add_argument("--device", help="cpu, cuda … (default: cuda where there is one)")
    return parser.parse_args(argv)


def claim(recipe: Recipe, out: Path) -> None:
    """Note what the recipe's folder is made of; one that was made before the recipe was changed is a `UserError`.

    What is expected may change: it is compared anew each time.
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


def data_of(recipe: Recipe, arguments: argparse.Namespace) -> Path:
    """Return the folder of the recipe's H5 files, which are made where they are not there and can be."""
    from lemamba.datasets.build import data_root, find_file

    if not recipe.prepare:
        root = data_root(arguments.data_root)
        for split in ("train", "valid", *(SPLITS[protocol] for protocol in recipe.expect)):
            find_file(recipe.dataset, split, root)  # says which file is missing and where it was looked for
        claim(recipe, arguments.out)
        return root
    out = arguments.out / recipe.name / "data"
    there = all((out / file).is_file() for file in files_of("pansharpening", recipe.dataset).values())
    if recipe.scene and not there:
        _check_scene(recipe, arguments.scene)
    claim(recipe, arguments.out)
    if there:
        print(f"\n== data: those in {out} (remove the folder to make them anew)")
    else:
        run_step("make the data", "prepare_data.py", *recipe.prepare_words(arguments.scene, out))
    return out


def _check_scene(recipe: Recipe, scene: Path | None) -> None:
    if scene is None:
        raise UserError(f"recipe {recipe.name} is made of the scene {recipe.scene}; give its file with --scene")
    if not scene.is_file():
        raise UserError(f'expected the scene {recipe.scene}, "{scene}" does not exist; correct --scene')
    found = sha256(scene)
    if found != recipe.sha256:
        raise UserError(
            f'"{scene}" is not the scene of the recipe: expected sha256 {recipe.sha256[:16]}…, given {found[:16]}…; '
            f"docs/recipes.md says which file {recipe.scene} is"
        )


def train(recipe: Recipe, data: Path, arguments: argparse.Namespace) -> Path:
    """Train, go on with a training, or find it done; return the run's folder."""
    folder = arguments.out / recipe.name / RUN
    if finished(folder):
        print(f"\n== training: that in {folder} (remove the folder to train anew)")
        return folder
    places = ["--data_root", data, "--log_dir", arguments.out, "--proj_name", recipe.name, "--run_name", RUN]
    going_on = ["--resume_path", folder] if any(folder.glob("checkpoints/step_*")) else ["--overwrite"]
    device = ["--cpu"] if arguments.device == "cpu" else []
    words = [*recipe.train_words(), "--dataset", recipe.dataset, *map(str, [*places, *going_on, *device])]
    run_step("train", "accelerate_main.py", *words)
    if not finished(folder):  # a scheduler's signal: the training saves and ends well, but it is not the recipe's yet
        print("\nthe training was stopped before its end; the same command goes on with it", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    return folder


def finished(run: Path) -> bool:
    """Tell whether a run's last weights have all the epochs that it was asked for."""
    try:
        told = read_json(run / "weights/last.json")
        return told["training"]["epoch"] >= told["config"]["train"]["epochs"]
    except (TypeError, KeyError):
        return False


def fuse(recipe: Recipe, run: Path, data: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Fuse and measure the test images of every protocol; return protocol -> index -> mean over the images."""
    folder, device = arguments.out / recipe.name, ["--device", arguments.device] if arguments.device else []
    found = {}
    for protocol in recipe.expect:
        scores = folder / f"{protocol}.json"
        run_step(
            f"fuse and measure at {protocol} resolution",
            *("inference.py", "--weights", str(run), "--dataset", recipe.dataset, "--data_root", str(data)),
            *("--split", SPLITS[protocol], "--out", str(folder / f"{protocol}.mat"), "--json", str(scores), *device),
        )
        rows = json.loads(scores.read_text(encoding="utf-8"))["scores"]
        found[protocol] = {index: mean for index, (mean, _) in rows[recipe.network.arch].items()}
    return found


def measured(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure a file of fused images by itself."""
    protocol = "full" if arguments.full else "reduced"
    if protocol not in recipe.expect:
        raise UserError(f"recipe {recipe.name} expects nothing at {protocol} resolution; measure the other")
    scores = arguments.out / recipe.name / "measured.json"
    run_step(
        f"measure {arguments.measure}",
        *("evaluate.py", str(arguments.measure), "--ratio", str(recipe.network.ratio), "--sensor", recipe.sensor),
        *(["--full"] if arguments.full else []),
        *("--json", str(scores)),
    )
    summary = json.loads(scores.read_text(encoding="utf-8"))["summary"]
    return {protocol: {index: row["mean"] for index, row in summary.items()}}


def count(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Build the network; return what was counted and what the recipe says: parameters, and GFLOPs per megapixel."""
    import torch

    from lemamba.engine.fusing.cost import count_flops, count_parameters
    from lemamba.model import build_model

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
    """Print found beside expected; tell whether all lie in their bands."""
    from rich.console import Console
    from rich.table import Table

    from lemamba.reporting.tables import heading

    table = Table("", "expected", "found", "", title=f"{recipe.title}")
    good = True
    for what, (number, expected) in count(recipe).items():
        exact = what == "parameters"
        same = number == expected if exact else abs(number - expected) <= 0.05
        table.add_row(heading(what), f"{expected:,}", f"{number:,}" if exact else f"{number:.1f}", _say(same))
        good &= same
    for protocol, numbers in found.items():
        for index, expected in recipe.expect[protocol].items():
            number = numbers.get(index, math.nan)
            inside = expected.met_by(number)
            wanted = f"{expected.value:g} ± {expected.band:g}"
            table.add_row(f"{heading(index)} ({protocol})", wanted, f"{number:.4f}", _say(inside))
            good &= inside
    Console(highlight=False).print(table)
    print(f"source: {recipe.source}\nbands:  {recipe.bands}")
    if not recipe.measured:
        print("note:   nobody has run this recipe with this project yet; the numbers are the source's")
    return good


def _say(good: bool) -> str:
    return "[green]in its band[/]" if good else "[red]outside[/]"


def show_list() -> None:
    """Print the recipes there are."""
    for name in known_recipes():
        recipe = read_recipe(name)
        print(f"{name:<12}{recipe.title}{'' if recipe.measured else ' (published, not run here)'}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    arguments = parse_arguments(argv)
    if arguments.list:
        show_list()
        return 0
    if arguments.recipe is None:
        raise UserError(f"expected the name of a recipe; known: {', '.join(known_recipes())}")
    recipe = read_recipe(arguments.recipe)
    for name in ("scene", "data_root", "out", "measure"):  # the steps run from the project's folder
        given = getattr(arguments, name)
        if given is not None and Path.cwd() != ROOT:
            setattr(arguments, name, given.resolve())
    if arguments.measure:
        found = measured(recipe, arguments)
    else:
        data = data_of(recipe, arguments)
        found = fuse(recipe, train(recipe, data, arguments), data, arguments)
    return 0 if compare(recipe, found) else OUTSIDE_STATUS
