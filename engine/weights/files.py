"""Weights for users: one .safetensors file from which the network can be rebuilt, with a .json for readers.

The header of the file and the .json hold the same facts: the network's name and constructor arguments, the run's
configuration, the data's divisor and ratio, the metrics. The minutes are in the .json only, so that equal trainings
give equal files. The .json also holds the file's sha256, which is checked if both are there; training adds a model
card. Legacy .pth files are read with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from lemamba.engine.weights.card import CARD, folder_card
from lemamba.engine.weights.hub import download
from lemamba.utils.atomic import read_json, sha256, sync_folder, to_json, write_synced
from lemamba.utils.errors import UserError

LOG_FOLDER = Path("log_file")
SHIPPED = {"generic": Path(__file__).resolve().parents[2] / "weights" / "LEMambaAny_generic.safetensors"}
PUBLISHED_PREFIX = "dlpan:"  # before a file of DLPan-Toolbox
HUB_PREFIX = "hf:"  # before a model's name on the Hugging Face hub
_STATE_KEYS = ("state_dict", "model", "net", "ema_model", "params_ema", "params")  # where published files hide them


@dataclass(frozen=True)
class WeightFile:
    """Weights as they were read.

    Attributes:
        path: the file.
        state: names and tensors, on the CPU.
        meta: what `save_weights` was given; {} where the file holds none.
        published: the names are those of a published project, as the user said.
    """

    path: Path
    state: dict[str, Tensor]
    meta: dict[str, Any]
    published: bool = False


def open_weights(given: str, log_folder: Path = LOG_FOLDER) -> WeightFile:
    """Find and read weights: a run, a file, or ``dlpan:FILE``; see `resolve_weights` and `read_weights`."""
    path = resolve_weights(given.removeprefix(PUBLISHED_PREFIX), log_folder)
    return WeightFile(path, *read_weights(path), given.startswith(PUBLISHED_PREFIX))


def load_weights(
    model: nn.Module, file: WeightFile, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> nn.Module:
    """Load `file` strictly into `model` and return the model; weights of published projects are converted.

    Args:
        model: the network the weights are of.
        file: from `open_weights`.
        convert: published names to ours; used if `file.published`, or if the file has no meta and its names are
            not the model's.

    Raises:
        UserError: names or shapes that do not fit, or an error of `convert`.
    """
    state = file.state
    if file.published or (not file.meta and set(state) != set(model.state_dict())):
        state = convert(state)
    load_strict(model, state, str(file.path))
    return model


def save_weights(path: Path, state: dict[str, Tensor], meta: dict[str, Any], *, card: bool = False) -> None:
    """Write ``path`` (.safetensors) and its .json; both are complete or absent.

    Args:
        path: ends in ``.safetensors``.
        state: names and tensors as ``model.state_dict()``.
        meta: {"model": {"name", "args"}, "config", "data", "metrics", …}; the .json also holds the file's sha256.
        card: also write the folder's model card, README.md.

    Raises:
        OSError: the disk is full or gone; the old files remain.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tensor_bytes(state, _without_time(meta))
    facts = {**meta, "sha256": hashlib.sha256(content).hexdigest()}
    files = {path: content, path.with_suffix(".json"): to_json(facts).encode()}
    if card:
        files[path.parent / CARD] = folder_card(path, facts, len(content)).encode()
    _write_together(files)


