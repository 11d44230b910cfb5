"""Writing so that nothing half-written is ever found: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save as safetensors_bytes
from torch import Tensor


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut; where folders cannot be opened (Windows) do nothing."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_synced(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file and wait until the disk has it; return its size and sha256."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; on failure the old file stays and no rest remains."""
    write_together({path: content})


def write_together(contents: dict[Path, bytes]) -> None:
    """Write files of one folder of which the later ones speak about the first, as its sha256.

    All are written under temporary names first: on a full disk the old ones stay and no rest remains. Before the first
    is renamed the old others go: killed in between, the new first file stands alone, never beside words about another.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    first, *others = contents
    try:
        for path, content in contents.items():
            write_synced(temporary[path], content)
        for path in others:
            path.unlink(missing_ok=True)
        if others:
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
    """Serialise tensors (copied to the CPU; tied ones become two) as safetensors, `meta` as JSON in the header."""
    plain = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}
    return safetensors_bytes(plain, {"meta": json.dumps(meta)} if meta is not None else None)


def json_bytes(value: Any) -> bytes:
    """Serialise as readable JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
