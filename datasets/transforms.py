"""Paired augmentation: the same flips, rotations and crop for ms, lms, pan and gt of one sample.

Stateless: the random numbers depend on (seed, epoch, index) only, so a sample is the same in every worker and process,
in any order, before and after a resume. Global generators are neither read nor changed.
Legend: C bands, H W size of gt, lms, pan; h w size of ms; r = H/h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemamba.utils.errors import UserError

Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class Augment:
    """Random crop, flips and rotations by multiples of 90 degrees.

    Attributes:
        prob: probability of each of: left-right flip, up-down flip, rotation by 90, 180 or 270 degrees.
        crop: side of the square cut from lms, pan and gt (a multiple of the ratio); None keeps the whole sample.
        seed: base of all random numbers.
    """

    prob: float = 0.0
    crop: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise UserError(f"expected an augmentation probability from 0 to 1, given {self.prob}; correct it")
        if self.seed < 0:
            raise UserError(f"expected a seed of 0 or more, given {self.seed}; correct it")

    def __call__(self, sample: Sample, ratio: int, epoch: int, index: int) -> Sample:
        """Return the augmented sample; `sample` is not changed.

        Args:
            sample: ms (C, h, w); lms, pan, gt (·, H, W).
            ratio: H/h.
            epoch: 0 or more.
            index: of the sample in its data set.
        """
        if self.prob == 0 and self.crop is None:
            return sample
        generator = np.random.default_rng([self.seed, epoch, index])
        # Always draw all numbers, so that the crop does not depend on the probability of flips.
        top, left, across, down, turn = generator.random(5)
        quarter_turns = int(generator.integers(1, 4))
        if self.crop is not None:
            sample = crop(sample, ratio, self.crop, top, left)
        if across < self.prob:
            sample = {key: value[..., ::-1] for key, value in sample.items()}
        if down < self.prob:
            sample = {key: value[..., ::-1, :] for key, value in sample.items()}
        if turn < self.prob:
            height, width = sample["lms"].shape[-2:]
            turns = quarter_turns if height == width else 2  # samples of a batch must keep one shape
            sample = {key: np.rot90(value, turns, axes=(-2, -1)) for key, value in sample.items()}
        return sample


def crop(sample: Sample, ratio: int, size: int, top: float, left: float) -> Sample:
    """Cut a square of `size` from lms, pan and gt, and the same ground from ms; it lies on the grid of ms.

    `top` and `left` in [0, 1) give its position. A size that is too large or not a multiple of `ratio` raises
    `UserError`.
    """
    h, w = sample["ms"].shape[-2:]
    small = size // ratio
    if size % ratio or not 0 < small <= min(h, w):
        raise UserError(
            f"expected a crop that is a multiple of the ratio {ratio} and at most {min(h, w) * ratio}, given {size}; "
            "choose another"
        )
    y, x = int(top * (h - small + 1)), int(left * (w - small + 1))

    def cut(key: str, value: np.ndarray) -> np.ndarray:
        scale = 1 if key == "ms" else ratio
        return value[..., y * scale : (y + small) * scale, x * scale : (x + small) * scale]

    return {key: cut(key, value) for key, value in sample.items()}
