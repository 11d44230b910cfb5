"""An iterative fusion algorithm unfolded into layers, with a learned prior: what MoG-DCN and 3DT-Net share.

The cube is fitted to the guide through a learned response, and to ms through a learned blur and decimation; in between
a network, the prior, proposes better cubes. The prior is one and the same in every stage.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemamba.model.ops.portable import is_portable

_WIDTH = 64  # feature maps that a prior takes
FEATURES = 128  # feature maps that it passes on to later calls
_SCALARS = {"delta_0": "guide_step", "eta_0": "guide_weight", "delta_3": "step", "eta_3": "weight"}  # of 14 released


class Unfolding(nn.Module):
    """Stages of two steps each, ``z`` without and ``x`` with ms, each after a call of the prior.

    Every call sees the present cube and features of earlier calls: the first call of a stage those of the first calls
    of all stages before, the second call those of the first.

    Args:
        bands: C.
        guides: P.
        ratio: H / h.
        stages: how many.
        prior: (B, 64, H, W) -> a change of the cube (B, C, H, W) and features (B, 128, H, W).
    """

    def __init__(self, bands: int, guides: int, ratio: int, stages: int, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.embed = nn.Conv2d(bands, _WIDTH, 3, padding=1)
        earlier = [FEATURES * i for i in range(1, stages)]
        self.first = nn.ModuleList(nn.Conv2d(_WIDTH + n, _WIDTH, 3, padding=1) for n in earlier)
        self.second = nn.ModuleList(nn.Conv2d(_WIDTH + FEATURES, _WIDTH, 3, padding=1) for _ in range(stages))
        side = 3 * ratio // 2 | 1  # 7 at ratio 4 and 13 at ratio 8 as released, and as wide against the ratio at others
        self.degrade = nn.Conv2d(bands, bands, side, stride=ratio, padding=side // 2)
        self.spread = nn.ConvTranspose2d(bands, bands, side, stride=ratio, padding=side // 2)
        self.to_guide = nn.Conv2d(bands, guides, 3, padding=1)
        self.to_cube = nn.Conv2d(guides, bands, 3, padding=1)
        # length of a step, and weight of the prior in it
        self.guide_step, self.guide_weight = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.9))
        self.step, self.weight = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.9))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_normal_(layer.weight)

    def guided(self, x: Tensor, v: Tensor, pan: Tensor) -> Tensor:
        """Return z: a step from x that follows the guide and leaves the prior's v.

        All in one sum, as released: ``(1 - d - d e) x + d T(pan - R x) + d (x - e v)`` with d the step, e the weight,
        R and T the learned response and its counterpart.
        """
        d, e = self.guide_step, self.guide_weight
        return (1 - d - d * e) * x + d * self.to_cube(pan - self.to_guide(x)) + d * (x - e * v)

    def consistent(self, x: Tensor, v: Tensor, ms: Tensor, pan: Tensor) -> Tensor:
        """Return the next x, which follows both images and the prior's v.

        ``(1 - d e) x + d T(pan - R x) + d U(D x - ms) + d e v`` with D the learned degradation and U its counterpart.
        """
        d, e = self.step, self.weight
        from_ms = enlarge_to(self.spread, self.degrade(x) - ms, x.shape[-2:])
        return (1 - d * e) * x + d * self.to_cube(pan - self.to_guide(x)) + d * from_ms + d * e * v

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse: ms, lms and pan (B, P, H, W) in [0, 1] -> sr (B, C, H, W), not clipped."""
        x = lms
        features: list[Tensor] = []
        for stage, second in enumerate(self.second):
            seen = self.embed(x)
            if features:
                seen = self.first[stage - 1](torch.cat([seen, *features], dim=1))
            change, passed = self.prior(seen)
            features.append(passed)
            z = self.guided(x, x + change, pan)
            v = z + self.prior(second(torch.cat([self.embed(z), passed], dim=1)))[0]
            if stage < len(self.second) - 1:
                x = self.consistent(x, v, ms, pan)
        return v


def enlarge_to(layer: nn.ConvTranspose2d, x: Tensor, size: Sequence[int]) -> Tensor:
    """Apply a transposed convolution so that the result has a size (H, W)."""
    if not is_portable():
        return layer(x, output_size=list(size))
    # For exporters, which take no output padding that depends on a size still unknown: the most, and cut.
    most = tuple(stride - 1 for stride in layer.stride)
    y = F.conv_transpose2d(x, layer.weight, layer.bias, layer.stride, layer.padding, most)  # type: ignore[arg-type]
    return y[..., : size[0], : size[1]]


def published_scalars(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a released state dict: its four scalars under our names, and the rest without what is never used."""
    scalars = {ours: state_dict[theirs] for theirs, ours in _SCALARS.items() if theirs in state_dict}
    unused = ("delta_", "eta_", "acti.", "spatial.acti.")
    return scalars, {k: v for k, v in state_dict.items() if k != "P" and not k.startswith(unused)}


def published_names(stages: int) -> dict[str, str]:
    """Return the names of the layers outside the prior in the released classes -> ours."""
    names = {"fe_conv1": "embed", "conv_downsample": "degrade", "conv_upsample": "spread"}
    names |= {"conv_torgb": "to_guide", "conv_tohsi": "to_cube"}
    names |= {f"fe_conv{2 * i + 2}": f"second.{i}" for i in range(stages)}
    return names | {f"fe_conv{2 * i + 3}": f"first.{i}" for i in range(stages - 1)}
