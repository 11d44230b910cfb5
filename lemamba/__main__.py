"""`lemamba COMMAND …`, also as `python -m lemamba COMMAND …`: one command line for all subcommands."""

from __future__ import annotations

import importlib
import sys

from lemamba import __version__
from lemamba.utils.errors import UserError, nearest, run_cli

COMMANDS = {
    "train": "train a network",
    "fuse": "fuse a test set or a pair of GeoTIFF files",
    "evaluate": "measure fused images",
    "board": "compare methods on one test set",
    "prepare": "simulate, draw and inspect data sets",
    "reproduce": "reproduce a row of a results table",
}


def run(command: str, arguments: list[str] | None = None) -> None:
    """Run a subcommand with its arguments (default: those of the process) and exit with its status."""
    run_cli(lambda: importlib.import_module(f"lemamba.commands.{command}").main(arguments))


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return f"usage: lemamba COMMAND [--help | options]\n\ncommands:\n{rows}"


def _dispatch() -> int:
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(_usage())
        return 0
    if command == "--version":
        print(f"lemamba {__version__}")
        return 0
    if command not in COMMANDS:
        raise UserError(f'unknown command "{command}"{nearest(command, COMMANDS)}; known: {", ".join(COMMANDS)}')
    return importlib.import_module(f"lemamba.commands.{command}").main(arguments)


def main() -> None:
    """Entry point of the console script."""
    run_cli(_dispatch)


if __name__ == "__main__":
    main()
