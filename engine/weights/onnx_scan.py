"""The loops of a selective scan as ONNX functions; the operators are defined in model/ops/scan/portable_backend.py.

Imported only where a network is exported: it needs onnxscript, whose functions are written in Python and read from
their source. Shapes: states h (M, K, N, D); A (K, N, D); step, x (T, M, K, D); B, C (T, M, K, N).
"""

# onnxscript compiles the functions below, and counts their results by the annotations, which must not be texts.
from typing import Any

import torch
from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

_DOMAIN = Opset("lemamba", 1)


@script(_DOMAIN, default_opset=op)
def scan_ends(h: FLOAT[...], A: FLOAT[...], step: FLOAT[...], x: FLOAT[...], B: FLOAT[...]) -> FLOAT[...]:  # noqa: D103
    @graph()
    def body(state, now, value, weight):
        decay = op.Exp(op.Mul(op.Unsqueeze(now, [2]), A))
        return op.Add(op.Mul(decay, state), op.Mul(op.Unsqueeze(weight, [3]), op.Unsqueeze(value, [2])))

    return op.Scan(h, step, x, B, body=body, num_scan_inputs=3)


@script(_DOMAIN, default_opset=op)
def scan_carry(h: FLOAT[...], decays: FLOAT[...], ends: FLOAT[...]) -> FLOAT[...]:  # noqa: D103
    @graph()
    def body(state, decay, end):
        new = op.Add(op.Mul(decay, state), end)
        before = op.Identity(state)
        return new, before

    last, all_before = op.Scan(h, decays, ends, body=body, num_scan_inputs=2)
    return all_before


@script(_DOMAIN, default_opset=op)
def scan_output(  # noqa: D103
    h: FLOAT[...], A: FLOAT[...], step: FLOAT[...], x: FLOAT[...], B: FLOAT[...], C: FLOAT[...]
) -> FLOAT[...]:
    @graph()
    def body(state, now, value, weight, read):
        decay = op.Exp(op.Mul(op.Unsqueeze(now, [2]), A))
        new = op.Add(op.Mul(decay, state), op.Mul(op.Unsqueeze(weight, [3]), op.Unsqueeze(value, [2])))
        seen = op.Squeeze(op.MatMul(op.Unsqueeze(read, [2]), new), [2])
        return new, seen

    last, y = op.Scan(h, step, x, B, C, body=body, num_scan_inputs=4)
    return op.Concat(y, op.Transpose(last, perm=[2, 0, 1, 3]), axis=0)


def translations() -> dict[Any, Any]:
    """Return the ONNX function of each operator, for torch's exporter; {} where no network of this process scans."""
    functions = {"portable_ends": scan_ends, "portable_carry": scan_carry, "portable_output": scan_output}
    ours = torch.ops.lemamba
    return {getattr(ours, name).default: made for name, made in functions.items() if hasattr(ours, name)}
