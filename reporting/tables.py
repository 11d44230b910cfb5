"""Score tables: methods x indices, mean ± std, for the terminal, Markdown, CSV and LaTeX.

A table is ``{method: {column: (mean, std) | (mean, std, std over seeds) | number | None}}``: std over images, and where
a method was trained several times, that of the means of its seeds. A column is an index (`lemamba.metrics.INDICES`
holds its heading, its direction and its digits) or one of `COSTS`. The best value of a column is set in bold.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence

from lemamba.metrics import EXTRA, INDICES

Value = tuple[float, ...] | float | None
Table = Mapping[str, Mapping[str, Value]]

_KNOWN = INDICES | EXTRA
COSTS = {  # column -> heading; smaller is better
    "parameters": "parameters",
    "gflops": "GFLOPs/Mpx",
    "s_per_mpx": "s/Mpx",
    "peak_mib": "peak MiB",
}
EFFORT = {"steps": "steps trained"}  # neither good nor bad
_PIPED_WIDTH = 200  # columns of a table of texts, where no terminal limits them
_WHOLE = ("parameters", "peak_mib", "steps")


def direction(column: str) -> int:
    """Return +1 if larger values of a column are better, -1 if smaller ones are, 0 if that is not known."""
    return _KNOWN[column].direction if column in _KNOWN else -(column in COSTS)


def heading(column: str, arrows: Mapping[int, str] | None = None) -> str:
    """Return the heading of a column; followed by ``arrows[direction]``, if there is one."""
    text = _KNOWN[column].heading if column in _KNOWN else (COSTS | EFFORT).get(column, column)
    return text + (arrows or {}).get(direction(column), "")


def columns_of(table: Table) -> list[str]:
    """Return all columns in the order of first appearance."""
    return list(dict.fromkeys(column for row in table.values() for column in row))


def mean_of(value: Value) -> float | None:
    """Return the number that is compared: the mean of a tuple, the number itself, or None."""
    return value[0] if isinstance(value, tuple | list) else value


def best_in(table: Table, column: str) -> float | None:
    """Return the best mean of a column; None if nothing is comparable or the direction is not known."""
    means = [mean_of(row.get(column)) for row in table.values()]
    known = [m for m in means if m is not None and not math.isnan(m)]
    if not direction(column) or not known:
        return None
    return max(known) if direction(column) > 0 else min(known)


def format_value(column: str, value: Value, plus_minus: str = " ± ") -> str:
    """Return a value as text, with the digits that its column needs."""
    if value is None:
        return "–"
    if isinstance(value, tuple | list):
        digits = _KNOWN[column].digits if column in _KNOWN else 4
        std_digits = min(digits, 3)  # a deviation needs fewer, and seven indices then fit a terminal of 80 columns
        return plus_minus.join([f"{value[0]:.{digits}f}", *(f"{std:.{std_digits}f}" for std in value[1:])])
    if column in _WHOLE:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def sorted_rows(table: Table, column: str) -> dict[str, Mapping[str, Value]]:
    """Return the rows, the best of `column` first, those without a value last."""
    sign = -(direction(column) or 1)

    def key(name: str) -> tuple[bool, float]:
        mean = mean_of(table[name].get(column))
        return (True, 0.0) if mean is None or math.isnan(mean) else (False, sign * mean)

    return {name: table[name] for name in sorted(table, key=key)}


def _cells(table: Table, columns: Sequence[str], bold: tuple[str, str], plus_minus: str) -> list[list[str]]:
    best = {c: best_in(table, c) for c in columns}
    rows = []
    for name, row in table.items():
        cells = [name]
        for c in columns:
            text = format_value(c, row.get(c), plus_minus)
            is_best = len(table) > 1 and best[c] is not None and mean_of(row.get(c)) == best[c]
            cells.append(f"{bold[0]}{text}{bold[1]}" if is_best else text)
        rows.append(cells)
    return rows


def spread(images: int, seeds: Sequence[int] = ()) -> str:
    """Return what the deviations of a table are over: its images, and for some rows the means of so many seeds."""
    text = f"mean ± standard deviation over {images} image{'' if images == 1 else 's'}"
    return text + (f", second ±: over {' or '.join(map(str, seeds))} seeds" if seeds else "")


def escape_latex(text: str) -> str:
    """Return a text as LaTeX prints it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)


