"""Pairs of images on the command line: how they are related, and the list that `fuse --list` reads."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from lemamba.commands.options import FuseOptions, PairOptions, RegisteredOptions
from lemamba.datasets.opening import Relation
from lemamba.utils.command_line import parse_options
from lemamba.utils.errors import UserError, nearest

NEEDED = ("ms", "pan", "out")
OPTIONAL = ("sensor", "divisor", "nodata", "bands", "dtype", "rgb_png")
SEPARATOR = ";"  # between the files of one image


def relation_of(options: PairOptions) -> Relation:
    """Return how the two images of these options are brought together."""
    register = isinstance(options, RegisteredOptions) and options.register
    return Relation(options.allow_remote, options.assume_aligned, register)


def read_pairs(path: Path, common: FuseOptions) -> list[FuseOptions]:
    """Read a list of pairs.

    Args:
        path: CSV with the columns ms, pan, out and perhaps those of `OPTIONAL`. An empty cell leaves the option of the
            command line; of pan it means that the file or folder of ms holds both. Paths are relative to the working
            folder, several files of one image are separated by ";".
        common: the options of the command line.

    Returns:
        The options of every pair.

    Raises:
        UserError: the file cannot be read, a column is unknown or missing, a value is wrong, or two results have one
            name; with the number of the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'cannot read "{path}" as CSV: {error}; give a text file with columns ms,pan,out') from error
    unknown = next((name for name in columns if name not in (*NEEDED, *OPTIONAL)), None)
    if unknown is not None:
        hint = nearest(unknown, (*NEEDED, *OPTIONAL))
        raise UserError(f'{path}: unknown column "{unknown}"{hint}; known: {", ".join((*NEEDED, *OPTIONAL))}')
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise UserError(f"{path}: expected the columns {', '.join(NEEDED)}, missing: {', '.join(missing)}; add them")
    pairs = [_options(path, number, row, common) for number, row in lines]
    if not pairs:
        raise UserError(f'expected at least one pair in "{path}", found none; add lines below the heading')
    seen: dict[Path, int] = {}
    for (number, _), pair in zip(lines, pairs, strict=True):
        out = Path(str(pair.out)).absolute()
        if out in seen:
            raise UserError(f"{path}: lines {seen[out]} and {number} both write {pair.out}; name them apart")
        seen[out] = number
    return pairs


def _options(path: Path, number: int, row: dict[str, str | None], common: FuseOptions) -> FuseOptions:
    """Return the options of one line."""
    if None in row or None in row.values():
        raise UserError(f"{path}, line {number}: expected as many cells as columns; correct it")
    cells = {name: (text or "").strip() for name, text in row.items()}
    empty = [name for name in ("ms", "out") if not cells[name]]
    if empty:
        raise UserError(f"{path}, line {number}: {' and '.join(empty)} empty; fill the cell")
    arguments = []
    for name, text in cells.items():
        values = [part.strip() for part in text.split(SEPARATOR)] if name in ("ms", "pan") else [text]
        if text and len(values) > 1:
            arguments += [f"--{name}", *values]
        elif text:
            arguments.append(f"--{name}={text}")  # it may begin with a dash
    try:
        given = parse_options(FuseOptions, arguments)
    except UserError as error:
        raise UserError(f"{path}, line {number}: {error}") from error
    return replace(common, **{name: getattr(given, name) for name, text in cells.items() if text})
