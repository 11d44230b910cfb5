"""Loops of networks as ONNX functions: of a selective scan, and of the k-means of CANNet.

The operators are defined in model/ops/scan/portable_backend.py and model/cannet.py. Imported only where a network is
exported: it needs onnxscript, whose functions are written in Python and read from their source.
Shapes of the scan: states h (M, K, N, D); A (K, N, D); step, x (T, M, K, D); B, C (T, M, K, N).
"""

# onnxscript compiles the functions below, and counts their results by the annotations, which must not be texts.
from typing import Any

import torch
from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

_DOMAIN = Opset("lemamba", 1)
_STEPS = 64  # of a part, `STEPS` in portable_backend.py


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


def _cut(t: Any) -> Any:
    steps = op.Constant(value_ints=[64])
    none = op.Constant(value_ints=[0])
    length = op.Shape(t, start=3)
    parts = (length + op.Constant(value_ints=[63])) / steps
    filled = op.Pad(t, op.Concat(op.Constant(value_ints=[0] * 7), parts * steps - length, axis=0))
    parted = op.Reshape(filled, op.Concat(none, none, none, parts, steps, axis=0))
    first = op.Transpose(parted, perm=[4, 3, 0, 1, 2])
    return op.Reshape(first, op.Concat(steps, op.Constant(value_ints=[-1]), op.Shape(t, start=1, end=3), axis=0))


def _scan_long(x: Any, delta: Any, A: Any, B: Any, C: Any) -> tuple[Any, Any]:
    step = _cut(delta)
    value = _cut(delta * x)
    weight = _cut(B)
    batch = op.Shape(x, start=0, end=1)
    length = op.Shape(x, start=3)
    steps = op.Constant(value_ints=[64])
    parts = (length + op.Constant(value_ints=[63])) / steps
    zero = op.Constant(value_float=0.0)
    ends = scan_ends(op.Expand(zero, op.Concat(parts * batch, op.Shape(A), axis=0)), A, step, value, weight)
    decays = op.Exp(op.Unsqueeze(op.ReduceSum(step, [0], keepdims=0), [2]) * A)
    apart = op.Concat(parts, batch, op.Shape(A), axis=0)
    none = op.Expand(zero, op.Concat(batch, op.Shape(A), axis=0))
    before = scan_carry(none, op.Reshape(decays, apart), op.Reshape(ends, apart))
    out = scan_output(op.Reshape(before, op.Shape(ends)), A, step, value, weight, _cut(C))
    split = op.Reshape(out, op.Concat(op.Shape(out, start=0, end=1), parts, op.Shape(x, start=0, end=3), axis=0))
    y = op.Transpose(op.Slice(split, [0], steps, [0]), perm=[2, 3, 4, 1, 0])
    y = op.Reshape(y, op.Concat(op.Shape(x, start=0, end=3), op.Constant(value_ints=[-1]), axis=0))
    states = op.Slice(split, steps, [9223372036854775807], [0])
    last = op.Transpose(op.Gather(states, op.Constant(value_int=-1), axis=1), perm=[1, 2, 3, 0])
    return op.Slice(y, [0], length, [3]), last


def _scan_short(x: Any, delta: Any, A: Any, B: Any, C: Any) -> tuple[Any, Any]:
    step = op.Transpose(delta, perm=[3, 0, 1, 2])
    value = op.Transpose(delta * x, perm=[3, 0, 1, 2])
    weight = op.Transpose(B, perm=[3, 0, 1, 2])
    read = op.Transpose(C, perm=[3, 0, 1, 2])
    none = op.Expand(op.Constant(value_float=0.0), op.Concat(op.Shape(x, start=0, end=1), op.Shape(A), axis=0))
    out = scan_output(none, A, step, value, weight, read)
    length = op.Shape(x, start=3)
    y = op.Transpose(op.Slice(out, [0], length, [0]), perm=[1, 2, 3, 0])
    last = op.Transpose(op.Slice(out, length, [9223372036854775807], [0]), perm=[1, 2, 3, 0])
    return y, last


def _backward(t: Any) -> Any:
    return op.Slice(t, [-1], [-9223372036854775808], [3], [-1])


