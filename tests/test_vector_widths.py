"""The C kernels for vectors of every width, not only this machine's: one source, three widths, two architectures.

On x86 the kernels' own tests run again with a compiler whose target has narrower vectors. For 64-bit ARM the scan is
cross-compiled and run in an emulator, where there are both, against its definition in double (`native_check.c`).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lemamba.model.ops.native import build

ROOT = Path(__file__).resolve().parent.parent
TESTS = [f"tests/test_{name}.py" for name in ("scan", "cross_scan", "linear", "gate", "depthwise")]
SELECTED = "not torch and not compil and not processes"  # what depends on the kernels alone
CHECK = Path(__file__).with_name("native_check.c")


def _knows(flag: str) -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and flag in info.read_text(errors="replace").split()


@pytest.mark.slow
@pytest.mark.parametrize(("processor", "lanes", "needs"), [("x86-64-v3", 8, "avx2"), ("x86-64", 4, "sse2")])
def test_kernels_of_narrower_vectors(tmp_path, processor, lanes, needs):
    if platform.machine() != "x86_64" or not shutil.which("cc") or not _knows(needs):
        pytest.skip(f"needs cc and an x86 processor with {needs}")
    compiler = tmp_path / "narrow-cc"
    compiler.write_text(f'#!/bin/sh\nexec cc "$@" -march={processor}\n')  # the last -march counts
    compiler.chmod(0o755)
    environment = {**os.environ, "CC": str(compiler), "LEMAMBA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
    reported = subprocess.run(
        [sys.executable, "-c", "from lemamba.model.ops.native.build import lanes; print(lanes())"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(reported.stdout) == lanes
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", SELECTED, *TESTS],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("target", ["here", "aarch64"])
def test_the_scan_in_c_equals_its_definition(tmp_path, target):
    compiler, static, emulator = "cc", [], []
    if target == "aarch64":  # static: the emulator would not find the other architecture's libraries
        compiler, static, emulator = "aarch64-linux-gnu-gcc", ["-static"], ["qemu-aarch64"]
    missing = [tool for tool in (compiler, *emulator) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {missing[0]}")
    sources = build.SOURCES
    kernels, program = tmp_path / "kernels.o", tmp_path / "check"
    flags = [f for f in build._COMMON if f not in ("-shared", "-fPIC")]
    subprocess.run([compiler, *flags, "-fopenmp", "-c", sources / "all.c", "-o", kernels], check=True)
    subprocess.run(
        [compiler, "-std=gnu11", "-O1", *static, "-fopenmp", "-I", sources, CHECK, kernels, "-o", program, "-lm"],
        check=True,
    )
    done = subprocess.run([*emulator, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
