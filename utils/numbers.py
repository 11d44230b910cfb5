"""From a method's result to the numbers of the sensor: the one step that all outputs share."""

from __future__ import annotations

from torch import Tensor, aminmax, isfinite, stack

from lemamba.utils.errors import UserError


def to_numbers(sr: Tensor, divisor: float, *, clip: bool, valid: Tensor | None = None, where: str = "") -> Tensor:
    """Check a result, clip it to [0, 1] and multiply it by the divisor.

    Args:
        sr: any shape; the dtype is kept.
        divisor: what the inputs were divided by.
        clip: clip first.
        valid: bool mask of the last axes of `sr`; pixels outside it are not checked. None checks all.
        where: begins the error message, e.g. ``"sample 3: "``.

    Raises:
        UserError: NaN or infinite values.
    """
    checked = sr if valid is None else sr[..., valid]
    if checked.numel() and not isfinite(stack(aminmax(checked))).all():  # NaN is the least and the largest, too
        raise UserError(f"{where}the result holds NaN or infinite values; check weights and divisor")
    return (sr.clamp(0, 1) if clip else sr) * divisor
