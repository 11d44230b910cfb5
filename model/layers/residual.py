"""The plain residual block of PanNet and FusionNet, and their initialisation.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016, without batch normalisation, as
Yang et al. (PanNet, ICCV 2017) use it. Shapes: (B, width, H, W) in and out.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """``x + conv2(relu(conv1(x)))``, 3x3, no normalisation and no activation after the sum.

    Args:
        width: channels in and out.
        activation: in place of the ReLU.
    """

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W)."""
        return x + self.conv2(self.activation(self.conv1(x)))


def he_initialise(module: nn.Module) -> None:
    """Draw every convolution below `module` from He's normal distribution (fan in) and set its bias to zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
