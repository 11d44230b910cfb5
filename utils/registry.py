"""The registry of methods and losses: names are read from the sources, code is imported on demand.

A class registers itself with::

    @register_model("PanNet", tasks=("pansharpening",), ratios=(4,))
    class PanNet(nn.Module): ...


    @register_loss("l1")
    class L1(nn.Module): ...

The decorators are found by parsing the files (no import), so listing every name takes milliseconds. The decorator's
arguments must therefore be literals. A file that cannot be parsed or declares something unknown is left out and named
once on stderr; it cannot keep the others from loading.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lemamba.utils.errors import UserError, nearest, one_line

TASKS = ("pansharpening", "hmif")
EXTRA_FOLDERS_VARIABLE = "LEMAMBA_MODEL_PATH"
_DECORATORS = ("register_model", "register_loss")
T = TypeVar("T", bound=type)
_told: set[str] = set()  # warnings of this process


@dataclass(frozen=True)
class Traits:
    """Properties of a method that decide how it is run.

    Attributes:
        needs_weights: it cannot fuse without trained weights.
        trained: it can be trained on a data set.
        float64: it computes in float64.
        clipped: its result is clipped to [0, 1].
        tileable: tiles give the same result as the whole image; False where statistics of the whole image enter.
        adapts: it trains on the images that it fuses, so it runs with gradients.
        any_size: its weights serve any number of bands, ratio and sensor, not only those of their training.
    """

    needs_weights: bool = True
    trained: bool = True
    float64: bool = False
    clipped: bool = True
    tileable: bool = True
    adapts: bool = False
    any_size: bool = False


FAMILIES = {
    "learned": Traits(),
    "classical": Traits(needs_weights=False, trained=False, float64=True, clipped=False),
}


@dataclass(frozen=True)
class Entry:
    """One registered class: its name, the file that holds it and its name there."""

    name: str
    path: Path
    class_name: str


@dataclass(frozen=True)
class ModelEntry(Entry):
    """One registered method. These are the arguments of `register_model`, with their defaults.

    Attributes:
        name: the paper's name, e.g. ``"PanNet"``.
        path: the file that holds the class.
        class_name: name of the class in that file.
        tasks: subset of ``("pansharpening", "hmif")``.
        ratios: resolution ratios H/h the method is defined for.
        family: "learned" or "classical"; it sets the traits.
        paper: short reference, for tables.
        published_weights: "yes", "names only" (they convert, but no file was compared) or "-".
        traits: those of the family, except for the ones that the decorator names (``tileable=False``).
    """

    tasks: tuple[str, ...] = TASKS
    ratios: tuple[int, ...] = (4, 8)
    family: str = "learned"
    paper: str = ""
    published_weights: str = "-"
    traits: Traits = field(default_factory=Traits)


_TRAITS = tuple(f.name for f in fields(Traits))
_OPTIONS = ("tasks", "ratios", "family", "paper", "published_weights", *_TRAITS)


def _model_entry(name: str, path: Path, class_name: str, options: Mapping[str, Any]) -> ModelEntry:
    """Build the entry that a decorator with these options declares; wrong options are a `UserError`."""
    where, family = f'{path}: register_model("{name}")', options.get("family", "learned")
    for key in options:
        if key not in _OPTIONS:
            hint = ' (write family="classical")' if key == "classical" else nearest(key, _OPTIONS)
            raise UserError(f'{where} has no option "{key}"{hint}; known: {", ".join(_OPTIONS)}')
    for kind, given, known in (("task", options.get("tasks", ()), TASKS), ("family", [family], FAMILIES)):
        for word in given:
            if word not in known:
                raise UserError(f'{where}: unknown {kind} "{word}"{nearest(word, known)}; known: {", ".join(known)}')
    traits = replace(FAMILIES[family], **{k: v for k, v in options.items() if k in _TRAITS})
    facts = {k: v for k, v in options.items() if k not in _TRAITS}
    return ModelEntry(name=name, path=path, class_name=class_name, traits=traits, **facts)


def register_model(name: str, **options: Any) -> Callable[[T], T]:
    """Mark a class as a registered method and set its `model_name`, `tasks`, `ratios`, `family` and `traits`.

    Args:
        name: the paper's name.
        **options: literals: tasks, ratios, family, … (see `ModelEntry`) and single traits (see `Traits`).
    """

    def mark(cls: T) -> T:
        file = Path(getattr(sys.modules[cls.__module__], "__file__", None) or "")
        entry = _model_entry(name, file, cls.__name__, options)
        for key in ("tasks", "ratios", "family", "traits"):
            setattr(cls, key, getattr(entry, key))
        cls.model_name = name  # type: ignore[attr-defined]
        return cls

    return mark


def register_loss(name: str) -> Callable[[T], T]:
    """Mark a class as the loss called `name` (a literal, lower case)."""
    return lambda cls: cls


def normalise(name: str) -> str:
    """Return the form in which names are compared: lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


