"""`make gpu` rehearsed on a CPU: a run on a GPU, which is rare, does not end for what a CPU could have shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

HERE = Path(__file__).resolve().parent

if torch.cuda.is_available():
    pytest.skip("this machine has a GPU: run make gpu", allow_module_level=True)


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
    files = [p for p in sorted(HERE.glob("test_*.py")) if "mark.gpu" in p.read_text() and p.name != Path(__file__).name]
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
    assert len(results["rows"]) == 24
    assert all("ms" in row["triton"] and "ms" in row["mamba_ssm"] for row in results["rows"]), results["rows"]
    assert (tmp_path / "scan_gpu.md").read_text().count("\n|") == 26
    assert "no comparison" not in out


def test_make_gpu_starts_these():
    recipe = (HERE.parent / "Makefile").read_text().partition("\ngpu:")[2].partition("\n\n")[0]
    for part in ("-m pytest -m gpu", "-m benchmarks.gpu_warm", "-m benchmarks.gpu "):
        assert part in recipe
