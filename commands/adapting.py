"""Methods that adapt: networks that train on the images they fuse, in the stages of their papers.

A-PNN-FT at reduced resolution, Z-PNN and lambda-PNN at full resolution, ZS-Pan at both. Without weights the first three
start from a training at reduced resolution on the same images. SpectraLift, for hyperspectral images, trains on ms and
the guide's response. Settings are those of the released codes, where these were at hand.
Shapes: ms (1, C, h, w), lms (1, C, H, W), pan (1, P, H, W), in [0, 1]; P = 1 but for SpectraLift.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lemamba.datasets.pair import ScenePair
from lemamba.engine.fusing.stages import Terms, train_stage
from lemamba.losses.lambda_pnn import LambdaPNNLoss
from lemamba.losses.spectral import downgrade, nominal_ratio
from lemamba.losses.structural import correlation_threshold
from lemamba.losses.zpnn import ZPNNLoss
from lemamba.losses.zspan import ZSPanLoss
from lemamba.model.zspan import SpectralResponse
from lemamba.operators import interpolate, mtf_filter, sample
from lemamba.operators.observation import estimate
from lemamba.operators.window import Window
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.registry import Traits
from lemamba.utils.sensors import get_sensor

WHOLE = 512 * 512  # pixels of PAN up to which a scene is trained on as a whole: lambda-PNN needs 1.5 GB for them
WINDOW = 256  # side of the windows of a larger scene that are trained on, and
WINDOWS = 16  # how many there are at most: lambda-PNN
TILE = 1024  # default side of the tiles in which a large scene is fused
CROP = 64  # largest side of the crops that are trained on at reduced resolution
CROP_RATE = 5e-4  # learning rate of the stages on crops: ZS-Pan
START_STEPS = 1500  # of the training at reduced resolution: as many as in the second stage of ZS-Pan
FINE_TUNING_RATE = 1e-4  # chosen here: A-PNN was released with SGD and a rate that depends on the size of the image
APART = 1.0  # error at MS resolution over the deviation of a band: interpolation 0.05 to 0.3, garbage 2 and more
STEPS = {"A-PNN-FT": 50, "Z-PNN": 100, "lambda-PNN": 100, "ZS-Pan": 2500 + START_STEPS + 50, "SpectraLift": 2500}
FROM_NOTHING = ("ZS-Pan", "SpectraLift")  # without weights they start from drawn ones, with no stage of their own

# Weights of the losses and learning rates in the released codes, by sensor; others take those of their number of bands.
ZPNN = {"WV3": (0.36, 1e-5), "WV2": (0.36, 1e-5), "GeoEye1": (0.25, 5e-5)}
LAMBDA_PNN = {
    "WV3": ((0.05, 1.25, 5.0), 4e-5),
    "WV2": ((0.05, 1.0, 6.0), 3.5e-5),
    "GeoEye1": ((0.075, 1.5, 7.0), 5e-5),
}

# Learning rates of SpectraLift: at the start, at the peak and at the end; and the share of the steps before the peak.
CYCLE = (1e-3, 1e-2, 1e-6)
RISE = 0.3


@dataclass(frozen=True)
class Target:
    """A pair of images to train on.

    Attributes:
        ms, lms, pan: see the module docstring.
        geometry: of ms and pan.
    """

    ms: Tensor
    lms: Tensor
    pan: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class Lesson:
    """What a network is to learn at reduced resolution: (lms, pan) -> ms; all of one size."""

    lms: Tensor
    pan: Tensor
    ms: Tensor


@dataclass(frozen=True)
class Stage:
    """A stage of training: a name for the progress bar, its share of the steps, and how it runs."""

    title: str
    steps: int
    run: Callable[[int, Callable[[float], None]], list[float]]


class Adapting(nn.Module):
    """A network together with how it adapts; `forward` fuses with the weights that `adapt` left.

    Args:
        network: one of `STEPS` by its `model_name`, with the weights that every adaptation starts from.
        facts: sensor, geometry and bands of the images.
        pretrained: whether these weights are trained; otherwise training starts at reduced resolution.
        steps: of training on each image or scene, over all stages, which keep their shares; None = as in the papers.
        seed: of the weights that are drawn.

    Raises:
        UserError: a guide of several bands for a method that takes PAN, or no steps and no weights.
    """

    def __init__(
        self, network: nn.Module, facts: DataFacts, *, pretrained: bool, steps: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.model_name = str(network.model_name)
        self.traits: Traits = network.traits  # type: ignore[assignment]
        if facts.guide_bands != 1 and "hmif" not in network.tasks:  # type: ignore[operator]
            raise UserError(
                f"{self.model_name} trains on pairs with one PAN band, given {facts.guide_bands} guide bands; choose "
                "another method"
            )
        row = get_sensor(facts.sensor)
        self.sensor, self.gains, self.pan_gain = row.name, row.gains(facts.bands), row.pan_gain
        self.network, self.pretrained, self.seed = network, pretrained, seed
        self.response = facts.response
        self.start = copy.deepcopy(network.state_dict())
        own = STEPS[self.model_name]
        self.full_steps = own if pretrained or self.model_name in FROM_NOTHING else own + START_STEPS
        self.steps = self.full_steps if steps is None else steps
        if self.steps == 0 and not pretrained:
            raise UserError(f"{self.model_name} has no weights and would not train; give --adapt_steps or --weights")

    @torch.no_grad()
    def forward(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse with the weights as they are: (B, C, H, W), not clipped."""
        return self.network(ms, lms, pan)

    @property
    def plan(self) -> str:
        """What it does, in one line for users."""
        start = "the weights given" if self.pretrained else "a training at reduced resolution on the images themselves"
        if self.model_name in FROM_NOTHING:
            start = "the weights given" if self.pretrained else "no weights"
        return f"{self.model_name} starts from {start}: {self.steps} steps on each image or scene"

    def adapt(self, targets: list[Target], on_step: Callable[[str, int, float], None] | None = None) -> list[float]:
        """Train on pairs of images, from the start anew.

        Args:
            targets: pairs of one scene, on the device of the network.
            on_step: called with (title of the stage, steps done, loss of the step).

        Returns:
            The losses of the last stage.

        Raises:
            UserError: images too small to train on, a loss that is not finite, or weights that learnt nothing.
        """
        self.network.load_state_dict(self.start)
        done, losses = 0, []
        with torch.inference_mode(False), torch.enable_grad():
            stages = self._stages(targets)
            for stage, steps in zip(stages, self._shares(stages), strict=True):

                def step(loss: float, title: str = stage.title) -> None:
                    nonlocal done
                    done += 1
                    if on_step is not None:
                        on_step(title, done, loss)

                losses = stage.run(steps, step)
        # an HMIF method is tied to MS by the response and PSF of its guide, not by the MTF
        if "hmif" not in self.network.tasks:  # type: ignore[operator]
            self._check(targets)
        return losses

    @torch.no_grad()
    def _check(self, targets: list[Target]) -> None:
        """Refuse weights whose results, at the resolution of MS, have not even the contrast of MS right."""
        apart = []
        for t in targets:
            seen = downgrade(self.network(t.ms, t.lms, t.pan), self.gains, t.geometry, t.ms.shape[-2:])
            apart.append((seen - t.ms).square().mean((-2, -1)).sqrt() / t.ms.std((-2, -1)).clamp_min(1e-12))
        far = float(torch.cat(apart).median())
        if not far <= APART:
            raise UserError(
                f"{self.model_name} did not learn these images: at MS resolution its result differs from MS by "
                f"{far:.2g} times the contrast of the bands, expected at most {APART:g}; fuse them by the generic "
                "weights (without --arch), or take other --weights to start from"
            )

    def _shares(self, stages: list[Stage]) -> list[int]:
        """Divide the steps among the stages; where there are enough, every stage has one."""
        ends, total = [0], 0
        for stage in stages:
            total += stage.steps
            ends.append(round(self.steps * total / self.full_steps))
        shares = [end - first for first, end in zip(ends, ends[1:], strict=False)]
        while 0 in shares and max(shares) > 1:
            shares[shares.index(max(shares))] -= 1
            shares[shares.index(0)] += 1
        return shares

    def _stages(self, targets: list[Target]) -> list[Stage]:
        own = {
            "A-PNN-FT": self._fine_tuning,
            "Z-PNN": self._zpnn,
            "lambda-PNN": self._lambda_pnn,
            "ZS-Pan": self._zspan,
            "SpectraLift": self._spectralift,
        }[self.model_name](targets)
        if self.pretrained or self.model_name in FROM_NOTHING:
            return own
        return [self._on_crops("reduced resolution", START_STEPS, targets, nn.L1Loss()), *own]

    def _on_crops(self, title: str, steps: int, targets: list[Target], loss: nn.Module) -> Stage:
        """Train the network at reduced resolution on the crops of every target, in turns."""
        crops = [crop for target in targets for crop in crops_of(reduced(target, self.gains, self.pan_gain))]

        def terms(step: int) -> Terms:
            crop = crops[turn(step, len(crops))]
            return [lambda: loss(self.network(crop.ms, crop.lms, crop.pan), crop.ms)]

        return Stage(title, steps, partial(_run, self.network, terms, CROP_RATE, 0.0, len(crops)))

    def _fine_tuning(self, targets: list[Target]) -> list[Stage]:
        lessons = [reduced(target, self.gains, self.pan_gain) for target in targets]
        loss = nn.L1Loss()

        def term(lesson: Lesson) -> Tensor:
            return loss(self.network(lesson.ms, lesson.lms, lesson.pan), lesson.ms)

        parts = [partial(term, lesson) for lesson in lessons]
        run = partial(_run, self.network, lambda step: parts, FINE_TUNING_RATE, 0.0, 1)
        return [Stage("fine-tuning", STEPS["A-PNN-FT"], run)]

    def _zpnn(self, targets: list[Target]) -> list[Stage]:
        beta, rate = ZPNN.get(self.sensor, ZPNN["WV3" if len(self.gains) > 4 else "GeoEye1"])
        parts = [self._full_resolution(target, ZPNNLoss(self.gains, target.geometry, beta=beta)) for target in targets]
        run = partial(_run, self.network, lambda step: parts, rate, 0.0, 1)
        return [Stage("full resolution", STEPS["Z-PNN"], run)]

    def _lambda_pnn(self, targets: list[Target]) -> list[Stage]:
        weights, rate = LAMBDA_PNN.get(self.sensor, LAMBDA_PNN["WV3" if len(self.gains) > 4 else "GeoEye1"])
        alpha, beta, gamma = weights
        parts = [
            self._full_resolution(
                target, LambdaPNNLoss(self.gains, target.geometry, alpha=alpha, beta=beta, gamma=gamma)
            )
            for target in targets
        ]
        run = partial(_run, self.network, lambda step: parts, rate, 1e-4, 1)
        return [Stage("full resolution", STEPS["lambda-PNN"], run)]

    def _full_resolution(self, target: Target, loss: nn.Module) -> Callable[[], Tensor]:
        """Return the loss of one target at full resolution; its threshold is computed once."""
        threshold = correlation_threshold(target.lms, target.pan, self.gains[0], target.geometry)

        def term() -> Tensor:
            sr = self.network(target.ms, target.lms, target.pan)
            return loss(sr, target.ms, target.pan, threshold)["total"]

        return term

    def _zspan(self, targets: list[Target]) -> list[Stage]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            response = SpectralResponse(len(self.gains)).to(targets[0].pan.device)
        mse = nn.MSELoss()
        crops = [crop for target in targets for crop in crops_of(reduced(target, self.gains, self.pan_gain))]

        def seen(step: int) -> Terms:
            crop = crops[turn(step, len(crops))]
            return [lambda: mse(response(crop.ms), crop.pan)]

        losses = [ZSPanLoss(self.gains, target.geometry, response) for target in targets]

        def term(target: Target, loss: ZSPanLoss) -> Tensor:
            return loss(self.network(target.ms, target.lms, target.pan), target.ms, target.pan)["total"]

        def last(steps: int, on_step: Callable[[float], None]) -> list[float]:
            response.requires_grad_(False)
            parts = [partial(term, *pair) for pair in zip(targets, losses, strict=True)]
            return _run(self.network, lambda step: parts, CROP_RATE, 0.0, 1, steps, on_step)

        return [
            Stage("response of PAN", 2500, partial(_run, response, seen, CROP_RATE, 0.0, len(crops))),
            self._on_crops("reduced resolution", START_STEPS, targets, mse),
            Stage("full resolution", 50, last),
        ]

    def _spectralift(self, targets: list[Target]) -> list[Stage]:
        """Train on what the guide would show at the pixels of ms; the guide itself enters the response alone."""
        response = self._guide_response(targets).to(targets[0].ms)
        network, loss = self.network, nn.L1Loss()

        def term(seen: Tensor, spectra: Tensor) -> Tensor:
            return loss(network.spectra(seen), spectra)  # type: ignore[operator]

        pixels = [target.ms[0].flatten(1).T for target in targets]
        parts = [partial(term, spectra @ response.T, spectra) for spectra in pixels]
        run = partial(_run, network, lambda step: parts, one_cycle, 0.0, 1)
        return [Stage("spectra", STEPS["SpectraLift"], run)]

    @torch.no_grad()
    def _guide_response(self, targets: list[Target]) -> Tensor:
        """Return the guide's response (P, C): that of the data where they know it, else estimated on the targets."""
        if self.response is not None:
            return torch.tensor(self.response, dtype=torch.float64)
        windows = [Window(t.ms.cpu(), t.lms.cpu(), t.pan.cpu(), t.geometry) for t in targets]
        return estimate(lambda: windows).response


