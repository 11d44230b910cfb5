"""Compile the C kernels for this machine at first use and keep the result.

The kernels are plain C (a machine often has gcc without g++), without torch headers, so compiling takes about a second.
The library's name is a hash of sources, flags, compiler version and processor; it is written under a temporary name
and renamed, so several processes may do it at once. Cache: $LEMAMBA_CACHE, else $XDG_CACHE_HOME/lemamba, else
~/.cache/lemamba; a temporary folder when none can be written.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lemamba.model.ops.portable import is_portable

SOURCES = Path(__file__).resolve().parent
_COMMON = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
# Tried in this order: for this processor with OpenMP; without OpenMP (one thread); for processors of its kind.
_VARIANTS = (
    ("-march=native", "-fopenmp"),
    ("-march=native",),
    ("-march=x86-64-v3", "-fopenmp"),
    ("-fopenmp",),
    (),
)
_LOCK = threading.Lock()


def cache_folder() -> Path:
    """Return the folder for compiled kernels and tuned configurations; it need not exist yet."""
    named = os.environ.get("LEMAMBA_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lemamba"


def _compilers() -> list[list[str]]:
    """Return the compiler commands that exist here, the user's $CC first."""
    named = shlex.split(os.environ.get("CC", ""))
    candidates = ([named] if named else []) + [["cc"], ["gcc"], ["clang"]]
    return [c for c in candidates if shutil.which(c[0])]


def _processor() -> str:
    """Return what -march=native depends on: a library compiled for another processor must not be loaded."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(errors="replace").splitlines()
        chosen = {line for line in lines if line.partition(":")[0].strip() in ("model name", "flags", "Features")}
        return platform.machine() + "".join(sorted(chosen))
    return platform.machine() + platform.processor()


def _writable_folder() -> Path:
    """Return the cache folder, or one that is deleted at exit when the cache cannot be written."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="lemamba-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compile(command: list[str], flags: tuple[str, ...], target: Path) -> str | None:
    """Compile into `target`; return None, or the compiler's first error."""
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        command = [*command, *_COMMON, *flags, str(SOURCES / "all.c"), "-o", name, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0:
            Path(name).replace(target)
            return None
        complaints = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        return complaints[0].strip() if complaints else f"exit status {done.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    finally:
        Path(name).unlink(missing_ok=True)


def _build() -> tuple[ctypes.CDLL | None, str]:
    """Return the loaded library and how it was compiled, or None and why not."""
    compilers = _compilers()
    if not compilers:
        return None, "no C compiler: none of $CC, cc, gcc, clang is on PATH (on Debian and Ubuntu: apt-get install gcc)"
    sources = b"".join(p.read_bytes() for p in sorted(SOURCES.glob("*.[ch]")))
    try:
        folder = _writable_folder()
    except OSError:
        return None, "no folder for the compiled kernels can be written: set LEMAMBA_CACHE or TMPDIR to one that can"
    reason = ""
    for command in compilers:
        try:
            version = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            reason = reason or f"{command[0]} --version: {error}"
            continue
        for flags in _VARIANTS:
            text = "\0".join([*_COMMON, *flags, version.stdout, _processor()]).encode()
            target = folder / f"scan-{hashlib.sha256(sources + text).hexdigest()[:20]}.so"
            complaint = None if target.is_file() else _compile(command, flags, target)
            if complaint is None:
                try:
                    library = ctypes.CDLL(str(target))
                except OSError as error:
                    complaint = str(error)
                else:
                    return library, f"compiled C, {version.stdout.splitlines()[0]}, {' '.join(flags) or 'no flags'}"
            reason = reason or f"{command[0]}: {complaint}"
    return None, f"the C kernels do not compile: {reason}"


@cache
def _built() -> tuple[ctypes.CDLL | None, str]:
    return _build()


def library() -> tuple[ctypes.CDLL | None, str]:
    """Return the compiled library (None where it cannot be had) and the reason; compiles once per process at most."""
    with _LOCK:
        return _built()


def count(function: str, *sizes: int) -> int:
    """Call a C function from integers to an integer."""
    called = getattr(_loaded(function), function)
    called.restype, called.argtypes = ctypes.c_int64, [ctypes.c_int64] * len(sizes)
    return called(*sizes)


def lanes() -> int:
    """Return how many float32 numbers a vector of the compiled kernels holds (4, 8 or 16), 0 without them."""
    return 0 if library()[0] is None else count("vector_lanes")


@torch.compiler.assume_constant_result
def serves(variable: str, least: int) -> bool:
    """Return whether a layer's compiled kernel is used: from `least` lanes on, or as the environment `variable` says.

    The variable is cpp (wherever there are kernels), torch (never), or anything else (by the number of lanes).
    """
    wanted = os.environ.get(variable, "")
    return wanted != "torch" and not is_portable() and lanes() >= (1 if wanted == "cpp" else least)


def fill(structure: ctypes.Structure, **fields: Tensor | ctypes.Structure | int | None) -> ctypes.Structure:
    """Set fields of a C structure and return it: a tensor becomes a pointer to its data, None a null pointer."""
    for name, value in fields.items():
        setattr(structure, name, value.data_ptr() if isinstance(value, Tensor) else value)
    return structure


def run(function: str, structure: ctypes.Structure) -> None:
    """Run a C function on a filled structure; ctypes releases the interpreter lock meanwhile."""
    if getattr(_loaded(function), function)(ctypes.byref(structure)):
        raise MemoryError(f"{function}: no memory for the kernel's scratch space")


def _loaded(function: str) -> ctypes.CDLL:
    found, reason = library()
    if found is None:
        raise RuntimeError(f"{function}: {reason}")
    return found