def _sequences(t: Any) -> Any:
    flat = op.Constant(value_ints=[0, 0, 0, -1])
    rows = op.Reshape(op.Gather(t, op.Constant(value_ints=[0, 2]), axis=1), flat)
    columns = op.Gather(t, op.Constant(value_ints=[1, 3]), axis=1)
    columns = op.Reshape(op.Transpose(columns, perm=[0, 1, 2, 4, 3]), flat)
    ahead = op.Concat(op.Slice(rows, [0], [1], [1]), op.Slice(columns, [0], [1], [1]), axis=1)
    back = op.Concat(op.Slice(rows, [1], [2], [1]), op.Slice(columns, [1], [2], [1]), axis=1)
    return op.Concat(ahead, _backward(back), axis=1)


def _image_sequences(x: Any) -> Any:
    flat = op.Concat(op.Constant(value_ints=[0, 1]), op.Shape(x, start=1, end=2), op.Constant(value_ints=[-1]), axis=0)
    ahead = op.Concat(op.Reshape(x, flat), op.Reshape(op.Transpose(x, perm=[0, 1, 3, 2]), flat), axis=1)
    return op.Concat(ahead, _backward(ahead), axis=1)


def _image_of(y: Any, x: Any) -> Any:
    both = op.Slice(y, [0], [2], [1]) + _backward(op.Slice(y, [2], [4], [1]))
    rows = op.Reshape(op.Gather(both, op.Constant(value_int=0), axis=1), op.Shape(x))
    turned = op.Transpose(x, perm=[0, 1, 3, 2])
    columns = op.Reshape(op.Gather(both, op.Constant(value_int=1), axis=1), op.Shape(turned))
    return rows + op.Transpose(columns, perm=[0, 1, 3, 2])


