"""Folders of satellite products: which files in them are MS and which are the guide.

Landsat 8 and 9 (Collection 1 and 2): B2 to B7 at 30 m, B8 at 15 m. Sentinel-2 SAFE (L1C and L2A): B05, B06, B07, B8A,
B11, B12 at 20 m, and the mean of B02, B03, B04, B08 at 10 m as guide. File names as in USGS LSDS-1619 (Landsat 8-9
Collection 2 Level 1 Data Format Control Book) and ESA S2-PDGS-TAS-DI-PSD (Sentinel-2 Products Specification).
"""

from __future__ import annotations

import re
from pathlib import Path

from lemamba.utils.errors import UserError

_LANDSAT_MS = tuple(f"B{i}" for i in range(2, 8))
_S2_MS = ("B05", "B06", "B07", "B8A", "B11", "B12")
_S2_GUIDE = ("B02", "B03", "B04", "B08")


def is_product(path: Path) -> bool:
    """Return whether a path may name a product: a folder, or the metadata file of one."""
    return path.is_dir() or path.name.upper().endswith("_MTL.TXT") or path.name in ("MTD_MSIL1C.xml", "MTD_MSIL2A.xml")


def product_files(path: Path, role: str) -> tuple[tuple[Path, ...], str]:
    """Find the bands of a Landsat 8 or 9 scene or a Sentinel-2 product.

    Args:
        path: the folder, or a metadata file in it (…_MTL.txt, MTD_MSIL1C.xml, MTD_MSIL2A.xml).
        role: "ms" or "pan".

    Returns:
        Its files in the order of the bands, and the sensor's name.

    Raises:
        UserError: no such folder, neither product, or a band is missing or there twice.
    """
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise UserError(f'expected the folder of a product, "{folder}" does not exist; check the path')
    if any(folder.glob("GRANULE/*/IMG_DATA")):
        return _sentinel2(folder, role), "Sentinel2"
    scene = path.name[: -len("_MTL.txt")] if path.is_file() else ""
    files = [p for p in sorted(folder.iterdir()) if p.name.startswith(scene)]
    found = {p: m for p in files if (m := re.fullmatch(r"(L[CO]0?([89])\w*?)_(?:SR_)?(B\d+)\.tiff?", p.name, re.I))}
    if not found:
        raise UserError(
            f'"{path}" holds no product that is known: expected a Landsat 8 or 9 folder (…_B2.TIF … _B8.TIF) or a '
            "Sentinel-2 folder (….SAFE); name the files of the bands: --ms B2.tif B3.tif --pan B8.tif"
        )
    scenes = sorted({m[1] for m in found.values()})
    if len(scenes) > 1:
        raise UserError(f'"{folder}" holds {len(scenes)} Landsat scenes; give the …_MTL.txt file of one')
    bands = {m[3].upper(): p for p, m in found.items()}
    wanted = _LANDSAT_MS if role == "ms" else ("B8",)
    return _bands(folder, bands, wanted), f"Landsat{next(iter(found.values()))[2]}"


def _sentinel2(folder: Path, role: str) -> tuple[Path, ...]:
    granules = sorted(folder.glob("GRANULE/*/IMG_DATA"))
    if len(granules) > 1:
        raise UserError(f'"{folder}" holds {len(granules)} granules; name the files of one')
    files: dict[str, Path] = {}
    wanted, size = (_S2_MS, "20m") if role == "ms" else (_S2_GUIDE, "10m")
    for band in wanted:
        # L2A keeps one folder for each resolution, L1C has none
        for found in (*granules[0].glob(f"R{size}/*_{band}_{size}.jp2"), *granules[0].glob(f"*_{band}.jp2")):
            files[band] = found
    return _bands(folder, files, wanted)


def _bands(folder: Path, files: dict[str, Path], wanted: tuple[str, ...]) -> tuple[Path, ...]:
    missing = [band for band in wanted if band not in files]
    if missing:
        more = (
            "; surface reflectance has no B8: take it from the Level-1 product with --pan" if missing == ["B8"] else ""
        )
        raise UserError(f'"{folder}" lacks the band{"s" * (len(missing) > 1)} {", ".join(missing)}{more}')
    return tuple(files[band] for band in wanted)
