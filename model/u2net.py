"""U2Net: a spatial and a spectral U-Net, joined at every level by S2Blocks.

Paper: S. Peng, C. Guo, X. Wu, L.-J. Deng, "U2Net: A general framework with spatial-spectral-integrated double U-Net
for image fusion", ACM MM 2023.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W) (lms is not used), pan (B, P, H, W); features (B, c, H, W), tokens
(B, L, c) with L = H * W, d the width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.window import pad_to_multiple, window_merge, window_partition
from lemamba.utils.registry import register_model


class S2Attention(nn.Module):
    """Spatial attention made from the PAN features, applied to the MS features, times spectral attention crosswise."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.heads = width // head_width
        self.spatial_query = nn.Linear(width, width, bias=False)
        self.spatial_key = nn.Linear(width, width, bias=False)
        self.spectral_query = nn.Linear(width, width, bias=False)
        self.spectral_key = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join tokens x of the MS and y of the PAN, both (B, L, c), to (B, L, c)."""
        y1, y2, x1, x2 = (
            rearrange(layer(t), "b l (heads d) -> b heads l d", heads=self.heads)
            for layer, t in (
                (self.spatial_query, y),
                (self.spatial_key, y),
                (self.spectral_query, x),
                (self.spectral_key, x),
            )
        )
        spatial = F.scaled_dot_product_attention(y1, y2, x1)
        correlation = (x1.transpose(-2, -1) @ x2) * (self.head_width**0.5 / x.shape[1])
        spectral = y1 @ correlation.softmax(dim=-1)
        return self.project(rearrange(spatial * spectral, "b heads l d -> b l (heads d)"))


class S2Block(nn.Module):
    """S2Attention and an MLP, each after a layer norm and with a residual; attention within windows of `window`."""

    def __init__(self, width: int, head_width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width)  # one norm for both streams, as published
        self.attention = S2Attention(width, head_width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width // 2), nn.LeakyReLU(), nn.Linear(width // 2, width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join features x of the MS and y of the PAN, both (B, c, H, W), to (B, c, H, W)."""
        size = (x.shape[-2], x.shape[-1])
        x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
        windowed = max(size) > self.window
        if windowed:
            x, y = window_partition(x, self.window), window_partition(y, self.window)
        shape = x.shape
        x, y = x.flatten(1, 2), y.flatten(1, 2)
        x = x + self.attention(self.norm1(x), self.norm1(y))
        x = (x + self.mlp(self.norm2(x))).view(shape)
        return (window_merge(x, size) if windowed else x).permute(0, 3, 1, 2)


class Down(nn.Module):
    """Halve the sides and double the width: 2x2 stride 2, then a separable 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 2, stride=2),
            nn.LeakyReLU(),
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, 2c, H/2, W/2)."""
        return self.net(x)


class Up(nn.Module):
    """Double the sides, halve the width, add the skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.conv = nn.Conv2d(width // 2, width // 2, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, c, H, W) and a skip (B, c/2, 2H, 2W) to (B, c/2, 2H, 2W)."""
        return F.leaky_relu(self.conv(F.leaky_relu(self.up(x)) + skip))


