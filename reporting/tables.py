"""Score tables: methods x indices, mean ± std, as people read and print them (terminal, Markdown, CSV, LaTeX).

A table is ``{method: {column: (mean, std) | number | None}}``. `DIRECTION` says which way is better for every index
and cost of the project: the best value of a column is set in bold, and training keeps the best weights by it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from lemamba.metrics import INDICES

Value = tuple[float, float] | float | None
Table = Mapping[str, Mapping[str, Value]]

# +1: larger is better, -1: smaller is better
DIRECTION = {
    **{name: index.direction for name, index in INDICES.items()},
    **dict.fromkeys(("parameters", "gflops", "s_per_mpx", "peak_mib"), -1),
}
TITLE = {
    **{name: index.heading for name, index in INDICES.items()},
    "parameters": "parameters",
    "gflops": "GFLOPs/Mpx",
    "s_per_mpx": "s/Mpx",
    "peak_mib": "peak MiB",
    "steps": "steps trained",
}


def columns_of(table: Table) -> list[str]:
    """Return all columns in the order of first appearance."""
    return list(dict.fromkeys(column for row in table.values() for column in row))


def mean_of(value: Value) -> float | None:
    """Return the number that is compared: the mean of (mean, std), the number itself, None where there is none."""
    return value[0] if isinstance(value, tuple | list) else value


def best_in(table: Table, column: str) -> float | None:
    """Return the best mean of a column; None where nothing is comparable or the direction is not known."""
    means = [mean_of(row.get(column)) for row in table.values()]
    known = [m for m in means if m is not None and not math.isnan(m)]
    if column not in DIRECTION or not known:
        return None
    return max(known) if DIRECTION[column] > 0 else min(known)


def format_value(column: str, value: Value, plus_minus: str = " ± ") -> str:
    """Write a value with the digits its column needs."""
    if value is None:
        return "–"
    if isinstance(value, tuple | list):
        digits = INDICES[column].digits if column in INDICES else 4
        std_digits = min(digits, 3)  # a deviation needs fewer, and seven indices then fit a terminal of 80 columns
        return f"{value[0]:.{digits}f}{plus_minus}{value[1]:.{std_digits}f}"
    if column in ("parameters", "peak_mib", "steps"):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def sorted_rows(table: Table, column: str) -> dict[str, Mapping[str, Value]]:
    """Return the rows, best of `column` first; those without a value last."""
    sign = -DIRECTION.get(column, 1)

    def key(name: str) -> tuple[bool, float]:
        mean = mean_of(table[name].get(column))
        missing = mean is None or math.isnan(mean)
        return missing, 0.0 if missing else sign * mean

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


def to_markdown(table: Table, columns: Sequence[str] | None = None) -> str:
    """Write a Markdown table; the best of each column is bold."""
    columns = list(columns or columns_of(table))
    lines = ["| method | " + " | ".join(TITLE.get(c, c) for c in columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(table, columns, ("**", "**"), " ± ")]
    return "\n".join(lines) + "\n"


def to_latex(table: Table, columns: Sequence[str] | None = None) -> str:
    """Write a LaTeX tabular as papers print it: mean and std in one cell, the best of each column in bold."""
    columns = list(columns or columns_of(table))
    arrow = {1: r"$\uparrow$", -1: r"$\downarrow$"}
    titles = [TITLE.get(c, c).replace("_", r"\_") + arrow.get(DIRECTION.get(c, 0), "") for c in columns]
    lines = [r"\begin{tabular}{l" + "c" * len(columns) + "}", r"\hline", "Method & " + " & ".join(titles) + r" \\"]
    lines.append(r"\hline")
    for cells in _cells(table, columns, (r"\textbf{", "}"), r"$\pm$"):
        lines.append(" & ".join([cells[0].replace("_", r"\_"), *(c.replace("–", "--") for c in cells[1:])]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def to_csv(table: Table, columns: Sequence[str] | None = None) -> str:
    """Write a CSV table with full precision: `<index>` and `<index>_std` columns; empty where there is no value."""
    columns = list(columns or columns_of(table))
    with_std = [c for c in columns if any(isinstance(row.get(c), tuple | list) for row in table.values())]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *(x for c in columns for x in ((c, f"{c}_std") if c in with_std else (c,)))])
    for name, row in table.items():
        cells: list = [name]
        for c in columns:
            value = row.get(c)
            pair = value if isinstance(value, tuple | list) else (value, None)
            cells += ["" if x is None else repr(float(x)) for x in (pair if c in with_std else pair[:1])]
        writer.writerow(cells)
    return text.getvalue()


def print_table(table: Table, title: str, columns: Sequence[str] | None = None) -> None:
    """Show a table in the terminal (rich); the best of each column is bold."""
    from rich.console import Console
    from rich.table import Table as RichTable

    columns = list(columns or columns_of(table))
    shown = RichTable(title=title)
    shown.add_column("method", no_wrap=True)
    for c in columns:
        shown.add_column(TITLE.get(c, c), justify="right", no_wrap=True)
    for cells in _cells(table, columns, ("[bold]", "[/bold]"), "\n±"):
        shown.add_row(*cells)
    Console().print(shown)
