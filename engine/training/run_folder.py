"""One run, one folder, one process writing: ``log_file/<proj>/<run>``, guarded by a lock that dies with its owner."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO

from lemamba.utils.atomic import check_writable, refusal
from lemamba.utils.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows; there only the check for checkpoints protects a run
    fcntl = None

LOCK_NAME = ".lock"
_WRITTEN = (
    *(LOCK_NAME, "train.log", "config.yaml", "checkpoints/state.json", "nan/batch"),
    *("weights/best.safetensors", "weights/README.md"),
)


def open_run(
    folder: Path, tensorboard: Path | None = None, *, resuming: bool = False, overwrite: bool = False
) -> IO[str]:
    """Claim a run's folder, creating it; keep the returned file open as long as the run lasts.

    That all its files can be written, those in `tensorboard` too, is seen here and not when the first of them is due.

    A new run may take a folder whose earlier owner died before its first checkpoint, but never one with checkpoints
    or weights in it unless told to overwrite them, and nobody may take one in which another process is training.

    Raises:
        UserError: the folder cannot be written, is in use, or holds a run that was not to be resumed.
    """
    check_writable(*(folder / name for name in _WRITTEN), tensorboard / "events" if tensorboard else None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_NAME).open("a")
    except OSError as error:
        raise refusal(folder / LOCK_NAME, error.strerror) from None
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise UserError(f"another process is training in {folder}; give another --run_name or wait") from None
    if overwrite and not resuming:
        _empty(folder)
    used = [p for name in ("checkpoints/step_*", "weights/*.safetensors") for p in folder.glob(name)]
    if used and not resuming:
        lock.close()
        raise UserError(
            f"the run {folder} exists already; go on with it by --resume_path {folder}, give another --run_name, "
            "or replace it with --overwrite"
        )
    return lock


def _empty(folder: Path) -> None:
    """Remove what a run of ours wrote, and nothing else that may lie in the folder."""
    for name in ("checkpoints", "weights", "nan"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("train.log", "config.yaml"):
        (folder / name).unlink(missing_ok=True)
