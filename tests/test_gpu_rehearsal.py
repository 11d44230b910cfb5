"""`make gpu` rehearsed on a CPU: a run on a GPU, which is rare, does not end for what a CPU could have shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_every_gpu_test_runs():
    """Nothing is skipped but DeepSpeed, where it is not installed; every file with a test marked gpu takes part."""
    files = [p for p in sorted(HERE.glob("test_*.py")) if "mark.gpu" in p.read_text() and p.name != Path(__file__).name]
    out = run(
        "-m", "pytest", "-p", "gpu_rehearsal", "-m", "gpu", "-rs", "-v", "-p", "no:cacheprovider", *map(str, files)
    )
    passed = {line.split("::")[0].rpartition("/")[2] for line in out.splitlines() if " PASSED" in line}
    assert passed == {p.name for p in files}
    skipped = [line for line in out.splitlines() if line.startswith("SKIPPED")]
    assert all("deepspeed is not installed" in line or "each compiles its own kernels" in line for line in skipped)


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
