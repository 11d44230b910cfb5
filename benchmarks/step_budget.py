"""What a training step of LE-Mamba on a GPU moves, keeps and launches, counted without one.

`python -m benchmarks.step_budget`

The step (forward, loss, backward, clipping, AdamW, EMA) runs on torch's meta device, where tensors have shapes and
no memory, down the code path of a GPU: every operator is one kernel and is counted when it is called. The Triton
kernels of the scan are replaced by a count, so their launcher runs as it is, buffers and sums included.

Counting: a kernel reads each input and writes each output once, whatever caches and repeated reads do; views are
free; an expanded tensor has the size of its memory. Kept: storages that autograd holds from forward to backward.
Peak: storages alive at once, from the start of the step, with weights, moments, EMA and gradients. The optimizer and
the clipping are calculated from the parameters (fused AdamW, foreach norms). bf16 is autocast: matrix products,
convolutions and einsums in bf16, norms in float32, the rest in the type that arrives.

`--compiled`: what the network keeps under torch.compile, as inductor splits its graph into forward and backward. What
inductor then makes of both, kernels and bytes, is not counted: its scheduler asks the driver for the GPU's properties.

The floor of a GPU is max(bytes / bandwidth, FLOPs / peak); launches are not in it.
"""

from __future__ import annotations

import argparse
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lemamba.engine.training.ema import EMA
from lemamba.losses import build_loss
from lemamba.model import build_model
from lemamba.model.ops import registration
from lemamba.model.ops.native import linear
from lemamba.model.ops.triton import block, gate, launch, scan, tune
from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.startup import run_cli

GROUPS = (
    "scan",
    "sums of the scan",
    "norms and element-wise",
    "concatenations",
    "matrix products",
    "depth-wise convolutions",
    "other convolutions",
    "optimizer",
    "EMA",
)
BLOCK_KERNELS = (
    "prepare",
    "prepare_backward",
    "norm_rows",
    "norm_gate",
    "silu_backward",
    "add_norm",
    "finish",
    "finish_backward",
    "gelu_backward_sums",
    "norm_rows_backward",
)
# GPU: bytes a second of a copy, float32 and bf16 FLOPs a second at 80 % of the data sheet's (no TF32)
GPUS = {"A100": (1.6e12, 15.6e12, 250e12), "H100": (2.7e12, 53.6e12, 790e12)}
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "linear_backward")
_FREE = (
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "detach",
    "is_same_size",
    "_unsafe_view",
)
_TWO_KERNELS = ("native_layer_norm_backward", "convolution_backward")
# tensors that one launch of a foreach kernel takes, by the number of its lists (ATen/native/cuda/MultiTensorApply.cuh)
_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}


def memory_of(tensor: Tensor) -> int:
    """Return the bytes that a tensor covers; axes of stride 0 count once."""
    sizes = (n for n, s in zip(tensor.shape, tensor.stride(), strict=True) if s or n == 0)
    return math.prod(sizes) * tensor.element_size()


@dataclass
class Line:
    """Kernels, bytes and FLOPs of one group."""

    kernels: int = 0
    bytes: int = 0
    flops: int = 0

    def add(self, kernels: int, size: int, flops: int = 0) -> None:
        """Add one operator."""
        self.kernels, self.bytes, self.flops = self.kernels + kernels, self.bytes + size, self.flops + flops


@dataclass
class Budget:
    """One step: what each group does, bytes kept for backward, bytes at the peak, parameters."""

    lines: dict[str, Line] = field(default_factory=lambda: {group: Line() for group in GROUPS})
    kept: int = 0
    peak: int = 0
    parameters: int = 0

    def total(self) -> Line:
        """Return the sum over the groups."""
        return Line(*(sum(getattr(line, n) for line in self.lines.values()) for n in ("kernels", "bytes", "flops")))

    def floor(self, gpu: str, precision: str) -> float:
        """Return the milliseconds below which a GPU cannot do the step."""
        speed, single, half = GPUS[gpu]
        total = self.total()
        return 1e3 * max(total.bytes / speed, total.flops / (half if precision == "bf16" else single))


