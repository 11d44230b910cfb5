"""Measure fused images, at reduced resolution (against a ground truth) or at full resolution (without one).

The result of every command that measures is written as one kind of JSON, see `report`.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemamba.engine.weights.files import PUBLISHED_PREFIX, resolve_weights
from lemamba.metrics import INDICES, Meter, full_resolution, q2n, reduced_resolution
from lemamba.metrics.inputs import BLOCK
from lemamba.utils.atomic import sha256
from lemamba.utils.facts import DataFacts
from lemamba.utils.sensors import get_sensor
from lemamba.utils.version import project_version

NEEDED = {"reduced": ("sr", "gt"), "full": ("sr", "ms", "lms", "pan")}
_WHY = {  # what makes an index NaN or infinite
    "sam": "every pixel is black in gt or sr",
    "scc": "gt or sr has no edges",
    "ergas": "a band of gt is black",
    "psnr": "a band is equal in both",
    "d_lambda": "one band has no pairs, or a block is flat",
    "qnr": "it follows from D_lambda and D_s",
}


def measure(
    images: Mapping[str, Tensor],
    protocol: str,
    *,
    ratio: int,
    sensor: str | None = None,
    const: float | None = None,
    published: bool = False,
) -> dict[str, Tensor]:
    """Measure images in the numbers of the sensor.

    Args:
        images: at least the roles of `NEEDED[protocol]`, each (B, ·, ·, ·); "valid" (B, 1, H, W) bool, if pixels of
            them have no data.
        protocol: "reduced" or "full".
        ratio: H / h.
        sensor: name; its filter gains are used at full resolution. None = "none".
        const: peak value of the data. None = the divisor of the sensor at reduced resolution; at full resolution it is
            found out whether the data lie in [0, 1].
        published: reproduce the defects of the published scripts.

    Returns:
        index -> (B,) float64.

    Raises:
        UserError: see `lemamba.metrics.reduced_resolution` and `full_resolution`.
    """
    used: dict[str, Any] = {role: images[role].double() for role in NEEDED[protocol]}
    common: dict[str, Any] = {"ratio": ratio, "published": published, "mask": images.get("valid")}
    if protocol == "reduced":
        peak = get_sensor(sensor or "none").divisor if const is None else const
        return reduced_resolution(used["sr"], used["gt"], const=peak, **common)
    return full_resolution(**used, sensor=sensor or "none", const=const, **common)


def score(images: Mapping[str, Tensor], facts: DataFacts, result: str = "sr") -> Meter:
    """Measure all images of a fused set, one by one.

    Args:
        images: role -> (N, ·, ·, ·) in the numbers of the sensor; with "gt" they are measured at reduced resolution.
        facts: of the set.
        result: the role that is measured.
    """
    protocol = "reduced" if "gt" in images else "full"
    const = facts.divisor if protocol == "reduced" else None
    meter = Meter()
    for i in range(len(images["lms"])):
        one = {role: value[i : i + 1] for role, value in images.items()}
        one["sr"] = one[result]
        meter.update(measure(one, protocol, ratio=facts.ratio, sensor=facts.sensor, const=const))
    return meter


def undefined_notes(per_sample: Mapping[str, Sequence[float]], names: Sequence[int | str]) -> list[str]:
    """Return a line for each reason for which samples have an index without a finite value."""
    by_reason: dict[tuple[tuple[int | str, ...], float, str], list[str]] = {}
    for index, values in per_sample.items():
        for kind in ("nan", "inf"):
            where = [n for n, v in zip(names, values, strict=True) if (math.isnan if kind == "nan" else math.isinf)(v)]
            if where:
                by_reason.setdefault((tuple(where), float(kind), _WHY.get(index, "")), []).append(index)
    lines = []
    for (samples, number, why), indices in by_reason.items():
        others = ""
        if len(samples) < len(names):
            means = (f"{INDICES[i].heading} {_mean_of_finite(per_sample[i]):.6f}" for i in indices)
            others = f"; mean over the other samples: {', '.join(means)}"
        which = f"sample{'s' if len(samples) > 1 else ''} {_listed(samples)}"
        headings = ", ".join(INDICES[i].heading for i in indices)
        lines.append(f"{headings}: {number} for {which}{f' ({why})' if why else ''}, and so is the mean{others}.")
    return lines


def _mean_of_finite(values: Iterable[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _listed(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:8])) + (f", … ({len(items)})" if len(items) > 8 else "")


def dead_bands(image: Tensor) -> tuple[list[int], int]:
    """Return which bands of an image (1, C, H, W) are flat, 1-based, and in how many blocks of 32 some band is.

    A block in which every band is flat (nodata, one colour) does not count: Q2n compares its means only.
    """
    high, low = image.amax(dim=(2, 3))[0], image.amin(dim=(2, 3))[0]
    H, W = (side - side % BLOCK for side in image.shape[-2:])
    blocks = image[0, :, :H, :W].unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))
    flat = blocks.amax(dim=(-1, -3)) == blocks.amin(dim=(-1, -3))
    return [b + 1 for b in torch.nonzero(high == low).flatten().tolist()], int((flat.any(0) & ~flat.all(0)).sum())


def dead_band_note(name: int | str, images: Mapping[str, Tensor], qn: float, const: float, published: bool) -> str:
    """Return a line on flat bands of a sample and what they do to Q2n, or ""."""
    found = {role: dead_bands(images[role]) for role in ("gt", "sr")}
    bands = {role: flat for role, (flat, _) in found.items() if flat}
    blocks = max(count for _, count in found.values())
    C = images["gt"].shape[1]
    dead = {b for flat in bands.values() for b in flat}
    if dead and len(dead) < C:
        alive = [b - 1 for b in range(1, C + 1) if b not in dead]
        without = q2n(images["sr"][:, alive], images["gt"][:, alive], const=const, published=published)
        which = " and ".join(f"{_listed(flat)} of {role}" for role, flat in bands.items())
        return (
            f"Sample {name}: flat band{'s' if len(dead) > 1 else ''} {which}; Q2n is {qn:.6f} by "
            f"{'them' if len(dead) > 1 else 'it'}, {float(without):.6f} over the other bands."
        )
    if blocks and not dead:
        return f"Sample {name}: a band is flat in {blocks} blocks of {BLOCK} x {BLOCK}, which lowers Q2n there."
    return ""


def rows(meter: Meter) -> dict[str, dict[str, Any]]:
    """Return index -> {"mean", "std", "per_sample"}."""
    values, summary = meter.per_sample(), meter.compute()
    return {i: {"mean": m, "std": s, "per_sample": values[i].tolist()} for i, (m, s) in summary.items()}


def weights_sha256(weights: Mapping[str, str | None]) -> dict[str, str]:
    """Return label -> SHA-256 of the weights named there, as `lemamba.commands.methods.load_method` takes them."""
    files = {label: given.removeprefix(PUBLISHED_PREFIX) for label, given in weights.items() if given}
    return {label: sha256(resolve_weights(given)) for label, given in files.items()}


def command_line() -> str:
    """Return the command that is running, as it was typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def report(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    file: str,
    sensor: str | None,
    divisor: float | None,
    weights: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what `inference`, `evaluate` and `leaderboard` write as JSON.

    Args:
        scores: label -> index -> {"mean", "std", "per_sample"}, see `rows`.
        file: name of the file whose images were measured.
        sensor: name, None if it is not known.
        divisor: peak of the data in their own numbers, None if it is not known.
        weights: label -> SHA-256 of the weights.
        more: what else the command says.
    """
    about = {"file": file, "sensor": sensor, "divisor": divisor, "weights": dict(weights or {})}
    return {**about, "version": project_version(), "command": command_line(), **more, "scores": scores}
