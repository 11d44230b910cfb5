"""FeINFN: features of the cube are queried at every fine pixel, in space and in the frequency plane, and decoded.

Paper: Y.-J. Liang, Z. Cao, S. Deng, H.-X. Dou, L.-J. Deng, "Fourier-enhanced implicit neural fusion network for
multispectral and hyperspectral image fusion", NeurIPS 2024; the query is that of LIIF (Chen et al., CVPR 2021).
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W), H = r * h; features (B, c, ·, ·).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.fourier import modulus, spectrum
from lemamba.model.layers.residual import ResidualBlock
from lemamba.utils.registry import register_model

_TABLE = 4096  # pixels of the training patches, for which the reading-order code is defined


def _encoder(bands: int, width: int, depth: int) -> nn.ModuleList:
    body = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)), nn.Conv2d(width, width, 3, padding=1))
    return nn.ModuleList([nn.Conv2d(bands, width, 3, padding=1), body])


def _encode(encoder: nn.ModuleList, x: Tensor) -> Tensor:
    x = encoder[0](x)
    return x + encoder[1](x)


def _pointwise(widths: list[int]) -> nn.Sequential:
    """Perceptron on every pixel, ReLU between its layers."""
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(a, b, 1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _neighbourly(widths: list[int]) -> nn.Sequential:
    """The same with a depth-wise 3x3 after each layer and no biases: neighbouring frequencies see each other."""
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(a, b, 1, bias=False), nn.Conv2d(b, b, 3, padding=1, groups=b, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _axis(fine: int, coarse: int, shift: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest coarse cell of every fine sample moved by `shift` cells, and how far its centre is, in half cells."""
    ratio = fine / coarse
    centre = (torch.arange(fine, device=like.device, dtype=torch.float32) + 0.5) / ratio
    cell = (centre + shift).floor().long().clamp(0, coarse - 1)
    return cell, (2 * centre - 2 * cell - 1).to(like.dtype)


def four_neighbours(size: Sequence[int], feature: Tensor) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Yield, for each of the four cells around every fine pixel, a gather function and the relative position.

    Args:
        size: (H, W) of the fine grid.
        feature: (B, c, h, w) on the coarse grid; at the border the outermost cell is used.

    Yields:
        (gather, offset): gather maps (B, c, h, w) to (B, c, H, W), offset is (B, 2, H, W) in half cells.
    """
    (H, W), (h, w) = size, feature.shape[-2:]
    for shift_rows in (-0.5, 0.5):
        rows, dy = _axis(H, h, shift_rows, feature)
        for shift_columns in (-0.5, 0.5):
            columns, dx = _axis(W, w, shift_columns, feature)
            offset = torch.stack([dy[:, None].expand(H, W), dx[None].expand(H, W)])

            def gather(x: Tensor, rows: Tensor = rows, columns: Tensor = columns) -> Tensor:
                return x.index_select(-2, rows).index_select(-1, columns)

            yield gather, offset.expand(feature.shape[0], -1, -1, -1)


def blend(predictions: list[Tensor]) -> Tensor:
    """Sum four predictions (B, c + 1, H, W) with the softmax of their last channels as weights: (B, c, H, W)."""
    stacked = torch.stack(predictions, dim=-1)
    return (stacked[:, :-1] * stacked[:, -1:].softmax(dim=-1)).sum(dim=-1)


def reading_order_code(size: Sequence[int], like: Tensor) -> Tensor:
    """Sine and cosine of a pixel's number in reading order (1, 2, H, W); other sizes than 4096 pixels resample it."""
    n = torch.arange(_TABLE, device=like.device, dtype=torch.float32)
    table = torch.stack([n.sin(), n.cos()])[None]
    table = F.interpolate(table, size=size[0] * size[1], mode="linear")
    return table.view(1, 2, *size).to(like.dtype)


class FourierQuery(nn.Module):
    """Query amplitude and phase of the coarse features' spectrum at the fine grid, and transform back."""

    def __init__(self, width: int, hidden: tuple[int, ...], queried: int) -> None:
        super().__init__()
        widths = [2 * width + 2, *hidden, queried + 1]
        self.amplitude, self.phase = _pointwise(widths), _neighbourly(widths)

    @staticmethod
    def _query(net: nn.Module, feature: Tensor, guide: Tensor) -> Tensor:
        size = guide.shape[-2:]
        return blend(
            [
                net(torch.cat([gather(feature), guide, offset], dim=1))
                for gather, offset in four_neighbours(size, feature)
            ]
        )

    def forward(self, feature: Tensor, guide: Tensor) -> Tensor:
        """Map features (B, c, h, w) and guide (B, c, H, W) to (B, queried, H, W) >= 0."""
        coarse, fine = spectrum(feature.float()), spectrum(guide.float())
        amplitude, phase = (
            self._query(net, a, b).float() for net, a, b in zip((self.amplitude, self.phase), coarse, fine, strict=True)
        )
        return modulus(amplitude, phase)


