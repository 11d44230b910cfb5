"""LTTR: groups of similar patches, as tensors of low tensor-train rank.

Paper: R. Dian, S. Li, L. Fang, "Learning a low tensor-train rank representation for hyperspectral image
super-resolution", IEEE TNNLS 30(9), 2019. Solved by ADMM as there.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); K components; groups of n patches of side p are
tensors (G, p, p, K, n).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.model.classical.coupled import Coupled, Fitted, Images, in_units_of_ms, mix
from lemamba.utils.registry import register_model

_SIDE = 4  # of a patch
_STEP = 2  # between patches: they overlap by half
_GROUP = 16  # patches of a group, at least
_FEATURES = 16  # principal directions of the guide's patches by which they are grouped
_WEIGHT = 3e-3  # lambda, of the tensor-train rank
_PENALTY = 1e-4  # mu of the augmented Lagrangian
_EPSILON = 1e-4  # of log(sigma + epsilon)
_ITERATIONS = 20
_STOP = 1e-4  # relative change of the components
_AT_ONCE = 256  # groups, so that memory does not grow with the image


@register_model(
    "LTTR",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    tileable=False,
    paper="Dian et al., TNNLS 30(9), 2019",
)
class LTTR(Coupled):
    """``min |ms - X B S|^2 / 2 + |guide - R X|^2 / 2 + lambda sum_n a_n sum_i log(s_i(X_n) + epsilon)``.

    X_n is a group's tensor with its first n = 1, 2, 3 modes as rows, s_i its singular values; data are scaled to [0, 1]
    for the weights. X = E U with orthonormal E: the singular values of every X_n are those of U_n. Groups are halves of
    halves along the principal direction of the guide's patches, so all have one size; the paper uses k-means.
    """

    def solve(self, images: Images, fitted: Fitted) -> Tensor:
        """Return sr (C, H, W)."""
        images, scale = in_units_of_ms(images)
        RE = images.response @ fitted.basis
        values, vectors = torch.linalg.eigh(RE.T @ RE)
        E, RE = fitted.basis @ vectors, RE @ vectors
        blur, patches = images.blur, Patches(images.pan)
        from_data = blur.spread(mix(E.T, images.ms)) + mix(RE.T, images.pan)
        U = mix(E.T, images.lms)
        weights = [_WEIGHT / _PENALTY * share for share in shares((_SIDE, _SIDE, len(U), patches.groups.shape[1]))]
        duals = [torch.zeros_like(U) for _ in weights]
        for _ in range(_ITERATIONS):
            before = U
            splits = [
                patches.shrink(U - d, modes, weight)
                for modes, (d, weight) in enumerate(zip(duals, weights, strict=True), start=1)
            ]
            right = from_data + _PENALTY * sum(v + d for v, d in zip(splits, duals, strict=True))
            U = blur.solve(values.clamp_min(0) + len(splits) * _PENALTY, right)
            duals = [d + v - U for v, d in zip(splits, duals, strict=True)]
            if (U - before).norm() <= _STOP * before.norm():
                break
        return mix(E, U) * scale


def shares(shape: tuple[int, ...]) -> list[float]:
    """Weights a_n of the unfoldings: the smaller side of each, as a share of their sum."""
    sides = [min(math.prod(shape[:n]), math.prod(shape[n:])) for n in range(1, len(shape))]
    return [side / sum(sides) for side in sides]


class Patches:
    """Overlapping patches of an image, in groups whose patches of the guide are alike.

    Args:
        guide: (P, H, W).
    """

    def __init__(self, guide: Tensor) -> None:
        self.rows, self.columns = (_starts(n)[:, None] + torch.arange(_SIDE) for n in guide.shape[-2:])
        self.wide = len(self.columns)
        every = torch.arange(len(self.rows) * self.wide)
        self.groups = alike(self.take(guide, every).flatten(1))
        ones = torch.ones(self.groups.numel(), 1, _SIDE, _SIDE, dtype=guide.dtype)
        self.share = 1 / self.put(ones, self.groups.flatten(), torch.zeros_like(guide[:1]))

    def take(self, x: Tensor, which: Tensor) -> Tensor:
        """Cut patches of (K, H, W) by number (M,): (M, K, p, p)."""
        rows, columns = self.rows[which // self.wide], self.columns[which % self.wide]
        return x[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)

    def put(self, patches: Tensor, which: Tensor, total: Tensor) -> Tensor:
        """Add patches (M, K, p, p) to (K, H, W) where they were cut."""
        rows, columns = self.rows[which // self.wide], self.columns[which % self.wide]
        places = (rows[:, :, None] * total.shape[-1] + columns[:, None, :]).flatten()
        return total.flatten(1).index_add(1, places, patches.transpose(0, 1).flatten(1)).view(total.shape)

    def shrink(self, x: Tensor, modes: int, weight: float) -> Tensor:
        """Shrink the singular values of every group of (K, H, W), its first modes as rows; average the overlaps."""
        total = torch.zeros_like(x)
        for groups in self.groups.split(_AT_ONCE):
            cut = self.take(x, groups.flatten()).unflatten(0, groups.shape)  # (G, n, K, p, p)
            tensor = cut.permute(0, 3, 4, 2, 1)
            matrix = tensor.flatten(1, modes).flatten(2)
            shrunk = shrink(matrix, weight).reshape(tensor.shape).permute(0, 4, 3, 1, 2)
            total = self.put(shrunk.flatten(0, 1), groups.flatten(), total)
        return total * self.share


def _starts(size: int) -> Tensor:
    """First pixels of patches along a side: every step, and the last that fits."""
    return torch.tensor(sorted({*range(0, size - _SIDE + 1, _STEP), size - _SIDE}))


def alike(features: Tensor) -> Tensor:
    """Group patches (M, F) by similarity: numbers (G, n), n from 16 on.

    Each half of a half is cut in the middle along its principal direction. Some patches are in two groups, so that all
    groups have n.
    """
    centred = features - features.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    reduced = centred @ vectors[:, -_FEATURES:]
    count = len(features)
    levels = max(0, int(math.log2(count / _GROUP)))
    size = math.ceil(count / 2**levels)
    groups = torch.cat([torch.arange(count), torch.arange(size * 2**levels - count)])[None]
    for _ in range(levels):
        x = reduced[groups]
        x = x - x.mean(1, keepdim=True)
        _, vectors = torch.linalg.eigh(x.mT @ x)
        order = (x @ vectors[..., -1:])[..., 0].argsort(dim=1, stable=True)
        groups = groups.gather(1, order).view(2 * len(groups), -1)
    return groups


def shrink(matrix: Tensor, weight: float) -> Tensor:
    """Apply `log_threshold` to the singular values of (G, a, b)."""
    if matrix.shape[1] > matrix.shape[2]:
        return shrink(matrix.mT, weight).mT
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    values = squares.clamp_min(0).sqrt()
    gain = log_threshold(values, weight) / values.clamp_min(1e-300)
    return (vectors * gain[:, None]) @ (vectors.mT @ matrix)


def log_threshold(x: Tensor, weight: float) -> Tensor:
    """Minimise ``weight log(s + epsilon) + (s - x)^2 / 2`` over s near x >= 0; 0 where it falls all the way to 0."""
    inside = (x + _EPSILON).square() - 4 * weight
    return torch.where(inside > 0, (x - _EPSILON + inside.clamp_min(0).sqrt()) / 2, 0.0).clamp_min(0)
