"""Steps between the levels of a U-shaped convolutional network, as CANNet and ARNet have them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Down(nn.Sequential):
    """Halve the sides by 2x2 with stride 2, then double the width by a separable 3x3: (B, c, H, W) to (B, 2c, …)."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 2, stride=2),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.Conv2d(width, 2 * width, 1),
        )


class Up(nn.Module):
    """Double the sides, halve the width, add the skip, then a separable 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.up = nn.ConvTranspose2d(width, half, 2, stride=2)
        self.conv = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), nn.Conv2d(half, half, 1)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, c, H, W) and a skip (B, c/2, 2H, 2W) to (B, c/2, 2H, 2W)."""
        return F.leaky_relu(self.conv(F.leaky_relu(self.up(x)) + skip))
