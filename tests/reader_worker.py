"""A process that reads untrusted files and reports the outcome; it may hang, crash or exhaust its memory limit.

`Worker.read(reader, path)` is one reading; it returns "read" or the message of a `UserError`, and anything else is an
`AssertionError`: another exception, a crash, more than `SECONDS`, or more than `MEBIBYTES` of memory. Linux only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import torch
from torch import nn

from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair import load_pair, open_pair
from lemamba.datasets.readers import inspect_file
from lemamba.datasets.simulation.sources import cube_from_mat, scene_from_mat
from lemamba.datasets.writers import write_scene
from lemamba.engine.training.checkpoint import find_run, read_checkpoint, read_state
from lemamba.engine.weights.files import load_strict, read_weights
from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.safe_yaml import parse_yaml

SECONDS = 30  # an input takes milliseconds; this is for a machine that is busy
MEBIBYTES = 256
_ADDRESS_SPACE = 4 * 2**30  # beyond what the process has when it starts: a bomb must not take the machine along


def run_all(*calls: Callable[[], object]) -> None:
    """Run every call; where all are refused, raise the last `UserError`."""
    refused = []
    for call in calls:
        try:
            call()
        except UserError as error:
            refused.append(error)
    if len(refused) == len(calls):
        raise refused[-1]


def samples(path: Path, cache_limit: int) -> None:
    dataset = H5Dataset(path, cache_limit=cache_limit)
    for index in range(min(len(dataset), 3)):
        dataset[index]


def read_h5(path: Path) -> None:
    inspect_file(path)  # never raises
    run_all(lambda: samples(path, 0), lambda: samples(path, 2**30))


def read_mat_file(path: Path) -> None:
    inspect_file(path)
    data = read_mat(path)
    for understand in (scene_from_mat, cube_from_mat):
        with contextlib.suppress(UserError):
            understand(path, data)


def fuse_pair(ms: Path, pan: Path) -> None:
    """What inference does: read all of the scene, write as much."""
    with open_pair(ms, pan) as pair:
        assert max(pair.size) < 10_000, "more ground than the undamaged file has"
        images = pair.read((0, 0, *pair.size))
        if images is not None:
            write_scene(ms.parent / "out.tif", pair, [(0, 0, images[1])])


def read_tif(path: Path) -> None:
    """Read it as MS with a good PAN, and as PAN with a good MS, both from the same folder."""
    ms, pan = path.parent / "good_ms.tif", path.parent / "good_pan.tif"
    inspect_file(path)
    run_all(
        lambda: load_pair(path, pan),
        lambda: load_pair(ms, path),
        lambda: fuse_pair(path, pan),
        lambda: fuse_pair(ms, path),
    )


def read_scene(ms: Path) -> None:
    """Read ms.tif with the pan.tif next to it."""
    inspect_file(ms)
    load_pair(ms, ms.with_name("pan.tif"))


def read_config(path: Path) -> None:
    """As the file of -c, and as the value of --set."""
    with contextlib.suppress(UserError):
        parse_yaml(path.read_bytes().decode("utf-8", "replace"))
    config.resolve({}, path)


def read_weight_file(path: Path) -> None:
    load_strict(nn.Linear(3, 2), read_weights(path)[0])


def read_checkpoint_of(path: Path) -> None:
    """`path` is a file in <log>/p/run/checkpoints/step_…/: what --resume_path does before the training starts."""
    checkpoint, log = path.parent, path.parents[4]
    with contextlib.suppress(UserError):
        find_run("p/run", log, "p", None)
    with contextlib.suppress(UserError):
        config.resolve({}, None, read_state(checkpoint)["config"])
    read_checkpoint(checkpoint)


READERS: dict[str, Callable[[Path], None]] = {
    "h5": read_h5,
    "mat": read_mat_file,
    "geotiff": read_tif,
    "scene": read_scene,
    "config": read_config,
    "weights": read_weight_file,
    "checkpoint": read_checkpoint_of,
}


def _status(name: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _one(reader: str, path: Path) -> str | None:
    """Return what a user would see, "read", or None and a printed traceback where a bug was found."""
    try:
        READERS[reader](path)
        return "read"
    except UserError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, MemoryError):
            raise MemoryError(f"asked for more than {_ADDRESS_SPACE} bytes: {error}") from error
        return str(error)


def serve(connection: Connection) -> None:
    """Answer requests until the other end closes the connection."""
    torch.set_num_threads(1)
    h5py._errors.silence_errors()
    limit = _status("VmSize") + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            reader, path = connection.recv()
        except EOFError:
            return
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        before = _status("VmRSS")
        try:
            answer, bug = _one(reader, Path(path)), None
        except BaseException:
            answer, bug = "", traceback.format_exc()
        connection.send((answer, bug, _status("VmHWM") - before))


class Worker:
    """One such process, started when it is needed and again after a crash."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["reader_worker", "rasterio"])
        self.process, self.connection = None, None

    def read(self, reader: str, path: Path) -> str:
        """Return "read" or the message of a `UserError`; see the module for what is an `AssertionError`."""
        if self.process is None:
            self.connection, theirs = self.context.Pipe()
            self.process = self.context.Process(target=serve, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        try:
            self.connection.send((reader, str(path)))
            if not self.connection.poll(SECONDS):
                raise AssertionError(f"{reader} hangs on {path}")
            answer, bug, grown = self.connection.recv()
        except (EOFError, OSError):
            raise AssertionError(f"{reader} crashes on {path}") from None
        except BaseException:
            self.close()
            raise
        assert bug is None, f"{reader} on {path}:\n{bug}"
        assert grown < MEBIBYTES * 2**20, f"{reader} takes {grown / 2**20:.0f} MiB for {path}"
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = None
