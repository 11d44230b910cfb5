"""The command `doctor`: what this machine has, and what to do about what it lacks.

A finding is a fact or a problem; a problem says what to do. Looking changes nothing but the cache of compiled kernels.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from lemamba.commands.options import DoctorOptions
from lemamba.datasets.build import ROOT_VARIABLE
from lemamba.engine.weights.files import SHIPPED
from lemamba.model import list_models
from lemamba.model.ops.native.build import cache_folder, lanes
from lemamba.model.ops.scan.backends import available_backends, choose
from lemamba.model.ops.scan.selective import selective_scan
from lemamba.utils.atomic import read_json, sha256
from lemamba.utils.device import usable_device, use_scan_backend
from lemamba.utils.errors import UserError, one_line
from lemamba.utils.registry import EXTRA_FOLDERS_VARIABLE
from lemamba.utils.sensors import DATASETS
from lemamba.utils.version import project_version

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = {  # package -> what needs it
    "rasterio": "GeoTIFF, VRT, JPEG 2000, ENVI",
    "scikit-image": "--register",
    "triton": "the scan on a GPU",
    "mamba-ssm": "scan backend mamba_ssm",
    "causal-conv1d": "Pan-Mamba on a GPU",
    "timm": "optimizers timm/<name>",
    "wandb": "--log_with wandb",
    "mlflow": "--log_with mlflow",
    "trackio": "--log_with trackio",
    "deepspeed": "ZeRO, configs/huggingface/deepspeed_zero2.yaml",
}
LEAST_DISK, LEAST_MEMORY = 2.0, 2.0  # GB: a training's checkpoints; a training of LE-Mamba on patches of 64 x 64
SCAN = (1, 128, 16, 4096)  # images, channels, states, length: a block of LE-Mamba on 64 x 64 pixels


@dataclass(frozen=True)
class Finding:
    """One row.

    Attributes:
        topic: what was looked at.
        text: what was found.
        advice: what to do; "" if it is no problem.
    """

    topic: str
    text: str
    advice: str = ""


def packages() -> Iterator[Finding]:
    """Look at Python and the required and optional packages."""
    from packaging.requirements import Requirement  # comes with accelerate
    from packaging.version import Version

    yield Finding("lemamba", project_version())
    found = platform.python_version()
    old = Version(found) < Version("3.10")
    yield Finding("python", f"{found}, {platform.platform()}", "use Python 3.10 or later" if old else "")
    good = []
    for line in _requirements():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            advice = f'pip install "{wanted.name}{wanted.specifier}"'
            yield Finding("package", f"{wanted.name} {version or 'is not installed'}", advice)
        else:
            good.append(f"{wanted.name} {version}")
    yield Finding("packages", ", ".join(dict.fromkeys(good)))
    for name, purpose in OPTIONAL.items():
        yield Finding("optional", f"{name} {_version(name) or 'not installed'} ({purpose})")


def _requirements() -> list[str]:
    file = ROOT / "requirements.txt"  # a clone; a wheel carries them in its metadata
    if not file.is_file():
        return metadata.requires("lemamba") or []
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def threads() -> Iterator[Finding]:
    """Look at cores, threads and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    named = os.environ.get("OMP_NUM_THREADS")
    many = f"set OMP_NUM_THREADS={cores}" if used > cores else ""
    text = f"{used} of torch on {cores} cores (OMP_NUM_THREADS {named or 'not set'})"
    idle = "; for one program that uses them all, unset OMP_NUM_THREADS" if named and used < cores else ""
    yield Finding("threads", f"{text}{idle}", many)
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        busy = "other programs use the cores: times will be longer than measured here" if load > 1.5 * cores else ""
        yield Finding("load", f"{load:.1f} in the last minute on {cores} cores{f'; {busy}' if busy else ''}")
    import psutil  # comes with accelerate

    memory = psutil.virtual_memory()
    free = memory.available / 1e9
    little = "close programs, or use a smaller --batch_size" if free < LEAST_MEMORY else ""
    yield Finding("memory", f"{free:.1f} of {memory.total / 1e9:.1f} GB available", little)


def gpu() -> Iterator[Finding]:
    """Look at the GPUs that torch sees, and for one that it does not see."""
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            text = f"{facts.name}, {facts.total_memory / 1e9:.0f} GB, compute capability {facts.major}.{facts.minor}"
            yield Finding("GPU", f"cuda:{index} {text}")
        return
    there = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    build = f"this torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch is a CPU build"
    fix = "check nvidia-smi and the driver" if torch.version.cuda else "install a CUDA build of torch (pytorch.org)"
    yield Finding("GPU", f"an NVIDIA driver, but {build}" if there else "none", fix if there else "")


def scan(device: torch.device) -> Iterator[Finding]:
    """Look at the backends of the scan, and measure the one that is used on `device`."""
    states = available_backends()
    for name, state in states.items():
        width = f", vectors of {lanes()} float32 numbers" if name == "cpp" and state.available else ""
        yield Finding("backend", f"{name}: {'works' if state.available else 'not here'}, {state.reason}{width}")
    try:
        used = choose(None, device.type, torch.float32, state_grad=False)
    except UserError as error:
        yield Finding("scan", one_line(str(error)), "drop --scan_backend and unset LEMAMBA_SCAN")
        return
    seconds = scan_seconds(device)
    text = f"{used} on {device}: {1e3 * seconds:.2f} ms for {SCAN[1]} channels of {SCAN[3]} pixels, state {SCAN[2]}"
    advice = ""
    if device.type == "cpu" and not states["cpp"].available:
        advice = "install a C compiler (Debian, Ubuntu: apt-get install gcc): LE-Mamba trains several times faster"
    elif device.type == "cuda" and used == "torch":
        advice = 'pip install "triton>=3.3": the scan of torch is slow on a GPU'
    yield Finding("scan", text, advice)


