"""The commands: where model, data, metrics and engine meet. Here: their names and their command lines; no torch."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lemamba.commands import options
from lemamba.utils import command_line, config
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.progress import in_notebook
from lemamba.utils.startup import INTERRUPTED_STATUS, VERBOSITY, own_environment, prepare_process


@dataclass(frozen=True)
class Command:
    """A subcommand of `lemamba`; the module of its name has ``run(options) -> exit status``.

    Attributes:
        script: the script in the repository root that does the same; "" = none.
        text: one line for the overview.
        options: its options; for a command with further subcommands, by their names.
    """

    script: str
    text: str
    options: Any


PREPARE = {
    "simulate": options.SimulateOptions,
    "cave": options.CaveOptions,
    "harvard": options.HarvardOptions,
    "estimate": options.EstimateOptions,
    "synthetic": options.SyntheticOptions,
    "generic": options.GenericOptions,
    "inspect": options.InspectOptions,
    "repack": options.RepackOptions,
}
COMMANDS = {
    "train": Command("accelerate_main.py", "train a network", config.TrainOptions),
    "fuse": Command("inference.py", "fuse a test set or a pair of GeoTIFF files", options.FuseOptions),
    "adapt": Command("", "train a network on one's own scene, and fuse it", options.AdaptOptions),
    "evaluate": Command("evaluate.py", "measure fused images", options.EvaluateOptions),
    "board": Command("leaderboard.py", "compare methods on one test set", options.BoardOptions),
    "runs": Command("", "list, filter and compare training runs", options.RunsOptions),
    "report": Command("", "write an HTML page of training runs", options.ReportOptions),
    "prepare": Command("prepare_data.py", "simulate, draw, inspect and repack data sets", PREPARE),
    "reproduce": Command("reproduce.py", "reproduce a row of a results table", options.ReproduceOptions),
    "export": Command("", "write a trained network as an ONNX file", options.ExportOptions),
    "demo": Command("demo.py", "train, fuse and measure on synthetic data in three minutes", options.DemoOptions),
    "doctor": Command("", "examine this machine, and say what to do", options.DoctorOptions),
    "completion": Command("", "print the completion of a shell", options.CompletionOptions),
}
LISTING = ("train", "fuse", "board")  # commands that take the name of a method


class _ListModels(argparse.Action):
    """Prints the methods of a command and ends, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        importlib.import_module("lemamba.commands.listing").print_models(self.const)
        parser.exit()


def parser_of(name: str, prog: str | None = None) -> command_line.Parser:
    """Return the parser of a command, a key of `COMMANDS`; `prog` is its name in the usage line."""
    kinds = COMMANDS[name].options
    if isinstance(kinds, dict):
        parser = command_line.Parser(prog=prog, description=COMMANDS[name].text.capitalize() + ".")
        subparsers = parser.add_subparsers(
            dest="subcommand", required=True, metavar="COMMAND", parser_class=command_line.Parser
        )
        for key, cls in kinds.items():
            summary, _, _ = (cls.__doc__ or "").partition("\n")
            subparsers.add_parser(key, help=summary, cls=cls)
        return parser
    training = kinds is config.TrainOptions
    parser = config.build_parser(prog) if training else command_line.Parser(kinds, prog=prog)
    if name in LISTING:
        text = "list the methods: task, year, parameters, whether they need weights"
        parser.add_argument("--list_models", action=_ListModels, nargs=0, const=name, help=text)
    return parser


def parse(name: str, argv: list[str] | None = None, prog: str | None = None) -> Any:
    """Read the command line of a command into its options.

    Args:
        name: that of the command.
        argv: the arguments; default: those of the process.
        prog: name of the program in the usage line; default: the script's.

    Raises:
        UserError: an unknown command or flag, a missing argument or a bad value.
    """
    if name not in COMMANDS:
        raise UserError(f'unknown command "{name}"{nearest(name, COMMANDS)}; known: {", ".join(COMMANDS)}')
    kinds = COMMANDS[name].options
    given = vars(parser_of(name, prog).parse_args(argv))
    if kinds is config.TrainOptions:
        return config.read(given)
    return command_line.read_options(kinds[given["subcommand"]] if isinstance(kinds, dict) else kinds, given)


def run(command: str, *arguments: object) -> int | None:
    """Run a command in this process, as ``lemamba COMMAND ARGUMENT …`` does in a shell: for notebooks and scripts.

    Progress is shown as a bar in a notebook. Settings that a command makes for its process (`--quiet`,
    `--scan_backend`) end with it; torch's generator is seeded where the command seeds it.

    Args:
        command: "train", "fuse", "adapt", "evaluate", "board", "prepare", …: see ``lemamba --help``.
        *arguments: words of the command line, one by one; paths and numbers need not be strings.

    Returns:
        None where a shell would see status 0, else that status.

    Raises:
        lemamba.utils.errors.UserError: what a shell would see as one line and status 2.
        KeyboardInterrupt: the command was interrupted; all files are complete or absent.

    Example::

        >>> import lemamba
        >>> lemamba.run("fuse", "--arch", "GSA", "--ms", "ms.tif", "--pan", "no.tif", "--out", "fused.tif")
        Traceback (most recent call last):
        lemamba.utils.errors.UserError: no such file: ms.tif
    """
    with own_environment():
        try:
            words = [str(argument) for argument in arguments]
            options = parse(command, words, f"lemamba {command}")
            prepare_process()
            with _quiet(), _arguments("lemamba", command, *words):
                status = importlib.import_module(f"lemamba.commands.{command}").run(options)
        except SystemExit as end:  # --help, and a step of `reproduce` that failed
            status = end.code
    if status == INTERRUPTED_STATUS:
        raise KeyboardInterrupt
    return status or None


@contextlib.contextmanager
def _arguments(*words: str) -> Iterator[None]:
    """Let the process have these arguments: reports record the command that made them."""
    before = sys.argv
    sys.argv = list(words)
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """After ``--quiet``, show nothing; unlike `apply_verbosity`, the process has its output again afterwards."""
    with contextlib.ExitStack() as stack:
        if os.environ.get(VERBOSITY) == "quiet":
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if in_notebook():  # tables are displayed there, not printed
                capture = importlib.import_module("IPython.utils.capture")
                stack.enter_context(capture.capture_output(stdout=False, stderr=False))
        yield
