"""Steps of a longer way: commands of the project, each shown as one would type it and run in a process of its own."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED_STATUS = 130


def run_step(title: str, *command: str) -> None:
    """Show a command and run it with this interpreter; its failure ends the program with the same status.

    Ctrl-C is the command's to deal with (a training saves where it stands and then ends well); the way ends after it,
    with status 130.
    """
    print(f"\n== {title}\n$ python {shlex.join(command)}", flush=True)
    pressed = []
    main = signal.getsignal(signal.SIGINT) is not None
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True)) if main else None
    try:
        status = subprocess.Popen([sys.executable, *command], cwd=ROOT).wait()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if status or pressed:
        sys.exit(INTERRUPTED_STATUS if pressed else status)
