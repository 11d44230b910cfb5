"""The HTTP example: two TIFF files in, one out; limits on size, pixels, time and requests."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_files import smooth, tif

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
rasterio = pytest.importorskip("rasterio")
httpx = pytest.importorskip("httpx")
from fastapi.testclient import TestClient  # noqa: E402

import lemamba  # noqa: E402

APP = Path(__file__).resolve().parent.parent / "examples/serve/app.py"
spec = importlib.util.spec_from_file_location("serve_example", APP)
serve = importlib.util.module_from_spec(spec)
sys.modules["serve_example"] = serve
spec.loader.exec_module(serve)
CLASSICAL = {"weights": "", "method": "GSA"}


@pytest.fixture
def pair(tmp_path) -> dict[str, bytes]:
    """MS of 4 bands and 16 x 16 pixels of 2 m, and PAN of 64 x 64 pixels of 0.5 m."""
    tif(tmp_path / "ms.tif", smooth(16, 16, 4), pixel=2.0)
    tif(tmp_path / "pan.tif", smooth(64, 64, 1), pixel=0.5)
    return {name: (tmp_path / f"{name}.tif").read_bytes() for name in ("ms", "pan")}


def client(**settings) -> TestClient:
    return TestClient(serve.create_app(serve.Settings(**settings)), raise_server_exceptions=False)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Where requests keep their files: nothing is to be left there."""
    made = tmp_path / "requests"
    made.mkdir()
    monkeypatch.setattr(serve.tempfile, "tempdir", str(made))
    return made


def test_two_files_give_the_image_that_the_library_gives(pair, folders):
    answer = client(**CLASSICAL).post("/fuse", files=pair)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/tiff"
    with rasterio.open(io.BytesIO(answer.content)) as image:
        fused = image.read()
    images = []
    for name in ("ms", "pan"):
        with rasterio.open(io.BytesIO(pair[name])) as image:
            images.append(image.read())
    expected = lemamba.fuse(*images, "GSA", offset=1.5)
    assert fused.shape == expected.shape == (4, 64, 64)
    assert np.abs(fused.astype(float) - expected.astype(float)).max() <= 1
    assert not list(folders.glob("lemamba_serve_*"))


def test_what_does_not_fit_is_the_line_of_the_command(pair, folders, monkeypatch):
    monkeypatch.setattr(serve, "command", lambda *_: [sys.executable, "-c", "pass"])
    assert client().post("/fuse", files=pair).status_code == 500  # ended well, but wrote no file
    code = "import sys; print('error: expected this; do that', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(serve, "command", lambda *_: [sys.executable, "-c", code])
    answer = client().post("/fuse", files=pair)
    assert (answer.status_code, answer.json()["detail"]) == (422, "expected this; do that")
    assert not list(folders.glob("lemamba_serve_*"))


def test_a_fusion_that_takes_too_long_is_ended(pair, folders, monkeypatch):
    monkeypatch.setattr(serve, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(100)"])
    assert client(seconds=0.2).post("/fuse", files=pair).status_code == 504
    assert not list(folders.glob("lemamba_serve_*"))


@pytest.mark.parametrize(
    ("settings", "change", "status"),
    [
        ({"max_mb": 0.001}, {}, 413),
        ({"max_megapixels": 0.001}, {}, 413),
        ({"waiting": -1}, {}, 503),
        ({}, {"pan": b"<VRTDataset><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>"}, 422),
        ({}, {"ms": b"II*\0 and nothing more"}, 422),
        ({}, {"ms": b""}, 422),
    ],
)
def test_what_is_refused_starts_no_fusion(pair, folders, monkeypatch, settings, change, status):
    monkeypatch.setattr(serve, "command", lambda *_: pytest.fail("a fusion was started"))
    answer = client(**settings).post("/fuse", files=pair | change)
    assert answer.status_code == status, answer.text
    assert not list(folders.glob("lemamba_serve_*"))


def test_a_body_without_a_length_is_counted(monkeypatch):
    monkeypatch.setattr(serve, "command", lambda *_: pytest.fail("a fusion was started"))
    chunks = (b"x" * 1000 for _ in range(100))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert client(max_mb=0.01).post("/fuse", content=chunks, headers=headers).status_code in (400, 413)


def test_health_and_settings(monkeypatch):
    monkeypatch.setenv("LEMAMBA_SERVE_METHOD", "GSA")
    monkeypatch.setenv("LEMAMBA_SERVE_MAX_MB", "5")
    assert serve.Settings.from_environment() == serve.Settings(method="GSA", max_mb=5.0)
    assert client().get("/health").json()["status"] == "ok"


def test_the_container_starts_what_there_is():
    """The command and the files of the container file, without a container: the server answers, with its settings."""
    pytest.importorskip("uvicorn")
    root = APP.parents[2]
    lines = (APP.parent / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert copied and all((root / name).exists() for name in copied)
    installed = next(line for line in lines if "requirements.txt fastapi" in line).split()
    assert {"fastapi", "uvicorn", "python-multipart", "rasterio"} <= set(installed)
    command = json.loads(next(line for line in lines if line.startswith("CMD")).removeprefix("CMD"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [{"0.0.0.0": "127.0.0.1", "8000": port}.get(word, word) for word in command]
    own = os.environ | {"LEMAMBA_SERVE_METHOD": "GSA", "LEMAMBA_SERVE_WEIGHTS": ""}
    with subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=own, stderr=subprocess.PIPE) as server:
        try:
            assert server.stderr is not None
            said = next((line for line in server.stderr if b"Uvicorn running" in line), b"")
            assert said, "the server ended"
            answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).json()
        finally:
            server.terminate()
    assert answer == {"status": "ok", "weights": "", "method": "GSA", "requests": 0}
