"""`make gpu` rehearsed on a CPU: a run on a GPU, which is rare, does not end for what a CPU could have shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

HERE = Path(__file__).resolve().parent

if torch.cuda.is_available():
    pytest.skip("this machine has a GPU: run make gpu", allow_module_level=True)


def gpu_tests() -> list[Path]:
    """Return the files that `make gpu` runs, in its order; each holds a test marked gpu, and no other file does."""
    listed = re.search(r"^GPU_TESTS := (.*)$", (HERE.parent / "Makefile").read_text(), flags=re.M)[1].split()
    files = [HERE.parent / f"tests/test_{name}.py" for name in listed]
    marked = {p for p in HERE.glob("test_*.py") if "mark.gpu" in p.read_text() and p.name != Path(__file__).name}
    assert set(files) == marked
    return files


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-3000:]
    return done.stdout


def test_every_gpu_test_runs(tmp_path):
    """Nothing is skipped but DeepSpeed, where it is not installed; every file with a test marked gpu takes part."""
    files = gpu_tests()
    report = tmp_path / "report.xml"
    plugins = ["-p", "gpu_rehearsal", "-p", "no:cacheprovider", f"--junitxml={report}"]
    run("-m", "pytest", "-m", "gpu", *plugins, *map(str, files))
    passed, reasons = set(), []
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is None:
            passed.add(case.attrib["classname"].rpartition(".")[2])
        else:
            reasons.append(skipped.attrib["message"])
    assert passed == {p.stem for p in files}
    known = ("deepspeed is not installed", "each compiles its own kernels")
    assert all(any(text in reason for text in known) for reason in reasons), reasons


def test_the_benchmark_writes_every_row(tmp_path):
    out = run(str(HERE / "gpu_rehearsal.py"), str(tmp_path))
    results = json.loads((tmp_path / "scan_gpu.json").read_text())
    assert [(row["variant"], "ms" in row, len(row["kernels"])) for row in results["steps"]] == [("tiny", True, 15)]
    assert results["steps"][0]["counted"]["kernels"] < 1500, "as where there is no GPU (docs/performance.md)"
    assert len(results["rows"]) == 24
    assert all("ms" in row["triton"] and "ms" in row["mamba_ssm"] for row in results["rows"]), results["rows"]
    assert (tmp_path / "scan_gpu.md").read_text().count("\n|") == 3 + 26
    assert "no comparison" not in out


def test_make_gpu_starts_these_within_ten_minutes(monkeypatch):
    """What a GPU is lent for in one piece: the kernels' compiling beside the tests, then the measurements."""
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    printed = subprocess.run(
        [make, "-n", "gpu", "PY=python3"], cwd=HERE.parent, capture_output=True, text=True, check=True
    ).stdout
    assert "pip" not in printed, "PY=python3 needs no network"
    warm, tests, measured = (
        re.search(pattern, printed)
        for pattern in (
            r"-m benchmarks\.gpu_warm --limit (\d+) &",
            r"timeout .* (\d+) python3 -m pytest -m gpu (.*?);",
            r"timeout .* (\d+) python3 -m benchmarks\.gpu --limit (\d+)",
        )
    )
    assert [HERE.parent / name for name in tests[2].split()] == gpu_tests(), "a file of the list, or a test marked gpu"
    assert int(measured[2]) < int(measured[1]), "its own limit comes first: what was measured is reported"
    assert max(int(warm[1]), int(tests[1])) + int(measured[1]) <= 560