def scan_seconds(device: torch.device, repeats: int = 5) -> float:
    """Return the median time of a forward scan of the size `SCAN`, without compiling."""
    images, channels, states, length = SCAN
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    u, delta, A = drawn(images, channels, length), drawn(images, channels, length), -drawn(channels, states)
    B, C = drawn(images, 1, states, length), drawn(images, 1, states, length)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        selective_scan(u, delta, A, B, C, delta_softplus=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])  # the first one may have compiled


def data(given: Path | None) -> Iterator[Finding]:
    """Look at the data root and the folders of own methods."""
    named = str(given) if given else os.environ.get(ROOT_VARIABLE, "")
    if not named:
        yield Finding("data root", f"not set; commands take --data_root, or the variable {ROOT_VARIABLE}")
    elif not (root := Path(named).expanduser()).is_dir():
        yield Finding("data root", f"{root} is not a folder", f"correct --data_root or {ROOT_VARIABLE}")
    else:
        files = [file for level in ("*.h5", "*/*.h5") for file in root.glob(level)]
        there = {file.name for file in files}
        whole = [name for name, entry in DATASETS.items() if set(entry.files.values()) & there]
        advice = "" if files else "download or make data sets: docs/data_sources.md, lemamba prepare --help"
        yield Finding("data root", f"{root}: {len(files)} H5 files; data sets: {', '.join(whole) or 'own'}", advice)
    extra = os.environ.get(EXTRA_FOLDERS_VARIABLE)
    try:
        text = f"{len(list_models())} known"
        yield Finding("methods", f"{text}, with those in {EXTRA_FOLDERS_VARIABLE}={extra}" if extra else text)
    except (UserError, SyntaxError, ValueError) as error:
        yield Finding("methods", one_line(str(error)), f"correct the file, or unset {EXTRA_FOLDERS_VARIABLE}")


def weights() -> Iterator[Finding]:
    """Compare the shipped weights with the sha256 that their .json holds."""
    for name, path in SHIPPED.items():
        known = (read_json(path.with_suffix(".json")) or {}).get("sha256")
        found = sha256(path) if path.is_file() else None
        restore = "restore it (git checkout weights, or install the package again)"
        if found is None or known is None or found != known:
            state = "missing" if found is None or known is None else "damaged: its sha256 is not that of its .json"
            yield Finding("weights", f"{name}, {path.name}: {state}", restore)
        else:
            yield Finding("weights", f"{name}, {path.name}: sha256 {found[:12]}… as published")


def disk() -> Iterator[Finding]:
    """Look at the folders that are written: this one, the cache of kernels, and the one for temporary files."""
    yield _place("this folder", Path.cwd(), "change to a folder that can be written, or name such files (--out)")
    again = "each command compiles the kernels again, or does without; set LEMAMBA_CACHE to a folder that can be"
    yield _place("kernels", cache_folder(), again)
    yield _place("temporary", Path(tempfile.gettempdir()), "set TMPDIR to a folder that can be written")


def _place(name: str, folder: Path, advice: str) -> Finding:
    """Return the free space of a folder, or, if nothing can be written there, `advice`."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):  # permissions alone do not say it
            pass
    except OSError as error:
        return Finding("disk", f"{name}: {folder} cannot be written ({error.strerror})", advice)
    free = shutil.disk_usage(there).free / 1e9
    little = "make room: a training keeps its last checkpoints (--ckpt_max_limit)" if free < LEAST_DISK else ""
    return Finding("disk", f"{name}: {free:.1f} GB free in {there}", little)


def examine(options: DoctorOptions) -> Iterator[Finding]:
    """Yield all findings; a check that fails is itself a problem, and the others follow."""
    yield from packages()
    yield from threads()
    yield from gpu()
    try:
        device = usable_device(options.device)
    except UserError as error:
        yield Finding("device", one_line(str(error)), "choose another --device")
        device = torch.device("cpu")
    use_scan_backend(options.scan_backend)
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "scan": lambda: scan(device),
        "data root": lambda: data(options.data_root),
        "weights": weights,
        "disk": disk,
    }
    for topic, check in checks.items():
        try:
            yield from check()
        except (OSError, RuntimeError, UserError) as error:
            yield Finding(topic, f"cannot be examined: {one_line(str(error))}", "correct this first")


def run(options: DoctorOptions) -> int:
    """Print what was found; return 1 if there is a problem, else 0."""
    problems = 0
    for finding in examine(options):
        print(f"{'!!' if finding.advice else 'ok'}  {finding.topic:<10} {finding.text}", flush=True)
        if finding.advice:
            problems += 1
            print(f"    {'':<10} -> {finding.advice}", flush=True)
    print(f"\n{problems} problem{'s' if problems != 1 else ''} found" if problems else "\nno problem found")
    return 1 if problems else 0
