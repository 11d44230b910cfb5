"""ARConv: a U-Net of convolutions that learn the height and width of their kernel at every pixel.

Paper: X. Wang, Z. Zheng, J. Shao, Y. Duan, L.-J. Deng, "Adaptive rectangular convolution for remote sensing
pansharpening", CVPR 2025; the network is called ARNet there.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W); features (B, c, H, W), samples
(B, c, N, H * W) with N = rows * columns of the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.model.layers.unet import Down, Up
from lemamba.model.layers.window import pad_to_multiple
from lemamba.utils.registry import register_model

SIDES = ((3, 3), (3, 5), (5, 3), (3, 7), (7, 3), (5, 5), (5, 7), (7, 5), (7, 7))  # rows, columns of the kernels
_SLOW = 0.1


class _Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SLOW * gradients[0]


class Slow(nn.Module):
    """Return the input; only a tenth of the gradient comes back, as in the authors' code."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any tensor to itself."""
        return _Slow.apply(x)


def sample(x: Tensor, height: Tensor, width: Tensor, rows: int, columns: int) -> Tensor:
    """Sample a grid of points around every pixel, bilinearly; points outside the image are 0.

    The points are ``height / rows`` apart vertically and ``width / columns`` horizontally, so a kernel of the size of
    its grid is an ordinary convolution.

    Args:
        x: (B, c, H, W).
        height, width: of the kernel at every pixel, (B, 1, H, W), in pixels.
        rows, columns: points of the grid, odd.

    Returns:
        (B, c, rows * columns, H * W).
    """
    H, W = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)  # half types would round places to whole pixels
    places = []
    for n, axis, extent, size in ((columns, 3, width, W), (rows, 2, height, H)):
        steps = torch.arange(n, device=x.device) - n // 2
        steps = steps.repeat(rows) if axis == 3 else steps.repeat_interleave(columns)
        pixel = torch.arange(size, device=x.device).view(-1, *[1] * (3 - axis))
        place = pixel + steps.view(1, -1, 1, 1) * (extent.to(dtype) / n)
        places.append((2 * place + 1) / size - 1)  # where grid_sample expects the edges of the image at -1 and 1
    grid = torch.stack(places, dim=4).flatten(2, 3)
    return F.grid_sample(x.to(dtype), grid, padding_mode="zeros", align_corners=False).to(x.dtype)


