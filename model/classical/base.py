"""What all classical methods have in common: a first pass that gathers statistics, a second that injects details.

A method defines `fit`, which looks at windows of the image as often as it needs to and returns what it has learnt, and
`inject`, which fuses one window with it. A whole image is one window; a scene of any size is many, with margins so that
filters see the true neighbours (`lemamba.engine.fusing`). Both give the same image.

Shapes: ms (1, C, h, w), lms and sr (1, C, H, W), pan (1, 1, H, W). Statistics are per image, never over the batch, and
over valid pixels only. Data may be digital numbers or [0, 1]: every method here is equivariant to a common scale up to
the 2.2e-16 that the published code adds to denominators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lemamba.model.classical.statistics import quotient
from lemamba.operators.window import Window
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.registry import FAMILIES
from lemamba.utils.sensors import Sensor, get_sensor

EPS = 2.2e-16  # added to denominators by the published toolbox
DARK = 0.1  # share of the mean below which no method divides by an image any more


Windows = Callable[[], Iterable[Window]]


class Classical(nn.Module):
    """Base of the classical methods; a subclass defines `fit` and `inject`.

    Args:
        img_channel: C, bands of ms and lms.
        condition_channel: P, bands of pan; 1 unless the class allows more.
        out_channel: bands of sr, equal to C.
        ratio: H / h.
        sensor: name of the sensor (or a `Sensor`), for methods that use its MTF gains.
        geometry: where MS pixels lie under PAN pixels; None = the research toolboxes' convention, offset r/2.

    Raises:
        UserError: band counts that the method is not defined for, or a sensor with another number of bands.
    """

    model_name: str
    traits = FAMILIES["classical"]
    single_guide = True
    light = False  # whether a window takes so little memory that scenes may compute two at once
    brightness_of_pan = False  # whether the result is as bright as PAN, not as MS
    other_units = False  # whether PAN was given in other units than MS; it is multiplied by one factor

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        sensor: str | Sensor = "none",
        geometry: Geometry | None = None,
    ) -> None:
        super().__init__()
        name = getattr(self, "model_name", type(self).__name__)
        if out_channel != img_channel:
            raise UserError(f"{name}: expected out_channel {img_channel}, as in ms, given {out_channel}; correct it")
        if self.single_guide and condition_channel != 1:
            raise UserError(
                f"{name}: expected one PAN band, given {condition_channel}; choose a method for a guide of several "
                "bands, such as GSA-HS, FUSE or HySure"
            )
        self.ratio = ratio
        self.geometry = geometry or Geometry.toolbox(ratio)
        self.sensor = get_sensor(sensor)
        self.gains = self.sensor.gains(img_channel)

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return 0

    @property
    def scale(self) -> float:
        """The ratio that filters are made for: the true one, which need not be whole."""
        return (self.geometry.ratio[0] * self.geometry.ratio[1]) ** 0.5

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse in float64 and return sr (B, C, H, W) in the dtype of lms; nothing is clipped or rounded."""
        self._check(ms, lms, pan)
        fused = []
        for one in zip(ms.double(), lms.double(), pan.double(), strict=True):
            window = Window(one[0][None], one[1][None], one[2][None], self.geometry)
            fused.append(self.inject(window, self.fit(partial(iter, (window,)))))
        return torch.cat(fused).to(lms.dtype)

    def fit(self, windows: Windows) -> Any:
        """Gather what the method needs to know of the whole image; None where it needs nothing.

        Args:
            windows: gives all windows of the image, as often as it is called.
        """
        return None

    def inject(self, window: Window, fitted: Any) -> Tensor:
        """Fuse a window with what `fit` returned; the margins of the result (1, C, H, W) mean nothing."""
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


def column(values: Tensor, like: Tensor) -> Tensor:
    """Give one number per band as (1, C, 1, 1), on the device and in the dtype of `like`."""
    return values.to(like).view(1, -1, 1, 1)


def modulated(lms: Tensor, sharp: Tensor, low: Tensor, mean: Tensor) -> Tensor:
    """Return ``lms * sharp / low``, high-pass modulation as published, without its poles.

    It is ``lms + lms / low * (sharp - low)``. A matched PAN is 0 or negative where a dark band deviates by its own
    mean, as in the short-wave infrared; the details are then multiplied by any number. From `DARK` times the mean of
    the band downwards, the divisor stays at that value.

    Args:
        lms: (1, C, H, W).
        sharp: PAN matched to each band, (1, C, H, W).
        low: its low-pass, (1, C, H, W).
        mean: of the bands, (C,).
    """
    floor = column(DARK * mean.clamp_min(0), lms)
    bounded = lms + quotient(lms, floor.expand_as(lms)) * (sharp - low)
    return torch.where(low < floor, bounded, lms * (sharp / (low + EPS)))
