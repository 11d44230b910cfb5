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
from lemamba.metrics import EXTRA, INDICES, Meter, consistency, full_resolution, q2n, reduced_resolution
from lemamba.metrics.coregistration import check_wanted
from lemamba.metrics.inputs import BLOCK
from lemamba.metrics.tiles import block_tiles, tiles
from lemamba.utils.atomic import sha256
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor
from lemamba.utils.version import project_version

Observed = tuple[Tensor, Tensor]  # response (P, C) and PSF (S, S)
NEEDED = {"reduced": ("sr", "gt"), "full": ("sr", "ms", "lms", "pan")}
ALIKE = 0.8  # correlation of two images that show the same
SEEN = 16  # tiles from which it is estimated
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
    extra: Sequence[str] = (),
    cut: int = 0,
    geometry: Geometry | None = None,
    coregister: bool = False,
    observed: Observed | None = None,
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
        extra: names of indices that are not in the published tables, or "all" (`lemamba.metrics.EXTRA`).
        cut: border in pixels that does not count; 0 as published, papers use 21 and 30.
        geometry: at full resolution, where MS pixels lie under PAN pixels; None = the toolboxes' convention.
        observed: response (P, C) and PSF (S, S) of a pair whose guide has several bands: at full resolution its
            consistency is measured, since D_s is defined for one band.
        coregister: see `lemamba.metrics.full_resolution`; at reduced resolution there is nothing to co-register.

    Returns:
        index -> (B,) float64.

    Raises:
        UserError: see `lemamba.metrics.reduced_resolution` and `full_resolution`.
    """
    common: dict[str, Any] = {"ratio": ratio, "published": published, "mask": images.get("valid")}
    common |= {"extra": "all" if "all" in extra else tuple(extra), "cut": cut}
    if protocol == "reduced":
        check_wanted(coregister, measured=False)
        peak = get_sensor(sensor or "none").divisor if const is None else const
        return reduced_resolution(images["sr"], images["gt"], const=peak, **common)
    sr, ms, lms, pan = (images[role] for role in NEEDED["full"])
    if pan.shape[1] > 1:
        check_wanted(coregister, measured=False)
        return _consistency(images, ratio, geometry or Geometry.toolbox(ratio), observed)
    common |= {"sensor": sensor or "none", "const": const, "geometry": geometry, "coregister": coregister}
    return full_resolution(sr, ms, lms, pan, **common)


def _consistency(
    images: Mapping[str, Tensor], ratio: int, geometry: Geometry, observed: Observed | None
) -> dict[str, Tensor]:
    """Measure whether images agree with both observations, see `lemamba.metrics.consistency`."""
    guide_bands = images["pan"].shape[1]
    if observed is None:
        raise UserError(
            f"D_s is defined for one band, the guide has {guide_bands}; give --response and --psf "
            "(prepare_data.py estimate) to measure the consistency with both images"
        )
    if "valid" in images and not bool(images["valid"].all()):
        raise UserError("consistency is measured on images without missing pixels, given some; cut out a part")
    response, psf = observed
    base = (math.floor(geometry.offset[0] + 0.5), math.floor(geometry.offset[1] + 0.5))  # the PSF holds the rest
    found = consistency(
        *(images[role].double() for role in ("sr", "ms", "pan")),
        ratio=ratio,
        response=response,
        psf=psf,
        geometry=Geometry((ratio, ratio), base),
    )
    return dict(found)


def observed_of(facts: DataFacts) -> Observed | None:
    """Return response and PSF that a data set names, None where it names none."""
    if facts.response is None or facts.psf is None:
        return None
    return torch.tensor(facts.response, dtype=torch.float64), torch.tensor(facts.psf, dtype=torch.float64)


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
        try:
            geometry = None if facts.geometry == Geometry.toolbox(facts.ratio) else facts.geometry
            how: dict[str, Any] = {"ratio": facts.ratio, "sensor": facts.sensor, "const": const, "geometry": geometry}
            meter.update(measure(one, protocol, **how, observed=observed_of(facts)))
        except UserError as error:  # the peak is the divisor here
            raise UserError(str(error).replace("(--const ", "(--divisor ")) from error
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
            means = (f"{(INDICES | EXTRA)[i].heading} {_mean_of_finite(per_sample[i]):.6f}" for i in indices)
            others = f"; mean over the other samples: {', '.join(means)}"
        which = f"sample{'s' if len(samples) > 1 else ''} {_listed(samples)}"
        headings = ", ".join((INDICES | EXTRA)[i].heading for i in indices)
        lines.append(f"{headings}: {number} for {which}{f' ({why})' if why else ''}, and so is the mean{others}.")
    return lines


def _mean_of_finite(values: Iterable[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _listed(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:8])) + (f", … ({len(items)})" if len(items) > 8 else "")


def notes_of(meter: Meter) -> list[str]:
    """Return `undefined_notes` of samples 1, 2, …."""
    values = {index: column.tolist() for index, column in meter.per_sample().items()}
    return undefined_notes(values, range(1, len(next(iter(values.values()))) + 1))


def flat_bands(image: Tensor, valid: Tensor | None = None) -> list[int]:
    """Return the bands of an image (1, C, H, W) that hold one value, 1-based; `valid` (1, 1, H, W) bool."""
    low = torch.full((image.shape[1],), torch.inf, dtype=torch.float64)
    high = -low
    for rows, columns in tiles(image):
        part = image[0, :, rows, columns].double().flatten(1).cpu()
        if valid is not None:
            part = part[:, (valid[0, 0, rows, columns].double() > 0).flatten().cpu()]
        if part.shape[1]:
            low, high = torch.minimum(low, part.amin(1)), torch.maximum(high, part.amax(1))
    return [band + 1 for band in torch.nonzero(low == high).flatten().tolist()]


def common_factor(sr: Tensor, reference: Tensor, valid: Tensor | None = None) -> float | None:
    """Return the factor by which all bands of sr are those of the reference; None where there is no such factor.

    The bands must correlate with their references above `ALIKE`, and the ratios of their means agree within 15 %. Of
    a large image some tiles are looked at. Images (1, C, H, W); `valid` (1, 1, H, W) bool.
    """
    cut = list(tiles(sr))
    parts = []
    for rows, columns in cut[:: -(-len(cut) // SEEN)]:
        pair = torch.stack([image[0, :, rows, columns].double().flatten(1).cpu() for image in (sr, reference)])
        if valid is not None:
            pair = pair[..., (valid[0, 0, rows, columns].double() > 0).flatten().cpu()]
        parts.append(pair)
    a, b = torch.cat(parts, dim=-1)
    if not a.numel():
        return None
    means = a.mean(1), b.mean(1)
    a, b = a - means[0][:, None], b - means[1][:, None]
    alike = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    factors = means[0] / means[1]
    middle = float(factors.median())
    same = bool((alike > ALIKE).all()) and bool(((factors / middle - 1).abs() < 0.15).all())
    return middle if same and math.isfinite(middle) else None


def flat_blocks(sr: Tensor, gt: Tensor, valid: Tensor | None = None) -> int:
    """Return in how many blocks of 32 a band is flat in gt or sr and not equal in both, which lowers Q2n.

    A block in which all bands are flat (one colour) does not count: Q2n compares its means only. Nor does one with a
    pixel that is not `valid`, (1, 1, H, W) bool.
    """
    H, W = (side - side % BLOCK for side in gt.shape[-2:])
    count = 0
    for rows, columns in block_tiles(gt[0, :, :H, :W], BLOCK):
        both = (x[0, :, rows, columns].double().unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)) for x in (sr, gt))
        a, b = both
        flat = torch.stack([x.amax(dim=(-1, -3)) == x.amin(dim=(-1, -3)) for x in (a, b)])
        differs = (a != b).any(dim=-1).any(dim=-2)
        lower = (flat.any(0) & differs).any(0) & ~flat.all(1).any(0)
        if valid is not None:
            whole = valid[0, :, rows, columns].double() > 0
            lower &= whole.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).all(dim=-1).all(dim=-2)[0]
        count += int(lower.sum())
    return count


def dead_band_note(name: int | str, images: Mapping[str, Tensor], qn: float, const: float, published: bool) -> str:
    """Return a line on flat bands of a sample and what they do to Q2n, or ""."""
    sr, gt, valid = images["sr"], images["gt"], images.get("valid")
    bands = {role: flat for role in ("gt", "sr") if (flat := flat_bands(images[role], valid))}
    dead = {band for flat in bands.values() for band in flat}
    alive = [band for band in range(gt.shape[1]) if band + 1 not in dead]
    if dead and alive:
        without = float(q2n(sr[:, alive], gt[:, alive], const=const, published=published, mask=valid))
        which = " and ".join(f"{_listed(flat)} of {role}" for role, flat in bands.items())
        return (
            f"Sample {name}: flat band{'s' if len(dead) > 1 else ''} {which}; Q2n is {qn:.6f} with "
            f"{'them' if len(dead) > 1 else 'it'}, {without:.6f} over the other bands."
        )
    blocks = 0 if dead else flat_blocks(sr, gt, valid)
    where = f"{blocks} block{'s' if blocks > 1 else ''}"
    return f"Sample {name}: a band is flat in {where} of {BLOCK} x {BLOCK}, which lowers Q2n there." if blocks else ""


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
