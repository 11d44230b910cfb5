"""Recipes: how to reproduce a published or measured row of a results table, and how close a run should come.

A recipe is a YAML file in configs/recipes/: data, commands and expected numbers.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemamba.metrics import EXTRA, INDICES
from lemamba.model import model_entry
from lemamba.utils.atomic import sha256
from lemamba.utils.config import CONFIG_FOLDER, from_mapping
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.safe_yaml import read_yaml

FOLDER = CONFIG_FOLDER / "recipes"
SPLITS = {"reduced": "test", "full": "test_full"}  # protocol -> split that it is measured on


@dataclass(frozen=True)
class Expected:
    """A number and the tolerance around it, in the unit of the index."""

    value: float
    band: float

    def met_by(self, number: float) -> bool:
        """Return whether `number` lies in the band; NaN does not."""
        return abs(number - self.value) <= self.band


@dataclass(frozen=True)
class Network:
    """The network: its registered name and bands, and the expected counts of parameters and operations."""

    arch: str
    img_channel: int
    condition_channel: int
    ratio: int
    parameters: int
    gflops: float  # per megapixel of the fused image, as on the boards
    side: int = 64  # of the image on which they are counted


@dataclass(frozen=True)
class Recipe:
    """A row of a results table.

    Attributes:
        title, source: name of the row, and where its numbers come from.
        measured: the numbers were measured with this project; otherwise they are published and have not been tried.
        bands: how the tolerances were chosen.
        dataset, sensor: name of the data set (part of its file names), and its sensor.
        prepare: arguments of `lemamba prepare` that make the data, SCENE standing for the scene's file; "" for
            published data, which must be downloaded.
        scene, sha256: file name and hash of the scene; "" if none is needed. A download of many files has no hash.
        train: arguments of `lemamba train`, without those for data, seed and names.
        seed: of weights, order and augmentation.
        network: what is trained.
        expect: protocol ("reduced", "full") -> index -> `Expected`, means over the test images; None where no value
            was published: the index is shown and compared with nothing.
        export: name of the weight file that the training is run for, written next to its results; "" for none.
        name: of the recipe's file.
    """

    title: str
    source: str
    measured: bool
    bands: str
    dataset: str
    sensor: str
    train: str
    seed: int
    network: Network
    expect: dict[str, dict[str, Expected | None]]
    prepare: str = ""
    scene: str = ""
    sha256: str = ""
    export: str = ""
    name: str = ""

    @property
    def task(self) -> str:
        """Return "hmif" for a guide of several bands, else "pansharpening", as also for planes of LEMambaAny."""
        several = self.network.condition_channel > 1
        return "hmif" if several and "hmif" in model_entry(self.network.arch).tasks else "pansharpening"

    def prepare_words(self, scene: Path | None, out: Path) -> list[str]:
        """Return the arguments of `lemamba prepare`."""
        words = [str(scene) if word == "SCENE" else word for word in shlex.split(self.prepare)]
        return [*words, "--name", self.dataset, "--out", str(out)]

    def train_words(self) -> list[str]:
        """Return the arguments of `lemamba train` that belong to the recipe."""
        return [*shlex.split(self.train), "--seed", str(self.seed)]


def known_recipes() -> dict[str, Path]:
    """Return the shipped recipes: name -> file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_recipe(given: str, others: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its name or file.

    Args:
        given: name or file.
        others: further names that a user could have meant.

    Raises:
        UserError: no such recipe, or a file with missing, unknown or wrong values.
    """
    path = known_recipes().get(given, Path(given))
    if not path.is_file():
        names = [*known_recipes(), *others]
        raise UserError(f'expected a recipe, "{given}" is not one{nearest(given, names)}; known: {", ".join(names)}')
    values = read_yaml(path)
    recipe = from_mapping(Recipe, {**values, "name": path.stem}, str(path))
    unknown = [p for p in recipe.expect if p not in SPLITS]
    if unknown or not recipe.expect:
        raise UserError(f"{path}: expect: expected {' and '.join(SPLITS)}, given {', '.join(unknown) or 'nothing'}")
    hashed = recipe.sha256 or recipe.task == "hmif"
    if "SCENE" in shlex.split(recipe.prepare) and not (recipe.scene and hashed):
        raise UserError(f"{path}: prepare names SCENE; give scene and sha256, the name and hash of its file")
    if "max_minutes" in recipe.train:
        raise UserError(f"{path}: train: expected a length in epochs (-e), given minutes, which depend on the machine")
    expect = {protocol: indices(rows, f"{path}: expect.{protocol}") for protocol, rows in recipe.expect.items()}
    return dataclasses.replace(recipe, expect=expect)


def indices(rows: Any, where: str) -> dict[str, Expected | None]:
    """Read a mapping of index -> {value, band}, or null where nothing is expected; `where` names it in messages."""
    if not isinstance(rows, Mapping):
        raise UserError(f"{where}: expected a mapping index: {{value, band}}, given {rows!r}")
    for name in rows:
        if name not in INDICES | EXTRA:
            raise UserError(f"{where}: unknown index {name!r}{nearest(str(name), INDICES | EXTRA)}")
    return {name: None if row is None else from_mapping(Expected, row, f"{where}.{name}") for name, row in rows.items()}


def check_scene(recipe: str, name: str, digest: str, scene: Path | None) -> None:
    """Raise a `UserError` unless `scene` is the file that a recipe is made from, which its sha256 says."""
    if scene is None:
        raise UserError(f"recipe {recipe} is made from the scene {name}; give its file with --scene")
    if not scene.is_file():
        raise UserError(f'expected the scene {name}, "{scene}" does not exist; correct --scene')
    found = sha256(scene)
    if found != digest:
        raise UserError(
            f'"{scene}" is not the scene of the recipe: expected sha256 {digest[:16]}…, given {found[:16]}…; '
            f"docs/recipes.md says which file {name} is"
        )
