"""A network made ready to fuse: its precision, `torch.compile` with a way back, CUDA graphs, one batch size.

The scan computes in float32 whatever the precision, and its operators are opaque to the compiler
(`lemamba.model.ops.scan.selective`). What each setting costs in dB and gains in time: docs/performance.md.

Shapes: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), sr (B, C, H, W).
"""

from __future__ import annotations

import os
import shlex
import shutil

import torch
from torch import Tensor, nn

from lemamba.utils.errors import UserError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Pixels of sr that go through a network together. A CPU wants what its caches hold: on two cores LE-Mamba takes
# a quarter less time a pixel for 4 images of 64 x 64 than for one, and no less beyond. A GPU: chosen, not measured.
BATCH_PIXELS = {"cpu": 128 * 128, "cuda": 1024 * 1024}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that is unknown or that the device does not have."""
    if precision not in PRECISIONS:
        raise UserError(f"expected a precision of {', '.join(PRECISIONS)}, given {precision}; take one of them")
    if precision == "fp16" and device.type != "cuda":
        raise UserError(f"--precision fp16 needs a GPU, this runs on {device}; use bf16 or float32")


def default_batch(height: int, width: int, device: torch.device) -> int:
    """Return how many images or tiles (height, width) best go through a network together on `device`, at least 1."""
    return max(1, BATCH_PIXELS.get(device.type, BATCH_PIXELS["cpu"]) // (height * width))


class Runner(nn.Module):
    """A network on its device, in its precision, perhaps compiled: ``runner(ms, lms, pan) -> sr`` in the inputs' dtype.

    The network itself is moved and cast. Classical methods keep their own precision and are never compiled.

    Args:
        model: a network in evaluation mode, or a classical method, with `model_name`, `classical`, `tileable`.
        device: where it runs.
        precision: one of `PRECISIONS`: of weights and activations; those of the scan stay float32.
        compile: run it through `torch.compile`, once for each shape; on a GPU the result is kept as a CUDA graph.
            Where that does not work the network runs as it is, and one line says so.
        batch: compiled networks always see this many images: fewer are filled up with copies of the last, so that an
            incomplete last batch costs no second compilation. None = whatever comes.

    Raises:
        UserError: a precision that is unknown or that the device does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        precision: str = "float32",
        compile: bool = False,  # noqa: A002 - torch's own word
        batch: int | None = None,
    ) -> None:
        super().__init__()
        check_precision(precision, device)
        self.model_name, self.classical, self.tileable = model.model_name, model.classical, model.tileable
        if self.classical and (precision != "float32" or compile):
            print(f"note: {self.model_name} is a classical method: it computes in float64 and is not compiled")
            precision, compile = "float32", False
        self.device, self.batch = device, batch
        self.dtype = None if precision == "float32" else PRECISIONS[precision]
        self.network = model.to(device=device, dtype=self.dtype)
        self.compiled = self._compile() if compile else None

    def _compile(self) -> nn.Module | None:
        """Return the network to be compiled when it is first called, or None where it is known that it cannot."""
        compilers = shlex.split(os.environ.get("CXX", ""))[:1] or ["g++", "clang++"]
        if self.device.type == "cpu" and not any(map(shutil.which, compilers)):
            print("note: --compile needs a C++ compiler (Debian, Ubuntu: apt-get install g++); running without it")
            return None
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        return torch.compile(self.network, dynamic=False, mode=mode)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse; sr has the dtype of lms and lies on the runner's device."""
        inputs = [t.to(self.device) for t in (ms, lms, pan)]
        # Autocast beside half weights: what a network insists on computing in float32 still meets weights of its type,
        # and the images that a network adds its details to are not rounded.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return self._run(inputs).to(lms.dtype)

    def _run(self, inputs: list[Tensor]) -> Tensor:
        if self.compiled is None:
            return self.network(*inputs)
        count = inputs[0].shape[0]
        missing = (self.batch or count) - count
        full = [torch.cat((t, t[-1:].expand(missing, -1, -1, -1))) for t in inputs] if missing > 0 else inputs
        try:
            # A CUDA graph writes every result to the same place: a copy outlives the next call.
            return self.compiled(*full)[:count].clone()
        except Exception as error:  # compilers fail in many ways; what the network itself refuses is raised again below
            result = self.network(*inputs)
            reason = next(iter(str(error).splitlines()), "")[:160]
            print(f"note: --compile does not work here ({type(error).__name__}: {reason}); running without it")
            self.compiled = None
            return result
