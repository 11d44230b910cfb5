"""ADWM: features of all blocks, weighted by channel and by block from their covariances, around three networks.

Paper: J. Huang, H. Chen, J. Ren, S. Peng, L.-J. Deng, "A general adaptive dual-level weighting mechanism for remote
sensing pansharpening", CVPR 2025 (arXiv 2503.13214). The networks: FusionNet (`fusionnet.py`), LAGConv (`lagnet.py`)
and LGPNet (C. Zhao et al., "LGPConv: Learnable Gaussian perturbation convolution for lightweight pansharpening",
IJCAI 2023).
Shapes: ms (B, C, h, w), lms (B, C, H, W) is not used, pan (B, P, H, W), sr (B, C, H, W); n features (B, c, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.lagnet import LAGConv, lagconv_names
from lemamba.model.layers.guides import check_one_guide_or_one_per_band
from lemamba.model.layers.residual import ResidualBlock
from lemamba.utils.registry import register_model


class CovarianceWeighting(nn.Module):
    """A weight for each of c columns, from the cosines between all of them.

    Rows, not columns, are centred, as in the authors' code: their covariance compares channels after the mean over
    the channels of every pixel was taken off.

    Args:
        columns: c.
        hidden: width of the last hidden layer.
        dropout: rate after the first layer.
    """

    def __init__(self, columns: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(columns, columns),
            nn.Dropout(dropout),
            nn.LeakyReLU(),
            nn.Linear(columns, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, rows, c) to weights (B, c)."""
        x = F.normalize(x - x.mean(dim=-1, keepdim=True), dim=1)
        return self.weigh(x.transpose(1, 2) @ x)[..., 0]


