"""What --list_models prints: every method with its task, year, parameters, and whether it needs weights."""

from __future__ import annotations

import re
import shutil

import torch

from lemamba.model import build_model, list_models, model_entry
from lemamba.model.table import SETTINGS
from lemamba.utils.registry import ModelEntry

HEADINGS = ("name", "task", "year", "parameters", "weights", "paper")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b(?!\.\d)")  # not the first half of an arXiv number


def year_of(paper: str) -> str:
    """Return the year in a reference, of several the first; "-" if it has none."""
    return (_YEAR.findall(paper) or ["-"])[0]


def parameters_of(entry: ModelEntry) -> int:
    """Return the number of parameters for 8 bands and PAN, or for 31 bands and RGB if the method needs a guide."""
    bands, guide = SETTINGS["pansharpening" if "pansharpening" in entry.tasks else "hmif"]
    sizes = {"img_channel": bands, "condition_channel": guide, "out_channel": bands}
    try:
        with torch.device("meta"):  # shapes only: nothing is filled with numbers
            network = build_model(entry.name, **sizes)
    except (RuntimeError, NotImplementedError):  # a constructor that computes
        with torch.random.fork_rng(devices=[]):
            network = build_model(entry.name, **sizes)
    return sum(p.numel() for p in network.parameters())


def weights_of(entry: ModelEntry) -> str:
    """Return whether fusing with a method needs --weights."""
    if entry.traits.adapts:
        return "trains on the image"
    if entry.traits.any_size:
        return "shipped (generic)"
    return "needed" if entry.traits.needs_weights else "none"


def rows(command: str) -> list[tuple[str, ...]]:
    """Return the rows of `HEADINGS` for "train", "fuse" or "board"; of training only what can be trained."""
    entries = [model_entry(name) for name in list_models()]
    found: list[tuple[str, ...]] = []
    for entry in entries:
        if command == "train" and not entry.traits.trained:
            continue
        learned = entry.traits.trained or entry.traits.adapts
        count = f"{parameters_of(entry):,}" if learned else "-"
        tasks = "both" if len(entry.tasks) > 1 else entry.tasks[0]
        found.append((entry.name, tasks, year_of(entry.paper), count, weights_of(entry), entry.paper))
    return found


def print_models(command: str) -> None:
    """Print the table; of the papers what fits on the terminal."""
    table = [HEADINGS, *rows(command)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADINGS) - 1)]
    room = max(20, shutil.get_terminal_size((120, 24)).columns - sum(widths) - 2 * len(widths))
    for row in table:
        cells = [
            cell.rjust(w) if i == 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=False))
        ]
        print("  ".join([*cells, row[-1][:room]]).rstrip())
    print("\nparameters: with 8 bands and PAN; with 31 bands and RGB where the task is hmif (hyperspectral and RGB)")
