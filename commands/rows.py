"""Which rows a board has, and the trainings and weights behind each.

A row has a label. Behind it are one or several runs that differ in their seed alone: the members of the row. A network
that is trained for the board gets a row for every combination of `--grid`, with a member for every seed; weights that
are given get a row under the label that the user chose.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lemamba.commands.methods import sizes_of
from lemamba.commands.options import BoardOptions
from lemamba.engine.training.history import differences, flat
from lemamba.engine.weights.files import weights_meta
from lemamba.model import build_model, list_models, model_class, model_entry
from lemamba.utils import config
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.facts import DataFacts

GROUPS = ("all", "classical", "learned")
# what the board sets itself, or what makes trainings differ in their data or their budget
_NOT_IN_A_GRID = {
    "train.seed": "use --seeds",
    "model.arch": "use --methods",
    "train.epochs": "use --train_epochs",
    "train.max_minutes": "use --train",
    "model.pretrained": "use --weights",
}


@dataclass(frozen=True)
class Member:
    """One run behind a row.

    Attributes:
        label: of the row.
        name: registered name of the method; None = the one that the weights name.
        weights: run, file or ``dlpan:FILE``; None for a method that needs none or is trained first.
        seed: of the training; None where it does not matter.
        settings: what the training changes in the configuration, as ``--set`` takes it.
        repeated: the row has several members.
    """

    label: str
    name: str | None
    weights: str | None = None
    seed: int | None = None
    settings: tuple[str, ...] = ()
    repeated: bool = False

    @property
    def title(self) -> str:
        """The label, with the seed where the row has several."""
        return f"{self.label}, seed {self.seed}" if self.repeated else self.label

    @property
    def is_trained(self) -> bool:
        """Whether the board trains it."""
        return self.weights is None and self.seed is not None


def chosen_methods(wanted: str, task: str, ratio: int) -> list[str]:
    """Resolve --methods to registered names; of all, classical or learned, those defined for the task and the ratio.

    "all" leaves out methods that train on every image: they take minutes for each.
    """
    names: list[str] = []
    for word in (part.strip() for part in wanted.split(",")):
        if word in GROUPS:
            names += _group(word, task, ratio)
        elif word:
            names.append(model_entry(word).name)
    return list(dict.fromkeys(names))


def _group(wanted: str, task: str, ratio: int) -> list[str]:
    names = []
    for name in list_models(task=task):
        entry = model_entry(name)
        learned = entry.traits.trained or entry.traits.adapts
        groups = ("learned" if learned else "classical", "" if entry.traits.adapts else "all")
        if ratio in entry.ratios and wanted in groups:
            names.append(name)
    return names


def not_for_guides(wanted: str, facts: DataFacts) -> str:
    """Say which classical methods --methods leaves out because the guide has several bands; "" for none."""
    if facts.guide_bands == 1 or not {"all", "classical"} & {part.strip() for part in wanted.split(",")}:
        return ""
    names = [name for name in list_models("pansharpening", "classical") if name not in list_models("hmif", "classical")]
    return f"{', '.join(names)} are for one PAN band, the data have {facts.guide_bands} guide bands: left out"


def _registered(name: str) -> str | None:
    """Return the registered name that a text means, or None."""
    try:
        return model_entry(name).name
    except UserError:
        return None


def given_weights(pairs: Iterable[str]) -> list[Member]:
    """Read --weights LABEL=RUN into members; those of one label must have different seeds.

    A label that is the name of a method is spelled as registered; the method is the first word of the label, if that is
    the name of one, else the network that the weights name.

    Raises:
        UserError: not LABEL=RUN, or runs of one label that are not its seeds.
    """
    given: dict[str, list[tuple[str | None, str]]] = {}
    for pair in pairs:
        label, equals, path = (part.strip() for part in pair.partition("="))
        if not equals or not label or not path or not label.isprintable():
            raise UserError(f"expected --weights LABEL=RUN, given {pair}; for example --weights PNN=dlpan:pnn.pth")
        label = _registered(label) or label
        given.setdefault(label, []).append((_registered(label.split()[0].rstrip(",:;")), path))
    members = []
    for label, runs in given.items():
        _check_named(label, runs)
        seeds = _seeds_of(label, [path for _, path in runs]) if len(runs) > 1 else [None]
        for (name, path), seed in zip(runs, seeds, strict=True):
            members.append(Member(label, name, path, seed, repeated=len(runs) > 1))
    return members


def _check_named(label: str, runs: Sequence[tuple[str | None, str]]) -> None:
    """Raise a `UserError` unless label or weights say which network they are of."""
    for name, path in runs:
        if name is None and not weights_meta(path).get("model", {}).get("name"):
            known = list_models()
            raise UserError(
                f"--weights {label}={path}: the file does not name its network{nearest(label, known)}; start the label "
                f'with its name, e.g. "{known[0]} {label}={path}"'
            )


def _seeds_of(label: str, paths: Sequence[str]) -> list[int]:
    """Return the seeds that runs of one label were trained with; report other settings in which they differ."""
    configs = {path: weights_meta(path).get("config", {}) for path in paths}
    seeds: dict[int, str] = {}
    for path in paths:
        seed = configs[path].get("train", {}).get("seed")
        if not isinstance(seed, int):
            raise UserError(
                f"--weights {label} is given {len(paths)} times, and {path} does not name its seed; runs of one label "
                "are its seeds: give this one a label of its own"
            )
        if seed in seeds:
            raise UserError(
                f"--weights {label} is given {len(paths)} times; runs of one label are its seeds, but {seeds[seed]} "
                f"and {path} both have seed {seed}: give them different labels"
            )
        seeds[seed] = path
    others = differences({path: flat(configs[path]) for path in paths})
    others.pop("train.seed", None)
    if others:
        print(f"note: the runs of {label} differ in more than the seed: {', '.join(others)}")
    return list(seeds)


def grid_points(grid: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """Return every combination of --grid as ((key, value), …) in the order given; [()] without a grid.

    Raises:
        UserError: not KEY=V,V, a key given twice, or one that the board sets itself.
    """
    axes: dict[str, list[str]] = {}
    for text in grid:
        key, equals, values = text.partition("=")
        split = split_values(values)
        if not equals or not key or not all(split) or len(set(split)) < len(split):
            raise UserError(
                f"--grid: expected KEY=V,V with different values, given {text!r}; e.g. state_grad=detached,full"
            )
        if key in axes:
            raise UserError(f"--grid: {key} is given twice; give all its values at once")
        if key in _NOT_IN_A_GRID:
            raise UserError(f"--grid: {key} is set by the board; {_NOT_IN_A_GRID[key]}")
        if key.partition(".")[0] in ("data", "log") and "." in key:
            raise UserError(f"--grid: {key} would compare trainings on other data; only the training may differ")
        axes[key] = split
    return [tuple(zip(axes, point, strict=True)) for point in product(*axes.values())]


def split_values(text: str) -> list[str]:
    """Split at the commas outside brackets: ``[8,8],none`` is two values."""
    values, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            values.append("")
        else:
            values[-1] += character
    return [value.strip() for value in values]


def assignments(point: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return a combination as ``--set`` takes it: a key without a dot is an argument of the network."""
    return tuple(f"{key if '.' in key else f'model.args.{key}'}={value}" for key, value in point)