class DualWeighting(nn.Module):
    """Weight the channels of each feature map (IFW), then sum the maps with shares that add up to 1 (CFW).

    Args:
        width: c.
        depth: n.
        hidden, dropout: see `CovarianceWeighting`.
    """

    def __init__(self, width: int, depth: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.intra = nn.ModuleList(CovarianceWeighting(width, hidden, dropout) for _ in range(depth))
        self.cross = CovarianceWeighting(depth, depth, dropout)
        last = self.cross.weigh[-1]
        assert isinstance(last, nn.Linear)
        last.bias.requires_grad_(False)  # one number for all shares; the softmax takes it away again

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map n features (B, c, H, W) to one."""
        means = torch.stack([x.mean(dim=(2, 3)) for x in features], dim=-1)
        shares = self.cross(means).softmax(dim=-1)
        total = torch.zeros_like(features[0])
        for i, (x, weigh) in enumerate(zip(features, self.intra, strict=True)):
            weights = weigh(x.flatten(2).transpose(1, 2)) * shares[:, i : i + 1]
            total = total + x * weights[..., None, None]
        return total


class Weighted(nn.Module):
    """Head, blocks, dual weighting of the blocks' outputs, tail, and the bicubic enlargement of ms added.

    Subclasses set `head`, `blocks`, `weighting` and `tail`. Covariances and means are those of the whole map: a tile
    of an image is not fused as within the image.
    """

    head: nn.Module
    blocks: nn.Sequential
    weighting: DualWeighting
    tail: nn.Module

    def inputs(self, enlarged: Tensor, pan: Tensor) -> Tensor:
        """Return what `head` gets, from ms and pan at full size."""
        return torch.cat([pan, enlarged], dim=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        enlarged = F.interpolate(ms, size=pan.shape[-2:], mode="bicubic")
        x = F.leaky_relu(self.head(self.inputs(enlarged, pan)))
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return enlarged + self.tail(self.weighting(features))


@register_model(
    "ADWM-FusionNet",
    tasks=("pansharpening",),
    ratios=(2, 4, 8, 16),
    paper="Huang et al., CVPR 2025",
    published_weights="yes",
)
class ADWMFusionNet(Weighted):
    """ADWM around FusionNet. 87,257 parameters for 8 bands, as published: 78,632 of FusionNet and 8,625 of ADWM.

    Args:
        img_channel, out_channel, ratio: see `lemamba.model.build_model`.
        condition_channel: P, 1 (or C: one guide band per MS band); the difference pan - lms is undefined otherwise.
        width: feature maps (32 in the paper).
        depth: residual blocks (4 in the paper).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        depth: int = 4,
    ) -> None:
        super().__init__()
        check_one_guide_or_one_per_band("ADWM-FusionNet", img_channel, condition_channel)
        self.head = nn.Conv2d(img_channel, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, F.leaky_relu) for _ in range(depth)))
        self.weighting = DualWeighting(width, depth, hidden=width)
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def inputs(self, enlarged: Tensor, pan: Tensor) -> Tensor:
        """Return pan less ms; broadcasting repeats the single PAN band C times."""
        return pan - enlarged

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict."""
        names = {"raise_dim.0": "head", "to_output.0": "tail"} | _weighting_names(4)
        names |= {f"layers.{i}.conv2{j}": f"blocks.{i}.conv{j + 1}" for i in range(4) for j in (0, 1)}
        return rename_modules(state_dict, names, arch="ADWM-FusionNet")


class NormedLAGBlock(nn.Module):
    """``x + conv2(leaky(norm(conv1(x))))`` with LAGConv and batch normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = LAGConv(width, width, activation=nn.LeakyReLU)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = LAGConv(width, width, activation=nn.LeakyReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W)."""
        return x + self.conv2(F.leaky_relu(self.norm(self.conv1(x))))


@register_model("ADWM-LAGConv", ratios=(2, 4, 8, 16), paper="Huang et al., CVPR 2025", published_weights="yes")
class ADWMLAGConv(Weighted):
    """ADWM around LAGConv. 396,024 parameters for 8 bands (P = 1), as in the published file.

    The published class has 7 layer norms more, on the rows of the covariances, for which the published file has no
    numbers; they are left out.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps (48).
        depth: residual blocks (6).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 48,
        depth: int = 6,
    ) -> None:
        super().__init__()
        self.head = LAGConv(condition_channel + img_channel, width, activation=nn.LeakyReLU)
        self.blocks = nn.Sequential(*(NormedLAGBlock(width) for _ in range(depth)))
        self.weighting = DualWeighting(width, depth, hidden=round(0.8 * width), dropout=0.05)
        self.tail = LAGConv(width, out_channel, activation=nn.LeakyReLU)

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict."""
        places = {"raise_dim.0": "head", "to_output.0": "tail"}
        places |= {f"layers.{i}.conv{j}": f"blocks.{i}.conv{j}" for i in range(6) for j in (1, 2)}
        names = lagconv_names(places) | {f"layers.{i}.bn1": f"blocks.{i}.norm" for i in range(6)} | _weighting_names(6)
        return rename_modules(state_dict, names, arch="ADWM-LAGConv")


class LGPConv(nn.Module):
    """Separable 3x3 convolution, and its result perturbed: added to it, a second one that starts at nearly nothing."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        c = channels_out
        self.pointwise = nn.Conv2d(channels_in, c, 1)
        self.depthwise = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.along = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
        self.across = nn.Conv2d(c, c, 1, bias=False)
        for layer in (self.along, self.across):
            nn.init.normal_(layer.weight, std=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H, W)."""
        y = self.depthwise(self.pointwise(x))
        return y + self.across(self.along(y))


class LGPBlock(nn.Module):
    """``x + relu(conv2(relu(conv1(x))))`` with LGPConv."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = LGPConv(width, width)
        self.conv2 = LGPConv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, width, H, W)."""
        return x + F.relu(self.conv2(F.relu(self.conv1(x))))


@register_model("ADWM-LGPNet", ratios=(2, 4, 8, 16), paper="Huang et al., CVPR 2025", published_weights="yes")
class ADWMLGPNet(Weighted):
    """ADWM around LGPNet. 33,373 parameters for 8 bands (P = 1), as published.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        widths: feature maps of the first layer, of the blocks and of the first layer after them (20, 32, 16).
        depth: residual blocks (4).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        widths: Sequence[int] = (20, 32, 16),
        depth: int = 4,
    ) -> None:
        super().__init__()
        first, width, last = widths
        self.head = nn.Sequential(LGPConv(condition_channel + img_channel, first), LGPConv(first, width))
        self.blocks = nn.Sequential(*(LGPBlock(width) for _ in range(depth)))
        self.weighting = DualWeighting(width, depth, hidden=round(0.6 * width))
        self.tail = nn.Sequential(LGPConv(width, last), LGPConv(last, out_channel), LGPConv(out_channel, out_channel))

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict, without a tensor of the released file that the released class lacks."""
        kept = {k: v for k, v in state_dict.items() if k != "bw_output.temperature"}
        spelt = {k.removesuffix("weight_2") + "across.weight" if k.endswith("weight_2") else k: kept[k] for k in kept}
        places = {f"raise_dim.{i}": f"head.{i}" for i in range(2)} | {f"to_output.{i}": f"tail.{i}" for i in range(3)}
        places |= {f"layers.{i}.conv{j}": f"blocks.{i}.conv{j}" for i in range(4) for j in (1, 2)}
        names = _weighting_names(4)
        layers = {"": ".along", ".across": ".across", ".point_wise": ".pointwise", ".depth_wise": ".depthwise"}
        names |= {theirs + a: ours + b for theirs, ours in places.items() for a, b in layers.items()}
        return rename_modules(spelt, names, arch="ADWM-LGPNet")


def _weighting_names(depth: int) -> dict[str, str]:
    blocks = {f"CovBlockList.{i}": f"intra.{i}" for i in range(depth)} | {"global_covblock": "cross"}
    return {
        f"bw_output.{theirs}.cov_mlp.{i}": f"weighting.{ours}.weigh.{i}"
        for theirs, ours in blocks.items()
        for i in (0, 3, 5)
    }
