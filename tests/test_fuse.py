"""Tiling: blended tiles give the whole image where the network is local, at any size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiles import RIM_POWER, blend_window, fuse
from lemamba.engine.fusing.tiling import OVERLAP, Tiling, tile_starts
from lemamba.utils.errors import UserError
from lemamba.utils.registry import Traits


def images(H: int, W: int, ratio: int = 4, bands: int = 2):
    return torch.rand(2, bands, H // ratio, W // ratio), torch.rand(2, bands, H, W), torch.rand(2, 1, H, W)


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [(64, 64, 16), (65, 64, 16), (200, 64, 16), (48, 64, 0), (130, 32, 4)]
)
def test_tiles_cover_everything(size, tile, overlap):
    starts = tile_starts(size, tile, overlap)
    covered = set()
    for start in starts:
        assert start + min(tile, size) <= size
        covered |= set(range(start, start + min(tile, size)))
    assert covered == set(range(size))
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("shape", [(64, 64), (72, 108), (32, 200), (20, 28)])
def test_pointwise_network_is_unchanged_by_tiling(shape):
    ms, lms, pan = images(*shape)
    network = lambda ms, lms, pan: lms * 2 + pan  # noqa: E731
    whole = fuse(network, ms, lms, pan)
    tiled = fuse(network, ms, lms, pan, Tiling(32, 8, 3))
    torch.testing.assert_close(tiled, whole)


def test_ms_is_cut_at_the_same_ground():
    """A network that reads only ms must see the pixels below each tile."""
    ms, lms, pan = images(64, 96)
    up = lambda ms, lms, pan: ms.repeat_interleave(4, -1).repeat_interleave(4, -2)  # noqa: E731
    torch.testing.assert_close(fuse(up, ms, lms, pan, Tiling(32, 8)), up(ms, lms, pan))


def test_a_convolution_differs_only_near_seams_and_little():
    """Zero padding at a tile's rim is weighted down: the error there is smaller than without blending."""
    ms, lms, pan = images(128, 128)
    conv = nn.Conv2d(2, 2, 5, padding=2)
    network = lambda ms, lms, pan: conv(lms)  # noqa: E731
    with torch.no_grad():
        whole = conv(lms)
    blended = (fuse(network, ms, lms, pan, Tiling(64, 32)) - whole).abs()
    cut = (fuse(network, ms, lms, pan, Tiling(64, 0)) - whole).abs()
    assert blended.max() < 0.25 * cut.max()
    assert blended[..., 4:12, 4:12].max() < 1e-6


def test_weights_are_positive_and_symmetric():
    weights = blend_window(16, 12, 4)
    assert weights.min() > 0 and weights.max() == 1
    torch.testing.assert_close(weights, weights.flip(0, 1))


def test_weights_cross_over_the_whole_overlap_and_nothing_else():
    """Before they are made steeper, the weights of two neighbours add up to one wherever they overlap."""
    ramp = blend_window(16, 16, 6)[:, 8] ** (1 / RIM_POWER)
    torch.testing.assert_close(ramp[-6:] + ramp[:6], torch.ones(6))
    assert (ramp[6:10] == 1).all() and ramp[5] < 1
    assert (blend_window(16, 12, 0) == 1).all()


@pytest.mark.parametrize(("tile", "overlap"), [(30, 8), (32, 6), (32, 32), (2, 0), (32, -4)])
def test_impossible_tilings_are_refused(tile, overlap):
    with pytest.raises(UserError, match="expected"):
        fuse(lambda ms, lms, pan: lms, *images(64, 64), Tiling(tile, overlap))


def test_progress_counts_tiles():
    seen = []
    fuse(lambda ms, lms, pan: lms, *images(64, 64), Tiling(32, 0, 3), on_progress=lambda *a: seen.append(a))
    assert seen == [(3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("asked", "tileable", "tile", "batch"),
    [
        (Tiling(), True, None, 4),  # 128 x 128 pixels at once on a CPU
        (Tiling(32), True, None, 4),
        (Tiling(64), True, None, 4),  # tiles as large as the image are the image
        (Tiling(48), True, 48, 7),
        (Tiling(48), False, None, 4),
        (Tiling(48, batch=2), True, 48, 2),
    ],
)
def test_one_place_decides_between_tiles_and_the_whole_image(asked, tileable, tile, batch):
    size = (32, 32) if asked.tile == 32 else (64, 64)
    plan = asked.resolve(size, 4, tileable=tileable)
    assert (plan.tile, plan.overlap) == (tile, OVERLAP)
    assert plan.batch == (16 if size == (32, 32) else batch)
    assert plan.resolve(size, 4, tileable=tileable) == plan


def test_methods_with_statistics_of_the_image_are_not_tiled():
    method = lambda ms, lms, pan: lms - lms.mean()  # noqa: E731
    ms, lms, pan = images(64, 64)
    method.traits = Traits(tileable=False)
    torch.testing.assert_close(fuse(method, ms, lms, pan, Tiling(32, 8)), lms - lms.mean())


class Adapting(nn.Module):
    """Learns, on the very images it fuses, the gain by which pan becomes lms."""

    model_name, traits = "Adapting", Traits(needs_weights=False, trained=False, adapts=True)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, ms, lms, pan):
        optimizer = torch.optim.SGD([self.gain], lr=0.5)
        for _ in range(200):
            optimizer.zero_grad()
            (self.gain * pan - lms).square().mean().backward()
            optimizer.step()
        return self.gain * pan.expand_as(lms)


@pytest.mark.parametrize("tiling", [Tiling(), Tiling(32, 8, 1)])
@pytest.mark.parametrize("as_runner", [False, True])
def test_a_method_that_adapts_runs_with_gradients(tiling, as_runner, capsys):
    ms, _, pan = images(64, 64)
    method = Adapting().eval()
    tiling = dataclasses.replace(tiling, precision="bf16" if as_runner else "no")  # no half weights while it learns
    sr = fuse(Runner(method, torch.device("cpu"), tiling) if as_runner else method, ms, 0.7 * pan, pan, tiling)
    torch.testing.assert_close(sr, 0.7 * pan, rtol=0, atol=1e-3)
    assert not sr.requires_grad and ("trains on the images" in capsys.readouterr().out) == as_runner


def test_other_methods_run_in_inference_mode():
    seen = []
    fuse(lambda ms, lms, pan: seen.append(torch.is_inference_mode_enabled()) or lms, *images(64, 64))
    assert seen == [True]
