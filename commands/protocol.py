"""How fused images are measured: as the command line says, else as their file says, else by their sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lemamba.commands.options import EvaluateOptions
from lemamba.commands.samples import Sample
from lemamba.commands.scores import NEEDED
from lemamba.metrics.inputs import check_peak, nearest_peak
from lemamba.metrics.large import LargeImage
from lemamba.utils.errors import UserError
from lemamba.utils.formats.fused import IMAGES
from lemamba.utils.sensors import find_sensor, get_sensor


@dataclass(frozen=True)
class Settings:
    """How the images are measured.

    Attributes:
        protocol: "reduced" or "full".
        ratio: H/h.
        const: peak of the data; None at full resolution: found from each image.
        sensor: name, or None.
        published: whether the defects of the published scripts are reproduced.
    """

    protocol: str
    ratio: int
    const: float | None
    sensor: str | None
    published: bool


def choose_protocol(sample: Sample, options: EvaluateOptions) -> str:
    """Return the protocol that applies: "reduced" or "full".

    Raises:
        UserError: the images that it needs are missing.
    """
    protocol = "full" if options.full or "gt" not in sample else "reduced"
    missing = [k for k in NEEDED[protocol] if k not in sample]
    if missing:
        present = ", ".join(k for k in sample if k in IMAGES) or "none of them"
        needs = ", ".join(NEEDED[protocol])
        alone = set(sample) <= {"sr", "valid", "place"}
        advice = "; give the ground truth with --gt FILE, or its inputs with --ms FILE --pan FILE" if alone else ""
        raise UserError(
            f"{protocol} resolution needs {needs}; missing: {', '.join(missing)}; the file has {present}{advice}"
        )
    return protocol


def settle(sample: Sample, options: EvaluateOptions, info: dict[str, Any]) -> tuple[Settings, list[str]]:
    """Return how to measure: as given, else as the file says, else by the sensor; and a note on what the file said.

    Raises:
        UserError: what is given contradicts the file or the data, or something is missing.
    """
    protocol = choose_protocol(sample, options)
    said = find_sensor(str(info.get("sensor", "none")))
    said = None if said is None or said.name == "none" else said  # "none" says that it was not known
    sensor = options.sensor or (said.name if said else None)
    if said and options.sensor and get_sensor(options.sensor) not in (said, get_sensor("none")):
        raise UserError(f"the file says sensor {said.name}, given --sensor {options.sensor}; drop it, or name the file")
    ratio = _ratio(sample, options, info)
    if protocol == "full" and sensor is None and not (options.response or "response" in info):
        if (guide_bands := sample["pan"].shape[-3]) > 1:
            raise UserError(
                f"the guide has {guide_bands} bands; give --response and --psf (prepare_data.py estimate) to measure "
                "the consistency with both images"
            )
        raise UserError(
            "full resolution needs the sensor's filter gains: add --sensor WV3 (or another; none = generic)"
        )
    const, by_file = _peak(protocol, sample, options, info, sensor)
    taken = [f"sensor {sensor}"] if said and options.sensor is None else []
    taken += [f"const {const:g}"] if by_file else []
    taken += [f"ratio {ratio}"] if "ratio" in info and options.ratio is None else []
    notes = [f"From the file: {', '.join(taken)}."] if taken else []
    if protocol == "reduced" and options.ratio is None and _known_ratio(sample, info) is None:
        notes.append(f"Ratio {ratio} is assumed, as no file names it: ERGAS depends on it, check --ratio.")
    return Settings(protocol, ratio, const, sensor, options.published), notes


def _ratio(sample: Sample, options: EvaluateOptions, info: dict[str, Any]) -> int:
    """Return --ratio, else the file's, else that of the shapes of lms and ms, else 4."""
    known = _known_ratio(sample, info)
    if options.ratio is None:
        return known or 4
    if known is not None and known != options.ratio:
        raise UserError(f"the file says ratio {known}, given --ratio {options.ratio}; drop it, or name another file")
    return options.ratio


def _known_ratio(sample: Sample, info: dict[str, Any]) -> int | None:
    """Return the file's ratio, else that of the shapes of sr and ms, else None."""
    known = info.get("ratio")
    if isinstance(known, float) and known == round(known) and known > 0:
        return int(known)
    if "ms" in sample and sample["ms"].shape[-1]:
        return int(sample["sr"].shape[-1] // sample["ms"].shape[-1]) or None
    return None


def _peak(
    protocol: str, sample: Sample, options: EvaluateOptions, info: dict[str, Any], sensor: str | None
) -> tuple[float | None, bool]:
    """Return the peak, and whether the file gave it."""
    reference, name = (sample["gt"], "gt") if protocol == "reduced" else (sample["lms"], "lms")
    divisor = info.get("divisor")
    said = float(divisor) if isinstance(divisor, float) and 0 < divisor < float("inf") else None
    if options.const is not None:
        if said is not None and said != options.const and _fits(said, reference, name):
            raise UserError(
                f"the file says divisor {said:g}, given --const {options.const:g}; drop it, or name the file"
            )
        return options.const, False
    if protocol == "full":
        return None, False
    if said is not None:
        return said, True
    if sensor is not None:
        return get_sensor(sensor).divisor_for(getattr(reference, "stored", reference.dtype)), False
    top = float(reference.amax() if isinstance(reference, LargeImage) else reference.max(initial=0))
    peak = nearest_peak(top)
    raise UserError(
        f"reduced resolution needs the peak value of the data, which end at {top:.6g}: add "
        f"--const {peak:g} (or --sensor {'CAVE' if peak == 1 else 'WV3'}, or another)"
    )


def _fits(const: float, reference: Any, name: str) -> bool:
    try:
        large = isinstance(reference, LargeImage)
        check_peak(const, name, reference if large else torch.from_numpy(reference.astype("float64")))
    except UserError:
        return False
    return True
