"""Ctrl-C that is neither lost nor does harm, wherever it arrives.

Python raises KeyboardInterrupt in whatever line the main thread is in, and there are lines that cannot take it. In the
middle of an import it leaves half a module, and libraries catch it and go on: numpy then ends in a RecursionError
minutes later, or the key press had no effect at all. In a `__del__`, a weak reference's callback or one from C it is
printed and forgotten. So an interrupt waits for the end of an import, a `__del__` or what the weakref modules do, and
one that was raised is raised again until the command ends by it, but never into the clean-up that it set off. A second
key press does what it always did.

A leaf: it imports nothing of ours.
"""

from __future__ import annotations

import _weakrefset
import signal
import sys
import threading
import weakref
from types import FrameType, TracebackType
from typing import Any

RETRY_SECONDS = 0.1
_PLACES = ("<frozen importlib._bootstrap>", weakref.__file__, _weakrefset.__file__)  # the latter two: in callbacks


class Interrupts:
    """``with Interrupts(): …`` around a whole command; in other threads than the main one it does nothing."""

    def __init__(self) -> None:
        self._old: Any = None
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None
        self._sent_again = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        # where SIGINT is ignored (`nohup`, a shell's background job) or somebody else's, it stays so
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._old = signal.signal(signal.SIGINT, self._catch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        again, self._sent_again = self._sent_again, False
        first = self._watcher is None
        if first and hasattr(signal, "pthread_kill"):
            self._watcher = threading.Thread(target=self._insist, name="interrupts", daemon=True)
            self._watcher.start()
        if (first or again) and (cannot_take_it(frame) or _ending()):
            return
        raise KeyboardInterrupt

    def _insist(self) -> None:
        """Send the signal again until the command is over; whoever else has taken SIGINT meanwhile gets it once."""
        main = threading.main_thread().ident
        while not self._over.wait(RETRY_SECONDS):
            if cannot_take_it(sys._current_frames().get(main)):
                continue
            self._sent_again = ours = signal.getsignal(signal.SIGINT) == self._catch
            signal.pthread_kill(main, signal.SIGINT)
            if not ours:
                return


def cannot_take_it(frame: FrameType | None) -> bool:
    """Tell whether `frame` runs inside an import, or in a place of which Python forgets all exceptions."""
    while frame is not None:
        if frame.f_code.co_filename in _PLACES or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _ending() -> bool:
    """Tell whether what runs now cleans up after a KeyboardInterrupt."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
