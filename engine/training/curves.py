"""metrics.jsonl and metrics.csv of a run: what TensorBoard gets, as plain text that needs no package to read.

A line of metrics.jsonl is ``{"step": 50, "epoch": 2.5, "time": 31.2, "train/total": 0.012, …}``: optimizer steps,
epochs and seconds trained, all counted over every session of the run, and the values known at that step. A value that
is not finite is null. metrics.csv has one column per name; a field is empty where the line has no such value.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lemamba.utils.atomic import write_text
from lemamba.utils.errors import UserError

JSONL, CSV = "metrics.jsonl", "metrics.csv"
PICTURE_TAG = "valid/lms_pan_sr_gt_error"  # of TensorBoard
POSITION = ("step", "epoch", "time")


class Curves:
    """The files of one run. Writing never fails: a full disk costs lines, which later ones do not repeat.

    Args:
        folder: the run's folder.
        step: step at which the run is resumed; what a killed session wrote beyond it is removed. 0 = a new run.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._jsonl, self._csv = folder / JSONL, folder / CSV
        self._names: list[str] = list(POSITION)
        self._start_line = ""  # a newline after a write that may have ended half-way
        rows = [row for row in read_curves(folder) if row["step"] <= step] if step else []
        try:
            write_text(self._jsonl, "".join(_line(row) for row in rows))
            self._rewrite_csv(rows)
        except (OSError, UserError):
            self._start_line = "\n"

    def add(self, values: Mapping[str, float], *, step: int, epoch: float, seconds: float) -> None:
        """Append one line to both files."""
        row: dict[str, Any] = {"step": step, "epoch": round(epoch, 6), "time": round(seconds, 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with self._jsonl.open("a", encoding="utf-8") as file:
                file.write(self._start_line + _line(row))
            self._start_line = ""
            if all(name in self._names for name in row):
                with self._csv.open("a", encoding="utf-8", newline="") as file:
                    file.write(_csv([row], self._names))
            else:
                self._rewrite_csv(read_curves(self._jsonl.parent))
        except (OSError, UserError):
            self._start_line = "\n"

    def _rewrite_csv(self, rows: list[dict[str, Any]]) -> None:
        self._names = list(dict.fromkeys([*POSITION, *(name for row in rows for name in row)]))
        heading = dict(zip(self._names, self._names, strict=True))
        write_text(self._csv, _csv([heading, *rows], self._names))


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, [] if it has none; a line that a kill cut short is passed over."""
    try:
        text = (folder / JSONL).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _csv(rows: list[dict[str, Any]], names: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, names, lineterminator="\n").writerows(rows)
    return text.getvalue()
