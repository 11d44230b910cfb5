"""What a method costs: parameters, operations, time per megapixel, peak memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lemamba.engine.fusing.summary import count_flops, count_parameters

_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Cost of fusing.

    Attributes:
        parameters: trainable values; None for a classical method.
        gflops: 1e9 operations (2 per multiply-add) per megapixel of sr; None where nothing countable runs.
        s_per_mpx: seconds per megapixel of sr.
        peak_mib: memory above what was held before, at its highest.
    """

    parameters: int | None
    gflops: float | None
    s_per_mpx: float
    peak_mib: float


def peak_bytes(device: torch.device) -> int:
    """Return the highest memory so far: of the GPU's allocator, or the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":  # has no module `resource`
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes(device: torch.device) -> int:
    """Return the memory held now; on a GPU the peak is reset to it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    import psutil  # comes with accelerate

    return psutil.Process().memory_info().rss


def measure_cost(
    model: nn.Module, sample: dict[str, Tensor], fuse_all: Callable[[], float], megapixels: float, device: torch.device
) -> Cost:
    """Measure in a process of its own: the resident set's peak is one of the whole process.

    Args:
        model: network or classical method on `device`.
        sample: ms, lms, pan (1, ·, ·, ·) on `device`, for counting operations and for warming up.
        fuse_all: fuses the test set and returns the seconds that the model took.
        megapixels: of sr, over the test set.
        device: where the model runs.
    """
    classical = bool(getattr(model, "classical", False))
    before = held_bytes(device)
    flops = 0 if classical else count_flops(model, sample)
    with torch.inference_mode():
        model(sample["ms"], sample["lms"], sample["pan"])  # compiles kernels, fills caches
    seconds = fuse_all()
    pixels = sample["lms"].shape[-2] * sample["lms"].shape[-1]
    return Cost(
        parameters=None if classical else count_parameters(model),
        gflops=flops / pixels * 1e6 / 1e9 if flops else None,
        s_per_mpx=seconds / megapixels,
        peak_mib=max(0, peak_bytes(device) - before) / _MIB,
    )
