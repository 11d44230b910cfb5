"""SSRNet: the guide's bands replace bands of the interpolated cube; two residual convolutions follow.

Paper: X. Zhang, W. Huang, Q. Wang, X. Li, "SSR-NET: Spatial-spectral reconstruction network for hyperspectral and
multispectral image fusion", IEEE TGRS 59(7), 2021: cross-mode message inserting, spatial and spectral reconstruction.
Shapes: ms (B, C, h, w) is not used, lms and sr (B, C, H, W), pan (B, P, H, W), P >= 2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lemamba.utils.errors import UserError
from lemamba.utils.registry import register_model


def inserted_bands(bands: int, guides: int) -> list[int]:
    """Return the 0-based bands that the guide's bands replace: evenly spread, the last one at the end."""
    step = bands / (guides - 1)
    return [int(step * i) for i in range(guides - 1)] + [bands - 1]


@register_model("SSRNet", tasks=("hmif",), ratios=(2, 4, 8, 16), paper="Zhang et al., TGRS 59(7), 2021")
class SSRNet(nn.Module):
    """SSRNet. 26,040 parameters for 31 bands.

    Published: 0.027 M. Three 3x3 convolutions from C to C bands, 3 * (31 * 31 * 9 + 31), are all that the paper and its
    code have, and a scalar in the code that nothing uses: 26,041, which rounds to 0.026 M. A first convolution that
    also saw the guide's three bands would give 26,877, but no published class has it. The paper's rule
    defines no place for a single guide band, which is refused. The paper interpolates bilinearly; here lms comes from
    the data. Its losses on the edges of the two intermediate images are not part of the network; any loss on sr works.

    Args:
        img_channel, out_channel, ratio: see `lemamba.model.build_model`.
        condition_channel: P, bands of pan, at least 2 and at most C; the i-th goes to the i-th of `inserted_bands`.
    """

    def __init__(self, img_channel: int, condition_channel: int, out_channel: int, *, ratio: int = 4) -> None:
        super().__init__()
        if not 2 <= condition_channel <= img_channel or out_channel != img_channel:
            raise UserError(
                f"SSRNet: expected 2 to {img_channel} guide bands and out_channel {img_channel}, given "
                f"{condition_channel} and {out_channel}; choose another network"
            )
        self.places = inserted_bands(img_channel, condition_channel)
        self.fuse = nn.Conv2d(img_channel, img_channel, 3, padding=1)
        self.spatial = nn.Conv2d(img_channel, img_channel, 3, padding=1)
        self.spectral = nn.Conv2d(img_channel, img_channel, 3, padding=1)

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: lms (B, C, H, W) and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W) >= 0; ms is not used."""
        mixed = lms.clone()
        mixed[:, self.places] = pan.to(lms.dtype)
        x = F.relu(self.fuse(mixed))
        x = x + F.relu(self.spatial(x))
        return x + F.relu(self.spectral(x))
