"""How every command starts and ends: thread and memory settings, Ctrl-C, exit status. No torch here."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lemamba.utils.errors import UserError, one_line

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT, as a shell reports it
VERBOSITY = "LEMAMBA_VERBOSITY"  # "quiet" or "verbose", as the flags; children inherit it

_SPIN_COUNT = "1000"
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # from glibc's malloc.h


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command and exit with its status.

    A `UserError` becomes one line on stderr and exit status 2, Ctrl-C one line and status 130. (Training handles
    SIGINT itself: it saves a checkpoint and ends.) torch must not be imported before `main` imports it.
    """
    prepare_process()
    try:
        status = main()
    except UserError as error:
        if os.environ.get(VERBOSITY) == "verbose":
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = USER_ERROR_STATUS
    except FileNotFoundError as error:
        if "No usable temporary directory" not in str(error):  # of tempfile; packages that torch imports ask for one
            raise
        print("error: expected a folder for temporary files, none can be written; set TMPDIR to one", file=sys.stderr)
        status = USER_ERROR_STATUS
    except KeyboardInterrupt:  # temporary files have been removed by now
        newline = "\n" if sys.stderr.isatty() else ""  # the terminal shows ^C
        print(f"{newline}interrupted; all files are complete or absent", file=sys.stderr)
        status = INTERRUPTED_STATUS
    except BrokenPipeError:  # `… | head` closed the pipe, which is not an error
        sys.stderr.close()
        status = 0
    sys.exit(status or 0)


@contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, which then raises KeyboardInterrupt.

    Used around imports (libraries catch the exception and continue with half a module) and around a child process
    that handles Ctrl-C itself. If SIGINT is ignored, as for a shell's background jobs, or handled by the caller, this
    stays so; outside the main thread, where Python takes no signals, this does nothing.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def uncollected() -> Iterator[None]:
    """Import modules in this block: meanwhile nothing is searched for garbage.

    torch makes 170 thousand objects that live as long as the process; searching them again and again took a quarter of
    the time of its import. They are not frozen: Triton's library then reports its own objects as leaked at the end.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def interpreter() -> str:
    """Return what to type for this Python: ``python`` where that is this one, else its path."""
    found = shutil.which("python")
    if found is not None and Path(found).parent.samefile(Path(sys.executable).parent):
        return "python"
    here = Path(sys.executable)  # not resolved: the link in an environment is what makes it one
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def prepare_process() -> None:
    """Apply the settings that must precede the import of torch, except where the user has set them."""
    limit_spinning()
    keep_freed_memory()


@contextmanager
def own_environment() -> Iterator[None]:
    """At the end, give the environment's variables LEMAMBA_… the values that they had.

    A command sets some for its process and its children: backend of the scan, verbosity.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("LEMAMBA_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("LEMAMBA_")]:
            del os.environ[name]
        os.environ.update(before)


def limit_spinning() -> None:
    """Let waiting threads sleep soon, unless the user has set how they wait."""
    # OpenMP's threads spin for milliseconds between two parallel regions. On a busy machine they take the cores from
    # the threads that work: a training step of LE-Mamba on two cores, next to one busy process, took more than
    # twenty times as long. A short spin keeps the full speed of an idle machine (docs/training.md has the figures).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step; return whether it does now.

    Does nothing without glibc, and if the user has set MALLOC_*, GLIBC_TUNABLES or LD_PRELOAD (another allocator).
    """
    user_decides = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or user_decides:
        return False
    # A training step allocates and frees about a gigabyte in blocks of megabytes. glibc returns such blocks to the
    # kernel at once, and the next step pays for every page again: about a tenth of its time (docs/performance.md).
    # The peak of a process does not change, only what it holds between two peaks.
    settings = (
        (_TRIM_THRESHOLD, 1 << 30),  # bytes kept at the end of the heap
        (_TOP_PAD, 64 << 20),  # bytes by which the heap grows
        (_MMAP_THRESHOLD, 32 << 20),  # bytes from which a block is mapped separately: the largest that glibc accepts
    )
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in settings)


def apply_verbosity() -> None:
    """With ``--quiet``, send what this process and its children print to nowhere; errors go to stderr as ever."""
    if os.environ.get(VERBOSITY) == "quiet":
        sys.stdout.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # the descriptor, not `sys.stdout`: libraries and children write there
        os.close(nowhere)