class ARConv(nn.Module):
    """Adaptive rectangular convolution ``m * conv(samples) + b``.

    Height and width of the kernel are learned per pixel, between 1 and `largest`; their means choose which of nine
    kernels, of 3 to 7 points in each direction, is used. In training they choose anew at each of the first
    `search_steps` steps; afterwards, and in evaluation, the last choice stays. Weights of all kernels are one tensor,
    so that a step has a gradient for every tensor.

    Args:
        channels_in: c.
        channels_out: d.
        largest: largest height and width, 9 or more.
        search_steps: training steps after which the number of points is frozen.
        dropout: of whole channels of the samples and inside the networks of m and b.
    """

    sides: Tensor
    steps: Tensor

    def __init__(
        self, channels_in: int, channels_out: int, largest: int = 18, search_steps: int = 60_700, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.largest, self.search_steps, self.dropout = largest, search_steps, dropout
        taps = [rows * columns for rows, columns in SIDES]
        bounds = [torch.full((n,), (channels_in * n) ** -0.5) for n in taps]  # PyTorch's own rule for convolutions
        weight = torch.empty(channels_out, channels_in, sum(taps)).uniform_(-1, 1)
        bias = torch.empty(len(taps), channels_out).uniform_(-1, 1)
        self.weight = nn.Parameter(weight.mul_(torch.cat(bounds)))
        self.bias = nn.Parameter(bias.mul_(torch.stack([bound[:1] for bound in bounds])))
        self.modulation = nn.Sequential(*self._three(channels_in, channels_out), nn.Tanh())
        self.offset = nn.Sequential(*self._three(channels_in, channels_out))
        self.shape = nn.Sequential(
            Slow(),
            nn.Conv2d(channels_in, channels_in, 3, padding=1),
            Slow(),
            nn.BatchNorm2d(channels_in),
            nn.LeakyReLU(),
            nn.Conv2d(channels_in, channels_in, 3, padding=1),
            nn.BatchNorm2d(channels_in),
            nn.LeakyReLU(),
        )
        self.height, self.width = (self._extent(channels_in) for _ in range(2))
        self.register_buffer("sides", torch.tensor([3, 3]))
        self.left = (3, 3)  # `sides` as they were read last: exporters see no values of tensors
        self.register_buffer("steps", torch.tensor(0))

    def _three(self, c: int, d: int) -> list[nn.Module]:
        layers: list[nn.Module] = [Slow(), nn.Conv2d(c, d, 3, padding=1), Slow()]
        for _ in range(2):
            layers += [nn.LeakyReLU(), nn.Dropout2d(self.dropout), nn.Conv2d(d, d, 3, padding=1)]
        return layers

    def _extent(self, c: int) -> nn.Sequential:
        first, second = nn.Conv2d(c, 1, 3, padding=1), nn.Conv2d(1, 1, 1)
        assert second.bias is not None
        nn.init.zeros_(second.bias)  # the norm takes it out; without it, evaluation starts from half of `largest`
        norms = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        return nn.Sequential(Slow(), first, Slow(), norms[0], nn.LeakyReLU(), second, norms[1], nn.Sigmoid())

    def extents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return height and width of the kernel at every pixel of x, (B, 1, H, W) each, from 1 to `largest`.

        The released code multiplies x by 100 before; the batch norm takes any such factor out again.
        """
        y = self.shape(x)
        return 1 + (self.largest - 1) * self.height(y), 1 + (self.largest - 1) * self.width(y)

    @torch.no_grad()
    def choose(self, height: Tensor, width: Tensor) -> tuple[int, int]:
        """Return rows and columns of the kernel: chosen from the means in training, else as they were left."""
        if self.training and self.steps < self.search_steps:
            self.steps += 1
            scale = max(self.largest // 9, 1)
            for i, extent in enumerate((height, width)):
                points = int(extent.mean() // scale)
                self.sides[i] = min(max(points - (points % 2 == 0), 3), 7)
        if not torch.compiler.is_exporting():
            rows, columns = self.sides.tolist()
            self.left = rows, columns
        return self.left

    def convolve(self, x: Tensor, height: Tensor, width: Tensor, sides: tuple[int, int]) -> Tensor:
        """Convolve x (B, c, H, W) with the kernel of `sides` spread over height and width: (B, d, H, W)."""
        kernel = SIDES.index(sides)
        first = sum(rows * columns for rows, columns in SIDES[:kernel])
        points = sample(x, height, width, *sides)
        points = F.dropout2d(points, self.dropout, self.training).flatten(1, 2)
        weight = self.weight[:, :, first : first + sides[0] * sides[1]].flatten(1)
        return (weight @ points).unflatten(2, x.shape[-2:]) + self.bias[kernel].view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, d, H, W)."""
        height, width = self.extents(x)
        y = self.convolve(x, height, width, self.choose(height, width))
        return y * self.modulation(x) + self.offset(x)


class ARBlock(nn.Module):
    """``x + conv2(relu(conv1(x)))`` with ARConv."""

    def __init__(self, width: int, **arconv: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = ARConv(width, width, **arconv), ARConv(width, width, **arconv)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, c, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x)))


@register_model("ARConv", ratios=(2, 4, 8, 16), paper="Wang et al. (ARNet), CVPR 2025")
class ARNet(nn.Module):
    """ARNet: sr = lms + U-net([pan, lms]).

    15,923,700 parameters for 8 bands (P = 1), those of the published class; each convolution uses one of its nine
    kernels.

    The released training chooses the number of points during the first 100 of 600 epochs, about 60,700 steps on its
    WV3 set: give `search_steps` a sixth of the steps of your training. As published, the choice depends on the whole
    batch. Sides that are no multiples of 4 are padded by reflection and cut back.

    Args:
        img_channel, condition_channel, out_channel, ratio: see `lemamba.model.build_model`.
        width: feature maps at full size (32), doubled twice.
        largest: largest height and width of a kernel in pixels, 9 or more (18).
        search_steps: training steps in which the number of points is chosen.
        dropout: see `ARConv`.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        width: int = 32,
        largest: int = 18,
        search_steps: int = 60_700,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        arconv = {"largest": largest, "search_steps": search_steps, "dropout": dropout}
        self.head = nn.Conv2d(condition_channel + img_channel, width, 3, padding=1)
        self.blocks = nn.ModuleList(ARBlock(factor * width, **arconv) for factor in (1, 2, 4, 2, 1))
        self.downs = nn.ModuleList([Down(width), Down(2 * width)])
        self.ups = nn.ModuleList([Up(4 * width), Up(2 * width)])
        self.tail = nn.Conv2d(width, out_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped; ms is not used."""
        H, W = lms.shape[-2:]
        x = self.head(pad_to_multiple(torch.cat([pan, lms], dim=1), 4))
        skips = []
        for i, down in enumerate(self.downs):
            skips.append(self.blocks[i](x))
            x = down(skips[-1])
        x = self.blocks[2](x)
        for i, up in enumerate(self.ups):
            x = self.blocks[3 + i](up(x, skips.pop()))
        return lms + self.tail(x)[..., :H, :W]
