"""`lemamba COMMAND …`, also as `python -m lemamba COMMAND …`: one command line for all subcommands.

Parsing loads no torch, so ``--help`` is instant; the module of the command is imported afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from pathlib import Path

from lemamba import __version__
from lemamba.commands import COMMANDS, parse
from lemamba.utils.startup import VERBOSITY, apply_verbosity, delayed_interrupt, run_cli, uncollected


def run(command: str) -> None:
    """Run a command with the arguments of the process, as its script does, and exit with its status."""
    run_cli(lambda: _run(command, sys.argv[1:], Path(sys.argv[0]).name))


def main() -> None:
    """Entry point of the console script."""
    run_cli(_dispatch)


def _run(command: str, argv: list[str], prog: str) -> int | None:
    options = parse(command, argv, prog)
    apply_verbosity()
    started = time.perf_counter()
    with delayed_interrupt(), uncollected():  # libraries cannot be interrupted in the middle of an import
        module = importlib.import_module(f"lemamba.commands.{command}")
    status = module.run(options)
    if os.environ.get(VERBOSITY) == "verbose":
        _print_cost(time.perf_counter() - started)
    return status


def _print_cost(seconds: float) -> None:
    """Print what the process took; no torch may have been imported."""
    memory = ""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        memory = f", at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.0f} MiB of memory"
    print(f"lemamba {__version__}, Python {sys.version.split()[0]}: {seconds:.1f} s{memory}", file=sys.stderr)


def _dispatch() -> int | None:
    command, *argv = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        rows = "\n".join(f"  {name:<10} {entry.text}" for name, entry in COMMANDS.items())
        print(
            f"usage: lemamba COMMAND [--help | options]\n\ncommands:\n{rows}\n\nlemamba --version prints the version. "
            "What each command does: docs/command_line.md."
        )
        return 0
    if command == "--version":
        print(f"lemamba {__version__}")
        return 0
    return _run(command, argv, f"lemamba {command}")


if __name__ == "__main__":
    main()
