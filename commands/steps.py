"""Run the project's commands as subprocesses, showing each one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from lemamba.commands import COMMANDS
from lemamba.utils.startup import delayed_interrupt, interpreter

ROOT = Path(__file__).resolve().parent.parent


def command_of(name: str, *arguments: object) -> list[str]:
    """Return the words that run a command with this interpreter, from any working folder.

    In a clone they run its script: `python -m lemamba` finds the package from the root only.
    """
    script = ROOT / COMMANDS[name].script
    start = [str(script)] if script.is_file() else ["-m", "lemamba", name]
    return [sys.executable, *start, *map(str, arguments)]


def as_typed(name: str, *arguments: object) -> str:
    """Return the command as a user can type it: `python SCRIPT …` in a clone, `lemamba NAME …` if installed.

    If the environment is not activated, the interpreter is named by its path.
    """
    script = ROOT / COMMANDS[name].script
    shown = script.name if Path.cwd() == ROOT else str(script)
    if script.is_file():
        start = [interpreter(), shown]
    else:
        start = ["lemamba", name] if interpreter() == "python" else [interpreter(), "-m", "lemamba", name]
    return shlex.join([*start, *map(str, arguments)])


def run_step(title: str, name: str, *arguments: object) -> None:
    """Show a command and run it; if it fails, exit with its status.

    Ctrl-C is left to the command (a training saves a checkpoint and ends well) and raises KeyboardInterrupt after it.
    """
    print(f"\n== {title}\n$ {as_typed(name, *arguments)}", flush=True)
    with delayed_interrupt():
        status = subprocess.Popen(command_of(name, *arguments)).wait()
    if status:
        sys.exit(status)
