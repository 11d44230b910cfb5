"""Choose the configuration of the Triton kernels for a shape: measured once on this GPU, then remembered.

Shapes of one class (same sizes but batch and length, and these in powers of two) share a choice. Choices are kept in
the cache folder (`native.build.cache_folder`), in a file named by GPU, Triton version and kernel sources.
Of several processes one measures and all take its choice, so that their results round alike.
`LEMAMBA_TUNE=0`, `torch.use_deterministic_algorithms(True)` and the interpreter use the heuristic instead; while a
CUDA graph is recorded, only choices made before are used. The same configuration gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import astuple
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lemamba.model.ops.native.build import cache_folder
from lemamba.model.ops.triton.plan import Config, Shape, candidates, fits, heuristic

VARIABLE = "LEMAMBA_TUNE"
WAIT = 300.0  # seconds that a process waits for another's measurement: longer than compiling all candidates
_SOURCES = ("parts.py", "forward.py", "backward.py", "plan.py", "launch.py")
_CHOSEN: dict[tuple[str, str], Config] = {}  # (file, class) -> choice of this process


def shape_class(shape: Shape) -> str:
    """Return the name of the shape's class."""
    sizes = f"B{shape.B.bit_length()} L{shape.L.bit_length()} K{shape.K} D{shape.D} N{shape.N} R{shape.R}"
    flags = [n for n in ("cross", "share", "half", "backward") if getattr(shape, n)]
    return " ".join([sizes, *flags])


def processors() -> int:
    """Return the multiprocessors of the current GPU; 0 without one (then nothing is cut into chunks)."""
    return torch.cuda.get_device_properties().multi_processor_count if torch.cuda.is_available() else 0


def wanted() -> bool:
    """Return whether choices may come from measurements."""
    if os.environ.get(VARIABLE, "1") == "0" or torch.are_deterministic_algorithms_enabled():
        return False
    return torch.cuda.is_available()


def _capturing() -> bool:
    """Return whether a CUDA graph is being recorded: then nothing can be timed and no kernel loaded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@cache
def _source_hash() -> str:
    folder = Path(__file__).resolve().parent
    return hashlib.sha256(b"".join((folder / n).read_bytes() for n in _SOURCES)).hexdigest()


def table_path() -> Path:
    """Return the file with the choices for this GPU, this Triton and these kernels."""
    import triton

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    name = hashlib.sha256("\0".join((gpu, triton.__version__, _source_hash())).encode()).hexdigest()[:20]
    return cache_folder() / f"triton-{name}.json"


def _read(path: Path) -> dict[str, list]:
    """Return the choices in a file; none if it is missing or damaged."""
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _kept(path: Path, name: str) -> Config | None:
    """Return the choice that the file has for a class, or None."""
    try:
        RN, RD, chunks, merge, PW = _read(path)[name]
        return Config(int(RN), int(RD), int(chunks), bool(merge), int(PW))
    except (KeyError, TypeError, ValueError):
        return None


def _remember(path: Path, name: str, config: Config) -> None:
    """Add a choice to the file; if it cannot be written, the choice lasts as long as the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        table = {**_read(path), name: list(astuple(config))}
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w") as file:
            json.dump(table, file, indent=1)
        Path(part).replace(path)
    except OSError:
        return


def milliseconds(run: Callable[[], object]) -> float:
    """Return the median time of a run on the GPU, after one that compiles."""
    run()
    times = []
    for _ in range(5):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def _measured(shape: Shape, run: Callable[[Config], object], timer: Callable[[Callable[[], object]], float]) -> Config:
    """Return the fastest candidate; one that fails (registers, shared memory) is skipped."""
    times = {}
    for config in candidates(shape, processors()):
        try:
            times[config] = timer(partial(run, config))
        except Exception:  # noqa: BLE001 - compilers raise anything: the next candidate may work
            continue
    return min(times, key=times.__getitem__) if times else heuristic(shape, processors())


def _store() -> tuple[Any, int] | None:
    """Return the store that all processes of a training have, and this one's rank; None for a single process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    return dist.PrefixStore("lemamba-tune", dist.distributed_c10d._get_default_store()), dist.get_rank()


def _agreed(key: str, measure: Callable[[], Config]) -> Config:
    """Return the choice of the process that comes to this class first, which measures while the others wait.

    Not of rank 0 always: a shape that only one rank meets would make it wait for a process that never comes.
    """
    found = _store()
    if found is None:
        return measure()
    store, rank = found
    if store.compare_set(f"{key} owner", "", str(rank)).decode() == str(rank):
        chosen = measure()
        store.set(key, json.dumps(astuple(chosen)))
        return chosen
    try:
        store.wait([key], timedelta(seconds=WAIT))
        return Config(*json.loads(store.get(key)))
    except RuntimeError:  # it has ended or hangs; the training's own exchanges will say so
        return measure()


def choose(
    shape: Shape, run: Callable[[Config], object], timer: Callable[[Callable[[], object]], float] | None = None
) -> Config:
    """Return the configuration for a shape.

    Args:
        shape: sizes and kind of the call.
        run: (config) runs the kernels with it, into memory that may be written again.
        timer: (run without arguments) -> milliseconds; None is the GPU's clock.
    """
    if timer is None and not wanted():
        return heuristic(shape, processors())
    path, name = table_path(), shape_class(shape)
    key = (str(path), name)
    if key not in _CHOSEN and _capturing():
        return heuristic(shape, processors())
    if key not in _CHOSEN:
        known = _kept(path, name)
        if known is None or not fits(shape, known):
            known = _agreed(f"{path.name} {name}", lambda: _measured(shape, run, timer or milliseconds))
            _remember(path, name, known)
        _CHOSEN[key] = known
    chosen = _CHOSEN[key]
    return chosen if fits(shape, chosen) else heuristic(shape, processors())
