"""The registry of networks and classical methods: names are read from the sources, code is imported on demand.

A class registers itself with::

    @register_model("PanNet", tasks=("pansharpening",), ratios=(4,))
    class PanNet(nn.Module): ...

`scan_folder` finds such decorators by parsing the files (no import), so listing every name costs milliseconds and
a broken or exotic architecture cannot keep the others from loading. The decorator's arguments must therefore be
literals.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from lemamba.utils.errors import UserError, nearest

TASKS = ("pansharpening", "hmif")
EXTRA_FOLDERS_VARIABLE = "LEMAMBA_MODEL_PATH"
T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Traits:
    """What callers need to know about a method before they run it.

    Attributes:
        needs_weights: it cannot fuse without trained weights.
        trained: it can be trained on a data set.
        float64: it computes in float64.
        clipped: its result is clipped to [0, 1].
        tileable: tiles give what the whole image gives; False where statistics of the whole image enter.
        adapts: it trains on the images that it fuses, so it runs with gradients.
    """

    needs_weights: bool = True
    trained: bool = True
    float64: bool = False
    clipped: bool = True
    tileable: bool = True
    adapts: bool = False


CLASSICAL = Traits(needs_weights=False, trained=False, float64=True, clipped=False)


@dataclass(frozen=True)
class ModelEntry:
    """One registered method.

    Attributes:
        name: the paper's name, e.g. ``"PanNet"``.
        path: the file that holds the class.
        class_name: name of the class in that file.
        tasks: subset of ``("pansharpening", "hmif")``.
        ratios: resolution ratios H/h the method is defined for.
        classical: True for methods without parameters (computed in float64, no training).
        tileable: False where global statistics of the image enter, so that tiles would differ from the whole.
    """

    name: str
    path: Path
    class_name: str
    tasks: tuple[str, ...] = TASKS
    ratios: tuple[int, ...] = (4, 8)
    classical: bool = False
    tileable: bool = True

    @property
    def traits(self) -> Traits:
        """Return the method's traits."""
        return replace(CLASSICAL if self.classical else Traits(), tileable=self.tileable)


def register_model(
    name: str,
    *,
    tasks: tuple[str, ...] = TASKS,
    ratios: tuple[int, ...] = (4, 8),
    classical: bool = False,
    tileable: bool = True,
) -> Callable[[T], T]:
    """Mark a class as a registered method; the arguments must be literals (see `ModelEntry` for their meaning)."""
    unknown = set(tasks) - set(TASKS)
    if unknown:
        raise ValueError(f"register_model({name!r}): unknown tasks {sorted(unknown)}, known are {TASKS}")

    def mark(cls: T) -> T:
        cls.model_name = name
        cls.tasks, cls.ratios, cls.classical, cls.tileable = tasks, ratios, classical, tileable
        cls.traits = replace(CLASSICAL if classical else Traits(), tileable=tileable)
        return cls

    return mark


def normalise(name: str) -> str:
    """Return the form in which names are compared: lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


def _decorator_call(node: ast.expr) -> ast.Call | None:
    if isinstance(node, ast.Call):
        called = node.func
        called_name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if called_name == "register_model":
            return node
    return None


def _entries_of_file(path: Path) -> tuple[ModelEntry, ...]:
    facts = path.stat()
    return _parse(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=1024)  # every look-up walks all files; parsing them anew would cost most of it
def _parse(path: Path, mtime_ns: int, size: int) -> tuple[ModelEntry, ...]:
    """Read the registrations of one file; time and size are there so that an edited file is read again."""
    source = path.read_text(encoding="utf-8")
    if "register_model" not in source:
        return ()
    entries = []
    for node in ast.parse(source, filename=str(path)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for call in filter(None, map(_decorator_call, node.decorator_list)):
            name = ast.literal_eval(call.args[0])
            options = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
            entries.append(ModelEntry(name=name, path=path, class_name=node.name, **options))
    return tuple(entries)


def scan_folder(folder: Path) -> dict[str, ModelEntry]:
    """Find every registered class below `folder`, keyed by normalised name; two of one name are an error."""
    found: dict[str, ModelEntry] = {}
    for path in sorted(folder.rglob("*.py")):
        for entry in _entries_of_file(path):
            key = normalise(entry.name)
            if key in found:
                raise UserError(f'model name "{entry.name}" is registered twice: {found[key].path}, {path}; rename one')
            found[key] = entry
    return found


def scan(folders: list[Path]) -> dict[str, ModelEntry]:
    """Scan `folders` and those named in ``LEMAMBA_MODEL_PATH`` (separated like PATH); later folders may override."""
    extra = [Path(p) for p in os.environ.get(EXTRA_FOLDERS_VARIABLE, "").split(os.pathsep) if p]
    for folder in extra:
        if not folder.is_dir():
            raise UserError(f"{EXTRA_FOLDERS_VARIABLE} names {folder}, which is not a folder; correct or unset it")
    found: dict[str, ModelEntry] = {}
    for folder in [*folders, *extra]:
        found.update(scan_folder(folder))
    return found


def lookup(entries: dict[str, ModelEntry], name: str) -> ModelEntry:
    """Return the entry called `name`; an unknown name is a `UserError` that suggests the nearest."""
    entry = entries.get(normalise(name))
    if entry is None:
        names = sorted((e.name for e in entries.values()), key=str.lower)
        raise UserError(f'unknown architecture "{name}"{nearest(name, names)}; known: {", ".join(names)}')
    return entry
