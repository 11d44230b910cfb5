"""CANNet: a U-Net of CANConv, a convolution with a kernel of its own for every cluster of similar pixels.

Paper: Y. Duan, X. Wu, H. Deng, L.-J. Deng, "Content-adaptive non-local convolution for remote sensing pansharpening",
CVPR 2024, section 3.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); L pixels of a map, row by row,
k clusters and one more, number k, for pixels of small clusters; a 3x3 patch of c channels has 9 c values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.convert import rename_modules
from lemamba.model.layers.unet import Down, Up
from lemamba.model.layers.window import pad_to_multiple
from lemamba.model.ops.portable import is_portable
from lemamba.model.ops.registration import register
from lemamba.operators.autocast import no_autocast
from lemamba.utils.errors import UserError
from lemamba.utils.registry import register_model

_AREA = 9  # of a 3x3 kernel
_STRIDE = 4  # of the U-Net
_GOLDEN_RATIO = 0.5 * (5**0.5 - 1)


def membership(labels: Tensor, clusters: int, dtype: torch.dtype) -> Tensor:
    """Return 1 where a pixel belongs to a cluster and else 0: (B, clusters, L), from labels (B, L)."""
    return (labels[:, None] == torch.arange(clusters, device=labels.device)[:, None]).to(dtype)


def _distances(x: Tensor, centres: Tensor) -> Tensor:
    """Return the squared distances of x (B, L, c) from centres (B, k, c), less |x|^2: (B, L, k)."""
    return torch.baddbmm(centres.square().sum(-1)[:, None], x, centres.transpose(1, 2), alpha=-2)


def _draws(clusters: int) -> list[float]:
    """Return where between 0 and 1 the centres after the first are drawn."""
    return [i * _GOLDEN_RATIO % 1.0 for i in range(1, clusters)]


def _first_centres(x: Tensor, draws: Sequence[float]) -> Tensor:
    """Choose points of x (B, L, c) far from each other, (B, draws + 1, c), by k-means++ without a random number.

    k-means++ draws the next centre with a probability proportional to the squared distance from the centres so far.
    The draws here are multiples of the golden ratio modulo 1, which cover [0, 1) evenly.
    """
    images = torch.arange(len(x), device=x.device)
    norms = x.square().sum(-1)
    chosen = x[images, x.shape[1] // 2]
    centres, nearest = [chosen], torch.full_like(norms, torch.inf)
    for share in draws:
        nearest = torch.minimum(nearest, (norms + _distances(x, chosen[:, None])[..., 0]).clamp_min(0))
        shares = nearest.cumsum(1)
        draw = shares[:, -1:] * share
        chosen = x[images, torch.searchsorted(shares, draw).clamp_max(x.shape[1] - 1)[:, 0]]
        centres.append(chosen)
    return torch.stack(centres, dim=1)


def _lloyd(x: Tensor, draws: Sequence[float], tolerance: float, iterations: int) -> Tensor:
    """Return the labels of `k_means` for x (B, L, c) of mean 0, with one cluster more than there are draws."""
    clusters = len(draws) + 1
    centres = _first_centres(x, draws)
    labels = torch.full(x.shape[:2], -1, device=x.device)
    running = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
    for _ in range(iterations):
        moved = _distances(x, centres).argmin(dim=-1)
        changed = (moved != labels).to(x.dtype).mean(1, keepdim=True)
        labels = torch.where(running, moved, labels)
        running = running & (changed > tolerance)
        if not running.any():
            break
        members = membership(labels, clusters, x.dtype)
        counts = members.sum(-1, keepdim=True)
        centres = torch.where(counts > 0, members @ x / counts.clamp_min(1), centres)
    return labels


# For exporters, which do not take a loop whose end depends on the values: one operator, in a file one of ONNX.
_portable_lloyd = register(
    "portable_lloyd",
    "(Tensor x, float[] draws, float tolerance, int iterations) -> Tensor",
    _lloyd,
    lambda x, draws, tolerance, iterations: x.new_empty(x.shape[:2], dtype=torch.int64),
    "CompositeExplicitAutograd",
)


@torch.no_grad()
def k_means(x: Tensor, clusters: int, *, tolerance: float = 0.01, iterations: int = 100) -> Tensor:
    """Return the cluster of every point of x (B, L, c), for each image alone: labels (B, L), int64.

    Lloyd's algorithm from fixed starting points: the same input gives the same labels.

    Args:
        x: points; computed in float32, or in float64 if they are float64.
        clusters: k; with fewer points than that, one cluster per point.
        tolerance: an image is done when at most this share of its points changes cluster (0.01 in the CUDA package
            that the authors use).
        iterations: at most.
    """
    with no_autocast(x.device.type):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = x - x.mean(dim=1, keepdim=True)  # distances below are differences of products, which lose digits else
        clusters = min(clusters, x.shape[1])
        lloyd = _portable_lloyd if is_portable() else _lloyd
        return lloyd(x, _draws(clusters), tolerance, iterations)


class CANConv(nn.Module):
    """3x3 convolution whose kernel and bias are made from the mean patch of the pixel's cluster.

    The kernel of a cluster is one kernel for all, times a factor in (0, 1) for each input channel, each position and
    each output channel. Factors of the pixel's cluster therefore scale its patch before and its output after one
    common product; no kernel of a cluster is ever built.

    Args:
        width: c, channels in and out.
        clusters: k.
        threshold: clusters of at most this share of the pixels (rounded down) are joined to cluster k.
        hidden: width of the two small networks.
    """

    def __init__(self, width: int, clusters: int, threshold: float, hidden: int = 16) -> None:
        super().__init__()
        self.clusters, self.threshold = clusters, threshold
        self.head = nn.Sequential(nn.Linear(_AREA * width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.to_in, self.to_area, self.to_out = (nn.Linear(hidden, n) for n in (width, _AREA, width))
        self.bias = nn.Sequential(
            nn.Linear(_AREA * width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.kernels = nn.Parameter(torch.randn(width, _AREA, width) * (2 / (_AREA * width)) ** 0.5)

    def cluster(self, x: Tensor) -> Tensor:
        """Label the pixels of x (B, c, H, W) by the means of their 3x3 patches in each channel: (B, L), 0 to k."""
        means = F.avg_pool2d(x.detach(), 3, stride=1, padding=1)
        labels = k_means(means.flatten(2).transpose(1, 2), self.clusters)
        counts = membership(labels, self.clusters, torch.float32).sum(-1)
        small = counts <= int(self.threshold * labels.shape[1])
        return torch.where(small.gather(1, labels), self.clusters, labels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map (B, c, H, W) to the same shape, with the labels (B, L) of its pixels."""
        size = x.shape[-2:]
        patches = F.unfold(x, 3, padding=1)  # (B, 9 c, L)
        centroids = self._centroids(patches, labels)
        hidden = self.head(centroids)
        scale_in, scale_area, scale_out = (
            _of_pixels(torch.sigmoid(layer(hidden)), labels) for layer in (self.to_in, self.to_area, self.to_out)
        )
        patches = patches.unflatten(1, (-1, _AREA)) * scale_in[:, :, None] * scale_area[:, None]
        y = self.kernels.flatten(0, 1).T @ patches.flatten(1, 2)
        return (y * scale_out + _of_pixels(self.bias(centroids), labels)).unflatten(-1, size)

    def _centroids(self, patches: Tensor, labels: Tensor) -> Tensor:
        """Return the mean patch of every cluster and, for cluster k, of the whole map: (B, k + 1, 9 c)."""
        members = membership(labels, self.clusters, patches.dtype)
        means = members @ patches.transpose(1, 2) / members.sum(-1, keepdim=True).clamp_min(1)
        return torch.cat([means, patches.mean(-1)[:, None]], dim=1)


