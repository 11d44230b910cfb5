"""Fixtures for all tests: where shared third-party material lies, one seed, quiet threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from lemamba.utils.startup import own_environment, prepare_process

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # test processes share the cores: waiting threads must not spin
prepare_process()  # as every entry point does, before torch is imported

import torch  # noqa: E402

# The same examples in every run: a red CI can be repeated. `make fuzz` draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

_ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path | None:
    """Return the folder of shared scenes, golden files and weights, or None: they are never part of the project."""
    named = os.environ.get("LEMAMBA_SHARED")
    candidates = [Path(named)] if named else [_ROOT.parent / "shared", _ROOT / "shared"]
    return next((c for c in candidates if c.is_dir()), None)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Give a function ``relative path -> Path`` that skips the test where the material is absent."""

    def find(relative: str) -> Path:
        folder = shared_folder()
        if folder is None:
            pytest.skip("shared material not found: set LEMAMBA_SHARED or put it in ../shared")
        path = folder / relative
        if not path.exists():
            pytest.skip(f"shared material {relative} not found in LEMAMBA_SHARED or ../shared")
        return path

    return find


@pytest.fixture
def run_interpreted() -> Callable[[str], None]:
    """Give a function that runs the tests of a file that have "interpreted" in their names in a process of its own.

    Triton decides when it is imported whether to interpret, by TRITON_INTERPRET.
    """

    def run(file: str) -> None:
        if os.environ.get("TRITON_INTERPRET") == "1":
            pytest.skip("this is the inner process")
        triton = pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")
        if not hasattr(triton.language, "gather"):
            pytest.skip(f"triton {triton.__version__} lacks what the kernels use (requirements-dev.txt)")
        command = [sys.executable, "-m", "pytest", "-m", "not gpu", "-p", "no:cacheprovider", "-k", "interpreted", file]
        environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            command, env=environment, cwd=_ROOT, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert "skipped" not in done.stdout

    return run


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    """What a command sets for its process and children ends with its test."""
    with own_environment():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same generator state."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Images this small gain nothing from threads, and on a busy machine lose a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser of playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def serious() -> Callable[[Any], list[str]]:
    """Give a function that returns what axe-core calls serious or critical on a page of `chromium`."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def run(page: Any) -> list[str]:
        found = axe.Axe().run(page).response["violations"]
        return [
            f"{one['id']}: {node['html']}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    return run
