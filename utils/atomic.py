"""Files that are complete or absent: written under a temporary name, then renamed. Also JSON and SHA-256 of files.

A leaf: it imports `lemamba.utils.errors` only, so data, metrics and engine share one way to write and to hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    import h5py


def refusal(path: Path, reason: str) -> UserError:
    """Return the error for a `path` that cannot be written; `reason` is used unless something is in the way."""
    if path.is_dir():
        return UserError(f'cannot write "{path}": it is a folder, not a file; choose another name or remove it')
    in_the_way = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
    if in_the_way:
        return UserError(f'cannot write "{path}": "{in_the_way}" is a file, not a folder; choose another place')
    return UserError(f'cannot write "{path}": {reason}; choose a folder that is writable and has room')


def check_writable(*paths: Path | None) -> None:
    """Raise a `UserError` for the first file that could not be written; call it before long work. None is skipped."""
    for path in filter(None, paths):
        there = next(p for p in (path.parent, *path.parent.parents) if p.exists())
        if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
            raise refusal(path, "the folder cannot be written")


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut. Does nothing where folders cannot be opened (Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_synced(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file under its own name and wait until it is on the disk; return its size and SHA-256.

    For files in a temporary folder that is renamed as a whole; use `renamed` for single files.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@contextmanager
def renamed(path: str | Path, fsync: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path` and rename it to `path` at the end; on an error it is removed.

    Args:
        path: the file; missing folders are created.
        fsync: wait until file and name are on the disk, so that a power cut loses neither (checkpoints).

    Raises:
        UserError: the folder cannot be created or written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if fsync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if fsync:
            sync_folder(path.parent)
    except OSError as error:
        # HDF5 puts a long message of its own where the system's is expected
        reason = os.strerror(error.errno) if error.errno else error.strerror
        raise refusal(path, reason or "an input/output error") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


class _Disk(io.FileIO):
    """A new file for HDF5, which prints an error of the disk past Python, and once more at closing.

    What cannot be written is dropped, and `error` says why.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the error of the disk, if there was one."""
        if self.error is not None:
            raise self.error


@contextmanager
def new_hdf5(path: Path, **options: Any) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Yield a new HDF5 file, and a function to call now and then that raises an `OSError` where the disk is full.

    Args:
        path: the file; use it inside `renamed`, which turns the error into a `UserError`.
        options: of `h5py.File`.
    """
    import h5py

    with _Disk(path, "w+") as disk:
        try:
            with h5py.File(disk, "w", **options) as file:
                yield file, disk.check
        except Exception:
            disk.check()  # whatever HDF5 made of it
            raise
        disk.check()


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)`, then rename; see `renamed`."""
    with renamed(path) as temporary:
        write(temporary)


def write_text(path: str | Path, text: str, fsync: bool = False) -> None:
    """Write a text file (UTF-8); see `renamed`."""
    with renamed(path, fsync) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(content: Any) -> str:
    """Return readable JSON; infinities and NaN, which JSON lacks, become the texts "inf", "-inf" and "nan"."""
    return json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n"


def write_json(path: str | Path, content: Any, fsync: bool = False) -> None:
    """Write `to_json(content)`; see `renamed`."""
    write_text(path, to_json(content), fsync)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None if there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files directly in a folder in the order of their names."""
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
