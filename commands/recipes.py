"""Recipes: how a published or measured row of a table is made again, and how near to it one should come.

A recipe is a YAML file of configs/recipes/: which data, which commands, which numbers. No torch here.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemamba.metrics import INDICES
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.safe_yaml import read_yaml
from lemamba.utils.values import converted

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "recipes"
SPLITS = {"reduced": "test", "full": "test_full"}  # protocol -> the files it is measured on


@dataclass(frozen=True)
class Expected:
    """One number and how far from it a run may end, in the index's own unit."""

    value: float
    band: float

    def met_by(self, number: float) -> bool:
        """Tell whether `number` lies in the band; NaN does not."""
        return abs(number - self.value) <= self.band


@dataclass(frozen=True)
class Network:
    """What is built: its registered name and bands, and what must be counted."""

    arch: str
    img_channel: int
    condition_channel: int
    ratio: int
    parameters: int
    gflops: float  # per megapixel of the fused image, as on the boards
    side: int = 64  # of the image they are counted on


@dataclass(frozen=True)
class Recipe:
    """A row of a table.

    Attributes:
        title, source: what it is and where the numbers come from.
        measured: the numbers were measured with this project; else they are somebody's, and nobody has tried.
        bands: how the bands were chosen.
        dataset, sensor: name of the data set, whose files have the field's names, and its sensor.
        prepare: arguments of prepare_data.py that make the data, SCENE standing for the scene's file; "" where the
            data are published ones, which their makers give away.
        scene, sha256: file name and hash of the scene; "" where none is needed.
        train: arguments of accelerate_main.py beside data, seed and names.
        seed: of weights, order and augmentation.
        network: what is trained.
        expect: protocol ("reduced", "full") -> index -> `Expected`, means over the test images.
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
    expect: dict[str, dict[str, Expected]]
    prepare: str = ""
    scene: str = ""
    sha256: str = ""
    name: str = field(default="", metadata={"given": False})  # of the file

    def prepare_words(self, scene: Path | None, out: Path) -> list[str]:
        """Return the arguments of prepare_data.py."""
        words = [str(scene) if word == "SCENE" else word for word in shlex.split(self.prepare)]
        return [*words, "--name", self.dataset, "--out", str(out)]

    def train_words(self) -> list[str]:
        """Return the arguments of accelerate_main.py that are the recipe's own."""
        return [*shlex.split(self.train), "--seed", str(self.seed)]


def known_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the project by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_recipe(given: str) -> Recipe:
    """Read a recipe by its name or file.

    Raises:
        UserError: no such recipe, or a file that is none; unknown keys with the nearest known one.
    """
    path = known_recipes().get(given, Path(given))
    if not path.is_file():
        names = known_recipes()
        raise UserError(f'expected a recipe, "{given}" is none{nearest(given, names)}; known: {", ".join(names)}')
    values = read_yaml(path)
    recipe = _built(Recipe, values, str(path))
    unknown = [p for p in recipe.expect if p not in SPLITS]
    if unknown or not recipe.expect:
        raise UserError(f"{path}: expect: expected {' and '.join(SPLITS)}, given {', '.join(unknown) or 'nothing'}")
    if "SCENE" in shlex.split(recipe.prepare) and not (recipe.scene and recipe.sha256):
        raise UserError(f"{path}: prepare names SCENE; give scene and sha256, the name and hash of its file")
    if "max_minutes" in recipe.train:
        raise UserError(f"{path}: train: expected a length in epochs (-e), given minutes, which depend on the machine")
    expect = {protocol: _indices(rows, f"{path}: expect.{protocol}") for protocol, rows in recipe.expect.items()}
    return dataclasses.replace(recipe, name=path.stem, expect=expect)


def _indices(rows: Any, where: str) -> dict[str, Expected]:
    if not isinstance(rows, Mapping):
        raise UserError(f"{where}: expected a mapping index: {{value, band}}, given {rows!r}")
    for name in rows:
        if name not in INDICES:
            raise UserError(f"{where}: unknown index {name!r}{nearest(str(name), INDICES)}")
    return {name: _built(Expected, row, f"{where}.{name}") for name, row in rows.items()}


def _built(kind: type, values: Any, where: str) -> Any:
    """Make a dataclass of a mapping; unknown, missing and wrong values are a `UserError` that names them."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a mapping (key: value), given {values!r}")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.metadata.get("given", True)}
    for key in values:
        if key not in fields:
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), fields)}; known: {', '.join(fields)}")
    missing = [n for n, f in fields.items() if n not in values and f.default is dataclasses.MISSING]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} missing; add it")
    kinds = typing.get_type_hints(kind)
    return kind(**{key: _value(value, kinds[key], f"{where}: {key}") for key, value in values.items()})


def _value(value: Any, kind: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _built(kind, value, where)
    return converted(value, kind, where)
