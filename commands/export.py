"""Export a trained network as an ONNX file, for programs without torch."""

from __future__ import annotations

from typing import Any

import torch

from lemamba import __version__
from lemamba.commands.adapting import STEPS
from lemamba.commands.methods import load_network
from lemamba.commands.options import ExportOptions
from lemamba.engine.weights.files import open_weights
from lemamba.engine.weights.onnx_file import OPSET, Sizes, export, need
from lemamba.model import model_entry
from lemamba.model.ops.portable import portable
from lemamba.utils.atomic import check_writable, renamed
from lemamba.utils.errors import UserError


def run(options: ExportOptions) -> int:
    """Export, compare with torch, and write the file."""
    if options.out.suffix.lower() != ".onnx":
        raise UserError(f"expected --out to end in .onnx, given {options.out}; correct it")
    need("onnx", "onnxscript", "onnxruntime")
    check_writable(options.out)
    meta = open_weights(options.weights).meta
    name = meta.get("model", {}).get("name") or options.arch
    if name is None:
        raise UserError(f"{options.weights} does not name its network; add --arch")
    _check_exportable(name)
    network = load_network(options.arch, options.weights, None if meta else _given(options))
    sizes, facts = _described(name, meta, options)
    print(f"exporting {name} to ONNX (opset {OPSET}) and comparing it with torch …", flush=True)
    file = export(network.cpu().float(), sizes, facts, fixed=options.fixed, recording=portable)
    with renamed(options.out) as temporary:
        temporary.write_bytes(file.content)
    text = f"{'batch, ' if file.batch else ''}height and width are free, ms from {file.smallest} x {file.smallest} on"
    text = text if file.smallest else f"fixed: batch 1, ms {sizes.side} x {sizes.side}"
    print(f"sizes:      {text}{f' ({file.reason})' if file.reason else ''}")
    print(f"difference: at most {file.difference:.1e} between onnxruntime and torch, values of about 1")
    print(f"wrote       {options.out}: {len(file.content) / 1e6:.2f} MB, {file.nodes} nodes")
    return 0


def _check_exportable(name: str) -> None:
    """Refuse what is more than one network applied to one image."""
    traits = model_entry(name).traits
    why = ""
    if name in STEPS:
        why = "it trains on each image that it fuses"
    elif traits.any_size or not traits.needs_weights:
        why = "it computes statistics of the whole scene, in float64, before and after its network"
    if why:
        raise UserError(f"{name} cannot be exported to ONNX: {why}; use lemamba fuse or lemamba.fuse")


def _given(options: ExportOptions) -> dict[str, Any]:
    """Return the constructor arguments of weights that do not describe themselves."""
    if options.bands is None:
        raise UserError("expected --bands for weights without a description (and --guide_bands, --ratio); add them")
    sizes = {"img_channel": options.bands, "condition_channel": options.guide_bands, "out_channel": options.bands}
    return {**sizes, "ratio": options.ratio}


def _described(name: str, meta: dict[str, Any], options: ExportOptions) -> tuple[Sizes, dict[str, Any]]:
    """Return the sizes of the inputs and the file's metadata."""
    arguments, data = meta.get("model", {}).get("args") or _given(options), meta.get("data", {})
    ratio = arguments.get("ratio", data.get("ratio", 4))
    sizes = Sizes(arguments["img_channel"], arguments["condition_channel"], ratio, options.size)
    facts = {
        "method": name,
        "bands": sizes.bands,
        "guide_bands": sizes.guide_bands,
        "ratio": ratio,
        **{key: data[key] for key in ("divisor", "sensor", "dataset") if data.get(key) is not None},
        "lemamba": __version__,
        "torch": torch.__version__,
    }
    return sizes, facts
