"""Files that are whole or absent: written under a temporary name, then renamed; and what a file holds, as a hash.

A leaf: it imports `lemamba.utils.errors` only, so that data, metrics and the engine share one way to write and to hash.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lemamba.utils.errors import UserError


def refusal(path: Path, reason: str) -> UserError:
    """Say that `path` cannot be written; where something is in its way, say what instead of the system's words."""
    if path.is_dir():
        return UserError(f'cannot write "{path}": it is a folder, not a file; choose another name or remove it')
    in_the_way = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
    if in_the_way:
        return UserError(f'cannot write "{path}": "{in_the_way}" is a file, not a folder; choose another place')
    return UserError(f'cannot write "{path}": {reason}; choose a folder that is writable and has room')


def check_writable(*paths: Path | None) -> None:
    """Refuse files that could not be written, before the work whose result they are to hold; None is passed over."""
    for path in filter(None, paths):
        there = next(p for p in (path.parent, *path.parent.parents) if p.exists())
        if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
            raise refusal(path, "the folder cannot be written")


@contextmanager
def renamed(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path` and rename it to `path` at the end; after an error it is removed.

    Raises:
        UserError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # HDF5 puts its own long words where the system's are expected
        reason = os.strerror(error.errno) if error.errno else error.strerror
        raise refusal(path, reason or "an input/output error") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)` and rename; see `renamed`."""
    with renamed(path) as temporary:
        write(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    with renamed(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write readable JSON, whole or not at all; infinities and NaN, which JSON lacks, become texts."""
    write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote earlier; None where nothing is there, or nothing that is JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the files of a folder in the order of their names; read in blocks."""
    digest = hashlib.sha256()
    for part in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        with part.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