def _write_together(contents: dict[Path, bytes]) -> None:
    """Write files of one folder of which the later ones describe the first (they hold its sha256).

    All are written under temporary names first: on a full disk the old ones stay and no temporary file remains.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    first, *others = contents
    try:
        for path, content in contents.items():
            write_synced(temporary[path], content)
        # killed between two renames, the new first file must not stand next to a description of the old one
        for path in others:
            path.unlink(missing_ok=True)
        sync_folder(first.parent)
        for path in contents:
            temporary[path].replace(path)
    except BaseException:
        for path in temporary.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    sync_folder(first.parent)


def tensor_bytes(tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> bytes:
    """Return tensors (copied to the CPU; tied ones become two) as safetensors, with `meta` as JSON in the header."""
    plain = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}
    return safetensors_bytes(plain, {"meta": json.dumps(meta)} if meta is not None else None)


def _without_time(meta: dict[str, Any]) -> dict[str, Any]:
    """Drop the minutes, the only fact in which equal trainings differ."""
    if "training" not in meta:
        return meta
    return {**meta, "training": {key: value for key, value in meta["training"].items() if key != "minutes"}}


def resolve_weights(run_or_file: str | Path, log_folder: Path = LOG_FOLDER) -> Path:
    """Find a weight file.

    Args:
        run_or_file: a name in `SHIPPED`; a .safetensors or .pth file; a run's folder (its best weights, else its last,
            else the EMA of its newest checkpoint) or a folder of weights; ``proj/run`` below `log_folder`; or
            ``hf:USER/NAME``, perhaps with ``@REVISION``, of the Hugging Face hub.
        log_folder: where runs live.

    Raises:
        UserError: nothing found; the message names the places searched.
    """
    if str(run_or_file) in SHIPPED:
        return SHIPPED[str(run_or_file)]
    hub_name = str(run_or_file)
    given = download(hub_name.removeprefix(HUB_PREFIX)) if hub_name.startswith(HUB_PREFIX) else Path(run_or_file)
    if given.is_file():
        return given
    for folder in (given, log_folder / given):
        if not folder.is_dir():
            continue
        checkpoints = sorted(folder.glob("checkpoints/step_*/"), reverse=True)
        candidates = [folder / "weights/best.safetensors", folder / "weights/last.safetensors"]
        candidates += [folder / "best.safetensors", folder / "last.safetensors"]
        candidates += [c / name for c in (*checkpoints, folder) for name in ("ema.safetensors", "model.safetensors")]
        found = next((c for c in candidates if c.is_file()), None)
        if found is None:
            raise UserError(f"expected weights/best.safetensors or checkpoints in {folder}, found none; train first")
        return found
    raise UserError(f"expected a weight file or a run, {given} is neither (looked in {log_folder} too); correct it")


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a weight file into (state_dict, meta); tensors are on the CPU.

    meta is {} where the file has none (legacy .pth, safetensors of others). A pickle that would run code is refused.
    A .safetensors file must have the sha256 that its .json names; without a .json it is used alone.

    Raises:
        UserError: missing, damaged, changed or refused file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"expected a weight file, {path} does not exist; correct the path")
    if path.suffix == ".safetensors":
        found = _read_safetensors(path, tensors=True)
        _check_sha256(path)
        return found
    return _read_legacy(path), {}


def weights_meta(given: str, log_folder: Path = LOG_FOLDER) -> dict[str, Any]:
    """Return the meta of weights, found as `open_weights` does; no tensor is read, and a legacy file gives {}.

    Raises:
        UserError: nothing found, or a damaged header.
    """
    path = resolve_weights(given.removeprefix(PUBLISHED_PREFIX), log_folder)
    return _read_safetensors(path, tensors=False)[1] if path.suffix == ".safetensors" else {}


def _read_safetensors(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    reader = "pt" if tensors else "np"  # "pt" allocates the whole file when it opens it
    try:
        with safe_open(path, framework=reader, device="cpu") as file:
            header, names = file.metadata() or {}, file.keys() if tensors else ()
            state = {name: file.get_tensor(name) for name in names}
        meta = json.loads(header["meta"]) if "meta" in header else {}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a complete safetensors file ({error}); copy it again") from None
    meta = meta or _sidecar(path)
    return state, meta if isinstance(meta, dict) else {}


def _sidecar(path: Path) -> dict[str, Any]:
    """Read the .json of a weight file; {} if there is none or it holds no mapping."""
    sidecar = path.with_suffix(".json")
    found = read_json(sidecar)
    if found is None and sidecar.is_file():
        raise UserError(f"{sidecar}: not valid JSON; correct or remove it")
    return found if isinstance(found, dict) else {}


def _check_sha256(path: Path) -> None:
    """Compare a file with the sha256 in its .json."""
    expected = _sidecar(path).get("sha256")
    if not isinstance(expected, str):
        return
    found = sha256(path)
    if found != expected:
        raise UserError(
            f"{path}: expected sha256 {expected} as {path.stem}.json says, found {found}: not the file that was "
            "written; copy both again, or remove the .json to use the file as it is"
        )


def _read_legacy(path: Path) -> dict[str, Tensor]:
    try:
        # from memory: a wrong length in the file cannot make torch allocate more than the file has
        loaded = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, as reading this pickle would run code from the file; if you trust its author, convert "
            "it where that is safe: load it with torch and save its state_dict with safetensors.torch.save_file"
        ) from None
    except Exception as error:  # torch raises a dozen types on damaged files
        reason = f" ({error})" if " " in str(error) else ""  # a bare number or key says nothing
        raise UserError(f"{path}: not a weight file torch can read{reason}; copy it again") from None
    return _find_state(loaded, path)


def _is_state(value: Any) -> bool:
    """Return whether a value is a non-empty mapping of names to tensors."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _find_state(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the state_dict in a legacy file, unwrapped from the mappings of other projects.

    Below a key that is not known, a state_dict is taken if it is the only one.
    """
    for _ in range(3):
        if not isinstance(loaded, dict):
            break
        if _is_state(loaded):
            return {n.removeprefix("module."): t for n, t in loaded.items()}
        key = next((k for k in _STATE_KEYS if isinstance(loaded.get(k), dict)), None)
        others = [value for value in loaded.values() if _is_state(value)]
        if key is None and len(others) != 1:
            break
        loaded = others[0] if key is None else loaded[key]
    raise UserError(f"{path}: expected a state_dict (names and tensors), found {type(loaded).__name__}; export one")


def load_strict(model: nn.Module, state: dict[str, Tensor], source: str = "weights") -> None:
    """Load `state` into `model`; names and shapes must agree exactly, see `check_fit`."""
    check_fit(model.state_dict(), state, source, "check arch, variant and bands")
    model.load_state_dict(state)


def check_fit(own: dict[str, Tensor], state: dict[str, Tensor], source: str, advice: str) -> None:
    """Compare names and shapes of `state` with the network's `own`.

    Raises:
        UserError: how many names are missing, unexpected or of another shape, and the first of each; then `advice`.
    """
    missing = [n for n in own if n not in state]
    unexpected = [n for n in state if n not in own]
    shared = [n for n in own if n in state and state[n].shape != own[n].shape]
    other = [f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}" for n in shared]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
    reports = [f"{len(names)} {kind} (first: {', '.join(names[:3])})" for kind, names in kinds if names]
    if reports:
        raise UserError(f"{source} do not fit the network: {'; '.join(reports)}; {advice}")