class Entries(dict[str, Any]):
    """Registered classes by normalised name; `left_out` names the files that could not be used, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: list[str] = []


@lru_cache(maxsize=1024)  # every look-up walks all files; parsing them anew would cost most of it
def _parse(path: Path, mtime_ns: int, size: int) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Read (decorator, name, class name, options) of one file; time and size make an edited file be read again."""
    source = path.read_text(encoding="utf-8")
    if not any(decorator in source for decorator in _DECORATORS):
        return []
    found = []
    for node in ast.parse(source, filename=str(path)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for call in (d for d in node.decorator_list if isinstance(d, ast.Call)):
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if called in _DECORATORS:
                name, options = _declared(call, called)
                found.append((called, name, node.name, options))
    return found


def _declared(call: ast.Call, decorator: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options that a decorator gives; a `ValueError` if they are not literals."""
    try:
        name = ast.literal_eval(call.args[0])
        options = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (ValueError, IndexError):
        name, options = None, {}
    if not isinstance(name, str):
        raise ValueError(
            f"line {call.lineno}: expected literals in {decorator}(…), first the name in quotes; write them"
        )
    return name, options


def _entries_of(path: Path, decorator: str) -> list[Entry]:
    """Return what `decorator` registers in one file.

    Raises:
        UserError: the file is not Python, cannot be read, or declares something unknown; the message names it.
    """
    try:
        facts = path.stat()
        declared = _parse(path, facts.st_mtime_ns, facts.st_size)
    except SyntaxError as error:
        raise UserError(f"{path}: line {error.lineno}: {error.msg}; correct the file") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: {one_line(str(error))}; correct the file") from None
    is_model = decorator == "register_model"
    return [
        _model_entry(name, path, class_name, options) if is_model else Entry(name, path, class_name)
        for found, name, class_name, options in declared
        if found == decorator
    ]


def scan_folder(folder: Path, decorator: str = "register_model", left_out: list[str] | None = None) -> dict[str, Any]:
    """Find every class below `folder` that `decorator` registers, by normalised name.

    Args:
        folder: is searched with its subfolders.
        decorator: the entries of "register_model" are `ModelEntry`, those of "register_loss" `Entry`.
        left_out: gets a line for each file that cannot be used and each name that is used twice; these are missing in
            the result. None: they are errors.

    Raises:
        UserError: such a file or name, without `left_out`.
    """
    found: dict[str, Entry] = {}
    twice: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        try:
            entries = _entries_of(path, decorator)
            for entry in entries:
                if (key := normalise(entry.name)) in found:
                    twice.add(key)
                    kind = decorator.removeprefix("register_")
                    where = f"{found[key].path}, {path}"
                    raise UserError(f'{kind} name "{entry.name}" is registered twice: {where}; rename one')
                found[key] = entry
        except UserError as error:
            if left_out is None:
                raise
            left_out.append(str(error))
    return {key: entry for key, entry in found.items() if key not in twice}


def _extra_folders() -> list[Path]:
    """Return the folders of ``LEMAMBA_MODEL_PATH``; one that is not there is a `UserError`."""
    extra = [Path(p) for p in os.environ.get(EXTRA_FOLDERS_VARIABLE, "").split(os.pathsep) if p]
    for folder in extra:
        if not folder.is_dir():
            raise UserError(f"{EXTRA_FOLDERS_VARIABLE} names {folder}, which is not a folder; correct or unset it")
    return extra


def scan(folders: list[Path], decorator: str = "register_model") -> Entries:
    """Scan `folders` and those named in ``LEMAMBA_MODEL_PATH`` (separated like PATH); later folders override.

    A file that is left out and a name that replaces another one are each reported once on stderr.
    """
    found = Entries()
    for folder in [*folders, *_extra_folders()]:
        for key, entry in scan_folder(folder, decorator, found.left_out).items():
            if key in found and found[key].path != entry.path:
                _tell(f'"{entry.name}" of {entry.path} replaces "{found[key].name}" of {found[key].path}')
            found[key] = entry
    for text in found.left_out:
        _tell(f"left out: {text}")
    return found


def _tell(text: str) -> None:
    if text not in _told:
        _told.add(text)
        print(f"warning: {one_line(text)}", file=sys.stderr)


def own_entry(name: str) -> ModelEntry | None:
    """Return the method `name` if it comes from a folder in ``LEMAMBA_MODEL_PATH``."""
    return scan([]).get(normalise(name))


E = TypeVar("E", bound=Entry)


def lookup(entries: Mapping[str, E], name: str, kind: str) -> E:
    """Return the entry called `name`; an unknown name is a `UserError` that suggests the nearest."""
    entry = entries.get(normalise(name))
    if entry is None:
        names = sorted((e.name for e in entries.values()), key=str.lower)
        left_out = "".join(f"; left out: {text}" for text in getattr(entries, "left_out", ()))
        raise UserError(
            f'unknown {kind} "{name}"{nearest(name, names)}{left_out}; known: {", ".join(names)}; a file of your own '
            f"is found through {EXTRA_FOLDERS_VARIABLE}"
        )
    return entry


def load_class(entry: Entry, folder: Path) -> type:
    """Import and return the class of an entry.

    Args:
        entry: what to load.
        folder: the folder of `lemamba`'s own entries (``lemamba/model``); a file elsewhere gets a private module name.
    """
    if entry.path.is_relative_to(folder):
        parts = entry.path.relative_to(folder.parent).with_suffix("").parts
        return getattr(importlib.import_module(".".join(("lemamba", *parts))), entry.class_name)
    return getattr(_import_file(entry.path), entry.class_name)


def _import_file(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"_lemamba_extra_{path.stem}_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot import {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
