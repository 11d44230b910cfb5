"""A rehearsal of `make gpu` on a CPU: the tests marked gpu and the benchmark, with device, timers, kernels replaced.

It finds what would end a run on a GPU before anything is measured: a wrong name, a shape, a tolerance, a row that is
not written. It says nothing about a GPU's numbers. ``python -m pytest -p gpu_rehearsal -m gpu`` (with this folder on
PYTHONPATH) runs the tests, ``python tests/gpu_rehearsal.py FOLDER`` the benchmark, ``gpu_rehearsal.py train …`` a
training command as a test starts it.

Replaced: "cuda" as a device becomes "cpu"; events take 1 ms; the Triton kernels are the C kernels (or torch),
mamba_ssm's operator is the stand-in of `test_scan_mamba_ssm.py`; torch.compile returns what it gets. Of the sizes of a
test the larger ones are left out, and fp16 training, whose scaler needs a GPU.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import math
import os
import runpy
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 5000  # product of the sizes of a test
LEFT_OUT = ("test_every_precision_trains[fp16]",)


class _OnCpu(TorchFunctionMode):
    """Every device "cuda" that torch is given becomes "cpu"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0].to("cpu")
        return func(*tree_map(_cpu, args), **tree_map(_cpu, kwargs or {}))


def _cpu(value: Any) -> Any:
    gpu = (isinstance(value, torch.device) and value.type == "cuda") or (isinstance(value, str) and value == "cuda")
    return torch.device("cpu") if gpu else value


class _Event:
    """An event; any two lie 1 ms apart."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.enable_timing = enable_timing

    def record(self) -> None:
        """Do nothing."""

    synchronize = record

    def elapsed_time(self, _end: _Event) -> float:
        """Return 1 ms."""
        return 1.0


def _stand_in() -> ModuleType:
    import test_scan_mamba_ssm as stand_in

    module = ModuleType("selective_scan_cuda")
    module.__spec__ = importlib.machinery.ModuleSpec("selective_scan_cuda", None)
    module.fwd, module.bwd = stand_in._fwd, stand_in._bwd  # type: ignore[attr-defined]
    return module


def pretend() -> None:
    """Make this process believe that it has a GPU; for its whole life."""
    cuda: Any = torch.cuda
    cuda.is_available, cuda.device_count = lambda: True, lambda: 1
    cuda.get_device_name = lambda *_: "a rehearsal"
    cuda.get_device_properties = lambda *_: SimpleNamespace(multi_processor_count=132, major=9, minor=0)
    cuda.is_current_stream_capturing = lambda: False
    cuda.device_of = lambda _tensor: nullcontext()
    cuda.Event = _Event
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        setattr(cuda, name, lambda *_: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        setattr(cuda, name, lambda *_: 0)
    torch.compile = lambda network, **_: network  # type: ignore[assignment]
    plain = torch.autocast

    class Autocast(plain):  # type: ignore[misc, valid-type]
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    torch.autocast = Autocast  # type: ignore[misc]
    _OnCpu().__enter__()

    from lemamba.engine.fusing import runner
    from lemamba.model.ops.scan import backends

    runner.check_precision = lambda *_: None  # it sees a CPU, which has no fp16 to offer

    real = backends.BACKENDS["cpp"] if backends.BACKENDS["cpp"].probe()[0] else backends.BACKENDS["torch"]
    here = dataclasses.replace(
        real, name="triton", probe=lambda: (True, "a rehearsal"), devices=("cuda", "cpu"), float64=False
    )
    backends.BACKENDS["triton"] = here
    mamba = backends.BACKENDS["mamba_ssm"]
    backends.BACKENDS["mamba_ssm"] = dataclasses.replace(mamba, devices=("cuda", "cpu"))
    sys.modules["selective_scan_cuda"] = _stand_in()


def benchmark(folder: Path) -> None:
    """Run what `make gpu` runs after the tests, on small shapes; its tables go to `folder`."""
    from benchmarks import gpu, gpu_warm

    gpu.RESULTS, gpu.COPIED, gpu.REPEATS = folder, 1 << 10, 1
    gpu.SHAPES[:] = [(1, 8, 16, 2), (2, 8, 4, 2), (1, 8, 64, 2)]
    gpu.STEPS[:], gpu.BATCH, gpu.SIDE = [("tiny", "bf16")], 1, 16
    gpu_warm.cell("step", 0, "any")
    gpu_warm.cell("four directions", 0, "float32")
    sys.argv = ["gpu.py"]
    gpu.main()


def pytest_configure(config: Any) -> None:
    """Start the rehearsal (pytest's hook)."""
    pretend()
    from lemamba.model.ops.triton import plan

    candidates = plan.candidates
    plan.candidates = lambda shape, processors: candidates(shape, processors)[:1]


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out the large sizes; trainings start this file's command (pytest's hook)."""
    kept = []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if math.prod(parameters.get("sizes", ())) <= LARGEST and item.name not in LEFT_OUT:
            kept.append(item)
        if item.module.__name__ == "test_gpu_training":
            item.module.launch = _launch
    items[:] = kept


def _launch(folder: Path, *command: str, **environment: str) -> Any:
    """Start a training with this file in place of accelerate_main.py."""
    script = str(ROOT / "accelerate_main.py")
    replaced = [p for c in command for p in ([__file__, "train"] if c == script else [c])]
    return subprocess.run(
        [sys.executable, *replaced],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


def train(arguments: list[str]) -> None:
    """Run the training command with processes that accelerate takes for GPUs."""
    from sharded import as_gpus

    if "RANK" in os.environ:  # one process without torchrun has no group
        as_gpus()
    sys.argv = ["accelerate_main.py", *arguments]
    runpy.run_path(str(ROOT / "accelerate_main.py"), run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1] == "train":
        train(sys.argv[2:])
    else:
        pretend()
        benchmark(Path(sys.argv[1]))
