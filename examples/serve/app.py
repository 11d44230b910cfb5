"""Fuse over HTTP: POST /fuse with two TIFF files gives one. An example; see docs/deployment.md for what it leaves out.

    pip install fastapi uvicorn python-multipart rasterio
    uvicorn --app-dir examples/serve app:app --workers 1
    curl -F ms=@ms.tif -F pan=@pan.tif -o fused.tif http://127.0.0.1:8000/fuse

Every request is one run of ``lemamba fuse`` in a process of its own: it can be ended when its time is over, its memory
is free afterwards, and a crash in a decoder of images does not end the service. Settings are environment variables.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import rasterio
from fastapi import FastAPI, File, HTTPException, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from rasterio.errors import RasterioIOError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

ROOT = Path(__file__).resolve().parents[2]
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # other formats of GDAL, such as VRT, may name files of this machine
_USER_ERROR = 2  # exit status of the commands
_PREFIX = "LEMAMBA_SERVE_"


@dataclass(frozen=True)
class Settings:
    """What the service allows; each field is also LEMAMBA_SERVE_<NAME> in the environment.

    Attributes:
        weights: as ``--weights`` of ``lemamba fuse``; "" with `method` names a classical method.
        method: as ``--arch``; "" = the network that the weights name.
        max_mb: megabytes of a request.
        max_megapixels: of PAN, counted as PAN pixels times bands of MS / 4.
        seconds: of one fusion.
        waiting: requests that may wait while one runs; more get status 503.
    """

    weights: str = "generic"
    method: str = ""
    max_mb: float = 200.0
    max_megapixels: float = 64.0
    seconds: float = 300.0
    waiting: int = 2

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings."""
        given = {f.name: os.environ.get(_PREFIX + f.name.upper()) for f in fields(cls)}
        kinds: dict[str, Any] = {"weights": str, "method": str, "waiting": int}
        return cls(**{name: kinds.get(name, float)(text) for name, text in given.items() if text is not None})


class _TooLargeError(Exception):
    """The request has more bytes than allowed."""


class BodyLimit:
    """Answer 413 as soon as a request has more bytes than allowed, whatever its headers say."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, counting its bytes."""
        received = 0

        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise _TooLargeError
            return message

        declared = dict(scope.get("headers", [])).get(b"content-length", b"0")
        try:
            if declared.isdigit() and int(declared) > self.limit:
                raise _TooLargeError
            await self.app(scope, counted, send)
        except _TooLargeError:
            detail = f"expected a request of at most {self.limit / 1e6:g} MB; send smaller images"
            await JSONResponse({"detail": detail}, status_code=413)(scope, receive, send)


def check_images(ms: Path, pan: Path, settings: Settings) -> None:
    """Look at the headers of two files before anything is decoded.

    Raises:
        HTTPException: no TIFF file (422), or too many pixels (413).
    """
    shapes = []
    for name, path in (("ms", ms), ("pan", pan)):
        with path.open("rb") as file:
            if file.read(4) not in _TIFF:
                raise HTTPException(422, f"expected a TIFF file as {name}")
        try:
            with rasterio.open(path, driver="GTiff") as image:
                shapes.append((image.count, image.height, image.width))
        except RasterioIOError:
            raise HTTPException(422, f"{name} is no TIFF file that can be read") from None
    (bands, *_), (_, height, width) = shapes
    megapixels = max(height * width * max(bands, 4) / 4, *(n * h * w / 4 for n, h, w in shapes)) / 1e6
    if megapixels > settings.max_megapixels:
        raise HTTPException(413, f"expected at most {settings.max_megapixels:g} megapixels, given {megapixels:.1f}")


def command(settings: Settings, ms: Path, pan: Path, out: Path) -> list[str]:
    """Return the command line of one fusion."""
    method = [f"--weights={settings.weights}"] if settings.weights else []
    method += [f"--arch={settings.method}"] if settings.method else []
    files = ["--ms", str(ms), "--pan", str(pan), "--out", str(out)]
    return [sys.executable, "-m", "lemamba", "fuse", *method, *files]


async def fuse_files(settings: Settings, ms: Path, pan: Path, out: Path) -> None:
    """Run one fusion.

    Raises:
        HTTPException: the images do not fit (422, with the line of the command), no time left (504), or a fault (500).
    """
    words = command(settings, ms, pan, out)
    pipes = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, **pipes)
    try:
        _, errors = await asyncio.wait_for(process.communicate(), settings.seconds)
    except asyncio.TimeoutError:
        raise HTTPException(504, f"not done after {settings.seconds:g} s; send smaller images") from None
    finally:  # also where the client has gone
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    lines = errors.decode(errors="replace").strip().splitlines() or [""]
    if process.returncode == _USER_ERROR:
        said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
        raise HTTPException(422, said.removeprefix("error: ").replace(str(out.parent) + os.sep, ""))
    if process.returncode != 0 or not out.is_file():
        print("\n".join(lines), file=sys.stderr)
        raise HTTPException(500, "the fusion failed; see the log of the service")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the service; one fusion at a time."""
    settings = settings or Settings.from_environment()
    app = FastAPI(title="LE-Mamba", description="Image fusion: two TIFF files in, one out.")
    app.add_middleware(BodyLimit, limit=int(settings.max_mb * 1e6))
    turn = asyncio.Semaphore(1)
    inside: set[Path] = set()

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "weights": settings.weights, "method": settings.method, "requests": len(inside)}

    @app.post("/fuse", response_class=FileResponse)
    async def fuse(ms: Annotated[UploadFile, File()], pan: Annotated[UploadFile, File()]) -> FileResponse:
        if len(inside) > settings.waiting:
            raise HTTPException(503, "busy; try again later", headers={"Retry-After": "30"})
        folder = Path(tempfile.mkdtemp(prefix="lemamba_serve_"))
        inside.add(folder)
        try:
            files = folder / "ms.tif", folder / "pan.tif"
            for upload, path in zip((ms, pan), files, strict=True):
                await run_in_threadpool(_save, upload, path)
            await run_in_threadpool(check_images, *files, settings)
            out = folder / "fused.tif"
            async with turn:
                await fuse_files(settings, *files, out)
            remove = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
            return FileResponse(out, media_type="image/tiff", filename="fused.tif", background=remove)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            inside.discard(folder)

    return app


def _save(upload: UploadFile, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)


app = create_app()
