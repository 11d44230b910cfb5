"""Python and Octave give one number: every index, on the same files, 1e-9 relative in double.

The images are those of `benchmarks/parity_cases.py`, the two runs those of `benchmarks/parity_metrics.py`, which prints
them as a table.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from benchmarks.parity_cases import ROOT, Case, golden_cases, seeded_cases, shared_golden
from benchmarks.parity_metrics import (
    INSTALL_OCTAVE,
    case_difference,
    difference,
    find_octave,
    octave_values,
    python_values,
    run_octave,
)
from lemamba.commands import evaluate, fuse, parse, prepare
from lemamba.metrics import INDICES, REDUCED_NAMES

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
    assert abs(found - given) > 1e-4  # given as 1, values above it are clipped
    assert math.isnan(by_name["full, 1 bands, 32x64"]["d_lambda"])
    ikonos, alias = by_name["full, IKONOS"], by_name["full, QB, published"]
    assert alias == ikonos and by_name["full, qb"]["d_lambda_k"] != ikonos["d_lambda_k"]


def test_every_index_is_compared() -> None:
    assert {i for c in _SEEDED for i in c.indices} == set(INDICES)


# The lines of the published README of LE-Mamba ("Testing"), word for word; its comments say what the names stand for.
ENTER = "cd Pansharpening_Hyper_SR_Matlab_Test_Package"
REDUCED = "analysis_ref_batched_images(path, ratio, full_res, const)"
FULL = "analysis_unref_batched_images(path, ratio, sensor)"
PRINTED = {"q_ave": "qave", "qnr_index": "hqnr", "d_lambda": "d_lambda_k"}  # MATLAB's name -> ours, where they differ


def fused_files(folder: Path) -> dict[str, Path]:
    """Run prepare and fuse as a user does: pansharpening at reduced and full resolution, and a hyperspectral cube."""
    options = ["synthetic", "--name", "mine", "--size", "128", "--sensor", "QB"]
    prepare.run(parse("prepare", [*options, "--out", str(folder)]))
    rng = np.random.default_rng(0)
    cube = (rng.random((31, 12, 8)).repeat(8, 1).repeat(8, 2) + 0.1 * rng.random((31, 96, 64))) / 1.2
    savemat(folder / "cube.mat", {"Y": cube.transpose(0, 2, 1).reshape(31, -1), "nRow": 96, "nCol": 64})
    options = ["simulate", str(folder / "cube.mat"), "--name", "lab_x4", "--test_only", "--scale", "1"]
    prepare.run(parse("prepare", [*options, "--out", str(folder)]))
    files = {}
    sets = {"ref": "test_mine_multiExm1", "unref": "test_mine_OrigScale_multiExm1", "hmif": "test_lab_x4"}
    for name, data in sets.items():
        files[name] = folder / f"{name} (fusioniert für MATLAB).mat"
        arguments = ["--data", folder / f"{data}.h5", "--arch", "EXP", "--out", files[name]]
        fuse.run(parse("fuse", [str(a) for a in (*arguments, "--pictures", 0)]))
    return files


def printed_by_evaluate(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Column -> the texts of the samples, the mean and the std in the table of `evaluate.py FILE`."""
    capsys.readouterr()
    evaluate.run(parse("evaluate", [str(file)]))
    lines = [line.split() for line in capsys.readouterr().out.replace("± std", "std").splitlines()]
    names = next(line for line in lines if line[:1] == ["sample"])
    table = [line for line in lines if len(line) == len(names) and (line[0].isdigit() or line[0] in ("mean", "std"))]
    return {name: [line[k] for line in table] for k, name in enumerate(names) if k}


def printed_by_octave(output: str) -> dict[str, list[str]]:
    """Index -> the texts of the samples, the mean and the std that a script printed."""
    found: dict[str, list[str]] = {}
    for line in output.splitlines():
        if not line.startswith(("sample ", "mean of ")):
            continue
        for pair in line.split(" - ", 1)[1].split(", "):
            name, numbers = pair.split(": ")
            found.setdefault(name, []).extend(numbers.split(" +- "))
    return found


def test_the_published_lines_print_the_digits_of_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published MATLAB lines, on files that inference.py wrote, print the numbers that evaluate.py prints."""
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    files = fused_files(tmp_path)
    script = ["rmpath(fileparts(which('analysis_ref_batched_images')));", ENTER]
    for name, values, call in (
        ("ref", "ratio = 4; full_res = 1; const = 2047;", REDUCED),
        ("unref", "ratio = 4; sensor = 'QB';", FULL),
        ("hmif", "ratio = 4; full_res = 1; const = 1;", REDUCED),
    ):
        script += [f"path = '{files[name]}'; {values}", f"disp('--- {name}');", f"{call};"]
    output = run_octave("\n".join(script), ROOT)
    for name, part in zip(files, output.split("--- ")[1:], strict=True):
        octave, ours = printed_by_octave(part), printed_by_evaluate(files[name], capsys)
        published = (
            ["d_lambda", "qnr_index", "d_s"] if name == "unref" else [*REDUCED_NAMES[:4], "q_ave", "psnr", "ssim"]
        )
        assert list(octave) == published
        for index, texts in octave.items():
            assert texts == ours[PRINTED.get(index, index)][: len(texts)], (name, index)
            assert len(texts) == (1 if name == "hmif" else 6), "four samples, mean and std; one sample has no mean"
