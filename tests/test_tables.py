"""Score tables: order, the best in bold, and files that read back to the same numbers."""

from __future__ import annotations

import csv
import io

import pytest

from lemamba import metrics
from lemamba.engine.training.validate import minimised
from lemamba.reporting.tables import best_in, direction, heading, sorted_rows, to_csv, to_latex, to_markdown

TABLE = {
    "EXP": {"psnr": (27.5, 1.0), "ergas": (4.7, 0.2), "parameters": 0},
    "my_net": {"psnr": (33.123456789, 2.0), "ergas": (2.3, 0.1), "parameters": 743464},
    "broken": {"psnr": None, "ergas": (float("nan"), 0.0)},
}


def test_best_follows_the_direction_and_skips_what_is_missing():
    assert best_in(TABLE, "psnr") == 33.123456789
    assert best_in(TABLE, "ergas") == 2.3
    assert best_in(TABLE, "unknown") is None


def test_every_index_has_a_direction_and_training_follows_it():
    assert all(direction(name) for name in metrics.INDICES) and direction("steps") == direction("unknown") == 0
    assert heading("qn", {1: "+"}) == "Q2n+" and heading("s_per_mpx", {-1: "-"}) == "s/Mpx-"
    assert heading("unknown", {1: "+"}) == "unknown"
    smaller = {name for name in ("loss", *metrics.REDUCED_NAMES, *metrics.FULL_NAMES) if minimised(name)}
    assert smaller == {"loss", "sam", "ergas", "d_lambda_k", "d_s", "d_lambda"}


@pytest.mark.parametrize(
    ("column", "order"), [("psnr", ["my_net", "EXP", "broken"]), ("parameters", ["EXP", "my_net", "broken"])]
)
def test_rows_are_sorted_best_first(column, order):
    assert list(sorted_rows(TABLE, column)) == order


def test_csv_reads_back_exactly():
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert float(rows[1]["psnr"]) == 33.123456789 and float(rows[1]["psnr_std"]) == 2.0
    assert rows[1]["parameters"] == "743464.0" and rows[2]["parameters"] == ""
    assert "parameters_std" not in rows[0]


def test_the_two_d_lambda_have_two_names():
    """The index of HQNR (Khan) and that of QNR (Alparone); elsewhere the bare name is QNR's."""
    table = {"EXP": {"d_lambda_k": (0.03, 0.0), "d_lambda": (0.05, 0.0)}}
    assert "| D_lambda_K | D_lambda |" in to_markdown(table)
    assert r"D\_lambda\_K$\downarrow$ & D\_lambda$\downarrow$" in to_latex(table)
    assert to_csv(table).startswith("method,d_lambda_k,d_lambda_k_std,d_lambda,")


def test_bold_and_escapes():
    markdown, latex = to_markdown(TABLE), to_latex(TABLE)
    assert "| my_net | **33.12 ± 2.00** | **2.3000 ± 0.100** | 743,464 |" in markdown
    assert r"my\_net & \textbf{33.12$\pm$2.00}" in latex and r"PSNR$\uparrow$" in latex
    assert "| broken | – |" in markdown
