"""1 - Q2n of the downgraded fused image and MS: Khan's spectral distortion as a loss, as in lambda-PNN.

Q2n (Garzelli, Nencini, GRSL 2009) compares both images block by block as hypercomplex numbers, one component per band;
here on floating-point numbers, so that it has a gradient. The released code of lambda-PNN rounds them to digital
numbers first, and so its term has none: ``rounded=True``. Images of any size: they are mirrored up to whole blocks.
Paper: M. Ciotola, G. Poggi, G. Scarpa, "Unsupervised deep learning-based pansharpening with jointly enhanced spectral
and spatial fidelity", IEEE TGRS 61, 2023.
Shapes: low, ms (B, C, h, w). Legend: N blocks, K = 2^n >= C components.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.operators.hypercomplex import conjugate_table
from lemamba.operators.resample import mirrored

_FLAT_DEVIATION = 1e-10  # of the released code
BLOCK = 32


class Khan(nn.Module):
    """total = khan = 1 - Q2n, the mean over blocks and images; in [0, 1], no unit.

    Args:
        rounded: compare images rounded to whole numbers, as released; the gradient is then zero.
        divisor: images are multiplied by it before they are rounded.
        block: side of a block.
    """

    def __init__(self, *, rounded: bool = False, divisor: float = 2048.0, block: int = BLOCK) -> None:
        super().__init__()
        self.rounded, self.divisor, self.block = rounded, divisor, block

    def forward(self, low: Tensor, ms: Tensor) -> dict[str, Tensor]:
        """Return {"total", "khan"}, scalars, from the downgraded fused image and MS, both (B, C, h, w)."""
        if self.rounded:
            low, ms = (torch.round(x.detach() * self.divisor) for x in (low, ms))
        flat = _FLAT_DEVIATION if self.rounded else 1.0
        value = 1 - _q2n(self._blocks(low), self._blocks(ms), flat).mean()
        return {"total": value, "khan": value}

    def _blocks(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (N, C, block^2) float64."""
        for dim in (-2, -1):
            n = x.shape[dim]
            wanted = -(-n // self.block) * self.block
            if wanted > n:
                x = x.index_select(dim, mirrored(torch.arange(wanted, device=x.device), n))
        cells = x.double().unfold(2, self.block, self.block).unfold(3, self.block, self.block)
        return cells.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(2)


def _q2n(sr: Tensor, gt: Tensor, flat: float) -> Tensor:
    """Modulus of Q2n of every block, (N, C, M) twice -> (N,); `flat` stands for the deviation of flat bands of gt."""
    C, M = gt.shape[1:]
    K = 1 << (C - 1).bit_length()
    mean = gt.mean(dim=-1, keepdim=True)
    deviation = gt.std(dim=-1, keepdim=True)
    deviation = torch.where(deviation == 0, flat, deviation)
    deviation = torch.where(mean == 0, 1.0, deviation)  # a black band is shifted only
    x, y = ((image - mean) / deviation + 1 for image in (gt, sr))
    mean_x, mean_y = x.mean(dim=-1), y.mean(dim=-1)
    norm_x, norm_y = (m.square().sum(dim=1) + (K - C) for m in (mean_x, mean_y))  # bands up to K are 1
    luminance = 2 * (norm_x * norm_y).sqrt() / (norm_x + norm_y)
    dx, dy = x - mean_x[..., None], y - mean_y[..., None]
    contrast = (dx.square() + dy.square()).sum(dim=(1, 2)) / (M - 1)
    signs, partner = conjugate_table(K, gt.device)
    cross = F.pad(dx @ dy.transpose(-1, -2) / (M - 1), (0, K - C, 0, K - C)) * signs
    power = cross.gather(-1, partner.expand_as(cross)).sum(dim=-2).square().sum(dim=-1)
    found = power > 0  # the root has no gradient at 0
    modulus = torch.where(found, torch.where(found, power, 1.0).sqrt(), 0.0)
    textured = contrast != 0
    return torch.where(textured, modulus * luminance * 2 / torch.where(textured, contrast, 1.0), luminance)