class Bottleneck(nn.Module):
    """Residual block with half the width inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(width // 2, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        return x + self.conv2(F.leaky_relu(self.conv1(x)))


@register_model("U2Net", ratios=(2, 4, 8), paper="Peng et al., ACM MM 2023", published_weights="yes")
class U2Net(nn.Module):
    """U2Net. 536,248 parameters for 8 bands (P = 1, ratio 4); published: 642,008.

    Both U-Nets share their down and up layers, as published. The published count holds a second set of each (max-pool
    and separable variants) that the authors' code makes and never uses; without them it is the same number. Attention
    is over all pixels: where a side is larger than `window` it is taken within windows of that side (and of half and
    a quarter of it further down), which is how the authors test on large images.

    Args:
        img_channel, condition_channel: see `lemamba.model.build_model`.
        out_channel: bands of sr; equal to C, since the enlarged ms is added.
        ratio: H / h.
        width: feature maps at full size (32 in the paper), doubled twice.
        head_width: width of an attention head (16).
        window: largest side over which attention is global, a multiple of 4.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        head_width: int = 16,
        window: int = 64,
    ) -> None:
        super().__init__()
        self.window = window
        self.upsample = nn.Sequential(
            nn.Conv2d(img_channel, out_channel * ratio * ratio, 3, padding=1, bias=False), nn.PixelShuffle(ratio)
        )
        self.head_ms = nn.Conv2d(out_channel, width, 3, padding=1)
        self.head_pan = nn.Conv2d(condition_channel, width, 3, padding=1)
        sizes = [(width, window), (2 * width, window // 2), (4 * width, window // 4)]
        self.join = nn.ModuleList(S2Block(c, head_width, w) for c, w in (*sizes, sizes[1], sizes[0]))
        self.spatial = nn.ModuleList(Bottleneck(c) for c in (width, 2 * width, 4 * width, 2 * width))
        self.down = nn.ModuleList([Down(width), Down(2 * width)])
        self.up = nn.ModuleList([Up(4 * width), Up(2 * width)])
        self.tail = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(width, out_channel, 3, padding=1)
        )

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; lms is not used."""
        H, W = pan.shape[-2:]
        multiple = self.window if max(H, W) > self.window else 4
        enlarged = pad_to_multiple(self.upsample(ms), multiple)
        x = F.leaky_relu(self.head_ms(enlarged))
        y = F.leaky_relu(self.head_pan(pad_to_multiple(pan, multiple)))
        skips = []
        for level in range(2):
            x = self.join[level](x, y)
            y = self.spatial[level](y)
            skips.append((x, y))
            x, y = self.down[level](x), self.down[level](y)
        for level in range(2):
            x = self.join[2 + level](x, y)
            y = self.spatial[2 + level](y)
            skip_x, skip_y = skips.pop()
            x, y = self.up[level](x, skip_x), self.up[level](y, skip_y)
        x = self.join[4](x, y)
        return (self.tail(x) + enlarged)[..., :H, :W]

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the authors' repository (PSRben/U2Net), dropping the layers that it never uses."""
        unused = ("maxpool_conv.", "up0.")
        used = {k: v for k, v in state_dict.items() if not any(u in k.split(".", 1)[1] for u in unused)}
        return rename_modules(used, _published_names(), arch="U2Net")


def _published_names() -> dict[str, str]:
    names = {"upsample.upsamle.0": "upsample.0", "to_hrms.0": "tail.0", "to_hrms.2": "tail.2"}
    names |= {"raise_ms_dim.0": "head_ms", "raise_pan_dim.0": "head_pan"}
    attention = {
        "fn.sa1": "spatial_query",
        "fn.sa2": "spatial_key",
        "fn.se1": "spectral_query",
        "fn.se2": "spectral_key",
        "fn.to_out.0": "project",
    }
    for i in range(5):
        layers = f"s2block{i}.layers.0"
        names |= {f"{layers}.0.fn.{a}": f"join.{i}.attention.{b}" for a, b in attention.items()}
        names |= {f"{layers}.0.fn.norm": f"join.{i}.norm1", f"{layers}.1.fn.norm": f"join.{i}.norm2"}
        names |= {f"{layers}.1.fn.fn.net.{a}": f"join.{i}.mlp.{b}" for a, b in ((0, 0), (3, 2))}
    for i in range(4):
        names |= {f"resblock{i}.conv{j}": f"spatial.{i}.conv{j + 1}" for j in (0, 1)}
    for i in range(2):
        names |= {f"down{i}.conv.{j}": f"down.{i}.net.{j}" for j in (0, 2, 3)}
        names |= {f"up{i}.up1.0": f"up.{i}.up", f"up{i}.conv": f"up.{i}.conv"}
    return names
