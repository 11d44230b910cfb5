"""S2DBPN: back-projection in space and along the bands, applied again and again with shared weights.

Paper: K. Zhang, A. Wang, F. Zhang, W. Wan, J. Sun, L. Bruzzone, "Spatial-spectral dual back-projection network for
pansharpening", IEEE TGRS 61, 2023.
Shapes: ms (B, C, h, w), lms (not used), sr (B, C, H, W), pan (B, P, H, W); features (B, c, H, W) or (B, c, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.utils.registry import register_model

_SLOPE = 0.2  # of every leaky ReLU


class Gate(nn.Module):
    """Each half of the channels times a sigmoid of a 1x1 convolution of itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width // 2, width // 2, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to the same shape."""
        a, b = x.chunk(2, dim=1)
        return torch.cat([a * torch.sigmoid(self.first(a)), b * torch.sigmoid(self.second(b))], dim=1)


class Enlarge(nn.Sequential):
    """3x3 convolution with reflected borders and pixel shuffle."""

    def __init__(self, width: int, ratio: int) -> None:
        conv = nn.Conv2d(width, width * ratio**2, 3, padding=1, padding_mode="reflect")
        super().__init__(conv, nn.PixelShuffle(ratio))


class Shrink(nn.Sequential):
    """Strided convolution with reflected borders, leaky ReLU; the kernel is 4 pixels larger than the stride."""

    def __init__(self, width: int, ratio: int) -> None:
        conv = nn.Conv2d(width, width, ratio + 4, stride=ratio, padding=2, padding_mode="reflect")
        super().__init__(conv, nn.LeakyReLU(_SLOPE))


class SpatialUp(nn.Module):
    """Up-projection: enlarge, compare with the input at its own size, enlarge the error and add it."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.first, self.back, self.second = Enlarge(width, ratio), Shrink(width, ratio), Enlarge(width, ratio)
        self.gate1, self.gate2 = Gate(width), Gate(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, h, w) to (B, c, H, W)."""
        high = self.gate1(self.first(x))
        return high + self.gate2(self.second(self.back(high) - x))


class SpatialDown(nn.Module):
    """Down-projection: the same the other way round, with one gate."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.first, self.back, self.second = Shrink(width, ratio), Enlarge(width, ratio), Shrink(width, ratio)
        self.gate = Gate(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, h, w)."""
        low = self.first(x)
        return low + self.second(self.gate(self.back(low)) - x)


class Widen(nn.Module):
    """Mean of three 1x1 convolutions, each with a leaky ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 3 * channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, d, H, W)."""
        return F.leaky_relu(self.conv(x), _SLOPE).unflatten(1, (3, -1)).mean(dim=1)


class SpectralUp(nn.Module):
    """Up-projection along the channels, from c to d."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.first, self.back, self.second = Widen(narrow, wide), nn.Conv2d(wide, narrow, 1), Widen(narrow, wide)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, d, H, W)."""
        high = self.first(x)
        return high + self.second(self.back(high) - x)


class SpectralDown(nn.Module):
    """Down-projection along the channels, from d to c."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.first, self.back, self.second = nn.Conv2d(wide, narrow, 1), Widen(narrow, wide), nn.Conv2d(wide, narrow, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, d, H, W) to (B, c, H, W)."""
        low = self.first(x)
        return low + self.second(self.back(low) - x)


@register_model("S2DBPN", ratios=(2, 4), paper="Zhang et al., TGRS 61, 2023")
class S2DBPN(nn.Module):
    """S2DBPN. 16,192,552 parameters for 8 bands (P = 1), those of the published class.

    Both projections start from their own image; then three times: mean of both features, and from this mean down and
    up again in space and along the channels, with the same layers each time. The three means together give sr; no
    enlarged ms is added, so training starts far from it. The convolutions before the pixel shuffle grow with the
    square of the ratio: at ratio 8 the network would have 51 million parameters.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps (128).
        narrow: feature maps between the spectral projections (32).
        rounds: means that are joined (3).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 128,
        narrow: int = 32,
        rounds: int = 3,
    ) -> None:
        super().__init__()
        self.rounds = rounds
        self.head_pan = nn.Conv2d(condition_channel, narrow, 3, padding=1, padding_mode="reflect")
        self.head_ms = nn.Conv2d(img_channel, width, 3, padding=1, padding_mode="reflect")
        self.spectral_first, self.spectral_up = SpectralUp(narrow, width), SpectralUp(narrow, width)
        self.spectral_down = SpectralDown(width, narrow)
        self.spatial_first, self.spatial_up = SpatialUp(width, ratio), SpatialUp(width, ratio)
        self.spatial_down = SpatialDown(width, ratio)
        widths = (rounds * width, width, width // 2, width // 4, out_channel)
        layers: list[nn.Module] = []
        for c, d in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(c, d, 1), nn.LeakyReLU(_SLOPE)]
        self.tail = nn.Sequential(*layers)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        spectral = self.spectral_first(F.leaky_relu(self.head_pan(pan), _SLOPE))
        spatial = self.spatial_first(F.leaky_relu(self.head_ms(ms), _SLOPE))
        means = []
        for _ in range(self.rounds):
            spectral = self.spectral_up(self.spectral_down(spectral))
            spatial = self.spatial_up(self.spatial_down(spatial))
            spectral = spatial = (spectral + spatial) / 2
            means.append(spectral)
        return self.tail(torch.cat(means, dim=1))
