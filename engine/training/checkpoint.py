"""Checkpoints of a run: ``checkpoints/step_<08d>/{model,ema,optimizer}.safetensors + state.json``.

A checkpoint is written into a hidden folder, synced, and renamed: what has its name is complete. `state.json` is
written last and lists size and sha256 of the rest and of itself, so that a damaged checkpoint is recognised and the
newest good one is used. No pickles: tensors as safetensors, everything else as JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from lemamba.engine.weights.atomic import json_bytes, sync_folder, tensor_bytes, write_synced
from lemamba.utils.errors import UserError

FORMAT = 1
_PREFIX, _NEW, _OLD = "step_", ".new_", ".old_"
_FILE = re.compile(r"[a-z]+\.safetensors")  # never a way out of the folder


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: ``log_file/<proj>/<run>/checkpoints``; need not exist yet.
        keep: how many are kept; 0 = all.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep

    def recover(self) -> None:
        """Clear what a killed writer left: unfinished folders go, a replaced one without successor comes back."""
        for rest in self.folder.glob(f"{_OLD}*"):
            home = self.folder / rest.name.removeprefix(_OLD)
            if home.exists():
                shutil.rmtree(rest)
            else:
                rest.rename(home)
        for rest in self.folder.glob(f"{_NEW}*"):
            shutil.rmtree(rest)

    def list(self) -> list[Path]:
        """Return the checkpoint folders, oldest first (complete or not)."""
        return sorted(p for p in self.folder.glob(f"{_PREFIX}*") if p.is_dir())

    def save(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], meta: dict) -> Path:
        """Write the checkpoint of `step`, then remove the oldest beyond the limit.

        Args:
            step: optimizer steps done.
            tensors: by file name ("model", "ema", "optimizer"), names and tensors.
            state: counters, schedule, generators, configuration: JSON values.
            meta: kept in the header of the weight files, so that each can be used alone.

        Raises:
            OSError: the disk is full or gone; the checkpoints that were there remain, no rest is left.
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
                # first out of sight, so that a kill in the middle leaves no half checkpoint under a good name
                hidden = path.with_name(_NEW + path.name)
                path.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint (every file of the listed size and sha256), or None."""
        return next((p for p in reversed(self.list()) if damage(p) is None), None)


def sign(state: dict[str, Any]) -> bytes:
    """Return state.json: the state and the sha256 of what is written of it."""
    return json_bytes(state | {"sha256": hashlib.sha256(json_bytes(state)).hexdigest()})


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, None where it is whole."""
    try:
        state = json.loads((path / "state.json").read_bytes())
        written = state.pop("sha256", None)  # absent in what earlier versions wrote
        if written is not None and hashlib.sha256(json_bytes(state)).hexdigest() != written:
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
    """Read a checkpoint folder: ({"model": …, "ema": …, "optimizer": …}, state). Damaged: a `UserError`."""
    state = read_state(path)
    try:
        tensors = {Path(n).stem: tensors_from_bytes((path / n).read_bytes()) for n in state["files"]}
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not whole safetensors files ({error}); resume from another one") from None
    return tensors, state


def read_state(path: Path) -> dict[str, Any]:
    """Read the state.json of a checkpoint; damaged, of another format, without a configuration: a `UserError`."""
    wrong = damage(path)
    if wrong is not None:
        raise UserError(f"{path}: not a whole checkpoint ({wrong}); resume from another one")
    state = json.loads((path / "state.json").read_bytes())
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path}: expected checkpoint format {FORMAT}, given {state.get('format')}; resume with the version of the "
            "project that wrote it"
        )
    if not isinstance(state.get("config"), dict):
        raise UserError(f"{path}: state.json has no configuration of the run; resume from another one")
    return state


def find_run(given: str, log_folder: Path, project: str, run: str | None) -> tuple[Path, Path]:
    """Find what `--resume_path` means: (run folder, checkpoint folder).

    Args:
        given: a run's folder, ``proj/run`` below `log_folder`, one checkpoint's folder, or "latest": the newest
            complete checkpoint of `run`, or of any run of `project`.
        log_folder: where runs live.
        project: project of "latest".
        run: run of "latest", None = any.

    Raises:
        UserError: no run, or a run without a complete checkpoint.
    """
    if given == "latest":
        runs = [log_folder / project / run] if run else sorted((log_folder / project).glob("*/"))
        wanted = f"{log_folder / project}/{run or '*'}"
    else:
        path = next((p for p in (Path(given), log_folder / given) if p.is_dir()), None)
        if path is None:
            raise UserError(f"--resume_path: expected a run or a checkpoint, {given} is not there; correct it")
        if path.name.startswith(_PREFIX) and path.parent.name == "checkpoints":
            return path.parent.parent, path
        runs, wanted = [path.parent if path.name == "checkpoints" else path], str(path)
    found = []
    for folder in runs:
        newest = Checkpoints(folder / "checkpoints").latest()
        if newest is not None:
            found.append(((newest / "state.json").stat().st_mtime, folder, newest))
    if not found:
        raise UserError(f"--resume_path: no complete checkpoint in {wanted}/checkpoints; start without --resume_path")
    return max(found)[1:]
