"""What a method costs: parameters, operations, time per megapixel, peak memory."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lemamba.engine.fusing.tiles import call, traits_of

_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Cost of fusing.

    Attributes:
        parameters: trainable values; None for a method without learned parameters.
        gflops: 1e9 operations (2 per multiply-add) per megapixel of sr; None if nothing can be counted.
        s_per_mpx: seconds per megapixel of sr.
        peak_mib: peak memory in MiB above the memory held before.
    """

    parameters: int | None
    gflops: float | None
    s_per_mpx: float
    peak_mib: float


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def count_flops(model: nn.Module, sample: dict[str, Tensor]) -> int:
    """Return the operations (2 per multiply-add) of one forward pass over a sample of batch 1.

    Counts matrix products, convolutions and custom operators that carry a formula; elementwise work is left out.
    Nothing is computed: a copy of the network runs on the meta device, so no kernel is compiled or measured for it. A
    network that reads values, and so cannot run without them, is counted where it is. Model and random generators are
    left as found.
    """
    shapes = copy.deepcopy(model).to("meta").eval()
    try:
        return _flops(shapes, {name: image.to("meta") for name, image in sample.items()})
    except (RuntimeError, NotImplementedError):
        was_training = model.training
        model.eval()
        try:
            return _flops(model, sample)
        finally:
            model.train(was_training)


def _flops(model: nn.Module, sample: dict[str, Tensor]) -> int:
    from torch.utils.flop_counter import FlopCounterMode, flop_registry  # loads Triton

    known = -1
    while len(flop_registry) > known:  # the first pass may create operators whose formulas its counter did not know yet
        known = len(flop_registry)
        with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
            model(sample["ms"], sample["lms"], sample["pan"])
    return counter.get_total_flops()


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of the GPU's allocator, or the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil  # comes with accelerate

        return psutil.Process().memory_info().peak_wset
    import resource  # Unix only

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
    """Measure the cost of a method; run it in a process of its own, as peak memory is that of the whole process.

    Args:
        model: network or classical method on `device`.
        sample: ms, lms, pan (1, ·, ·, ·) on `device`, for counting operations and for warming up.
        fuse_all: fuses the test set and returns the seconds spent in the model.
        megapixels: size of sr, summed over the test set.
        device: where the model runs.
    """
    traits = traits_of(model)
    before = held_bytes(device)
    flops = count_flops(model, sample) if traits.trained else 0
    call(model, sample["ms"], sample["lms"], sample["pan"])  # compiles kernels, fills caches
    seconds = fuse_all()
    pixels = sample["lms"].shape[-2] * sample["lms"].shape[-1]
    return Cost(
        parameters=count_parameters(model) if traits.trained or traits.adapts else None,
        gflops=flops / pixels * 1e6 / 1e9 if flops else None,
        s_per_mpx=seconds / megapixels,
        peak_mib=max(0, peak_bytes(device) - before) / _MIB,
    )