def check_training(name: str, settings: Sequence[str], train_config: Path, facts: DataFacts) -> None:
    """Raise a `UserError` if a network cannot be trained with such settings; nothing is trained yet."""
    words = [word for text in settings for word in ("--set", text)]
    options = config.parse(["--arch", name, *words])
    arguments = config.model_arguments(config.resolve(options.flags, train_config))
    taken = inspect.signature(model_class(name)).parameters
    keys = [t.partition("=")[0].removeprefix("model.args.") for t in settings if t.startswith("model.args.")]
    for key in keys:
        if key not in taken:
            raise UserError(f"--grid: {name} has no argument {key}{nearest(key, taken)}; known: {', '.join(taken)}")
    build_model(name, **{**arguments, **sizes_of(facts)})  # its errors name the argument


def trained_members(name: str, options: BoardOptions, facts: DataFacts) -> list[Member]:
    """Return the members of a network that is trained for the board: every combination of the grid, every seed."""
    seeds = options.seeds or (options.seed,)
    if options.rates and any(text.startswith("optimizer.lr=") for text in options.grid):
        raise UserError("--grid optimizer.lr and --rates both set the learning rate; drop one")
    members = []
    for point in grid_points(options.grid):
        settings = assignments(point)
        if settings:
            check_training(name, settings, options.train_config, facts)
        label = " ".join([name, *(f"{key}={value}" for key, value in point)])
        members += [Member(label, name, None, seed, settings, repeated=len(seeds) > 1) for seed in seeds]
    return members


def members_of(options: BoardOptions, facts: DataFacts) -> tuple[list[Member], list[str]]:
    """Return the members of all rows in the order in which they are measured, and the methods that are left out.

    Raises:
        UserError: wrong --methods, --weights or --grid, or nothing that can run.
    """
    task = "pansharpening" if facts.guide_bands == 1 else "hmif"
    weighted = given_weights(options.weights)
    by_label = {label: [m for m in weighted if m.label == label] for label in dict.fromkeys(m.label for m in weighted)}
    members: list[Member] = []
    left_out: list[str] = []
    trains = options.train is not None or options.train_epochs is not None
    for name in chosen_methods(options.methods, task, facts.ratio):
        traits = model_entry(name).traits
        own = by_label.pop(name, [])
        members += own
        if own and not options.grid:
            continue
        if traits.needs_weights and traits.trained and trains:
            members += trained_members(name, options, facts)
        elif not traits.needs_weights:
            members.append(Member(name, name))
        elif not own:
            left_out.append(name)
    for rest in by_label.values():  # whatever is chosen, runs that are given are compared
        members += rest
    if not members:
        raise UserError("expected at least one method that can run, found none; give --weights or --train")
    _check_labels(members)
    if (options.seeds or options.grid) and not any(m.is_trained for m in members):
        raise UserError(
            "--seeds and --grid are for networks that the board trains, given none: give --train MINUTES or "
            "--train_epochs N, and a network in --methods that has no --weights"
        )
    return members, left_out


def _check_labels(members: Sequence[Member]) -> None:
    """Two rows of one label would be taken for one."""
    origins: Mapping[str, set[Any]] = {m.label: set() for m in members}
    for m in members:
        origins[m.label].add((m.name, m.settings, m.weights is None))
    double = [label for label, found in origins.items() if len(found) > 1]
    if double:
        raise UserError(f"two rows of the board are called {double[0]}; give --weights another label")