def _run(
    module: nn.Module,
    terms: Callable[[int], Terms],
    rate: float | Callable[[float], float],
    decay: float,
    period: int,
    steps: int,
    on_step: Callable[[float], None],
) -> list[float]:
    return train_stage(module, terms, steps=steps, rate=rate, decay=decay, period=period, on_step=on_step)


def one_cycle(share: float) -> float:
    """Return SpectraLift's learning rate after a share of the steps: straight up to the peak, straight down again."""
    start, peak, end = CYCLE
    if share < RISE:
        return start + (peak - start) * share / RISE
    return peak + (end - peak) * (share - RISE) / (1 - RISE)


def turn(step: int, count: int) -> int:
    """Return which of `count` crops a step takes: all of them in each round, shuffled anew by the round's number."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(step // count))
    return int(order[step % count])


@torch.no_grad()
def reduced(target: Target, gains: Iterable[float], pan_gain: float) -> Lesson:
    """Bring a pair down by its own ratio (Wald's protocol); its MS image becomes the truth.

    MS is filtered with its gains and decimated, PAN is filtered with its gain and sampled where MS pixels lie.

    Raises:
        UserError: MS has fewer than four pixels of the reduced image a side.
    """
    r = target.geometry.nominal
    size = [n // r for n in target.ms.shape[-2:]]
    if min(size) < 4:
        h, w = target.ms.shape[-2:]
        raise UserError(
            f"expected an MS image of at least {4 * r} x {4 * r} pixels to train on at reduced resolution, given "
            f"{h} x {w}; fuse a larger image"
        )
    rows, columns = (r * n for n in size)
    low = Geometry((r, r), (r // 2, r // 2))
    ms = downgrade(target.ms, tuple(gains), low, size)
    pan = sample(
        mtf_filter(target.pan, pan_gain, nominal_ratio(target.geometry), unit=True),
        target.geometry,
        target.ms.shape[-2:],
    )
    lms = interpolate(ms, low, (rows, columns), border="mirror")
    return Lesson(lms, pan[..., :rows, :columns].contiguous(), target.ms[..., :rows, :columns].contiguous())


def crops_of(lesson: Lesson) -> list[Lesson]:
    """Cut a lesson into crops of half its size: four corners and the centre, as ZS-Pan, and these mirrored.

    A lesson of more than 128 pixels a side is cut into crops of 64 that cover it.
    """
    H, W = lesson.ms.shape[-2:]
    h, w = (min(math.ceil(n / 2), CROP) for n in (H, W))
    if max(H, W) <= 2 * CROP:
        places = [(0, 0), (0, W - w), (H - h, 0), (H - h, W - w), ((H - h) // 2, (W - w) // 2)]
    else:
        places = [(top, left) for top in spread(H, h, -(-H // h)) for left in spread(W, w, -(-W // w))]
    crops = []
    for mirror in (False, True):
        for top, left in places:
            parts = (x[..., top : top + h, left : left + w] for x in (lesson.lms, lesson.pan, lesson.ms))
            crops.append(Lesson(*(x.flip(-1) if mirror else x for x in parts)))
    return crops


def spread(n: int, side: int, count: int) -> list[int]:
    """Return where `count` windows of `side` pixels begin along an axis of n pixels, evenly spread."""
    return [round(i * max(0, n - side) / max(1, count - 1)) for i in range(count)]


def scene_targets(pair: ScenePair, device: torch.device) -> list[Target]:
    """Return what a scene is trained on: the whole of it, or windows spread over a large one.

    Windows with data in less than half of their pixels are left out.

    Raises:
        UserError: no window has data.
    """
    H, W = pair.size
    if H * W <= WHOLE:
        boxes = [((0, H), (0, W))]
    else:
        rows, columns = (spread(n, WINDOW, min(12, max(1, n // WINDOW))) for n in (H, W))
        boxes = [((r, min(r + WINDOW, H)), (c, min(c + WINDOW, W))) for r in rows for c in columns]
    filled = [box for box in boxes if not pair.gaps or pair.valid(box).mean() >= 0.5]
    targets = []
    for i in range(min(WINDOWS, len(filled))):
        window = pair.window(filled[i * len(filled) // min(WINDOWS, len(filled))], 0)
        if window is not None:
            ms, lms, pan = (x.float().to(device) for x in (window.ms, window.lms, window.pan))
            targets.append(Target(ms, lms, pan, window.geometry))
    if not targets:
        raise UserError(f"no part of {pair.ms.raster.path} has data in more than half of its pixels; crop it")
    return targets
