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
    pressed: list[int] = []
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a shell's background job: so it stays
    before = signal.SIG_IGN if ignored else signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        status = subprocess.Popen([sys.executable, *command], cwd=ROOT).wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if status or pressed:
        sys.exit(INTERRUPTED_STATUS if pressed else status)


def command_of(name: str, *arguments: object) -> list[str]:
    """Return the words that run a command with this interpreter, from any working folder."""
    script = ROOT / {"train": "accelerate_main.py"}[name]
    start = [str(script)] if script.is_file() else ["-m", "lemamba", name]
    return [sys.executable, *start, *map(str, arguments)]
