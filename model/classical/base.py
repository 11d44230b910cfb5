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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import Sensor, get_sensor

EPS = 2.2e-16  # added to denominators by the published toolbox
_ALL = (slice(None), slice(None))


@dataclass
class Window:
    """A part of an image with its margins, or a whole image.

    Attributes:
        ms: (1, C, h, w).
        lms: (1, C, H, W).
        pan: (1, 1, H, W).
        geometry: of these three, where pixel (0, 0) is the window's.
        inner: rows and columns of lms and pan without the margins.
        inner_ms: the same of ms; neighbouring windows share no pixel of it.
        valid: (H, W) inside the margins, True where there is data; None = everywhere.
        valid_ms: (h, w) the same of ms.
    """

    ms: Tensor
    lms: Tensor
    pan: Tensor
    geometry: Geometry
    inner: tuple[slice, slice] = _ALL
    inner_ms: tuple[slice, slice] = _ALL
    valid: Tensor | None = None
    valid_ms: Tensor | None = None

    def crop(self, x: Tensor) -> Tensor:
        """Cut the margins off an image (1, F, H, W)."""
        return x[..., self.inner[0], self.inner[1]]

    def fine(self, *images: Tensor) -> Tensor:
        """Features (F, n) at the valid PAN pixels inside the margins, from images (1, ·, H, W)."""
        return _valid(torch.cat([self.crop(x)[0] for x in images]), self.valid)

    def coarse(self, *images: Tensor) -> Tensor:
        """Features (F, n) at the valid MS pixels inside the margins, from images (1, ·, h, w)."""
        cut = [x[0][..., self.inner_ms[0], self.inner_ms[1]] for x in images]
        return _valid(torch.cat(cut), self.valid_ms)


def _valid(features: Tensor, valid: Tensor | None) -> Tensor:
    return features.flatten(1) if valid is None else features[:, valid]


Windows = Callable[[], Iterable[Window]]


class Classical(nn.Module):
    """Base of the classical methods; a subclass defines `fit` and `inject`.

    Args:
        img_channel: C, bands of ms and lms.
        condition_channel: P, bands of pan; 1, unless the class says otherwise.
        out_channel: bands of sr, equal to C.
        ratio: H / h.
        sensor: name of the sensor (or a `Sensor`), for methods that use its MTF gains.
        geometry: where MS pixels lie under PAN pixels; None = the research toolboxes' convention, offset r/2.

    Attributes:
        margin: PAN pixels around a window that its result depends on.

    Raises:
        UserError: band counts that the method is not defined for, or a sensor with another number of bands.
    """

    single_guide = True
    margin = 0

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
            raise UserError(f"{name} gives as many bands as ms has: {img_channel}, asked for {out_channel}")
        if self.single_guide and condition_channel != 1:
            raise UserError(f"{name} takes one PAN band, given {condition_channel}; choose another method")
        self.ratio = ratio
        self.geometry = geometry or Geometry.toolbox(ratio)
        self.sensor = get_sensor(sensor)
        self.gains = self.sensor.gains(img_channel)

    @property
    def scale(self) -> float:
        """The ratio that filters are made for: the true one, which need not be whole."""
        return (self.geometry.ratio[0] * self.geometry.ratio[1]) ** 0.5

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse in float64 and return sr (B, C, H, W) in the dtype of lms; nothing is clipped or rounded."""
        self._check(ms, lms, pan)
        fused = []
        for image in zip(ms.double(), lms.double(), pan.double(), strict=True):
            window = Window(*(x[None] for x in image), self.geometry)
            fused.append(self.inject(window, self.fit(lambda window=window: [window])))
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
                f"ms {tuple(ms.shape)} with ratio {self.ratio} needs lms and pan of size {expected}, "
                f"given {tuple(lms.shape)} and {tuple(pan.shape)}; correct the ratio or the data"
            )
        if ms.shape[1] != len(self.gains):
            raise UserError(f"built for {len(self.gains)} bands, given ms {tuple(ms.shape)}; build it for these data")
        if not getattr(self, "tileable", True):  # one NaN would spread over the whole image, or stop the regression
            for name, image in (("ms", ms), ("lms", lms), ("pan", pan)):
                bad = image.numel() - int(image.isfinite().sum())
                if bad:
                    raise UserError(
                        f"{self.model_name} uses statistics of the whole image: expected finite numbers, {name} has "
                        f"{bad} that are not; fill or cut away what is missing"
                    )


def column(values: Tensor, like: Tensor) -> Tensor:
    """Give one number per band as (1, C, 1, 1), on the device and in the dtype of `like`."""
    return values.to(like).view(1, -1, 1, 1)