def to_markdown(table: Table, columns: Sequence[str] | None = None) -> str:
    """Return a Markdown table; the best of each column is bold."""
    columns = list(columns or columns_of(table))
    lines = ["| method | " + " | ".join(heading(c) for c in columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, *cells in _cells(table, columns, ("**", "**"), " ± "):
        lines.append("| " + " | ".join([name.replace("|", r"\|"), *cells]) + " |")
    return "\n".join(lines) + "\n"


def to_latex(table: Table, columns: Sequence[str] | None = None, note: str = "") -> str:
    """Return a LaTeX tabular as papers print it: mean and std in one cell, the best of each column in bold.

    `note` becomes its last row.
    """
    columns = list(columns or columns_of(table))
    arrows = {1: r"$\uparrow$", -1: r"$\downarrow$"}
    titles = [heading(c, arrows).replace("_", r"\_") for c in columns]
    lines = [r"\begin{tabular}{l" + "c" * len(columns) + "}", r"\hline", "Method & " + " & ".join(titles) + r" \\"]
    lines.append(r"\hline")
    for cells in _cells(table, columns, (r"\textbf{", "}"), r"$\pm$"):
        lines.append(" & ".join([escape_latex(cells[0]), *(c.replace("–", "--") for c in cells[1:])]) + r" \\")
    lines.append(r"\hline")
    if note:
        text = escape_latex(note).replace("±", r"$\pm$")
        lines.append(rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{\footnotesize {text}}} \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def to_csv(table: Table, columns: Sequence[str] | None = None) -> str:
    """Return a CSV table with full precision; empty if there is no value.

    Columns are `<index>`, where there are deviations `<index>_std` (over images) and `<index>_std_seeds`.
    """
    columns = list(columns or columns_of(table))
    values = {c: [v if isinstance(v := row.get(c), tuple | list) else (v,) for row in table.values()] for c in columns}
    widths = {c: max((len(value) for value in values[c]), default=1) for c in columns}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = ("", "_std", "_std_seeds")
    writer.writerow(["method", *(c + kind for c in columns for kind in kinds[: widths[c]])])
    for i, name in enumerate(table):
        cells: list = [name]
        for c in columns:
            filled = [*values[c][i], None, None][: widths[c]]
            cells += ["" if x is None else repr(float(x)) for x in filled]
        writer.writerow(cells)
    return text.getvalue()


def print_table(table: Table, title: str, columns: Sequence[str] | None = None) -> None:
    """Print a table in the terminal; the best of each column is bold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    columns = list(columns or columns_of(table))
    shown = RichTable(title=title)
    shown.add_column("method", overflow="fold")  # a long label gives way, no digit does
    for c in columns:
        shown.add_column(heading(c), justify="right", no_wrap=True)
    for name, *cells in _cells(table, columns, ("[bold]", "[/bold]"), "\n±"):
        shown.add_row(escape(name), *cells)
    Console().print(shown)


def print_texts(rows: Mapping[str, Mapping[str, str]], title: str, columns: Sequence[str], first: str = "") -> None:
    """Print a table of texts with a dash where there is none; through a pipe it is as wide as it needs to be."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = RichTable(title=title)
    shown.add_column(first, overflow="fold")
    for column in columns:
        shown.add_column(escape(column), overflow="fold")
    for name, row in rows.items():
        shown.add_row(escape(name), *(escape(row.get(column, "–")) for column in columns))
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False).print(shown)
