"""The images of the parity table and its tests.

Seeded cubes for every band count, ratio, peak and degenerate input, and the golden scenes.
Legend: B batch, C bands, H W size of PAN, h w size of MS.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lemamba.metrics import FULL_NAMES, REDUCED_NAMES
from lemamba.utils.formats.mat import read_mat

ROOT = Path(__file__).resolve().parent.parent
_IMAGE_NAMES = frozenset({"sr", "gt", "ms", "lms", "pan"})
_GOLDEN = {"d_lambda": "d_lambda_k", "d_lambda_qnr": "d_lambda"}  # names of golden.json, those of the script -> ours
Images = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One image to score.

    Attributes:
        name: what a failing test says.
        images: `sr` and `gt`, or `sr`, `ms`, `lms`, `pan`; (1, C, H, W) float64.
        ratio: resolution ratio.
        const: largest value; None at full resolution only.
        sensor: name for the MTF gains; None means reduced resolution.
        published: score as published.
        golden: published values by index, where there are some.
    """

    name: str
    images: Images
    ratio: int = 4
    const: float | None = None
    sensor: str | None = None
    published: bool = False
    golden: dict[str, float] = field(default_factory=dict)

    @property
    def indices(self) -> tuple[str, ...]:
        """Names of the indices this case yields."""
        return REDUCED_NAMES if self.sensor is None else FULL_NAMES

    def octave_call(self, file: Path) -> str:
        """Return the call a user would type."""
        const = [] if self.const is None else [f"{self.const:.17g}"]
        option = ["'published'"] if self.published else []
        if self.sensor is None:
            arguments = [f"'{file}'", str(self.ratio), "0", *const, *option]
            return f"analysis_ref_batched_images({', '.join(arguments)})"
        arguments = [f"'{file}'", str(self.ratio), f"'{self.sensor}'", *const, *option]
        return f"analysis_unref_batched_images({', '.join(arguments)})"


def texture(rng: np.random.Generator, bands: int, H: int, W: int) -> np.ndarray:
    """Return a smooth correlated scene with edges and grain in [0.05, 0.95], (1, C, H, W) float64."""
    y, x = np.mgrid[:H, :W] / 32.0
    waves = [np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y + rng.uniform(0, 6)) for _ in range(6)]
    edges = [(rng.uniform(-1, 1) * (x - 1) + rng.uniform(-1, 1) * (y - 1) > 0).astype(float) for _ in range(2)]
    mix = rng.normal(size=(bands, 8)) + 1.5
    scene = np.tensordot(mix, np.stack(waves + edges), axes=1) + 0.3 * rng.normal(size=(bands, H, W))
    scene -= scene.min(axis=(1, 2), keepdims=True)
    return (0.05 + 0.9 * scene / scene.max(axis=(1, 2), keepdims=True))[None]


def reduced_case(name: str, seed: int, bands: int, H: int, W: int, const: float = 2047, **options: object) -> Case:
    """Return a reference and a fused image with an error of a few percent."""
    rng = np.random.default_rng(seed)
    gt = texture(rng, bands, H, W) * const
    sr = gt * rng.uniform(0.9, 1.1, (1, bands, 1, 1)) + 0.03 * const * rng.normal(size=gt.shape)
    return Case(name, {"sr": sr, "gt": gt}, const=const, **options)