def cross_scan(
    x: Any, dt: Any, Bt: Any, Ct: Any, A: Any, D: Any, dt_weight: Any, dt_bias: Any,
    shared_state: Any = None, gate: Any = None, rho: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Return y and the last states of `lemamba.model.ops.scan.interface.CrossInputs`, with four directions."""
    channels, states = int(x.shape[1]), int(A.shape[1])
    by_direction = op.Constant(value_ints=[4, channels, 1])
    xs = _image_sequences(x)
    delta = op.Softplus(op.MatMul(dt_weight, _sequences(dt)) + op.Reshape(dt_bias, by_direction))
    if shared_state is not None:
        grouped = op.Reshape(shared_state, op.Constant(value_ints=[-1, 4, channels, states]))
        xs = xs + op.Reshape(rho, by_direction) * op.MatMul(grouped, _sequences(gate))
    A = op.Transpose(op.Reshape(A, op.Constant(value_ints=[4, channels, states])), perm=[0, 2, 1])
    sides = x.shape[2], x.shape[3]
    short = all(isinstance(side, int) for side in sides) and sides[0] * sides[1] <= _STEPS
    y, last = (_scan_short if short else _scan_long)(xs, delta, A, _sequences(Bt), _sequences(Ct))
    y = y + op.Reshape(D, by_direction) * xs
    return _image_of(y, x), op.Reshape(last, op.Constant(value_ints=[-1, 4 * channels, states]))


def scan(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None, delta_bias: Any = None, delta_softplus: bool = False
) -> tuple[Any, Any]:
    """Return y and the last state of `lemamba.model.ops.scan.interface.ScanInputs` without an initial state."""
    groups, states = int(B.shape[1]), int(A.shape[1])
    channels = int(u.shape[1]) // groups
    by_group = op.Constant(value_ints=[groups, channels, 1])
    grouped = op.Constant(value_ints=[0, groups, channels, -1])
    x, step = op.Reshape(u, grouped), op.Reshape(delta, grouped)
    if delta_bias is not None:
        step = step + op.Reshape(delta_bias, by_group)
    if delta_softplus:
        step = op.Softplus(step)
    A = op.Transpose(op.Reshape(A, op.Constant(value_ints=[groups, channels, states])), perm=[0, 2, 1])
    short = isinstance(u.shape[2], int) and u.shape[2] <= _STEPS
    y, last = (_scan_short if short else _scan_long)(x, step, A, B, C)
    if D is not None:
        y = y + op.Reshape(D, by_group) * x
    return op.Reshape(y, op.Shape(u)), op.Reshape(last, op.Constant(value_ints=[-1, groups * channels, states]))


@script(_DOMAIN, default_opset=op)
def first_centres(x: FLOAT[None, None, None], draws: FLOAT[None]) -> FLOAT[...]:  # noqa: D103
    norms = op.ReduceSumSquare(x, [2], keepdims=0)
    length = op.Shape(x, start=1, end=2)
    first = op.Gather(x, length / op.Constant(value_ints=[2]), axis=1)
    largest = op.CastLike(op.Constant(value_float=3.4e38), x)
    far = op.Expand(largest, op.Shape(norms))

    @graph()
    def body(nearest, chosen, share):
        product = op.Squeeze(op.MatMul(x, op.Transpose(chosen, perm=[0, 2, 1])), [2])
        away = norms + (op.ReduceSumSquare(chosen, [2], keepdims=0) - (product + product))
        near = op.Min(nearest, op.Relu(away))
        sums = op.CumSum(near, op.Constant(value_int=1))
        before = op.Cast(op.Less(sums, op.ReduceMax(sums, [1]) * share), to=7)
        place = op.Min(op.ReduceSum(before, [1]), length - op.Constant(value_ints=[1]))
        new = op.GatherND(x, op.Unsqueeze(place, [2]), batch_dims=1)
        out = op.Squeeze(new, [1])
        return near, new, out

    _, _, others = op.Scan(far, first, draws, body=body, num_scan_inputs=1)
    return op.Concat(first, op.Transpose(others, perm=[1, 0, 2]), axis=1)


@script(_DOMAIN, default_opset=op)
def lloyd(  # noqa: D103
    x: FLOAT[None, None, None], centres: FLOAT[None, None, None], tolerance: FLOAT, iterations: INT64
) -> INT64[...]:
    clusters = op.Shape(centres, start=1, end=2)
    numbers = op.Range(op.Constant(value_int=0), op.Squeeze(clusters), op.Constant(value_int=1))
    norms = op.ReduceSumSquare(x, [2])
    nothing = op.ReduceSum(norms, [2], keepdims=0) * op.Constant(value_float=0.0)
    labels = op.CastLike(nothing, numbers) - op.Constant(value_int=1)
    running = op.Equal(op.ReduceMax(labels, [1]), op.Constant(value_int=-1))
    for _ in range(iterations):
        product = op.MatMul(x, op.Transpose(centres, perm=[0, 2, 1]))
        lengths = op.Transpose(op.ReduceSumSquare(centres, [2]), perm=[0, 2, 1])
        moved = op.ArgMin(lengths - (product + product), axis=2, keepdims=0)
        changed = op.ReduceMean(op.Cast(op.Not(op.Equal(moved, labels)), to=1), [1])
        labels = op.Where(running, moved, labels)
        running = op.And(running, op.Greater(changed, tolerance))
        members = op.CastLike(op.Equal(op.Unsqueeze(labels, [1]), op.Unsqueeze(numbers, [1])), x)
        counts = op.ReduceSum(members, [2])
        means = op.MatMul(members, x) / op.Max(counts, op.Constant(value_float=1.0))
        centres = op.Where(op.Greater(counts, op.Constant(value_float=0.0)), means, centres)
        done = op.Equal(op.ReduceMax(op.Cast(running, to=7), keepdims=0), op.Constant(value_int=0))
        if done:
            break
    return labels


def portable_lloyd(x: Any, draws: Any, tolerance: Any, iterations: Any) -> Any:
    """Return the labels of pixels x (B, L, c), as `model/cannet.py` does."""
    return lloyd(
        x,
        first_centres(x, op.Constant(value_floats=list(draws))),
        op.Constant(value_float=float(tolerance)),
        op.Constant(value_int=int(iterations)),
    )


def translations() -> dict[Any, Any]:
    """Return the ONNX function of each operator, for torch's exporter; {} where no network of this process has them."""
    functions: dict[str, Any] = {
        "portable_ends": scan_ends,
        "portable_carry": scan_carry,
        "portable_output": scan_output,
        "portable_cross": cross_scan,
        "portable_scan": scan,
        "portable_lloyd": portable_lloyd,
    }
    ours = torch.ops.lemamba
    return {getattr(ours, name).default: made for name, made in functions.items() if hasattr(ours, name)}
