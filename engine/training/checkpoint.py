"""A run's folder ``log_file/<proj>/<run>`` and its checkpoints.

    checkpoints/step_<08d>/{model,ema,optimizer}.safetensors + state.json

A checkpoint is written into a hidden folder, synced to disk and renamed: a folder with a checkpoint's name is complete.
`state.json` is written last and holds the size and sha256 of the other files and of itself, so a damaged checkpoint is
recognised and the newest good one is used. No pickles: tensors are safetensors, everything else is JSON. A lock that
ends with its process keeps a second one out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from lemamba.engine.training.curves import CSV, JSONL
from lemamba.engine.weights.files import tensor_bytes
from lemamba.utils.atomic import check_writable, refusal, sync_folder, write_synced
from lemamba.utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no lock, only the check for existing checkpoints protects a run
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
LOCK_NAME = ".lock"
_PREFIX, _NEW, _OLD = "step_", ".new_", ".old_"
_FILE = re.compile(r"[a-z]+\.safetensors")  # nothing outside the folder
_WRITTEN = (  # one file of every folder that a run writes to
    *(LOCK_NAME, "train.log", "config.yaml", JSONL, CSV, "checkpoints/state.json", "nan/batch"),
    *("weights/best.safetensors", "weights/README.md"),
)


def create_folder(wanted: Path) -> Path:
    """Create the folder of a run without a name of its own, and return it.

    Runs that start within one second want the same: each gets another, ``<wanted>``, ``<wanted>-2``, …

    Raises:
        UserError: no folder can be created there.
    """
    check_writable(wanted / LOCK_NAME)
    folder, number = wanted, 1
    while True:
        try:
            folder.mkdir(parents=True)  # of several processes, one creates it
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
        except OSError as error:
            raise refusal(folder / LOCK_NAME, str(error.strerror)) from None


def open_run(
    folder: Path, tensorboard: Path | None = None, *, resuming: bool = False, overwrite: bool = False
) -> IO[str]:
    """Create and lock a run's folder, and check that everything the run writes can be written.

    A new run may take a folder whose owner died before its first checkpoint. It takes one with checkpoints or weights
    only if `overwrite` is set, and never one in which another process is training.

    Args:
        folder: the run's folder.
        tensorboard: folder of the TensorBoard files, None = none.
        resuming: checkpoints in the folder are expected.
        overwrite: remove what an earlier run wrote.

    Returns:
        The lock; keep it open as long as the run lasts.

    Raises:
        UserError: the folder cannot be written, is in use, or holds a run and `resuming` is not set.
    """
    check_writable(*(folder / name for name in _WRITTEN), tensorboard / "events" if tensorboard else None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_NAME).open("a")
    except OSError as error:
        raise refusal(folder / LOCK_NAME, str(error.strerror)) from None
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise UserError(f"another process is training in {folder}; give another --run_name or wait") from None
    if overwrite and not resuming:  # remove what a run writes, and nothing else that may be in the folder
        for name in ("checkpoints", "weights", "nan"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("train.log", "config.yaml", JSONL, CSV):
            (folder / name).unlink(missing_ok=True)
        for events in tensorboard.glob("events.out.tfevents.*") if tensorboard else ():
            events.unlink(missing_ok=True)
    try:
        check_unused(folder, resuming=resuming)
    except UserError:
        lock.close()
        raise
    return lock


def check_unused(folder: Path, *, resuming: bool) -> None:
    """Raise a `UserError` if a folder holds a run, unless that is resumed or replaced."""
    used = [p for name in ("checkpoints/step_*", "weights/*.safetensors") for p in folder.glob(name)]
    if used and not resuming:
        raise UserError(
            f"the run {folder} exists already; resume it with --resume_path {folder}, give another --run_name, "
            "or replace it with --overwrite"
        )


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: ``log_file/<proj>/<run>/checkpoints``; need not exist yet.
        keep: how many are kept; 0 = all.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep

    def recover(self) -> None:
        """Clean up after a killed writer: remove unfinished folders, bring back a replaced one without successor."""
        for old in self.folder.glob(f"{_OLD}*"):
            final = self.folder / old.name.removeprefix(_OLD)
            if final.exists():
                shutil.rmtree(old)
            else:
                old.rename(final)
        for new in self.folder.glob(f"{_NEW}*"):
            shutil.rmtree(new)

    def list(self) -> list[Path]:
        """Return the checkpoint folders, oldest first, damaged ones included."""
        return sorted(p for p in self.folder.glob(f"{_PREFIX}*") if p.is_dir())

    def save(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], meta: dict) -> Path:
        """Write the checkpoint of `step`, then remove the oldest beyond the limit.

        Args:
            step: optimizer steps done.
            tensors: by file name ("model", "ema", "optimizer"), names and tensors.
            state: counters, schedule, generators, configuration: JSON values.
            meta: stored in the header of the weight files, so that each can be used alone.

        Raises:
            OSError: the disk is full or gone; earlier checkpoints remain, and nothing of the new one.
        """
        name = f"{_PREFIX}{step:08d}"
        new, final, old = self.folder / f"{_NEW}{name}", self.folder / name, self.folder / f"{_OLD}{name}"
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            files = {}
            for part, content in tensors.items():
                blob = tensor_bytes(content, None if part == "optimizer" else meta)
                files[f"{part}.safetensors"] = write_synced(new / f"{part}.safetensors", blob)
            write_synced(new / "state.json", sign({"format": FORMAT, "step": step, "files": files, **state}))
            sync_folder(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        if final.exists():
            final.rename(old)
        new.rename(final)
        sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        self._prune()
        return final

    def _prune(self) -> None:
        if self.keep:
            for path in self.list()[: -self.keep]:
                # hidden first: a kill half-way leaves no half checkpoint under a checkpoint's name
                hidden = path.with_name(_NEW + path.name)
                path.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint (every file of the listed size and sha256), or None."""
        return next((p for p in reversed(self.list()) if damage(p) is None), None)


