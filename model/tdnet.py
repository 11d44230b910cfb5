"""TDNet: the MS image is doubled step by step, and at each size details of the PAN are injected with learned weights.

Paper: T.-J. Zhang, L.-J. Deng, T.-Z. Huang, J. Chanussot, G. Vivone, "A triple-double convolutional neural network for
panchromatic sharpening", IEEE TNNLS 34(11), 2023.
Shapes: ms (B, C, h, w), lms (B, C, H, W) is not used, pan (B, P, H, W), sr (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.residual import ResidualBlock
from lemamba.utils.registry import register_model

_KERNELS = (3, 5, 7)


class Details(nn.Module):
    """Details of the guide at every size, full size first: residual blocks, with max pooling in between.

    Args:
        guide: P.
        bands: C; the last convolution, which makes C maps of details, is one for all sizes, as published.
        width: feature maps.
        levels: sizes.
    """

    def __init__(self, guide: int, bands: int, width: int, levels: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(guide, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(levels))
        self.tail = nn.Conv2d(width, bands, 3, padding=1)

    def forward(self, pan: Tensor) -> list[Tensor]:
        """Map (B, P, H, W) to C maps at every size, (B, C, H / 2**i, W / 2**i)."""
        x = self.head(pan)
        details = []
        for level, block in enumerate(self.blocks):
            x = block(F.max_pool2d(x, 2) if level else x)
            details.append(F.relu(self.tail(x)))
        return details


class Scales(nn.Module):
    """``relu(x + cat(three convolutions of x))``, 3x3, 5x5 and 7x7, a third of the channels each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width // 3, k, padding=k // 2) for k in _KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W)."""
        return F.relu(x + torch.cat([convolution(x) for convolution in self.convolutions], dim=1))


class Level(nn.Module):
    """Double the size of the image, inject details, and make the image of this size from both.

    Args:
        bands: C.
        width: feature maps of the multi-scale part, a multiple of 6; halved after the first block.
    """

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.enlarge = nn.Sequential(nn.Conv2d(bands, 4 * bands, 3, padding=1), nn.PixelShuffle(2))
        merge, widen = nn.Conv2d(2 * bands, 1, 3, padding=1), nn.Conv2d(1, 1, 5, padding=2)
        self.attention = nn.Sequential(merge, nn.ReLU(), widen, nn.ReLU(), nn.Conv2d(1, 1, 1), nn.Sigmoid())
        # Both ReLUs have one channel: closed, they pass no gradient to the weights before them. As released, the signs
        # of two random convolutions decide whether they are; here they start open.
        assert merge.bias is not None
        nn.init.ones_(merge.bias)
        nn.init.uniform_(widen.weight, 0, 2 / 25)
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * bands, width, 7, padding=3),
            nn.ReLU(),
            Scales(width),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.ReLU(),
            Scales(width // 2),
            nn.Conv2d(width // 2, bands, 5, padding=2),
        )

    def forward(self, image: Tensor, details: Tensor) -> Tensor:
        """Map an image (B, C, h, w) and details (B, C, 2h, 2w) to an image (B, C, 2h, 2w)."""
        image = self.enlarge(image)
        image = image + self.attention(torch.cat([image, details], dim=1)) * details
        return self.fuse(torch.cat([image, details], dim=1))


@register_model("TDNet", ratios=(2, 4, 8, 16), paper="Zhang et al., TNNLS 34(11), 2023", published_weights="yes")
class TDNet(nn.Module):
    """TDNet. 545,842 parameters for 8 bands and a PAN at ratio 4, as published.

    The released class cuts the gradient before each injection, so that it trains half of its parameters by the full
    size; here all are trained. sr is the output itself and no residual on lms. The authors add the loss of the half
    size (0.4) to that of the full size (0.6); losses here see the full size, and `forward_scales` has both.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since the sizes in between have C bands.
        ratio: H / h, a power of two: one level for each doubling.
        width: feature maps of the guide (64 in the released code for 8 bands).
        fusing_width: feature maps of the multi-scale blocks (60), a multiple of 6.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 64,
        fusing_width: int = 60,
    ) -> None:
        super().__init__()
        levels = int(math.log2(ratio))
        self.details = Details(condition_channel, img_channel, width, levels)
        self.levels = nn.ModuleList(Level(img_channel, fusing_width) for _ in range(levels))

    def forward_scales(self, ms: Tensor, lms: Tensor, pan: Tensor) -> list[Tensor]:
        """Return sr at every size, the full one first: (B, C, H, W), (B, C, H/2, W/2), … down to twice ms."""
        images = [ms]
        for level, details in zip(self.levels, reversed(self.details(pan)), strict=True):
            images.append(level(images[-1], details))
        return images[:0:-1]

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        return self.forward_scales(ms, lms, pan)[0]

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the authors' repository (liangjiandeng/TDNet), of ratio 4."""
        guide = {"conv_input": "head", "conv_output1": "tail"}
        guide |= {f"conv_{i}{end}": f"blocks.{b}.conv{i}" for b, end in enumerate(("", "2")) for i in (1, 2)}
        names = {f"pan_branch.{theirs}": f"details.{ours}" for theirs, ours in guide.items()}
        fuse = {"conv1": "0", "conv3": "3", "conv5": "6"}
        scales = {"conv2": "2", "conv4": "5"}
        fuse |= {f"{t}_{j + 1}": f"{o}.convolutions.{j}" for t, o in scales.items() for j in range(len(_KERNELS))}
        for level, (up, end) in enumerate((("conv_up", ""), ("conv_up2.0", "2"))):
            ours = f"levels.{level}"
            names |= {up: f"{ours}.enlarge.0"}
            names |= {f"mrab{end}.pa.{i}": f"{ours}.attention.{i}" for i in (0, 2, 4)}
            names |= {f"mulnet{end}.{t}": f"{ours}.fuse.{o}" for t, o in fuse.items()}
        return rename_modules(state_dict, names, arch="TDNet")
