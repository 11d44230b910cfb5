"""Measure methods on ground of the data themselves, by Wald's protocol, and take the best: ``--method auto``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from lemamba.commands.methods import GENERIC, load_method
from lemamba.commands.options import FuseOptions
from lemamba.commands.scores import measure
from lemamba.datasets.own_ground import Area, Sample, middle_of, own_geometry, reduced_ground
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiles import call, traits_of
from lemamba.metrics import Meter
from lemamba.model import list_models, model_entry
from lemamba.model.classical.base import Classical
from lemamba.operators.window import Window
from lemamba.reporting.tables import print_table
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.numbers import to_numbers
from lemamba.utils.progress import track
from lemamba.utils.sensors import get_sensor

AUTO = "auto"
COLUMNS = ("ergas", "sam", "psnr", "qn")
UNFILTERED = 0.7  # MTF gain from which MS was not low-passed; the mean of the pixels below it has 0.64
TIED = 1.01  # methods whose ERGAS is at most so many times the lowest are ranked by Q2n


def scene_gains(areas: Sequence[Area], facts: DataFacts) -> tuple[float, ...] | None:
    """Return the MTF gains to degrade a pair by, and print a note where the pair contradicts those of its sensor.

    None for a guide of several bands, whose PSF is estimated instead.
    """
    if facts.guide_bands != 1:
        return None
    # loads torch's compiler, which methods without weights do without
    from lemamba.model.lemamba_any import observed_gains

    sensor = get_sensor(facts.sensor)
    known = tuple(sensor.gains(facts.bands))
    found, _ = observed_gains(middle_of(areas, facts), known)
    if found != known:
        print(
            f"note: PAN and the bands agree with MTF gains of {min(found):.2g} to {max(found):.2g}, not with those of "
            f"sensor {sensor.name} ({min(known):.2g} to {max(known):.2g}); they are taken for the degraded scene"
        )
    return found


def unlike(gains: Sequence[float] | None) -> bool:
    """Return whether a pair degraded by its ratio says nothing about the pair: MS was not low-passed when it was made.

    Measured on the Gaofen-2 pairs of docs/no_training_data.md: methods and weights that lead there, by up to 36 % of
    ERGAS, are worse than interpolation on the pair itself.
    """
    return gains is not None and min(gains) > UNFILTERED


def fuse_samples(model: nn.Module, samples: Sequence[Sample], facts: DataFacts, device: torch.device) -> list[Tensor]:
    """Fuse samples of one scene; a classical method takes its statistics over all of them.

    Args:
        model: the method.
        samples: ms, lms, pan, divided by the divisor.
        facts: of the samples.
        device: where it runs.

    Returns:
        sr (1, C, H, W) of each, in the numbers of the sensor, clipped if the method's traits say so.
    """
    number = partial(to_numbers, divisor=facts.divisor, clip=traits_of(model).clipped)
    if isinstance(model, Classical):
        model.to(device).geometry = facts.geometry
        images = [[s[role][None].double().to(device) for role in ("ms", "lms", "pan")] for s in samples]
        windows = [Window(ms, lms, pan, facts.geometry) for ms, lms, pan in images]
        with torch.inference_mode():
            fitted = model.fit(lambda: iter(windows))
            return [number(model.inject(window, fitted)[0])[None] for window in windows]
    runner = Runner(model, device)
    inputs = ([s[role][None] for role in ("ms", "lms", "pan")] for s in samples)
    return [number(call(runner, *images)[0])[None] for images in inputs]


def scores_of(model: nn.Module, samples: Sequence[Sample], facts: DataFacts, device: torch.device) -> dict[str, float]:
    """Return the means over samples with ground truth of the indices in `COLUMNS`."""
    meter = Meter()
    for sr, sample in zip(fuse_samples(model, samples, facts, device), samples, strict=True):
        images = {"sr": sr, "gt": sample["gt"][None] * facts.divisor}
        meter.update(measure(images, "reduced", ratio=facts.ratio, sensor=facts.sensor, const=facts.divisor))
    means = meter.compute()
    return {name: means[name][0] for name in COLUMNS}


def classical_methods(facts: DataFacts) -> list[str]:
    """Return the names of the methods without training that are defined for such data."""
    task = "pansharpening" if facts.guide_bands == 1 else "hmif"
    return [name for name in list_models(task, "classical") if facts.ratio in model_entry(name).ratios]


def compare(
    names: Iterable[str],
    samples: Sequence[Sample],
    facts: DataFacts,
    device: torch.device,
    load: Callable[[str], nn.Module] | None = None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Measure methods; one that is not defined for the data is left out.

    Args:
        names: of the methods.
        samples, facts, device: see `scores_of`.
        load: name -> method; default: methods without weights.

    Returns:
        scores by name, and why methods were left out.
    """
    found, left_out = dict[str, dict[str, float]](), []
    for name in names:
        try:
            found[name] = scores_of(
                (load or partial(load_method, weights=None, facts=facts))(name), samples, facts, device
            )
        except UserError as error:
            left_out.append(f"{name}: {error}")
    return found, left_out


def best(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return the method with the highest Q2n of those whose ERGAS is within 1 % of the lowest.

    Raises:
        UserError: no method has a finite ERGAS.
    """
    finite = {name: row for name, row in scores.items() if math.isfinite(row["ergas"])}
    if not finite:
        raise UserError("no method could be measured on the reduced scene; name one with --arch")
    lowest = min(row["ergas"] for row in finite.values())
    tied = [name for name, row in finite.items() if row["ergas"] <= TIED * lowest]
    return max(tied, key=lambda name: finite[name]["qn"] if math.isfinite(finite[name]["qn"]) else -math.inf)


def shipped_weights() -> list[str]:
    """Return the weights that serve any scene and come with the project, as `--weights` takes them."""
    return [GENERIC]


def choose(options: FuseOptions, areas: Sequence[Area], facts: DataFacts, device: torch.device) -> FuseOptions:
    """Return the options with the best method instead of "auto"; print the table.

    Candidates are the methods without training, the weights that come with the project, and those given.

    Args:
        options: of the command.
        areas: ground of the data; a ground truth in them is not looked at.
        facts: of the data.
        device: where methods run.

    Raises:
        UserError: ground too small to measure on.
    """
    gains = scene_gains(areas, facts)
    weights = dict.fromkeys([*([options.weights] if options.weights else []), *shipped_weights()])
    if unlike(gains):
        print("note: MS was not low-passed when it was made, so methods are not measured on the degraded scene")
        first = next(iter(weights))
        print(f"method:   {first}: for lack of a measurement")
        return replace(options, arch=None, weights=first)
    samples = reduced_ground(areas, facts, gains=gains)
    own = replace(facts, geometry=own_geometry(facts), has_gt=True)

    def load(name: str) -> nn.Module:
        return load_method(None, name, own) if name in weights else load_method(name, None, own)

    names = track([*classical_methods(facts), *weights], "measuring")
    scores, left_out = compare(names, samples, own, device, load)
    for line in left_out:
        print(f"note: left out: {line}")
    chosen = best(scores)
    ranked = sorted(scores, key=lambda name: (name != chosen, scores[name]["ergas"]))
    pixels = sum(s["gt"][0].numel() for s in samples)
    print_table({n: scores[n] for n in ranked}, f"{pixels:,} MS pixels as ground truth, pair degraded by its ratio")
    print(f"method:   {chosen}: of the methods within 1 % of the lowest ERGAS, that of the highest Q2n")
    return (
        replace(options, arch=None, weights=chosen)
        if chosen in weights
        else replace(options, arch=chosen, weights=None)
    )