def sign(state: dict[str, Any]) -> bytes:
    """Return the content of state.json: the state, with the sha256 of its JSON."""
    return _json(state | {"sha256": hashlib.sha256(_json(state)).hexdigest()})


def _json(state: dict[str, Any]) -> bytes:
    return json.dumps(state, indent=1, ensure_ascii=False).encode()  # the form that is hashed: it must stay


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, None if it is complete."""
    try:
        state = json.loads((path / "state.json").read_bytes())
        written = state.pop("sha256", None)  # absent in the first versions
        if written is not None and hashlib.sha256(_json(state)).hexdigest() != written:
            return "state.json is not what was written"
        for name, facts in state["files"].items():
            if not _FILE.fullmatch(name):
                return f"{name!r} is not a file of a checkpoint"
            content = (path / name).read_bytes()
            if len(content) != facts["bytes"] or hashlib.sha256(content).hexdigest() != facts["sha256"]:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return str(error)
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint folder into ({"model": …, "ema": …, "optimizer": …}, state); see `read_state` for errors."""
    state = read_state(path)
    try:
        tensors = {Path(n).stem: tensors_from_bytes((path / n).read_bytes()) for n in state["files"]}
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not complete safetensors files ({error}); resume from another one") from None
    return tensors, state


def read_state(path: Path) -> dict[str, Any]:
    """Read the state.json of a checkpoint.

    Raises:
        UserError: a damaged checkpoint, one of another format, or one without a configuration.
    """
    wrong = damage(path)
    if wrong is not None:
        raise UserError(f"{path}: not a complete checkpoint ({wrong}); resume from another one")
    state = json.loads((path / "state.json").read_bytes())
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path}: expected checkpoint format {FORMAT}, given {state.get('format')}; resume with the version of the "
            "project that wrote it"
        )
    if not isinstance(state.get("config"), dict):
        raise UserError(f"{path}: state.json has no configuration of the run; resume from another one")
    return state


def find_run(given: str, log_folder: Path, project: str | None, run: str | None) -> tuple[Path, Path]:
    """Return the run folder and the checkpoint folder that `--resume_path` means.

    Args:
        given: a run's folder, ``proj/run`` below `log_folder`, one checkpoint's folder, or "latest": the run that saved
            last, of those of `project` and `run`, and its newest complete checkpoint.
        log_folder: folder of all runs.
        project: project of "latest", None = any.
        run: run of "latest", None = any.

    Raises:
        UserError: no run, or a run without a complete checkpoint.
    """
    if given == "latest":
        projects = [log_folder / project] if project else sorted(log_folder.glob("*/"))
        runs = [folder for p in projects for folder in ([p / run] if run else sorted(p.glob("*/")))]
        wanted = f"{log_folder.absolute()}/{project or '*'}/{run or '*'}"
    else:
        path = next((p for p in (Path(given), log_folder / given) if p.is_dir()), None)
        if path is None:
            raise UserError(f"--resume_path: expected a run or a checkpoint, {given} does not exist; correct it")
        if path.name.startswith(_PREFIX) and path.parent.name == "checkpoints":
            return path.parent.parent, path
        runs, wanted = [path.parent if path.name == "checkpoints" else path], str(path)
    saved = [(time, folder) for folder in runs if (time := _saved_at(folder)) is not None]
    for _, folder in sorted(saved, reverse=True):  # the newest first: finding out that it is complete reads it whole
        newest = Checkpoints(folder / "checkpoints").latest()
        if newest is not None:
            return folder, newest
    raise UserError(f"--resume_path: no complete checkpoint in {wanted}/checkpoints; start without --resume_path")


def _saved_at(folder: Path) -> float | None:
    """Return when a run wrote its newest checkpoint, None if it has none."""
    return max((p.stat().st_mtime for p in folder.glob(f"checkpoints/{_PREFIX}*/state.json")), default=None)