def _of_pixels(values: Tensor, labels: Tensor) -> Tensor:
    """Give every pixel the values (B, k + 1, n) of its cluster: (B, n, L)."""
    values = values.transpose(1, 2)
    return values.gather(2, labels[:, None].expand(-1, values.shape[1], -1))


class CANBlock(nn.Module):
    """``x + conv2(leaky(conv1(x)))`` with CANConv; both convolutions use one set of clusters."""

    def __init__(self, width: int, clusters: int, threshold: float) -> None:
        super().__init__()
        self.conv1 = CANConv(width, clusters, threshold)
        self.conv2 = CANConv(width, clusters, threshold)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map (B, c, H, W) to the same shape, with the labels (B, L) of its pixels."""
        return x + self.conv2(F.leaky_relu(self.conv1(x, labels)), labels)


@register_model("CANNet", ratios=(2, 4, 8, 16), paper="Duan et al., CVPR 2024", published_weights="yes")
class CANNet(nn.Module):
    """CANNet. 787,426 parameters for 8 bands (P = 1) and 785,118 for 4, as published.

    Clusters are found by k-means in the whole map, anew in every call, from fixed starting points; the authors use a
    CUDA package with random ones. A tile of an image is not fused as within the image. Sides that are no multiple of
    4 are padded by reflection and cut back.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps at full size (32 in the paper), doubled twice.
        clusters: k (32).
        threshold: clusters of at most this share of the pixels are joined to one (0.005).
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        clusters: int = 32,
        threshold: float = 0.005,
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(condition_channel + img_channel, width, 3, padding=1)
        self.blocks = nn.ModuleList(CANBlock(m * width, clusters, threshold) for m in (1, 2, 4, 2, 1))
        self.down = nn.ModuleList([Down(width), Down(2 * width)])
        self.up = nn.ModuleList([Up(4 * width), Up(2 * width)])
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor, clusters: Sequence[Tensor] | None = None) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used.

        Args:
            ms, lms, pan: images.
            clusters: labels (B, L) from 0 to k of the pixels at full, half and quarter size, of the padded image;
                None: by k-means.

        Raises:
            UserError: labels for another number of pixels.
        """
        H, W = lms.shape[-2:]
        x = self.head(pad_to_multiple(torch.cat([pan, lms], dim=1), _STRIDE))
        skips, found = [], []
        for level in range(3):
            block = cast(CANBlock, self.blocks[level])
            found.append(block.conv1.cluster(x) if clusters is None else _checked(clusters, level, x))
            x = block(x, found[-1])
            if level < 2:
                skips.append(x)
                x = self.down[level](x)
        for level in (1, 0):
            x = self.up[1 - level](x, skips[level])
            x = self.blocks[4 - level](x, found[level])
        return lms + self.tail(x)[..., :H, :W]

    @staticmethod
    def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' state dict."""
        return rename_modules(state_dict, _published_names(), arch="CANNet")