def full_case(
    name: str, seed: int, bands: int, H: int, W: int, top: float = 2047, ratio: int = 4, **options: object
) -> Case:
    """Return an MS image with its enlargement (nearest), a pan image and a fused one, all loosely related."""
    rng = np.random.default_rng(seed)
    sr = texture(rng, bands, H, W) * top
    ms = sr.reshape(1, bands, H // ratio, ratio, W // ratio, ratio).mean(axis=(3, 5))
    lms = ms.repeat(ratio, axis=2).repeat(ratio, axis=3) + 0.02 * top * rng.normal(size=sr.shape)
    pan = sr.mean(axis=1, keepdims=True) + 0.02 * top * rng.normal(size=(1, 1, H, W))
    images = {"sr": sr, "ms": ms, "lms": np.clip(lms, 0, top), "pan": pan}
    return Case(name, images, ratio=ratio, **({"sensor": "none"} | options))


def changed(case: Case, name: str, change: Callable[[Images], object], const: float | None = None) -> Case:
    """Return the case with `change(images)` applied to a copy of its images, and perhaps another peak."""
    images = {key: value.copy() for key, value in case.images.items()}
    change(images)
    return Case(name, images, case.ratio, const or case.const, case.sensor, case.published)


def as_published(case: Case) -> Case:
    """Return the same case scored as published."""
    return Case(f"{case.name}, published", case.images, case.ratio, case.const, case.sensor, published=True)


def _black_pixels(images: Images) -> None:
    for image in images.values():
        image[..., 3:6, 4:7] = 0


def _flat_blocks(images: Images) -> None:
    """One block flat everywhere, one flat in the first image and band only, one black; pan shares them."""
    for key, image in images.items():
        if key != "ms":
            image[..., :34, :34] = 20.1
            image[..., -32:, -32:] = 0
    first = next(iter(images.values()))
    first[:, 0, :33, -32:] = 7.3


def _out_of_range(images: Images) -> None:
    for image in images.values():
        image *= 40
        image -= 9000


def _equal(images: Images) -> None:
    images["sr"][:] = images["gt" if "gt" in images else "lms"]


def seeded_cases() -> list[Case]:
    """Return every seeded case: bands, sizes, ratios, peaks, sensors, degenerate inputs, published behaviour."""
    return [*_reduced_cases(), *_full_cases()]


def _reduced_cases() -> Iterable[Case]:
    sizes = {1: (32, 32), 3: (33, 61), 4: (64, 64), 8: (70, 45), 31: (48, 40), 102: (40, 33)}
    for bands, (H, W) in sizes.items():
        yield reduced_case(f"reduced, {bands} bands, {H}x{W}", bands, bands, H, W)
    for ratio in (2, 8):
        yield reduced_case(f"reduced, ratio {ratio}", 200 + ratio, 4, 40, 50, ratio=ratio)
    for const in (1, 255, 1023):
        case = reduced_case(f"reduced, const {const}", 300 + const, 4, 47, 64, const=const)
        yield from (case, as_published(case))
    base = reduced_case("reduced", 400, 4, 96, 75)
    for name, change in (
        ("black pixels", _black_pixels),
        ("flat blocks", _flat_blocks),
        ("negative and above 65535", _out_of_range),
        ("equal images", _equal),
    ):
        case = changed(base, f"reduced, {name}", change, 65535 if change is _out_of_range else None)
        yield from (case, as_published(case))
    yield changed(base, "reduced, all black", lambda images: [image.fill(0) for image in images.values()])


def _full_cases() -> Iterable[Case]:
    sizes = {1: (32, 64), 3: (64, 32), 4: (64, 64), 8: (64, 96), 31: (32, 64), 102: (32, 32)}
    for bands, (H, W) in sizes.items():
        yield full_case(f"full, {bands} bands, {H}x{W}", 500 + bands, bands, H, W)
    for ratio in (2, 8):
        yield full_case(f"full, ratio {ratio}", 600 + ratio, 4, 64, 64, ratio=ratio)
    for top in (1, 255, 1023):
        case = full_case(f"full, values up to {top}", 700 + top, 4, 64, 64, top=top)
        yield from (case, as_published(case))
    for given, const in (("", None), (", const 1 given", 1)):
        yield full_case(f"full, values up to 1.2{given}", 702, 4, 64, 64, top=1.2, const=const)
    for sensor, bands in (("WV3", 8), ("WV2", 8), ("qb", 4), ("IKONOS", 4), ("GeoEye1", 4), ("WV4", 4), ("GF2", 4)):
        yield full_case(f"full, {sensor}", 800 + bands, bands, 32, 64, sensor=sensor)
    for sensor in ("QB", "GF2"):
        yield full_case(f"full, {sensor}, published", 804, 4, 32, 64, sensor=sensor, published=True)
    base = full_case("full", 900, 4, 96, 64)
    for name, change in (
        ("black pixels", _black_pixels),
        ("flat blocks", _flat_blocks),
        ("negative and above 65535", _out_of_range),
        ("equal images", _equal),
    ):
        case = changed(base, f"full, {name}", change)
        yield from (case, as_published(case))


def shared_golden() -> Path | None:
    """Return the folder of the golden metrics, or None where the shared material is absent."""
    named = os.environ.get("LEMAMBA_SHARED")
    roots = [Path(named)] if named else [ROOT.parent / "shared", ROOT / "shared"]
    return next((r / "golden/metrics" for r in roots if (r / "golden/metrics/golden.json").is_file()), None)


def golden_cases(folder: Path) -> list[Case]:
    """Return one case per golden record computed in double; `lms` is used as given."""
    records = [r for r in json.loads((folder / "golden.json").read_text())["samples"] if r["precision"] == "double"]
    files = {name: read_mat(folder / name) for name in {r["file"] for r in records}}
    cases = []
    for r in records:
        k = r["index_1based"] - 1
        images = {n: v[k : k + 1].astype(np.float64) for n, v in files[r["file"]].items() if n in _IMAGE_NAMES}
        golden = {_GOLDEN.get(n, n): v for n, v in r["values"].items() if n != "d_s_qnr"}
        name = " ".join(str(part) for part in ("golden", r["file"], r["sensor"] or "", k + 1))
        cases.append(Case(name, images, r["ratio"], r["const"], r["sensor"], golden=golden))
    return cases