class GaborDecoder(nn.Module):
    """Three steps ``q <- relu(K [q, x]) * gabor(Q q)``; gabor(t) = cos(omega t) exp(-(s t)^2), omega and s learned."""

    def __init__(self, channels: int, out_channel: int, width: int, depth: int, omega: float, scale: float) -> None:
        super().__init__()
        inputs = [channels] + [width + channels] * (depth - 1)
        self.key = nn.ModuleList(nn.Conv2d(n, width, 1) for n in inputs)
        self.query = nn.ModuleList(nn.Conv2d(n, width, 1) for n in [channels] + [width] * (depth - 1))
        self.omega = nn.Parameter(torch.full((depth,), omega))
        self.scale = nn.Parameter(torch.full((depth,), scale))
        self.tail = nn.Conv2d(width, out_channel, 1)

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        """Map spatial x and frequency features q, both (B, channels, H, W), to (B, C, H, W)."""
        for step, (key, query) in enumerate(zip(self.key, self.query, strict=True)):
            k = F.relu(key(x if step == 0 else torch.cat([q, x], dim=1)))
            t = query(q).float()  # 30 radians per unit: half precision would lose the wave
            q = k * (torch.cos(self.omega[step] * t) * torch.exp(-((self.scale[step] * t) ** 2)))
        return self.tail(q)


@register_model("FeINFN", ratios=(2, 4, 8), paper="Liang et al., NeurIPS 2024")
class FeINFN(nn.Module):
    """FeINFN. 3,164,816 parameters for 31 bands and RGB, at every ratio.

    The encoders are 128 wide and have no normalisation, as released, where the learning rate is 2e-4 and gradients are
    clipped to a norm of 1e-4. At ten times that rate, features were observed to grow tenfold per step (after about 35
    steps on a toy set) despite the clipping, as Adam's steps do not depend on the gradient's size. With features so
    large the decoder's waves are all zero, sr stays at lms and training makes no progress.

    The released query of the phase reads an array of (pixels, features) as if it were (features, pixels); here its
    depth-wise convolutions see neighbouring frequencies. Beyond the border of the coarse features the outermost cell is
    used, where the authors' code uses zeros. The position code counts pixels in reading order and is defined for
    training patches of 64 x 64; on other sizes it is resampled, so fuse large images in tiles of that size.

    Args:
        img_channel, condition_channel, out_channel: see `lemamba.model.build_model`.
        ratio: H / h; the weights are the same for every ratio.
        width: features of both encoders (128 in the paper).
        depth: residual blocks of each encoder (4).
        hidden: widths of the perceptrons (256, 128).
        decoder_width: features of the decoder (128), in 3 steps.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 128,
        depth: int = 4,
        hidden: tuple[int, ...] = (256, 128),
        decoder_width: int = 128,
    ) -> None:
        super().__init__()
        queried = out_channel + 1
        self.spatial = _encoder(img_channel + condition_channel, width, depth)
        self.spectral = _encoder(img_channel, width, depth)
        self.query = _pointwise([3 * width + 2, *hidden, queried + 1])
        self.fourier = FourierQuery(width, tuple(hidden), queried)
        self.decoder = GaborDecoder(queried, out_channel, decoder_width, 3, omega=30.0, scale=10.0)
        edges = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 1.0, -1.0], [0.0, -1.0, 0.0]])
        self.edges: Tensor
        self.register_buffer("edges", edges.expand(width, 1, 3, 3).clone(), persistent=False)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms (B, C, h, w), lms (B, C, H, W), pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped."""
        guide = _encode(self.spatial, torch.cat([pan, lms], dim=1))
        feature = _encode(self.spectral, ms)
        detail = F.conv2d(feature, self.edges.to(feature.dtype), padding=1, groups=feature.shape[1])
        size = guide.shape[-2:]
        code = reading_order_code(size, feature)
        queried = blend(
            [
                self.query(torch.cat([gather(feature), guide, gather(detail), offset + code], dim=1))
                for gather, offset in four_neighbours(size, feature)
            ]
        )
        return lms + self.decoder(queried, self.fourier(feature, guide))
