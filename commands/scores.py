"""Measure fused images, at reduced resolution (against a ground truth) or at full resolution (without one)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lemamba.metrics import Meter, full_resolution, reduced_resolution
from lemamba.utils.facts import DataFacts
from lemamba.utils.sensors import get_sensor

NEEDED = {"reduced": ("sr", "gt"), "full": ("sr", "ms", "lms", "pan")}


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
        images: at least the roles of `NEEDED[protocol]`, each (B, ·, ·, ·).
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
    used = {role: images[role].double() for role in NEEDED[protocol]}
    if protocol == "reduced":
        peak = get_sensor(sensor or "none").divisor if const is None else const
        return reduced_resolution(used["sr"], used["gt"], ratio=ratio, const=peak, published=published)
    return full_resolution(**used, ratio=ratio, sensor=sensor or "none", const=const, published=published)


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
