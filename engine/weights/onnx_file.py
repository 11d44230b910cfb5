"""Networks as ONNX files, for programs without torch: write one, and compare it with the network.

A file has the inputs ms (B, C, h, w), lms (B, C, H, W) and pan (B, P, H, W), divided by the divisor, and the output sr
(B, C, H, W), not clipped; all float32, H = ratio * h. Its metadata says what a program must know of the data.
Needs the packages onnx, onnxscript and, to compare, onnxruntime; they are imported where they are used.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from lemamba.utils.errors import UserError, one_line

OPSET = 18
INPUTS, OUTPUT = ("ms", "lms", "pan"), "sr"
_SMALLEST, _LARGEST = 8, 1 << 14  # pixels of a side of ms
_BATCHES = 1 << 10
_TOLERANCE = 1e-4  # of the largest value of sr, and at least of 1: float32 in another order of operations
_LONGEST = 300  # characters of a reason
_DIFFERS = "differs from torch by"
_RANGE = "in the specified range"  # of a reason: the graph is another one for small images, or for one image
_TELLING = (
    "Not all values",
    "could not",
    "Could not",
    "not support",
    "No ONNX function",
    "No decompositions",
    "expected",
)
INSTALL = "pip install onnx onnxscript onnxruntime"


@dataclass(frozen=True)
class Sizes:
    """What the inputs of a network look like.

    Attributes:
        bands, guide_bands, ratio: C, P and H / h.
        side: h = w of a file with fixed sizes, and of the images with which a file is compared.
    """

    bands: int
    guide_bands: int
    ratio: int
    side: int

    def images(self, batch: int = 1, rows: int | None = None, columns: int | None = None) -> tuple[Tensor, ...]:
        """Draw ms, lms and pan in [0, 1]; lms is ms interpolated."""
        h, w = rows or self.side, columns or self.side
        ms = torch.rand(batch, self.bands, h, w, generator=torch.Generator().manual_seed(0))
        lms = nn.functional.interpolate(ms, scale_factor=self.ratio, mode="bicubic").clamp(0, 1)
        detail = torch.rand(batch, self.guide_bands, *lms.shape[2:], generator=torch.Generator().manual_seed(1))
        return ms, lms, (lms.mean(1, keepdim=True) + detail) / 2


@dataclass(frozen=True)
class OnnxFile:
    """An exported network.

    Attributes:
        content: the file.
        smallest: side of ms from which sizes are free; 0: they are those of `Sizes.images`.
        batch: any number of images; else one.
        reason: why batch and sizes are not free from 8 pixels on, in one line; "" if they are.
        nodes: of the graph, the functions that it calls included.
        difference: largest absolute difference of sr between the file in onnxruntime and the network in torch.
    """

    content: bytes
    smallest: int
    batch: bool
    reason: str
    nodes: int
    difference: float


def need(*packages: str) -> None:
    """Raise a `UserError` that says how to install packages that are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs the package {' and '.join(missing)}, not installed; run: {INSTALL}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter prints about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True)
class _Freedom:
    """What is to be free in a file: sides of ms from `smallest` pixels on (0 = none), and the batch."""

    smallest: int = _SMALLEST
    batch: bool = True

    def less(self, reason: str, side: int) -> _Freedom:
        """Return what to try after a failure: one image, images larger than `side`, in the end nothing free."""
        if _RANGE in reason and self.batch and "size()[0]" in reason:
            return _Freedom(self.smallest, batch=False)
        if (_RANGE in reason or _DIFFERS in reason) and 0 < self.smallest <= side:
            return _Freedom(side + 1, self.batch)
        return _Freedom(0, batch=False)


def _dynamic_shapes(ratio: int, free: _Freedom) -> tuple[dict[int, Any], ...]:
    """Return the free axes of ms, lms and pan: any batch, any h and w, H and W ratio times as large."""
    batch = Dim("batch", max=_BATCHES) if free.batch else None
    smallest = free.smallest
    rows, columns = (Dim(name, min=smallest, max=_LARGEST) for name in ("h", "w"))
    large = {0: batch, 2: ratio * rows, 3: ratio * columns}
    return {0: batch, 2: rows, 3: columns}, large, dict(large)


class _Guarded(nn.Module):
    """A network for images whose ms has at least `smallest` pixels a side: smaller ones have no pixel to read here."""

    def __init__(self, network: nn.Module, smallest: int, ratio: int) -> None:
        super().__init__()
        self.network, self.last = network, ratio * smallest - 1

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        return self.network(ms, lms, pan) + 0 * pan[:, :1, self.last, self.last, None, None]