def _checked(clusters: Sequence[Tensor], level: int, x: Tensor) -> Tensor:
    expected = (len(x), x.shape[-2] * x.shape[-1])
    given = tuple(clusters[level].shape) if level < len(clusters) else None
    if given != expected:
        raise UserError(f"CANNet: expected labels of shape {expected} at level {level}, given {given}; correct them")
    return clusters[level]


def _published_names() -> dict[str, str]:
    names = {"head_conv": "head", "tail_conv": "tail"}
    layers = {"kernel_head.0": "head.0", "kernel_head.2": "head.2", "to_cin": "to_in", "to_cout": "to_out"}
    layers |= {"to_area": "to_area"} | {f"centroid_to_bias.{i}": f"bias.{i}" for i in (0, 2, 4)}
    for i in range(5):
        for conv in ("conv1", "conv2"):
            theirs, ours = f"rb{i + 1}.{conv}", f"blocks.{i}.{conv}"
            names |= {theirs: ours} | {f"{theirs}.{a}": f"{ours}.{b}" for a, b in layers.items()}
    for i in range(2):
        names |= {f"down{i + 1}.conv.{j}": f"down.{i}.{j}" for j in (0, 2, 3)}
        names |= {f"up{i + 1}.conv1": f"up.{i}.up"} | {f"up{i + 1}.conv2.{j}": f"up.{i}.conv.{j}" for j in (0, 1)}
    return names
