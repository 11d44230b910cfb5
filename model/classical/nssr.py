"""NSSR: spectra as non-negative sparse sums of atoms, drawn to those of pixels that look alike in the guide.

Paper: W. Dong, F. Fu, G. Shi, X. Cao, J. Wu, G. Li, X. Li, "Hyperspectral image super-resolution via non-negative
structured sparse representation", IEEE TIP 25(5), 2016. Solved by ADMM as there.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W); K atoms, n similar pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import Windows
from lemamba.model.classical.coupled import Coupled, Fitted, Images, in_units_of_ms, mix
from lemamba.operators.observation import Observation
from lemamba.utils.registry import register_model

_SIMILAR = 1e-3  # eta1, weight of the distance from similar pixels
_SPARSE = 1e-4  # eta2
_PENALTY = 1e-2  # mu of the augmented Lagrangian
_GROWTH = 1.1  # of mu in each step
_ITERATIONS = 25
_SPAN = 1e-3  # share of the largest singular value of D below which directions are left out
_NEIGHBOURS = 10
_REACH = 5  # pixels on every side among which similar ones are sought
_PATCH = 3  # side of the patches that are compared
_ROUNDS = 10  # of codes and atoms when the dictionary is learnt
_CODE_STEPS = 30
_SPARSE_CODES = 1e-3  # weight of the codes' sum then, for pixels whose largest value is 1
_SAMPLE = 20_000  # pixels of ms that the dictionary is learnt from, taken evenly


@register_model(
    "NSSR",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    tileable=False,
    paper="Dong et al., TIP 25(5), 2016",
)
class NSSR(Coupled):
    """``min |ms - D A B S|^2 + |guide - R D A|^2 + eta1 |D A - U|^2 + eta2 sum(A)`` over ``A >= 0``, data in [0, 1].

    D (C, K) is non-negative and learnt from the pixels of ms. U holds, for every pixel, the mean of the pixels around
    which the guide looks alike. Atoms start as pixels that those before explain least, not as random ones. The image
    moves in the span of D (down to a thousandth of its largest singular value): what ms has outside has no part in A.
    """

    components = 80

    def learn(self, windows: Windows, seen: Observation) -> Fitted:
        """Learn the dictionary."""
        pixels = torch.cat([w.coarse(w.ms).double().cpu() for w in windows()], dim=1).clamp_min(0)
        every = -(-pixels.shape[1] // _SAMPLE)
        return Fitted(seen, dictionary(pixels[:, ::every] / pixels.amax().clamp_min(1e-300), self.components))

    def solve(self, images: Images, fitted: Fitted) -> Tensor:
        """Return sr (C, H, W), not negative."""
        images, scale = in_units_of_ms(images)
        return mix(fitted.basis, sparse_codes(images, fitted.basis)) * scale


def sparse_codes(images: Images, D: Tensor) -> Tensor:
    """Minimise the objective of `NSSR` over A (K, H, W), U following the image.

    Args:
        images: in the units of ms.
        D: (C, K) non-negative atoms.
    """
    span, values, _ = torch.linalg.svd(D, full_matrices=False)
    span = span[:, values > _SPAN * values[0]]
    RD, SD, blur = images.response @ D, span.T @ D, images.blur
    places, weights = similar(images.pan)
    from_ms = blur.spread(mix(span.T, images.ms))
    sparse = mix(RD.T * 0, images.pan)
    dual_A = torch.zeros_like(sparse)  # changed in place, as all of this size: they are most of the memory
    Z = U = dual_Z = torch.zeros_like(from_ms)
    identity, mu = torch.eye(len(sparse), dtype=D.dtype), _PENALTY
    for _ in range(_ITERATIONS):
        normal = RD.T @ RD + (_SIMILAR + mu) * SD.T @ SD + mu * identity
        right = mix(RD.T, images.pan).add_(mix(SD.T, _SIMILAR * U + mu * Z - dual_Z))
        A = mix(torch.linalg.inv(normal), right.add_(sparse, alpha=mu).add_(dual_A))
        del right
        image = mix(SD, A)
        Z = blur.solve(torch.full((len(Z),), mu, dtype=Z.dtype), from_ms + mu * image + dual_Z)
        sparse = dual_A.add(_SPARSE / 2).div_(-mu).add_(A).clamp_min_(0)
        dual_A.add_(sparse, alpha=mu).sub_(A, alpha=mu)
        dual_Z = dual_Z + mu * (image - Z)
        U = average(Z, places, weights)
        mu *= _GROWTH
    return sparse


def dictionary(X: Tensor, count: int) -> Tensor:
    """Learn non-negative atoms of length 1 (C, K) for pixels (C, n): codes and atoms in turns.

    Each atom's update is the least-squares solution with all else fixed, its negative part cut off.
    """
    D = diverse(X, count)
    A = X.new_zeros(D.shape[1], X.shape[1])
    for _ in range(_ROUNDS):
        A = codes(X, D, A)
        normal, right = A @ A.T, X @ A.T
        for k in range(D.shape[1]):
            if normal[k, k] > 0:
                atom = (D[:, k] + (right[:, k] - D @ normal[:, k]) / normal[k, k]).clamp_min(0)
                if atom.norm() > 0:
                    D[:, k] = atom / atom.norm()
    return D


def codes(X: Tensor, D: Tensor, A: Tensor) -> Tensor:
    """Minimise ``|X - D A|^2 / 2 + weight sum(A)`` over A (K, n) >= 0 by accelerated gradient steps from A."""
    normal, right = D.T @ D, D.T @ X - _SPARSE_CODES
    length = 1 / torch.linalg.eigvalsh(normal)[-1]
    ahead, t = A, 1.0
    for _ in range(_CODE_STEPS):
        before, A = A, (ahead - length * (normal @ ahead - right)).clamp_min(0)
        t, last = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        ahead = A + (last - 1) / t * (A - before)
    return A


def diverse(X: Tensor, count: int) -> Tensor:
    """Pick up to `count` pixels of length 1 (C, K): each is the one farthest from a multiple of any picked before."""
    rest = energy = X.square().sum(0)
    atoms: list[Tensor] = []
    while len(atoms) < count and (not atoms or float(rest.amax()) > 1e-12 * float(energy.amax())):
        atoms.append(X[:, rest.argmax()] / rest.new_tensor(float(energy[rest.argmax()])).sqrt().clamp_min(1e-300))
        rest = torch.minimum(rest, energy - (atoms[-1] @ X).square())
    return torch.stack(atoms, dim=1)


def similar(guide: Tensor) -> tuple[Tensor, Tensor]:
    """Find, for every pixel, the pixels around which the guide (P, H, W) looks most alike.

    Returns:
        (n, H W) their places, and weights of sum 1 that fall exponentially with the mean squared difference of patches.
        A pixel is not its own neighbour; images wrap around.
    """
    H, W = guide.shape[-2:]
    reach = min(_REACH, (min(H, W) - 1) // 2)
    rows, columns = torch.arange(H)[:, None], torch.arange(W)
    distances, places = guide.new_zeros(0, H, W), torch.zeros(0, H, W, dtype=torch.long)
    for i in range(-reach, reach + 1):
        moves = [(i, j) for j in range(-reach, reach + 1) if i or j]
        new = torch.stack([patch_distance(guide, guide.roll((-i, -j), (1, 2))) for i, j in moves])
        at = torch.stack([(rows + i) % H * W + (columns + j) % W for i, j in moves])
        distances, places = torch.cat([distances, new]), torch.cat([places, at])
        distances, order = distances.topk(min(_NEIGHBOURS, len(distances)), dim=0, largest=False)
        places = places.gather(0, order)
    weights = (-distances / distances.mean().clamp_min(1e-300)).exp()
    return places.flatten(1), (weights / weights.sum(0)).flatten(1)


def patch_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of the patches around each pixel of (P, H, W); images wrap around."""
    squares = (a - b).square().mean(0)
    for dim in (0, 1):
        squares = torch.stack([squares.roll(k - _PATCH // 2, dim) for k in range(_PATCH)]).mean(0)
    return squares


def average(x: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted means of the pixels of (K, H, W) at `places` (n, H W)."""
    flat = x.flatten(1)
    total = torch.zeros_like(flat)
    for at, weight in zip(places, weights, strict=True):
        total += flat[:, at] * weight
    return total.view_as(x)
