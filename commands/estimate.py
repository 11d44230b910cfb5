"""Estimate how a pair was observed: response and PSF, as files for the commands that use them, and a picture.

Legend: C bands, P guide bands, S side of the PSF, r ratio.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lemamba.commands.options import EstimateOptions
from lemamba.commands.pairs import relation_of
from lemamba.datasets.arrays import holds_pair
from lemamba.datasets.opening import pair_paths
from lemamba.datasets.pair import load_pair
from lemamba.datasets.pair_windows import windows_of
from lemamba.datasets.raster import MULTISPECTRAL
from lemamba.datasets.simulation.sources import Cube, Scene
from lemamba.operators.observation import Observation, estimate
from lemamba.reporting.observation import save_observation
from lemamba.utils.atomic import check_writable, write_atomically, write_json, write_text
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry

FILES = ("response.npy", "response.csv", "psf.npy", "estimate.json", "estimate.png")


def run(options: EstimateOptions) -> int:
    """Run the subcommand; return the exit status."""
    check_writable(*(options.out / name for name in FILES))
    source = _read(options)
    ms, guide, geometry, valid = _images(source)
    if len(ms) <= MULTISPECTRAL:
        raise UserError(
            f"expected a hyperspectral image of more than {MULTISPECTRAL} bands and its guide, given {len(ms)} bands; "
            "for MS and PAN the sensor's gains are known (--sensor)"
        )
    seen = estimate(windows_of(ms, guide, geometry, valid))
    errors = misfit(seen, ms, guide, valid)
    write(options.out, seen, geometry, errors, [path.name for path in source.paths])
    place = "" if geometry.ratio != (1, 1) else "; ratio 1: the PSF is that between two images of one pixel size"
    print(f"response:  {options.out / 'response.npy'} ({len(guide)} guide bands x {len(ms)} bands)")
    print(f"PSF:       {options.out / 'psf.npy'} ({width(seen):.2f} MS pixels wide at half maximum{place})")
    print(f"misfit:    {', '.join(f'{error:.1%}' for error in errors)} of the standard deviation of each guide band")
    print(f"picture:   {options.out / 'estimate.png'}")
    return 0


def _read(options: EstimateOptions) -> Scene | Cube:
    if bool(options.pair) == bool(options.ms or options.pan):
        raise UserError("expected either a PAIR file or --ms and --pan; give one of the two")
    relation = relation_of(options)
    if options.pair:
        if not holds_pair(options.pair):
            raise UserError(
                f'expected a hyperspectral image and its guide in "{options.pair}" (lrhsi and hrmsi, HSI and MSI, Y '
                "and Z, …); give two files with --ms and --pan"
            )
        return load_pair((options.pair,), (options.pair,), relation, nodata=options.nodata)
    return load_pair(*pair_paths(options.ms, options.pan), relation, nodata=options.nodata)


def _images(source: Scene | Cube) -> tuple[np.ndarray, np.ndarray, Geometry, np.ndarray | None]:
    """Return ms (C, h, w), the guide (P, r·h, r·w), their geometry and where ms has data."""
    if isinstance(source, Cube):
        assert source.guide is not None
        return source.values, source.guide, Geometry.corners(1), None
    return source.ms, source.pan, source.geometry or Geometry.corners(source.ratio), source.valid


def misfit(seen: Observation, ms: np.ndarray, guide: np.ndarray, valid: np.ndarray | None) -> list[float]:
    """Return the RMSE of response · ms against the blurred guide, over the standard deviation of each guide band."""
    low = seen.degrade(torch.from_numpy(guide.astype(np.float64))[None], (ms.shape[1], ms.shape[2]))[0].numpy()
    error = np.tensordot(seen.response.numpy(), ms.astype(np.float64), 1) - low
    kept = np.ones(ms.shape[1:], bool) if valid is None else valid
    rmse, spread = np.sqrt((error[:, kept] ** 2).mean(1)), low[:, kept].std(1)
    return [float(e / s) if s > 0 else float("nan") for e, s in zip(rmse, spread, strict=True)]


def width(seen: Observation) -> float:
    """Return the full width at half maximum, in MS pixels, of the Gaussian with the second moments of the PSF."""
    place = torch.arange(seen.psf.shape[0], dtype=torch.float64)
    variances = []
    for dim, ratio in enumerate(seen.ratio):
        profile = seen.psf.sum(1 - dim)
        mean = (profile * place).sum()
        variances.append(float((profile * (place - mean) ** 2).sum()) / ratio**2)
    return 2.3548 * (sum(variances) / 2) ** 0.5


def write(out: Path, seen: Observation, geometry: Geometry, errors: list[float], sources: list[str]) -> None:
    """Write `FILES` below a folder."""
    response, psf = seen.response.numpy(), seen.psf.numpy()
    for name, values in (("response.npy", response), ("psf.npy", psf)):
        write_atomically(out / name, partial(_save, values))
    rows = "\n".join(",".join(f"{v:.9g}" for v in row) for row in response)
    write_text(out / "response.csv", ",".join(f"band_{i + 1}" for i in range(response.shape[1])) + f"\n{rows}\n")
    about: dict[str, Any] = {"source": sources, "ratio": list(geometry.ratio), "offset": list(geometry.offset)}
    about |= {"psf_fwhm_ms_pixels": width(seen), "misfit": errors}
    write_json(out / "estimate.json", about)
    save_observation(out / "estimate.png", response, psf, geometry)


def _save(values: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, values)
