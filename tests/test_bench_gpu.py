"""The GPU benchmark's own logic, without a GPU: a failing cell is reported and the rest goes on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_warm
from lemamba.utils.errors import UserError


def test_a_failing_cell_is_its_result(capsys):
    def call(inputs):
        raise RuntimeError("out of resources\nmore")

    cell = gpu.one(call, lambda *_: {"x": torch.zeros(2)}, (1, 1, 1, 1), "float32", False, 1e12)
    assert cell == {"failed": "RuntimeError: out of resources"}
    assert "out of resources" in capsys.readouterr().err


def test_the_page_has_a_row_for_everything():
    cell = {"ms": 2.0, "memory_gb": 0.5, "share_of_exp_floor": 0.5, "share_of_bytes_floor": 0.25}
    row = {"kind": "scan", "shape": [1, 2, 3, 4], "dtype": "float32", "backward": True}
    results = {"device": "X", "date": "d", "torch": "t", "cuda": "c", "triton": "r", "copy_gb_per_s": 1, "left_out": 5}
    counted = {"floor_ms": 33.0, "peak_gb": 13.8, "gb": 88.2, "kernels": 1789}
    step = {"variant": "base", "precision": "no", "counted": counted}
    results["steps"] = [{**step, "ms": 99.0, "peak_gb": 14.5, "kernels": {"k": 7.0}}, {**step, "failed": "E: memory"}]
    rows = [{**row, "triton": cell, "mamba_ssm": {**cell, "ms": 7.0}}, {**row, "triton": cell},
            {**row, "triton": {"failed": "E: no"}, "mamba_ssm": cell}]  # fmt: skip
    page = gpu.markdown({**results, "rows": rows}).splitlines()
    assert "| base | float32 | 99.0 ms | 33.0 ms | 14.5 GB | 13.8 GB | k 7.0 ms |" in page
    assert "| base | no | E: memory | | | | |" in page and "5 rows were left out" in page[2]
    lines = page[-3:]
    assert "3.50 ×" in lines[0]
    assert "not here" in lines[1]
    assert "E: no" in lines[2]
    assert all(line.count("|") == 8 for line in lines)


def test_needed_bytes_of_a_scan():
    inputs = {"u": torch.zeros(2, 3, 5, dtype=torch.bfloat16), "A": torch.zeros(3, 4)}
    y = inputs["u"]
    assert gpu.needed_bytes(inputs, y, False) == 2 * 60 + 48
    assert gpu.needed_bytes(inputs, y, True) == 2 * 60 + 48 + 2 * (60 + 48) + 60


def test_without_a_gpu_one_line(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(UserError, match="torch finds none"):
        gpu.main()


def test_a_source_distribution_is_a_folder_or_an_archive(tmp_path, monkeypatch):
    source = tmp_path / "mamba_ssm-9.9" / "csrc" / "selective_scan"
    source.mkdir(parents=True)
    (source / "selective_scan.cpp").write_text("")
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "mamba_ssm-9.9", "mamba_ssm-9.9")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = gpu.unpacked(tmp_path / "m.tar.gz")
    assert (found / "csrc" / "selective_scan" / "selective_scan.cpp").is_file()
    assert gpu.unpacked(tmp_path / "mamba_ssm-9.9") == tmp_path / "mamba_ssm-9.9"
    with pytest.raises(UserError, match="source distribution"):
        gpu.unpacked(tmp_path / "none.tar.gz")


def test_without_nvcc_building_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="expected nvcc"):
        gpu.build(tmp_path)


def test_a_build_that_fails_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu.build_or_say_why(tmp_path)
    assert "was not built: expected nvcc" in capsys.readouterr().out


CALLS = {kind: ({"triton": None}, None) for kind in ("scan", "four directions")}


def test_every_row_is_saved_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(gpu, "one", lambda *_: {"failed": "x"})
    monkeypatch.setattr(gpu, "step_row", lambda variant, precision, _: {"step": (variant, precision)})
    monkeypatch.setattr(gpu, "save", lambda results: counts.append(len(results["steps"]) + len(results["rows"])))
    counts, results = [], {"steps": [], "rows": []}
    gpu.table(CALLS, 1e12, results, math.inf)
    assert counts == [*range(1, 29), 28]
    assert results["steps"][0] == {"step": ("base", "no")}, "what training costs comes first"
    rows = [(r["kind"], r["shape"][1:], r["dtype"], r["backward"]) for r in results["rows"]]
    assert len(set(map(str, rows))) == 24
    assert rows[0] == ("four directions", [256, 4096, 32], "float32", True)
    assert rows[1] == ("four directions", [256, 64, 16], "float32", True)
    assert all(row[1] == [512, 16384, 32] for row in rows[-8:])


def test_after_the_limit_no_row_is_begun_and_what_is_left_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "step_row", lambda *_: {"variant": "base", "precision": "no", "failed": "x"})
    clock = iter(range(9))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    results = {"device": "X", "date": "d", "torch": "t", "cuda": "c", "triton": "r", "copy_gb_per_s": 1}
    gpu.table(CALLS, 1e12, results | {"steps": [], "rows": []}, 2)
    assert json.loads((tmp_path / "scan_gpu.json").read_text())["left_out"] == 25
    assert "25 rows were left out" in capsys.readouterr().out


def test_headers_are_not_given_to_nvcc(tmp_path, monkeypatch):
    """mamba-ssm's folder holds .cuh files, and nvcc ends with "Don't know what to do with" them."""
    folder = tmp_path / "csrc" / "selective_scan"
    folder.mkdir(parents=True)
    names = ("selective_scan.cpp", "selective_scan_fwd_fp32.cu", "selective_scan_fwd_kernel.cuh", "selective_scan.h")
    for name in names:
        (folder / name).write_text("")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    built = []
    monkeypatch.setattr("torch.utils.cpp_extension.load", lambda name, sources, **_: built.extend(sources))
    monkeypatch.delitem(sys.modules, "selective_scan_cuda", raising=False)
    gpu.build(tmp_path)
    monkeypatch.delitem(sys.modules, "selective_scan_cuda", raising=False)
    assert [Path(source).name for source in built] == sorted(names[:2])


def test_warming_runs_every_cell_apart_from_the_kept_choices(monkeypatch):
    commands, limits = [], []

    def run(command, env, timeout, **_):
        commands.append((*command[-3:], env["LEMAMBA_CACHE"]))
        limits.append(timeout)
        if command[-3] == "step":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, int(command[-1] == "bfloat16"))

    monkeypatch.setattr(subprocess, "run", run)
    assert gpu_warm.warm(2, limit=50) == 4 + 6
    assert len({c[:3] for c in commands}) == len({c[3] for c in commands}) == 4 + 12
    assert all(0 < limit <= 50 for limit in limits)
    assert gpu_warm.warm(2) == 10 and limits[-1] is None
