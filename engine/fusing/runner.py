"""A method ready to fuse: its device, its precision, `torch.compile` with a fallback, CUDA graphs, one batch size.

The scan computes in float32 whatever the precision, and its operators are opaque to the compiler
(`lemamba.model.ops.scan.selective`). What each setting costs in dB and saves in time: docs/performance.md.

Shapes: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W), sr (B, C, H, W).
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lemamba.engine.fusing.tiles import traits_of
from lemamba.engine.fusing.tiling import Tiling
from lemamba.utils import device as devices
from lemamba.utils.errors import UserError
from lemamba.utils.registry import Traits

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise a `UserError` for a precision that is unknown or that the device does not support."""
    if precision not in PRECISIONS:
        raise UserError(f"expected a precision of {', '.join(PRECISIONS)}, given {precision}; use one of them")
    if precision == "fp16" and device.type != "cuda":
        raise UserError(f"--mixed_precision fp16 needs a GPU, this runs on {device}; use bf16 or no")


class Runner(nn.Module):
    """A method on its device, in its precision, perhaps compiled: ``runner(ms, lms, pan) -> sr`` in the inputs' dtype.

    The network itself is moved and cast. Methods that compute in float64 or train on the images that they fuse keep
    their precision and are never compiled.

    Args:
        model: a network in evaluation mode, or a classical method, perhaps with `model_name` and `traits`.
        device: where it runs.
        tiling: how images are cut; its precision is that of weights and activations (the scan stays in float32).
        tf32: float32 products and convolutions of a GPU in TF32; see `lemamba.utils.device.use_tf32`.
        compile: run it through `torch.compile`, once for each shape; on a GPU the result is kept as a CUDA graph.
            If that fails, the network runs uncompiled and one line is printed.

    Raises:
        UserError: a precision that is unknown or that the device does not support.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        tiling: Tiling | None = None,
        *,
        compile: bool = False,  # noqa: A002 - torch's own word
        tf32: bool = False,
    ) -> None:
        super().__init__()
        self.tiling = tiling or Tiling()
        precision = self.tiling.precision
        check_precision(precision, device)
        self.model_name = str(getattr(model, "model_name", type(model).__name__))
        self.traits: Traits = traits_of(model)
        if (self.traits.float64 or self.traits.adapts) and (precision != "no" or compile):
            kind = "computes in float64" if self.traits.float64 else "trains on the images"
            print(f"note: {self.model_name} {kind}: it keeps its precision and is not compiled")
            precision, compile = "no", False
        self.device, self.tf32 = device, tf32
        # Compiled networks always see this many images: fewer are padded with copies of the last one, so that an
        # incomplete last batch costs no second compilation. None = any number.
        self.batch = self.tiling.batch
        self.dtype = None if precision == "no" else PRECISIONS[precision]
        self.network = model.to(device=device, dtype=self.dtype)
        self.compiled = self._compile() if compile else None

    def plan(self, size: tuple[int, int], ratio: int) -> Tiling:
        """Return the tiling for images of `size` (H, W), see `Tiling.resolve`; its batch is used from now on."""
        plan = self.tiling.resolve(size, ratio, tileable=self.traits.tileable, device=self.device.type)
        self.batch = plan.batch
        return plan

    def _compile(self) -> Callable[..., Tensor] | None:
        """Return the network, compiled when it is first called, or None if there is no compiler."""
        compilers = shlex.split(os.environ.get("CXX", ""))[:1] or ["g++", "clang++"]
        if self.device.type == "cpu" and not any(map(shutil.which, compilers)):
            print("note: --compile needs a C++ compiler (Debian, Ubuntu: apt-get install g++); running without it")
            return None
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        return torch.compile(self.network, dynamic=False, mode=mode)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse; sr has the dtype of lms and lies on the runner's device."""
        inputs = [t.to(self.device) for t in (ms, lms, pan)]
        # Autocast besides half-precision weights: operations that a network forces into float32 still find matching
        # weights, and the images to which a network adds its details are not rounded.
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)
        with autocast, devices.tf32(self.tf32):
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
        except Exception as error:  # compilers fail in many ways; errors of the network itself are raised again below
            result = self.network(*inputs)
            reason = next(iter(str(error).splitlines()), "")[:160]
            print(f"note: --compile does not work here ({type(error).__name__}: {reason}); running without it")
            self.compiled = None
            return result