class Counter(TorchDispatchMode):
    """Count every operator that runs inside; storages alive are followed for the peak."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget, self.group = budget, ""
        self.alive = self.most = 0
        self.known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def hold(self, tensors: Any) -> None:
        """Follow the storages of these tensors."""
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor) or (storage := tensor.untyped_storage()) in self.known:
                continue
            self.known[storage] = None
            self.alive += storage.nbytes()
            self.most = max(self.most, self.alive)
            weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count it."""
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2].rstrip("_")
        if func.namespace == registration.NAMESPACE:
            return self._scan(name, args)
        result = func(*args, **kwargs)
        if name.startswith("convolution"):  # on a GPU its results are channels last where the map is
            result = tree_map(partial(_laid_out_as, args[0]), result)
        self.hold(result)
        if name in _FREE or name.startswith("lift") or (func.is_view and not _copied(args, result)):
            return result
        tensors = {id(t): t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
        if not tensors:  # promote_types has only dtypes
            return result
        kernels = self._launches(name, args)
        self.budget.lines[self._group(name, args)].add(
            kernels, sum(map(memory_of, tensors.values())), _flops(name, args, result)
        )
        return result

    def _launches(self, name: str, args: Any) -> int:
        if name.startswith("_foreach"):
            lists = [a for a in args if isinstance(a, (list, tuple))]
            return -(-len(lists[0]) // _PER_LAUNCH[min(len(lists), 5)])
        return 2 if name in _TWO_KERNELS else 1

    def _group(self, name: str, args: Any) -> str:
        if self.group:
            return self.group if name not in ("sum",) or self.group != "scan" else "sums of the scan"
        if name == "cat":
            return "concatenations"
        if name in _PRODUCTS:
            return "matrix products"
        if name.startswith("convolution"):
            return (
                "depth-wise convolutions" if args[-2 if name.endswith("backward") else -1] > 1 else "other convolutions"
            )
        return "norms and element-wise"

    def scanning(self, launcher: Callable[..., Any]) -> Callable[..., Any]:
        """Return a launcher of the scan whose kernels are counted as such."""

        def run(call: launch.Call, *args: Any, **options: Any) -> Any:
            before, self.group = self.group, "scan"
            try:
                if launcher is launch.forward:
                    shapes = tree_map(_shape, call.inputs)
                    self.budget.lines["scan"].flops += (
                        3 * registration.FLOPS_PER_STATE * shapes.x[0] * shapes.x[2] * math.prod(shapes.A)
                    )
                return launcher(call, *args, **options)
            finally:
                self.group = before

        return run

    def _scan(self, name: str, args: Any) -> Any:
        """Run the launcher of the Triton kernels in place of the operator."""
        kernel = KERNELS[name.removesuffix("_backward").removesuffix("_saving")]
        before, self.group = self.group, "scan"
        try:
            with self:
                if name.endswith("_backward"):
                    inputs = kernel.inputs(*args[3:])
                    gradients = kernel.backward(*args[:3], inputs)
                    return [gradients[n] for n in kernel.returned(inputs)]
                inputs = kernel.inputs(*args)
                self.budget.lines["scan"].flops += 3 * registration._flops(kernel.inputs, tree_map(_shape, inputs))
                return kernel.forward(inputs, name.endswith("_saving"))
        finally:
            self.group = before


def _copied(args: Any, result: Any) -> bool:
    """Return whether what may be a view (contiguous, to, reshape, flatten) has memory of its own."""
    before = {t.untyped_storage() for t in tree_leaves(args) if isinstance(t, Tensor)}
    return isinstance(result, Tensor) and result.untyped_storage() not in before


def _laid_out_as(like: Tensor, result: Any) -> Any:
    last = isinstance(result, Tensor) and result.dim() == 4 and like.stride(1) == 1
    return result.contiguous(memory_format=torch.channels_last) if last else result


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else value


def _flops(name: str, args: Any, result: Any) -> int:
    """Return 2 FLOPs per multiply-add of products and convolutions, with groups counted as such."""
    if name in ("mm", "bmm"):
        return 2 * args[0].numel() * args[1].shape[-1]
    if name == "addmm":
        return 2 * args[1].numel() * args[2].shape[-1]
    if name == "convolution":
        return 2 * result.numel() * args[1][0].numel()
    if name == "convolution_backward":
        wanted = args[-1]
        return 2 * args[0].numel() * args[2][0].numel() * (int(wanted[0]) + int(wanted[1]))
    return 0


KERNELS: dict[str, Any] = {}


class _Kernel:
    """A Triton kernel that only counts: every tensor it gets is read or written once."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launched(*args: Any, **_flags: Any) -> None:
            unique = {id(t): t for t in args if isinstance(t, Tensor)}
            self.counter.budget.lines[self.counter.group or "norms and element-wise"].add(
                1, sum(map(memory_of, unique.values()))
            )

        return launched


class _Autocast(TorchFunctionMode):
    """What autocast to bf16 does on a GPU, for the meta device, which has none."""

    HALF = (F.linear, F.conv2d, torch.conv2d, torch.matmul, Tensor.matmul, torch.bmm, torch.einsum, Tensor.__matmul__)
    SINGLE = (F.layer_norm, torch.layer_norm, F.l1_loss, F.mse_loss)

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, Tensor] = {}  # weights are cast once a step

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(dtype)
        return self.cache.setdefault(id(value), value.to(dtype))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Cast the arguments of products and norms."""
        kwargs = kwargs or {}
        dtype = torch.bfloat16 if func in self.HALF else torch.float32 if func in self.SINGLE else None
        if dtype is not None:
            args, kwargs = tree_map(lambda v: self._cast(v, dtype), (args, kwargs))
        return func(*args, **kwargs)


@contextmanager
def as_gpu(budget: Budget, half: torch.dtype | None) -> Iterator[Counter]:
    """Let the meta device take the code path of a GPU with 132 multiprocessors, its kernels counted."""
    from lemamba.model.ops.triton import backward, block_kernels, forward, gate_kernels

    counter = Counter(budget)
    kernel = _Kernel(counter)
    with ExitStack() as stack:
        for module, names in (
            (forward, ("forward_kernel", "carry_kernel", "reverse_kernel")),
            (backward, ("backward_kernel",)),
            (gate_kernels, ("gelu_forward", "gelu_backward", "norm_forward", "norm_backward")),
            (block_kernels, BLOCK_KERNELS),
        ):
            for name in names:
                stack.enter_context(mock.patch.object(module, name, kernel))
        stack.enter_context(mock.patch.object(gate, "served", lambda x: x.device.type == "meta"))
        for module in (block, gate, linear):
            stack.enter_context(mock.patch.object(module, "autocast_dtype", lambda device: half))
        stack.enter_context(mock.patch.object(tune, "processors", lambda: 132))
        # on a machine with a GPU, kernels that only count would be measured, and their choice kept for real ones
        stack.enter_context(mock.patch.object(tune, "wanted", lambda: False))
        stack.enter_context(mock.patch.object(launch, "interpreted", lambda: False))
        for name in ("scan_forward", "scan_backward"):
            stack.enter_context(mock.patch.object(block, name, counter.scanning(getattr(block, name))))
        yield counter


def network_and_images(variant: str, batch: int, side: int, bands: int = 8) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return LE-Mamba and a batch on the meta device."""
    settings = config.resolve({"model": {"arch": "LEMamba", "variant": variant}})
    sizes = {"img_channel": bands, "condition_channel": 1, "out_channel": bands}
    model = build_model("LEMamba", **sizes, **config.model_arguments(settings)).to("meta").train()
    return model, {
        "ms": torch.empty(batch, bands, side // 4, side // 4, device="meta"),
        "lms": torch.empty(batch, bands, side, side, device="meta"),
        "pan": torch.empty(batch, 1, side, side, device="meta"),
        "gt": torch.empty(batch, bands, side, side, device="meta"),
    }


def budget_of(variant: str = "base", precision: str = "no", batch: int = 32, side: int = 64, bands: int = 8) -> Budget:
    """Count one training step.

    Args:
        variant: of LE-Mamba: tiny, base or small.
        precision: "no" (float32) or "bf16".
        batch, side, bands: samples of a step, pixels along a side, bands.
    """
    budget = Budget()
    model, images = network_and_images(variant, batch, side, bands)
    parameters = list(model.parameters())
    budget.parameters = sum(p.numel() for p in parameters)
    ema = EMA(model, 0.995)
    own = {p.untyped_storage() for p in parameters} | {t.untyped_storage() for t in images.values()}
    criterion = build_loss("l1ssim")
    criterion(images["lms"], images["gt"])  # its windows are made once, not in every step
    kept: dict[Any, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in own:
            kept[storage] = storage.nbytes()
        return tensor

    with as_gpu(budget, torch.bfloat16 if precision == "bf16" else None) as counter:
        counter.hold([parameters, list(ema.shadow.values()), list(images.values())])
        counter.alive += 8 * budget.parameters  # AdamW's moments
        with counter, ExitStack() as stack:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                with _Autocast() if precision == "bf16" else ExitStack():
                    sr = model(images["ms"], images["lms"], images["pan"])
                loss = criterion(sr.float(), images["gt"])["total"]
            budget.kept = sum(kept.values())
            kept.clear()
            loss.backward()
            counter.group = "EMA"
            stack.callback(setattr, counter, "group", "")
            ema.update(model)
        budget.peak = counter.most
    optimizer(budget, parameters)
    return budget


def kept_compiled(network: nn.Module, *images: Tensor) -> int:
    """Return the bytes that a network keeps for backward under torch.compile: what inductor's partition saves.

    Traced on the meta device; inputs and parameters, which are there anyway, are not counted.

    Raises:
        UserError: a release of torch whose inductor has no partition to call.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor import compile_fx
    from torch._inductor import config as inductor
    from torch._inductor.decomposition import select_decomp_table

    if not hasattr(compile_fx, "partition_fn"):
        raise UserError(f"--compiled expects a newer torch than {torch.__version__}; 2.13 is known to work")
    kept: dict[Any, int] = {}

    def partition(joint: Any, inputs: Any, *, num_fwd_outputs: int, **options: Any) -> Any:
        with inductor.patch(joint_graph_constant_folding=False):  # it computes values, which meta tensors do not have
            parts = compile_fx.partition_fn(joint, inputs, num_fwd_outputs=num_fwd_outputs, **options)
        given = {n.meta["val"].untyped_storage() for n in parts[0].graph.nodes if n.op == "placeholder"}
        (outputs,) = next(node for node in parts[0].graph.nodes if node.op == "output").args
        for node in outputs[num_fwd_outputs:]:
            storage = node.meta["val"].untyped_storage()
            if storage not in given:
                kept[storage] = storage.nbytes()
        return parts

    def run(graph: Any, inputs: Any) -> Any:
        return graph

    table = select_decomp_table()
    backend = aot_autograd(fw_compiler=run, bw_compiler=run, partition_fn=partition, decompositions=table)
    torch.compile(network, backend=backend, fullgraph=True)(*images)
    return sum(kept.values())


def optimizer(budget: Budget, parameters: list[nn.Parameter]) -> None:
    """Add clipping (foreach: norms, their norm, product) and fused AdamW in two groups of parameters."""
    count, size = len(parameters), 4 * budget.parameters
    launches = -(-count // _PER_LAUNCH[1]) + 4 + -(-count // _PER_LAUNCH[1])
    budget.lines["optimizer"].add(launches, 3 * size)  # gradients: read; read and written
    launches = -(-count // _PER_LAUNCH[4]) + 1
    budget.lines["optimizer"].add(launches, 7 * size)  # weights and moments read and written, gradients read


def page(budgets: dict[tuple[str, str], Budget]) -> str:
    """Return the tables."""
    lines: list[str] = []
    for (variant, precision), budget in budgets.items():
        total = budget.total()
        lines += [
            f"LE-Mamba {variant}, {'bf16' if precision == 'bf16' else 'float32'}: kept for backward "
            f"{budget.kept / 1e9:.1f} GB, peak {budget.peak / 1e9:.1f} GB; at least "
            + ", ".join(f"{budget.floor(gpu, precision):.0f} ms on an {gpu}" for gpu in GPUS),
            "",
            "| group | kernels | GB | GFLOP |",
            "|---|---:|---:|---:|",
        ]
        for group, line in [*budget.lines.items(), ("all", total)]:
            lines.append(f"| {group} | {line.kernels} | {line.bytes / 1e9:.1f} | {line.flops / 1e9:.0f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=["tiny", "base"])
    parser.add_argument("--precisions", nargs="+", default=["no", "bf16"], choices=("no", "bf16"))
    parser.add_argument("--compiled", action="store_true", help="only what the network keeps under torch.compile")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=64)
    options = parser.parse_args()
    if options.batch < 1 or options.side < 1 or options.side % 16:
        raise UserError("expected --batch >= 1 and --side a multiple of 16; the network would pad it")
    if options.compiled:
        for variant in options.variants:
            model, images = network_and_images(variant, options.batch, options.side)
            kept = kept_compiled(model, *(images[name] for name in ("ms", "lms", "pan")))
            print(
                f"LE-Mamba {variant}, float32, under torch.compile: the network keeps {kept / 1e9:.1f} GB for backward"
            )
        return
    done = {}
    for variant in options.variants:
        for precision in options.precisions:
            done[variant, precision] = budget_of(variant, precision, options.batch, options.side)
    print(page(done))


KERNELS.update(scan_triton=scan.SCAN, cross_scan_triton=scan.CROSS)

if __name__ == "__main__":
    run_cli(main)
