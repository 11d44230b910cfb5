"""SIGTERM, SIGINT and SLURM's SIGUSR1 ask the loop to stop after the step it is in; a second one stops at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """``with StopRequest() as stop: …; if stop.name: …``. The old handlers come back at the end.

    Outside the main thread (a notebook's worker) Python cannot take signals; then nothing is caught.
    """

    def __init__(self) -> None:
        self.name = ""
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        wanted = [getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, n)]
        try:
            for number in wanted:
                self._old[number] = signal.signal(number, self._catch)
        except ValueError:
            self._old = {}
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        for caught, old in self._old.items():
            if caught == number:
                signal.signal(caught, old)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
