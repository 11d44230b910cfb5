"""Base of the classical methods: constructor, computation in float64, checks.

Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, 1, H, W), H = ratio * h. Statistics are per image, never
over the batch. Data may be digital numbers or [0, 1]: every method here is equivariant to a common scale up to the
2.2e-16 that the published code adds to denominators.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lemamba.utils.errors import UserError
from lemamba.utils.registry import FAMILIES
from lemamba.utils.sensors import Sensor, get_sensor

EPS = 2.2e-16  # added to denominators by the published toolbox


class Classical(nn.Module):
    """Base of the classical methods; a subclass defines `fuse` on float64 tensors.

    Args:
        img_channel: C, bands of ms and lms.
        condition_channel: P, bands of pan; 1 unless the class allows more.
        out_channel: bands of sr, equal to C.
        ratio: H / h.
        sensor: name of the sensor (or a `Sensor`), for methods that use its MTF gains.

    Raises:
        UserError: band counts that the method is not defined for, or a sensor with another number of bands.
    """

    single_guide = True
    model_name: str
    traits = FAMILIES["classical"]

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        sensor: str | Sensor = "none",
    ) -> None:
        super().__init__()
        name = getattr(self, "model_name", type(self).__name__)
        if out_channel != img_channel:
            raise UserError(f"{name}: expected out_channel {img_channel}, as in ms, given {out_channel}; correct it")
        if self.single_guide and condition_channel != 1:
            raise UserError(f"{name}: expected one PAN band, given {condition_channel}; choose another method")
        self.ratio = ratio
        self.sensor = get_sensor(sensor)
        self.gains = self.sensor.gains(img_channel)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse in float64 and return sr (B, C, H, W) in the dtype of lms; nothing is clipped or rounded."""
        self._check(ms, lms, pan)
        return self.fuse(ms.double(), lms.double(), pan.double()).to(lms.dtype)

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Compute sr from float64 tensors."""
        raise NotImplementedError

    def _check(self, ms: Tensor, lms: Tensor, pan: Tensor) -> None:
        expected = tuple(self.ratio * n for n in ms.shape[-2:])
        if tuple(lms.shape[-2:]) != expected or tuple(pan.shape[-2:]) != expected:
            raise UserError(
                f"ms {tuple(ms.shape)} with ratio {self.ratio}: expected lms and pan of size {expected}, "
                f"given {tuple(lms.shape)} and {tuple(pan.shape)}; correct the ratio or the data"
            )
        if ms.shape[1] != len(self.gains):
            raise UserError(
                f"expected ms with {len(self.gains)} bands, given {tuple(ms.shape)}; build the method for these data"
            )
        if not self.traits.tileable:  # one NaN would spread over the whole image, or stop the regression
            for name, image in (("ms", ms), ("lms", lms), ("pan", pan)):
                bad = image.numel() - int(image.isfinite().sum())
                if bad:
                    raise UserError(
                        f"{self.model_name} uses statistics of the whole image: expected finite numbers, {name} has "
                        f"{bad} that are not; fill them or crop the image"
                    )


def constant_like(x: Tensor, values: tuple[float, ...]) -> Tensor:
    """Return one constant per band, (1, C, 1, 1), on the device and in the dtype of `x`."""
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
