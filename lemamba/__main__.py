"""`lemamba COMMAND …`, also as `python -m lemamba COMMAND …`: one command line for all subcommands.

Parsing loads no torch, so ``--help`` is instant; the module of the command is imported afterwards.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from lemamba import __version__
from lemamba.commands import COMMANDS, parse
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.startup import delayed_interrupt, run_cli


def run(command: str) -> None:
    """Run a command with the arguments of the process, as its script does, and exit with its status."""
    run_cli(lambda: _run(command, sys.argv[1:], Path(sys.argv[0]).name))


def main() -> None:
    """Entry point of the console script."""
    run_cli(_dispatch)


def _run(command: str, argv: list[str], prog: str) -> int | None:
    options = parse(command, argv, prog)
    with delayed_interrupt():  # libraries cannot be interrupted in the middle of an import
        module = importlib.import_module(f"lemamba.commands.{command}")
    return module.run(options)


def _dispatch() -> int | None:
    command, *argv = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        rows = "\n".join(f"  {name:<10} {entry.text}" for name, entry in COMMANDS.items())
        print(
            f"usage: lemamba COMMAND [--help | options]\n\ncommands:\n{rows}\n\nlemamba --version prints the version."
        )
        return 0
    if command == "--version":
        print(f"lemamba {__version__}")
        return 0
    if command not in COMMANDS:
        raise UserError(f'unknown command "{command}"{nearest(command, COMMANDS)}; known: {", ".join(COMMANDS)}')
    return _run(command, argv, f"lemamba {command}")


if __name__ == "__main__":
    main()