def _capture(network: nn.Module, sizes: Sizes, free: _Freedom) -> torch.export.ExportedProgram:
    """Record the network as a graph; sizes that stay free are recorded at a size without a special property."""
    if not free.smallest:
        return torch.export.export(network, sizes.images(), strict=False)
    # Conditions on sizes that torch cannot prove, such as n <= ceil(n / 8) * 8, are not to end the export; whether the
    # graph serves other sizes is found by running it there.
    return torch.export.export(
        _Guarded(network, free.smallest, sizes.ratio),
        sizes.images(2 if free.batch else 1, sizes.side + 1, sizes.side + 3),
        dynamic_shapes=_dynamic_shapes(sizes.ratio, free),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def _reason(error: Exception) -> str:
    """Return the telling line of an exporter's message of many, that of the error at its root."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip(" -\t") for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in _TELLING)]
    return one_line(f"{type(error).__name__}: {(telling or lines or [''])[0]}")[:_LONGEST]


def export(
    network: nn.Module,
    sizes: Sizes,
    facts: Mapping[str, Any],
    *,
    fixed: bool = False,
    recording: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> OnnxFile:
    """Export a network in evaluation mode, and compare the file with it.

    Args:
        network: ``forward(ms, lms, pan) -> sr``.
        sizes: of its inputs.
        facts: for the file's metadata: texts and numbers.
        fixed: do not try free sizes.
        recording: entered while the network is recorded, e.g. `lemamba.model.ops.portable.portable`, in which layers
            use operations that exporters know. The file is compared with the network outside of it.

    Returns:
        A file with free sizes where the network's graph does not depend on them; where it is another one for small
        images, as of networks that cut larger ones into windows, free from a little above `sizes` on; else one for
        `sizes`.

    Raises:
        UserError: packages are missing, the network cannot be exported (the reason in one line), or the file does not
            give what the network gives.
    """
    need("onnx", "onnxscript", "onnxruntime")
    reason, free = ("as asked", _Freedom(0, batch=False)) if fixed else ("", _Freedom())
    with _quiet(), torch.no_grad():
        network(*sizes.images(1, _SMALLEST, _SMALLEST))  # reads buffers; recording hides values
        while True:
            try:
                with recording():
                    proto = _recorded(network, sizes, free)
                return _made(network, proto, sizes, facts, free, reason)
            except Exception as error:  # the exporter raises dozens of types
                reason = _reason(error)
            if not free.smallest:
                name = getattr(network, "model_name", type(network).__name__)
                raise UserError(f"{name} cannot be exported to ONNX: {reason}; use it with torch")
            free = free.less(reason, sizes.side)


def _recorded(network: nn.Module, sizes: Sizes, free: _Freedom) -> Any:
    """Record a network and translate it: the ONNX model."""
    from lemamba.engine.weights.onnx_loops import translations

    made = torch.onnx.export(
        _capture(network, sizes, free),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=INPUTS,
        output_names=[OUTPUT],
        custom_translation_table=translations(),
    )
    assert made is not None
    return made.model_proto


def _made(
    network: nn.Module, proto: Any, sizes: Sizes, facts: Mapping[str, Any], free: _Freedom, reason: str
) -> OnnxFile:
    """Add the metadata and compare; `reason` is why not all is free."""
    about = {
        "sizes of ms": "free" if free.smallest else f"{sizes.side} x {sizes.side}",
        "smallest side of ms": free.smallest or sizes.side,
        "batch": "free" if free.batch else 1,
        "values": "divided by the divisor",
    }
    for key, value in {**facts, **about}.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    nodes = len(proto.graph.node) + sum(len(function.node) for function in proto.functions)
    content = proto.SerializeToString()
    difference = _difference(network, content, sizes, free)
    return OnnxFile(content, free.smallest, free.batch, reason, nodes, difference)


def _difference(network: nn.Module, content: bytes, sizes: Sizes, free: _Freedom) -> float:
    """Compare sr in onnxruntime and torch; with free sizes, at other sizes and batches than were recorded.

    Raises:
        UserError: they are not the same but for rounding.
    """
    side, session, worst = sizes.side, Session(content), 0.0
    # also the smallest images: a condition on sizes that torch cannot prove at recording leaves no trace in the file
    least, many = free.smallest, 3 if free.batch else 1
    others = [(many, side + 2, side + 5), (1, max(side, least), 2 * side), (1, least, least)]
    for shape in others if free.smallest else [(1, side, side)]:
        images = sizes.images(*shape)
        expected, found = network(*images), session(*images)
        difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            raise UserError(f"the result at {shape[1]} x {shape[2]} {_DIFFERS} {difference:.2g}")
        worst = max(worst, difference)
    return worst


class Session:
    """An ONNX file in onnxruntime on the CPU, called like the network: ``session(ms, lms, pan) -> sr``.

    Args:
        file: its path or content.
        threads: of onnxruntime; 0 = all cores.
    """

    def __init__(self, file: Path | bytes, threads: int = 0) -> None:
        need("onnxruntime")
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        given = file if isinstance(file, bytes) else str(file)
        self.session = onnxruntime.InferenceSession(given, settings, providers=["CPUExecutionProvider"])
        self.taken = {value.name for value in self.session.get_inputs()}

    @property
    def metadata(self) -> dict[str, str]:
        """The facts in the file."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse; inputs and result as in the module docstring."""
        images = {name: t.numpy() for name, t in zip(INPUTS, (ms, lms, pan), strict=True) if name in self.taken}
        return torch.from_numpy(self.session.run([OUTPUT], images)[0])
