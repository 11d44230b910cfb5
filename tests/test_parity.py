"""Python and Octave give one number: every index, on the same files, 1e-9 relative in double.

The images are those of `benchmarks/parity_cases.py`, the two runs those of `benchmarks/parity_metrics.py`, which prints
them as a table.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.parity_cases import Case, full_case, golden_cases, reduced_case, seeded_cases, shared_golden
from benchmarks.parity_metrics import (
    INSTALL_OCTAVE,
    case_difference,
    difference,
    find_octave,
    octave_values,
    python_values,
    run_octave,
)
from lemamba.commands import evaluate, parse
from lemamba.metrics import INDICES
from lemamba.utils.formats.mat import write_mat

TOLERANCE = 1e-9
_SEEDED = seeded_cases()
_NAMES = [case.name for case in _SEEDED]

Values = list[dict[str, float]]


def _score(cases: list[Case], folder: Path) -> tuple[Values, Values]:
    """Score in one Octave run and in Python from the same files."""
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    return octave_values(cases, folder), python_values(cases, folder)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Values, Values]:
    return _score(_SEEDED, tmp_path_factory.mktemp("seeded"))


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory, shared) -> tuple[list[Case], Values, Values]:
    shared("golden/metrics/golden.json")
    cases = golden_cases(shared_golden())
    return cases, *_score(cases, tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("k", range(len(_SEEDED)), ids=_NAMES)
def test_octave_equals_python(seeded: tuple[Values, Values], k: int) -> None:
    octave, python = seeded[0][k], seeded[1][k]
    gaps = {i: case_difference(_SEEDED[k], i, octave[i], python[i]) for i in _SEEDED[k].indices}
    assert max(gaps.values()) < TOLERANCE, (gaps, octave, python)


def test_octave_and_python_equal_the_golden_numbers(golden: tuple[list[Case], Values, Values]) -> None:
    for case, octave, python in zip(*golden, strict=True):
        for index, value in case.golden.items():
            assert difference(octave[index], value) < TOLERANCE, (case.name, index, "Octave")
            assert difference(python[index], value) < TOLERANCE, (case.name, index, "Python")


def test_the_cases_cover_what_is_promised() -> None:
    reduced = [c for c in _SEEDED if c.sensor is None]
    full = [c for c in _SEEDED if c.sensor is not None]
    for part in (reduced, full):
        assert {c.images["sr"].shape[1] for c in part} >= {1, 3, 4, 8, 31, 102}
        assert {c.ratio for c in part} >= {2, 4, 8}
        assert any(c.published for c in part)
    assert {c.const for c in reduced} >= {1, 255, 1023, 2047}
    assert sum(any(side % 32 for side in c.images["sr"].shape[2:]) for c in reduced) >= 5
    assert len(set(_NAMES)) == len(_NAMES)


def test_the_degenerate_cases_are_degenerate(seeded: tuple[Values, Values]) -> None:
    """A parity of two numbers proves nothing about a case that does not reach the branch it is for."""
    by_name = dict(zip(_NAMES, seeded[0], strict=True))
    black = by_name["reduced, all black"]
    assert math.isnan(black["sam"]) and math.isnan(black["ergas"]) and math.isnan(black["scc"])
    assert black["psnr"] == math.inf
    assert by_name["reduced, equal images"] == pytest.approx(
        {"sam": 0, "ergas": 0, "scc": 1, "qn": 1, "qave": 1, "psnr": math.inf, "ssim": 1}
    )
    for index in ("d_s", "d_lambda"):
        assert math.isnan(by_name["full, flat blocks, published"][index])
        assert math.isfinite(by_name["full, flat blocks"][index])
    for name, index in (("reduced, const 1", "qn"), ("full, values up to 1", "d_lambda_k")):
        assert abs(by_name[name][index] - by_name[f"{name}, published"][index]) > 0.01
    found, given = (by_name[f"full, values up to 1.2{const}"]["d_lambda_k"] for const in ("", ", const 1 given"))
    assert abs(found - given) > 0.01
    assert math.isnan(by_name["full, 1 bands, 32x64"]["d_lambda"])
    ikonos, alias = by_name["full, IKONOS"], by_name["full, QB, published"]
    assert alias == ikonos and by_name["full, qb"]["d_lambda_k"] != ikonos["d_lambda_k"]


def test_every_index_is_compared() -> None:
    assert {i for c in _SEEDED for i in c.indices} == set(INDICES)


def test_evaluate_and_octave_print_the_same_digits(tmp_path: Path) -> None:
    """The same file through the two commands a user types."""
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    pair = [reduced_case("", seed, 4, 64, 64) for seed in (21, 22)]
    full = [full_case("", seed, 4, 64, 64) for seed in (23, 24)]
    for name, cases in (("ref", pair), ("unref", full)):
        write_mat(tmp_path / f"{name}.mat", {k: np.concatenate([c.images[k] for c in cases]) for k in cases[0].images})
    calls = "analysis_ref_batched_images('ref.mat', 4, 0, 2047); analysis_unref_batched_images('unref.mat', 4, 'QB');"
    printed = [line.split(" - ")[1] for line in run_octave(calls, tmp_path).splitlines() if line.startswith("sample")]
    reduced = _evaluated(tmp_path / "ref.mat", "--const", "2047")
    unref = _evaluated(tmp_path / "unref.mat", "--sensor", "QB")
    names = {"q_ave": "qave", "qnr_index": "hqnr", "d_lambda": "d_lambda_k"}  # printed -> ours
    for samples, lines in ((reduced, printed[:2]), (unref, printed[2:])):
        for k, line in enumerate(lines):
            for pair_of_text in line.split(", "):
                name, digits = pair_of_text.split(": ")
                assert f"{samples[names.get(name, name)][k]:.6f}" == digits, name


def _evaluated(file: Path, *flags: str) -> dict[str, list[float]]:
    return evaluate.evaluate(parse("evaluate", [str(file), "--ratio", "4", *flags])).samples
