"""Axis order of the field's H5 files, found from the shapes of their keys.

Three orders occur: `NCHW` (PanCollection), `NHWC`, and `WHCN`, which is a MATLAB array `(N, C, H, W)` as Python reads
it. `ms` is smaller than `lms` in height and width only, so the axes that differ determine the order; a file that fits
more than one order is refused.
Legend: N samples, C bands, P guide bands, H W size, h w size of ms, r = H/h.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lemamba.utils.errors import UserError

# order -> positions of the axes N, C, H, W in the file
LAYOUTS: dict[str, tuple[int, int, int, int]] = {
    "NCHW": (0, 1, 2, 3),
    "NHWC": (0, 3, 1, 2),
    "WHCN": (3, 2, 1, 0),
}
Shape = tuple[int, ...]


def to_nchw(shape: Shape, layout: str) -> Shape:
    """Return a stored shape in the order (N, C, H, W); a guide of one band may lack its axis."""
    if len(shape) == 3:
        n, h, w = shape[::-1] if layout == "WHCN" else shape
        return n, 1, h, w
    return tuple(shape[axis] for axis in LAYOUTS[layout])


def as_nchw(values: np.ndarray, layout: str) -> np.ndarray:
    """Return a stored array in the order (N, C, H, W), as a view."""
    if values.ndim == 3:
        return (values.T if layout == "WHCN" else values)[:, None]
    return values.transpose(LAYOUTS[layout])


def read_sample(data, index: int, layout: str) -> np.ndarray:  # noqa: ANN001  (h5py.Dataset or array)
    """Return sample `index` of an H5 data set as (C, H, W); no other sample is read."""
    sample = data[..., index : index + 1] if layout == "WHCN" else data[index : index + 1]
    return as_nchw(sample, layout)[0]


def find_layout(path: Path, shapes: Mapping[str, Shape]) -> str:
    """Return the only order in `LAYOUTS` that fits.

    Args:
        path: for the messages.
        shapes: role ("ms", "pan", perhaps "lms" and "gt") -> shape in the file; of "pan" without the axis of its bands
            where it has one band.

    Raises:
        UserError: not four axes, inconsistent shapes (no order fits), or an ambiguous order (several fit).
    """
    listed = ", ".join(f"{role} {tuple(shape)}" for role, shape in shapes.items())
    for role, shape in shapes.items():
        if len(shape) != 4 and not (role == "pan" and len(shape) == 3):
            raise UserError(f"{path}: expected four axes (N, C, H, W), {role} has shape {tuple(shape)}; reshape it")
    reasons = {layout: _misfit({role: to_nchw(s, layout) for role, s in shapes.items()}) for layout in LAYOUTS}
    fitting = [layout for layout, reason in reasons.items() if reason is None]
    if not fitting:
        raise UserError(f"{path}: {reasons['NCHW']}; the file has {listed}; fix the file")
    if len(fitting) > 1:
        raise UserError(f"{path}: {listed} can be read as {' or '.join(fitting)}; store it as (N, C, H, W), ratio >= 2")
    return fitting[0]


def _misfit(shapes: Mapping[str, Shape]) -> str | None:
    """Return why these (N, C, H, W) shapes cannot be one set of samples; None where they can."""
    n, c, h, w = shapes["ms"]
    large = "lms" if "lms" in shapes else "pan"
    height, width = shapes[large][2:]
    for role, shape in shapes.items():
        if shape[0] != n:
            return f"expected as many samples in {role} as in ms ({n}), given {shape[0]}"
        if role != "pan" and shape[1] != c:
            return f"expected as many bands in {role} as in ms ({c}), given {shape[1]}"
        if role != "ms" and shape[2:] != (height, width):
            return f"expected {role} of the size of {large} ({height}x{width}), given {shape[2]}x{shape[3]}"
    if not (h and w) or height % h or width % w or height // h != width // w:
        return (
            f"expected {large} ({height}x{width}) to be a whole multiple of ms ({h}x{w}), the same in both directions"
        )
    return None
