"""Geometry of a pair, and resampling at any phase."""

from __future__ import annotations

import pytest
import torch

from lemamba.model.classical.statistics import gather
from lemamba.operators import decimate, interp23, interpolate, mtf_filter, mtf_sample, resample, sample
from lemamba.operators.resample import lagrange_weights
from lemamba.operators.window import Spread, cut_windows
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

LANDSAT = Geometry((2.0, 2.0), (0.0, 0.0))


def smooth(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return (torch.sin(rows / 9.7)[:, None] * torch.cos(columns / 11.3)[None])[None, None]


def places(geometry: Geometry, size: tuple[int, int]) -> list[torch.Tensor]:
    return [
        o + r * torch.arange(n, dtype=torch.float64)
        for o, r, n in zip(geometry.offset, geometry.ratio, size, strict=True)
    ]


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_the_toolboxes_geometry_gives_the_published_digits(ratio):
    ms = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    size = (9 * ratio, 7 * ratio)
    assert torch.equal(interpolate(ms, Geometry.toolbox(ratio), size), interp23(ms, ratio))
    pan = torch.rand(2, 1, *size, dtype=torch.float64)
    assert torch.equal(sample(pan, Geometry.toolbox(ratio), (9, 7)), decimate(pan, ratio))


@pytest.mark.parametrize("offset", [-3.0, 0.0, 1.0, 5.0])
def test_whole_offsets_are_the_published_kernel_shifted(offset):
    ms = torch.rand(1, 1, 40, 40, dtype=torch.float64)
    shifted = interpolate(ms, Geometry((4.0, 4.0), (offset, 2.0)), (160, 160), border="mirror")
    published = interp23(ms, 4)
    move = int(offset) - 2
    inner = slice(60, 100)
    assert torch.allclose(shifted[..., inner, inner], published[..., 60 - move : 100 - move, inner], rtol=1e-12)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry.toolbox(4),
        Geometry.corners(2),
        Geometry.corners(3),
        Geometry.corners(4),
        Geometry.corners(6),
        LANDSAT,
        Geometry((4.015, 3.98), (1.37, -0.2)),
    ],
    ids=str,
)
def test_smooth_ground_comes_back_where_it_was(geometry):
    """A shift by a tenth of a PAN pixel would be an error of 0.01."""
    size = tuple(int(160 // r) for r in geometry.ratio)
    ms = smooth(*places(geometry, size))
    grid = torch.arange(150, dtype=torch.float64)
    ground = smooth(grid, grid)
    lms = interpolate(ms, geometry, (150, 150))
    assert (lms - ground)[..., 50:100, 50:100].abs().max() < 2e-3
    down = sample(ground, geometry, size)
    inner = slice(5, 150 // 8)
    assert (down - ms)[..., inner, inner].abs().max() < 1e-4


@pytest.mark.parametrize("taps", [4, 6, 12])
def test_the_kernel_reproduces_polynomials(taps):
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)
    values = (x[:, None] ** torch.arange(taps, dtype=torch.float64)).T  # one polynomial a row
    first, step = 10.3, 0.37
    found = resample(values[None], (0.0, 1.0, taps), (first, step, 12), taps=taps)
    at = -1 + (first + step * torch.arange(12, dtype=torch.float64)) * 2 / 29
    assert torch.allclose(found[0], (at[:, None] ** torch.arange(taps, dtype=torch.float64)).T, atol=1e-11)


def test_weights_sum_to_one_and_pass_samples_through():
    weights = lagrange_weights(torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64), 6)
    assert torch.allclose(weights.sum(1), torch.ones(3, dtype=torch.float64))
    assert weights[0].tolist() == [0, 0, 1, 0, 0, 0]
    assert torch.allclose(weights[2], weights[2].flip(0))


def test_borders():
    x = torch.arange(4.0, dtype=torch.float64).expand(1, 1, 4, 4)
    outside = (-2.0, 1.0, 8)
    assert resample(x, (0.0, 1.0, 4), outside)[0, 0, 0].tolist() == [1, 0, 0, 1, 2, 3, 3, 2]
    assert resample(x, (0.0, 1.0, 4), outside, border="circular")[0, 0, 0].tolist() == [2, 3, 0, 1, 2, 3, 0, 1]


def test_gradients():
    x = torch.rand(1, 1, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: interpolate(t, Geometry.corners(3), (20, 18)), x)


@pytest.mark.parametrize(
    "geometry", [Geometry.toolbox(4), Geometry.corners(3), LANDSAT, Geometry((4.015, 4.0), (1.5, 0.2))]
)
def test_windows_share_out_the_pixels(geometry):
    """Every PAN pixel and every MS pixel whose centre lies in PAN belongs to exactly one window."""
    H, W = 61, 48
    size = tuple(
        int((n - 0.5 - 1e-9 - o) // r) + 1 for n, o, r in zip((H, W), geometry.offset, geometry.ratio, strict=True)
    )
    ms = torch.arange(float(size[0] * size[1]), dtype=torch.float64).view(1, 1, *size)
    pan = torch.arange(float(H * W), dtype=torch.float64).view(1, 1, H, W)
    fine, coarse = [], []
    for _, window in cut_windows(ms, pan, geometry, 16, 8):
        fine.append(window.fine(window.pan))
        coarse.append(window.coarse(window.ms))
        assert window.lms.shape[-2:] == window.pan.shape[-2:]
    assert torch.cat(fine, 1)[0].sort().values.tolist() == list(range(H * W))
    assert torch.cat(coarse, 1)[0].sort().values.tolist() == list(range(ms.numel()))


@pytest.mark.parametrize(("ratio", "offset"), [(0.5, 0.0), (100.0, 0.0), (4.0, float("nan"))])
def test_impossible_geometries_are_user_errors(ratio, offset):
    with pytest.raises(UserError, match="expected ratios from 1 to 64"):
        Geometry((ratio, ratio), (offset, offset))


@pytest.mark.parametrize("ratio", [2, 4, 6, 16])
@pytest.mark.parametrize("place", ["corners", "toolbox", "uneven"])
def test_filter_and_sampling_in_one_step_equal_the_two(ratio, place):
    """`mtf_sample` is `sample` of `mtf_filter`: to 1e-13 in float64 and 1e-6 in float32, for several gains at once."""
    uneven = Geometry((ratio + 0.015, ratio + 0.01), (0.3, -0.2))
    geometry = {"corners": Geometry.corners(ratio), "toolbox": Geometry.toolbox(ratio), "uneven": uneven}[place]
    x = torch.rand(2, 1, 112, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gains, size = (0.15, 0.28, 0.34), (112 // ratio, 96 // ratio)
    expected = sample(mtf_filter(x.expand(-1, 3, -1, -1), gains, ratio), geometry, size)
    found = mtf_sample(x, gains, ratio, geometry, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        mtf_sample(x.float(), gains, ratio, geometry, size).double(), expected, rtol=0, atol=1e-6
    )


WINDOWS = {
    "corners": Geometry.corners(4),
    "toolbox": Geometry.toolbox(4),
    "landsat": LANDSAT,
    "uneven": Geometry((4.015, 4.015), (1.5, 1.5)),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", WINDOWS)
def test_moments_and_blends_at_ms_pixels_are_those_at_pan_pixels(name, masked):
    """The transposed interpolation gives the sums that interpolated pixels have, and mixing bands commutes with it."""
    geometry, random = WINDOWS[name], torch.Generator().manual_seed(2)
    ms, pan = (torch.rand(1, c, n, n, generator=random, dtype=torch.float64) for c, n in ((3, 60), (1, 120)))
    valid = torch.rand(120, 120, generator=random) < 0.7 if masked else None
    mix = torch.rand(3, 3, generator=random, dtype=torch.float64)
    parts, plain = [], []
    for _, window in cut_windows(ms, pan, geometry, 72, int(12 * geometry.nominal) + 4, valid):
        size = tuple(window.pan.shape[-2:])
        coarse = torch.rand(1, 2, *window.ms.shape[-2:], generator=random, dtype=torch.float64)
        fine = interpolate(coarse, window.geometry, size, border="mirror")
        parts.append((window.moments(coarse), window.moments()))
        plain.append((window.fine(window.lms, fine, window.pan), window.fine(window.lms, window.pan)))
        expected = torch.einsum("bc,nchw->nbhw", mix, window.lms) + fine[:, :1]
        torch.testing.assert_close(window.blend(mix, coarse[:, :1]), window.crop(expected), rtol=0, atol=1e-12)
    assert isinstance(parts[0][0], Spread) and isinstance(parts[0][1], Spread) != masked
    for i in (0, 1):
        found, right = (gather(lambda p, i=i: (p[i],), group, with_last=i == 0)[0] for group in (parts, plain))
        assert found.count == right.count
        torch.testing.assert_close(found.mean, right.mean, rtol=1e-8, atol=0)
        torch.testing.assert_close(found.covariance, right.covariance, rtol=1e-8, atol=1e-9)
