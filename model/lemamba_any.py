"""LE-Mamba for any number of bands, sensor and ratio: one band at a time, with guides made from the pair itself.

The network sees a band and a stack of planes, all in units of the scene: means 0 and deviations 1 at MS resolution. It
corrects a classical injection, the multiresolution analysis with local regression gains, so that a network whose last
layer is 0 is that method. Statistics are of the whole scene, as for the classical methods, and gathered by the same two
passes (`lemamba.model.classical.base`).

Legend: C bands, h w size of ms, H W size of PAN, p PAN, p_low PAN through the band's MTF, decimated and interpolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lemamba.model.classical.base import Classical, Windows
from lemamba.model.classical.filters import glp_margin
from lemamba.model.classical.statistics import Moments, gather, percentile, quotient
from lemamba.model.panMamba import LEMamba
from lemamba.operators import interpolate, mtf_filter
from lemamba.operators import sample as take_samples
from lemamba.operators.resample import INTERPOLATION_TAPS, mirrored, resample
from lemamba.operators.window import Window
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry
from lemamba.utils.registry import register_model
from lemamba.utils.sensors import Sensor

PLANES = (
    "band",
    "pan",
    "pan_low",
    "intensity",
    "global",
    "local",
    "component",
    "modulation",
    "local_rho",
    "rho",
    "ratio",
)
GUIDES = len(PLANES)
REACH = 3  # MS pixels on each side that local statistics look at
STEP = 128  # PAN pixels that the core fuses at a time, on a grid that begins at the first pixel of a window
CONTEXT = 16  # PAN pixels around them that it sees
RANGE = 64.0  # planes are stored as 0.5 + plane / RANGE, within [0, 1] as the trainer expects
_LOCAL_WEIGHT = 0.05  # of the global statistics in the local ones, as a share of the scene's variance
SEARCH = 2  # PAN pixels within which PAN's shift against MS is sought
_PIXELS_PER_BAND = 50  # MS pixels that are needed to find a shift
_EXPLAINED = 0.3  # share of PAN's variance that the bands must explain, likewise
_LEAST_SHIFT = 0.05  # PAN pixels; smaller ones are not worth a resampling
_GAINS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)  # at Nyquist, that are tried
_CONTRADICTED = 3.0  # times as much of PAN is unexplained with the gains of the sensor: they are wrong
_DARK = 1.0  # percentile of the scene that stands for the light that the air adds
_LEAST_LIGHT = 0.3  # deviations of PAN above that, where it divides
_FLAT = 1e-6  # of the largest value: a deviation below it is the rounding of filters in float32
_RIDGE = 1e-4  # of the intensity's regression, as a share of each band's variance


@dataclass(frozen=True)
class SceneStatistics:
    """What the planes need to know of the whole scene, at MS resolution.

    Attributes:
        mean, deviation: of every band, (C,).
        pan_mean, pan_deviation: of the low-passed PAN.
        weights: (C,) of the bands (in their deviations) in the intensity, regressed to PAN in its deviations.
        rho: (C,) correlation of every band with PAN.
        component: (C,) regression of every band on the intensity, in their deviations.
        dark, pan_dark: (C,) and (1,) the `_DARK` percentiles, in deviations: light that the air adds.
        gains: C MTF gains at Nyquist.
        shift: PAN pixels, rows and columns, by which PAN lies off the place that the geometry says.
    """

    mean: Tensor
    deviation: Tensor
    pan_mean: Tensor
    pan_deviation: Tensor
    weights: Tensor
    rho: Tensor
    component: Tensor
    dark: Tensor
    pan_dark: Tensor
    gains: tuple[float, ...]
    shift: tuple[float, float] = (0.0, 0.0)


def middle(gains: Sequence[float]) -> float:
    """Return the gain in the middle of some, for the PAN that the statistics compare with all bands."""
    return sorted(gains)[len(gains) // 2]


def registered(window: Window, shift: tuple[float, float]) -> Window:
    """Return the window with PAN moved to where MS lies; what lies outside is mirrored."""
    if shift == (0.0, 0.0):
        return window
    rows, columns = ((s, 1.0, n) for s, n in zip(shift, window.pan.shape[-2:], strict=True))
    return replace(window, pan=resample(window.pan, rows, columns))


def find_shift(windows: Windows, gain: float) -> tuple[float, float]:
    """Estimate how far PAN lies off: where all bands together explain the low-passed PAN best.

    The share of its variance that is left is computed at whole PAN pixels up to `SEARCH` away, and a parabola through
    the least and its neighbours gives the fraction. (0, 0) for scenes too small to say, or whose bands hardly explain
    PAN anywhere.
    """
    steps = [(float(r), float(c)) for r in range(-SEARCH, SEARCH + 1) for c in range(-SEARCH, SEARCH + 1)]
    (moments,) = gather(lambda w: (w.coarse(w.ms, *_shifted(w, gain, steps)),), windows())
    explained = _explained(moments, len(steps))
    if explained is None:
        return 0.0, 0.0
    explained = explained.reshape(2 * SEARCH + 1, -1)
    row, column = divmod(int(explained.argmax()), explained.shape[1])
    found = [_vertex(line, i) - SEARCH for line, i in ((explained[:, column], row), (explained[row], column))]
    rows, columns = (0.0 if abs(f) < _LEAST_SHIFT else f for f in found)
    return rows, columns


def find_gains(windows: Windows, gains: Sequence[float], shift: tuple[float, float]) -> tuple[float, ...]:
    """Check the MTF gains at Nyquist against the scene: with the right low-pass the bands explain PAN best.

    The gains of the sensor stay unless another width leaves less than a third of the unexplained variance of PAN, as
    where MS was decimated without a filter, and where the scene is too small to say. One width is sought for all
    bands; their differences, as widths of Gaussian filters, are kept.

    Args:
        windows: gives the windows of the scene.
        gains: C gains of the sensor.
        shift: of PAN, see `find_shift`.
    """
    tried = (*_GAINS, middle(gains))

    def features(window: Window) -> tuple[Tensor]:
        moved = registered(window, shift)
        return (moved.coarse(moved.ms, low_pass(moved, tried)),)

    (moments,) = gather(features, windows())
    shares = _explained(moments, len(tried))
    if shares is None or 1 - shares[-1] < _CONTRADICTED * (1 - shares.amax()):
        return tuple(gains)
    explained = shares[:-1]
    place = _vertex(explained, int(explained.argmax()))
    low = min(int(place), len(_GAINS) - 2)
    found = _GAINS[low] + (place - low) * (_GAINS[low + 1] - _GAINS[low])
    wider = math.log(found) / math.log(middle(gains))
    return tuple(min(max(gain**wider, _GAINS[0]), _GAINS[-1]) for gain in gains)


def observed_gains(windows: Windows, gains: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, float]]:
    """Return the gains that a scene is fused with, those of its sensor or of `find_gains`, and the shift of PAN."""
    shift = find_shift(windows, middle(gains))
    return find_gains(windows, gains, shift), shift


def _explained(moments: Moments, count: int) -> Tensor | None:
    """Return which share of the variance of each of the last `count` features the others explain together.

    None: too few pixels to say, or hardly any of it.
    """
    bands = len(moments.mean) - count
    if moments.count < max(1, _PIXELS_PER_BAND * bands):
        return None
    deviation = moments.sd(slice(None))
    correlation = quotient(moments.covariance, torch.outer(deviation, deviation))
    used = correlation[:bands, :bands] + _RIDGE * torch.eye(bands, dtype=correlation.dtype)
    to_pan = correlation[:bands, bands:]
    explained = (to_pan * torch.linalg.solve(used, to_pan)).sum(0)
    return explained if explained.amax() > _EXPLAINED else None


def _shifted(window: Window, gain: float, steps: Sequence[tuple[float, float]]) -> list[Tensor]:
    filtered, size = _filtered(window, [gain]), tuple(window.ms.shape[-2:])
    return [take_samples(filtered, window.geometry.shifted(*step), size) for step in steps]


def _vertex(line: Tensor, i: int) -> float:
    """Return where the parabola through line[i] and its neighbours is greatest; i at an end."""
    if not 0 < i < len(line) - 1:
        return float(i)
    before, at, after = (float(v) for v in line[i - 1 : i + 2])
    bend = before - 2 * at + after
    return i + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def low_pass(window: Window, gains: Sequence[float]) -> Tensor:
    """Return PAN at MS resolution, (1, D, h, w), for D gains at Nyquist."""
    filtered = _filtered(window, gains)
    return take_samples(filtered, window.geometry, tuple(window.ms.shape[-2:]))


def _filtered(window: Window, gains: Sequence[float]) -> Tensor:
    scale = (window.geometry.ratio[0] * window.geometry.ratio[1]) ** 0.5
    filtered = mtf_filter(window.pan.expand(-1, len(gains), -1, -1), gains, scale)
    sums = torch.stack([mtf_filter(torch.ones_like(window.pan[..., :1, :1]), g, scale).sum() for g in gains])
    return filtered / sums.view(1, -1, 1, 1)  # the kernels are not normalised; an offset of PAN must not matter


def scene_statistics(
    windows: Windows, gains: Sequence[float], shift: tuple[float, float] | None = None
) -> SceneStatistics:
    """Gather the statistics of a scene.

    Args:
        windows: gives its windows.
        gains: C gains at Nyquist; the middle one is that of the low-passed PAN.
        shift: of PAN, where it is known; None = it is sought.
    """
    gain = middle(gains)
    shift = find_shift(windows, gain) if shift is None else shift

    def features(window: Window) -> tuple[Tensor]:
        moved = registered(window, shift)
        return (moved.coarse(moved.ms, low_pass(moved, [gain])),)

    (moments,) = gather(features, windows())
    dark = percentile(lambda: (features(w)[0] for w in windows()), moments, _DARK)
    return _derive(moments, dark, tuple(gains), shift)


def _derive(moments: Moments, dark: Tensor, gains: tuple[float, ...], shift: tuple[float, float]) -> SceneStatistics:
    deviation = moments.sd(slice(None))
    seen = deviation > _FLAT * torch.maximum(moments.smallest.abs(), moments.largest.abs())
    flat = [name for name, part in (("PAN", seen[-1:]), ("every band", seen[:-1])) if not part.any()]
    if flat:
        raise UserError(
            f"LEMambaAny: expected images with detail, {flat[0]} has one value throughout; check the files, nodata "
            "(--nodata) and that both show one place"
        )
    correlation = quotient(moments.covariance, torch.outer(deviation, deviation))
    among, rho = correlation[:-1, :-1], correlation[:-1, -1]
    used = among + _RIDGE * torch.eye(len(among), dtype=among.dtype)
    weights = torch.linalg.solve(used, rho)
    variance = weights @ among @ weights
    dark = quotient(dark - moments.mean, deviation)
    return SceneStatistics(
        mean=moments.mean[:-1],
        deviation=deviation[:-1],
        pan_mean=moments.mean[-1],
        pan_deviation=deviation[-1],
        weights=weights,
        rho=rho,
        component=quotient(among @ weights, variance),
        dark=dark[:-1],
        pan_dark=dark[-1],
        gains=gains,
        shift=shift,
    )


def _scaled(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    mean, deviation = (v.to(x).reshape(1, -1, 1, 1) for v in (mean, deviation))
    return quotient(x - mean, deviation.expand_as(x))


def _box(x: Tensor) -> Tensor:
    """Return the mean of (1, C, h, w) over the MS pixels within REACH; outside it is mirrored."""
    for dim in (-2, -1):
        n = x.shape[dim]
        x = x.index_select(dim, mirrored(torch.arange(-REACH, n + REACH, device=x.device), n))
    return F.avg_pool2d(x, 2 * REACH + 1, stride=1)


def band_planes(window: Window, scene: SceneStatistics) -> Iterator[Tensor]:
    """Yield the planes of every band of a window, (1, GUIDES, H, W) in the order of `PLANES`.

    Args:
        window: its pixels with margins.
        scene: statistics of the scene it is from.

    Each is in deviations of the band or of PAN; "global", "local", "component" and "modulation" are
    details to be added to the band: with the regression gains of the scene and of the neighbourhood, by substituting
    the intensity, and in proportion to the band's light.
    """
    window = registered(window, scene.shift)
    size, geometry = tuple(window.pan.shape[-2:]), window.geometry
    scale = (geometry.ratio[0] * geometry.ratio[1]) ** 0.5
    distinct = sorted(set(scene.gains))
    lows = _scaled(low_pass(window, distinct), scene.pan_mean, scene.pan_deviation)
    pan = _scaled(window.pan, scene.pan_mean, scene.pan_deviation)
    small = _scaled(window.ms, scene.mean, scene.deviation)
    bands = _scaled(window.lms, scene.mean, scene.deviation)
    intensity = (bands * scene.weights.to(bands).view(1, -1, 1, 1)).sum(1, keepdim=True)
    wide = [interpolate(low[:, None], geometry, size, border="mirror") for low in lows.unbind(1)]
    means = [(_box(low[:, None]), _box(low[:, None] ** 2)) for low in lows.unbind(1)]
    ratio = torch.full_like(pan, math.log2(scale) - 2)
    for k in range(bands.shape[1]):
        d = distinct.index(scene.gains[k])
        x, low, (mean, square) = small[:, k : k + 1], lows[:, d : d + 1], means[d]
        rho, component = float(scene.rho[k]), float(scene.component[k])
        own = _box(x)
        variance = (square - mean**2).clamp_min(0) + _LOCAL_WEIGHT
        spread = (_box(x * x) - own**2).clamp_min(0) + _LOCAL_WEIGHT
        shared = _box(x * low) - own * mean + _LOCAL_WEIGHT * rho
        local = torch.cat((shared / variance, shared / (variance * spread).sqrt()), 1)
        local = interpolate(local, geometry, size, border="mirror")
        detail = pan - wide[d]
        light = (wide[d] - scene.pan_dark).clamp_min(_LEAST_LIGHT)
        yield torch.cat(
            (
                bands[:, k : k + 1],
                pan,
                wide[d],
                intensity,
                rho * detail,
                local[:, :1] * detail,
                component * (pan - intensity),
                (bands[:, k : k + 1] - scene.dark[k]) * detail / light,
                local[:, 1:],
                torch.full_like(pan, rho),
                ratio,
            ),
            1,
        )


@register_model(
    "LEMambaAny",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="learned",
    float64=True,
    clipped=False,
    tileable=False,
    any_size=True,
    paper="this project; blocks of Cao et al., ACM MM 2024",
)
class LEMambaAny(Classical):
    """sr of a band = band + local injection + correction by LE-Mamba, in the units of the scene.

    The correction is ``d + a (p - p_low) + b (p - intensity) + c modulation`` with four planes of the network. The same
    weights serve every number of bands. A scene ``x * s + t`` with s > 0 gives the result ``sr * s + t``, whatever the
    factors and offsets of the bands and of PAN.

    Args:
        img_channel, out_channel: C, bands of ms and of sr; 1 with planes made beforehand.
        condition_channel: 1 for PAN; `GUIDES` for planes made beforehand, stored as ``0.5 + plane / RANGE``: then lms
            is the first plane, gt the band, both stored so, and `forward` is the core alone, for training.
        ratio, sensor, geometry: see `lemamba.model.classical.base.Classical`.
        **core: arguments of `LEMamba`; the defaults are a small one of two stages.

    Raises:
        UserError: see `Classical`.
    """

    def __init__(
        self,
        img_channel: int,
        condition_channel: int,
        out_channel: int,
        *,
        ratio: int = 4,
        sensor: str | Sensor = "none",
        geometry: Geometry | None = None,
        **core: Any,
    ) -> None:
        prepared = (img_channel, condition_channel) == (1, GUIDES)
        guides = 1 if prepared else condition_channel
        super().__init__(img_channel, guides, out_channel, ratio=ratio, sensor=sensor, geometry=geometry)
        self.prepared = prepared
        self.core = LEMamba(1, GUIDES, 4, **(_SMALL | core))
        nn.init.normal_(self.core.tail.weight, std=1e-4)  # a network that has learnt nothing is the local injection

    def for_data(self, bands: int, ratio: int, sensor: str | Sensor = "none") -> LEMambaAny:
        """Return the network for other data; the weights are shared."""
        other = copy(self)  # a shallow copy: the registries of modules and parameters are the same
        Classical.__init__(other, bands, 1, bands, ratio=ratio, sensor=sensor)
        other.core, other.prepared = self.core, False
        return other.train(self.training)

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return glp_margin(math.ceil(self.scale)) + math.ceil(REACH * self.scale) + CONTEXT + SEARCH + INTERPOLATION_TAPS

    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse images whole, with the statistics of each; or planes made beforehand."""
        if self.prepared:
            return self.fuse_planes((pan - 0.5) * RANGE) / RANGE + 0.5
        return super().forward(ms, lms, pan)

    def fit(self, windows: Windows) -> SceneStatistics:
        """Gather the statistics of the scene, its MTF gains among them."""
        gains, shift = observed_gains(windows, self.gains)
        return scene_statistics(windows, gains, shift if gains == tuple(self.gains) else None)

    def inject(self, window: Window, fitted: SceneStatistics) -> Tensor:
        """Fuse a window."""
        like, planes = next(self.core.parameters()), band_planes(window, fitted)
        mean, deviation = (v.to(window.ms).view(1, -1, 1, 1) for v in (fitted.mean, fitted.deviation))
        seen = quotient(window.ms - mean, deviation.expand_as(window.ms)).to(like)
        fused = [
            self._by_steps(one.to(like), seen[:, k : k + 1], fitted.gains[k], window) for k, one in enumerate(planes)
        ]
        return torch.cat(fused, 1).to(window.lms) * deviation + mean

    def fuse_planes(self, planes: Tensor) -> Tensor:
        """Return the fused band (B, 1, H, W), in its deviations, from planes (B, GUIDES, H, W)."""
        band, pan, low, intensity, _, local, _, modulation = planes.split(1, 1)[:8]
        base = band + local
        free, a, b, c = (self.core(base, base, planes) - base).split(1, 1)
        return base + free + a * (pan - low) + b * (pan - intensity) + c * modulation

    def _by_steps(self, planes: Tensor, seen: Tensor, gain: float, window: Window) -> Tensor:
        """Fuse STEP x STEP pixels at a time with CONTEXT around them, so that a window is as the whole.

        Each result is back-projected once onto the band as it was seen, `seen` (1, 1, h, w): what the MTF brings down
        must be the band (M. Irani, S. Peleg, CVGIP 53(3), 1991).
        """
        H, W = planes.shape[-2:]
        fused = planes.new_zeros(1, 1, H, W)
        limits = [(s.start or 0, s.stop or n) for s, n in zip(window.inner, (H, W), strict=True)]
        rows, columns = ([(i, min(STEP, end - i)) for i in range(begin, end, STEP)] for begin, end in limits)
        for (r, h), (c, w) in itertools.product(rows, columns):  # the last ones are smaller, as in the whole image
            tile = planes.index_select(2, _around(r, h, H, planes)).index_select(3, _around(c, w, W, planes))
            sharp = self.fuse_planes(tile)
            sharp = sharp + self._error(sharp, seen, gain, window.geometry, (r - CONTEXT, c - CONTEXT))
            fused[..., r : r + h, c : c + w] = sharp[..., CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
        return fused

    def _error(self, sharp: Tensor, seen: Tensor, gain: float, geometry: Geometry, first: tuple[int, int]) -> Tensor:
        """Return, interpolated, what lacks in a tile (1, 1, H, W) that begins at `first`, brought down by the MTF."""
        spans = []
        for n, start, ratio, offset in zip(sharp.shape[-2:], first, geometry.ratio, geometry.offset, strict=True):
            spans.append((math.ceil((start - offset) / ratio), math.floor((start + n - 1 - offset) / ratio) + 1))
        sizes = zip(spans, seen.shape[-2:], strict=True)
        rows, columns = (mirrored(torch.arange(*span, device=seen.device), n) for span, n in sizes)
        wanted = seen.index_select(2, rows).index_select(3, columns)
        own = geometry.window((spans[0][0], spans[1][0]), first)
        low = take_samples(mtf_filter(sharp, gain, self.scale, unit=True), own, tuple(wanted.shape[-2:]))
        return interpolate(wanted - low, own, tuple(sharp.shape[-2:]), border="mirror")


def _around(first: int, count: int, n: int, like: Tensor) -> Tensor:
    """Return the indices of a tile and its context along an axis of n pixels, mirrored outside."""
    return mirrored(torch.arange(first - CONTEXT, first + count + CONTEXT, device=like.device), n)


_SMALL: dict[str, Any] = {
    "width": 16,
    "ssm_enc_blk_nums": (1, 1),
    "ssm_dec_blk_nums": (1, 1),
    "ssm_chan_upscale": (2, 2),
    "ssm_ratios": (1, 1),
    "window_sizes": (8, None),
    "ssm_enc_d_states": ((8, 8), (None, 8)),
    "ssm_dec_d_states": ((None, 8), (8, 8)),
    "ssm_enc_convs": ((5, 7), (None, 7)),
    "ssm_dec_convs": ((None, 7), (5, 7)),
    "drop_path_rate": 0.0,
}
