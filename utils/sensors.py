"""THE table of sensors and data sets: bands, divisor, MTF gains at Nyquist, RGB bands, file names.

No torch here, so that the command line stays instant. A new sensor is one row of `SENSORS`; the MATLAB package's copy,
``sensor_table.m``, is written from it by ``python -m lemamba.utils.sensors`` (``make matlab-tables``).

Sources: Nyquist gains as used by the pansharpening toolbox of Vivone et al. (GRSM 2015 and 2021); divisors and file
names as in PanCollection (Deng et al., GRSM 2022). No gains are published for GF2: it uses those of "other".
Sentinel-2: gains of B5, B6, B7, B8A, B11, B12 and the mean of those of B2, B3, B4, B8, from the list of S2Sharp
(Ulfarsson et al., TGRS 2019). For the sensors from Landsat 8 to EnMAP no gains of single bands were found. Their
scale and order of bands are the usual ones of the makers' products and were not checked against the makers' guides
(SPOT 6/7, 12 bits, was): `inspect` compares them with a file, ``--divisor`` overrides them. Wavelengths are the
middle of each band's nominal limits; those of WorldView-2 and -3, GeoEye-1, SPOT 6/7 and Sentinel-2 were compared with
published tables, the others are the usual figures. `--adapt_bands` needs their order and rough distance only.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from lemamba.utils.errors import UserError, nearest


@dataclass(frozen=True)
class Sensor:
    """Facts about one sensor.

    Attributes:
        name: display name.
        bands: number of MS bands; None = any.
        divisor: data are divided by this to reach [0, 1] (2^L - 1 for L bits); 1 = already there.
        rgb: 0-based bands shown as red, green, blue.
        ms_gains: MTF gain at the Nyquist frequency, one per band; a single value serves any number of bands.
        pan_gain: the same for the panchromatic band.
        aliases: other names; case, ``-``, ``_`` and spaces do not matter (see `normalise_sensor`).
        published_gains: the sensor whose gains the published scripts use for this one; "" for its own.
        note: what a user should know about these numbers.
        wavelengths: centre of each band in nm, in the order of the bands; () = not known or not fixed.
    """

    name: str
    bands: int | None
    divisor: float
    rgb: tuple[int, int, int]
    ms_gains: tuple[float, ...]
    pan_gain: float
    aliases: tuple[str, ...] = ()
    published_gains: str = ""
    note: str = ""
    wavelengths: tuple[float, ...] = ()

    def gains(self, bands: int) -> tuple[float, ...]:
        """Return the Nyquist gains for an image of `bands` bands; another number of bands is a `UserError`."""
        if len(self.ms_gains) == 1:
            return self.ms_gains * bands
        if bands != len(self.ms_gains):
            raise UserError(
                f"sensor {self.name} has {len(self.ms_gains)} bands, the data have {bands}; name another sensor"
            )
        return self.ms_gains

    def divisor_for(self, dtype: object) -> float:
        """Return the divisor for data of a NumPy dtype (or its name): at most 255 for 8-bit data."""
        return min(self.divisor, 255) if str(dtype) == "uint8" else self.divisor

    def rgb_for(self, bands: int) -> tuple[int, int, int]:
        """Return the 0-based RGB bands, or the first (or only) ones where the image has too few bands.

        The nameless sensor takes those of the first sensor in the table with this many.
        """
        rgb = self.rgb
        if self.name == "none":  # Sentinel-2 at 20 m has no blue and green: not a pattern for others
            rgb = next((s.rgb for s in SENSORS.values() if s.bands == bands and s.name != "Sentinel2"), rgb)
        if max(rgb) < bands:
            return rgb
        return (0, 0, 0) if bands < 3 else (2, 1, 0)


_WV2_GAINS = (0.35, 0.35, 0.35, 0.35, 0.35, 0.35, 0.35, 0.27)
_WV3_GAINS = (0.325, 0.355, 0.360, 0.350, 0.365, 0.360, 0.335, 0.315)
_OTHER = "no published gains: the generic 0.3 (MS) and 0.15 (PAN) are used"

_S2_GAINS = (0.38, 0.34, 0.34, 0.33, 0.22, 0.23)  # B5, B6, B7, B8A, B11, B12
_S2 = "bands B5, B6, B7, B8A, B11, B12 at 20 m, shown as B11, B8A, B5; reflectance x 10000"
# centres of the bands in nm
_WORLDVIEW = (425, 480, 545, 605, 660, 725, 833, 950)
_GAOFEN = (485, 555, 660, 830)
_OLI = (482, 562, 655, 865, 1609, 2201)
_S2_CENTRES = (704, 741, 783, 865, 1614, 2202)
_SUPERDOVE = (443, 490, 531, 565, 610, 665, 705, 865)
_RGBN = "bands red, green, blue, near infrared, as in the DIMAP product"


def normalise_sensor(name: str) -> str:
    """Return the form in which sensor names are compared: lower case letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


SENSORS: dict[str, Sensor] = {
    normalise_sensor(s.name): s
    for s in (
        Sensor("WV3", 8, 2047, (4, 2, 1), _WV3_GAINS, 0.14, ("WorldView3",), wavelengths=_WORLDVIEW),
        Sensor("WV2", 8, 2047, (4, 2, 1), _WV2_GAINS, 0.11, ("WorldView2",), wavelengths=_WORLDVIEW),
        Sensor(
            "QB",
            4,
            2047,
            (2, 1, 0),
            (0.34, 0.32, 0.30, 0.22),
            0.15,
            ("QuickBird",),
            "IKONOS",
            wavelengths=(485, 560, 660, 830),
        ),
        Sensor("IKONOS", 4, 2047, (2, 1, 0), (0.26, 0.28, 0.29, 0.28), 0.17, wavelengths=(480, 551, 665, 805)),
        Sensor("WV4", 4, 2047, (2, 1, 0), (0.23,) * 4, 0.16, ("WorldView4",), wavelengths=(480, 545, 673, 850)),
        Sensor(
            "GeoEye1",
            4,
            2047,
            (2, 1, 0),
            (0.23,) * 4,
            0.16,
            ("GE1", "GeoEye"),
            note="8-bit files: divisor 255",
            wavelengths=(480, 545, 673, 850),
        ),
        Sensor("GF2", 4, 1023, (2, 1, 0), (0.3,), 0.15, ("GaoFen2",), "IKONOS", note=_OTHER, wavelengths=_GAOFEN),
        Sensor(
            "Landsat8",
            None,
            65535,
            (2, 1, 0),
            (0.3,),
            0.15,
            ("OLI", "LC08", "L8"),
            note=f"B2 to B7; {_OTHER}",
            wavelengths=_OLI,
        ),
        Sensor(
            "Landsat9",
            None,
            65535,
            (2, 1, 0),
            (0.3,),
            0.15,
            ("OLI2", "LC09", "L9"),
            note=f"B2 to B7; {_OTHER}",
            wavelengths=_OLI,
        ),
        Sensor(
            "Sentinel2",
            6,
            10000,
            (4, 3, 0),
            _S2_GAINS,
            0.26,
            ("S2", "S2A", "S2B", "MSI"),
            note=_S2,
            wavelengths=_S2_CENTRES,
        ),
        Sensor(
            "Pleiades",
            4,
            4095,
            (0, 1, 2),
            (0.3,),
            0.15,
            ("PHR", "PHR1A", "PHR1B"),
            note=f"{_RGBN}; {_OTHER}",
            wavelengths=(660, 550, 490, 850),
        ),
        Sensor(
            "SPOT6",
            4,
            4095,
            (0, 1, 2),
            (0.3,),
            0.15,
            ("SPOT7", "SPOT67"),
            note=f"{_RGBN}; {_OTHER}",
            wavelengths=(660, 560, 485, 825),
        ),
        Sensor("PlanetScope", 4, 10000, (2, 1, 0), (0.3,), 0.15, ("Dove",), note=f"reflectance x 10000; {_OTHER}"),
        Sensor(
            "PlanetScope8",
            8,
            10000,
            (5, 3, 1),
            (0.3,),
            0.15,
            ("SuperDove",),
            note=f"reflectance x 10000; {_OTHER}",
            wavelengths=_SUPERDOVE,
        ),
        Sensor(
            "SkySat",
            4,
            10000,
            (2, 1, 0),
            (0.3,),
            0.15,
            note=f"reflectance x 10000; {_OTHER}",
            wavelengths=(483, 555, 650, 820),
        ),
        Sensor("GF1", 4, 1023, (2, 1, 0), (0.3,), 0.15, ("GaoFen1",), note=_OTHER, wavelengths=_GAOFEN),
        Sensor("GF6", 4, 4095, (2, 1, 0), (0.3,), 0.15, ("GaoFen6",), note=_OTHER, wavelengths=(485, 560, 660, 830)),
        Sensor("Jilin1", 4, 1023, (2, 1, 0), (0.3,), 0.15, ("JL1",), note=f"bits differ, check the divisor; {_OTHER}"),
        Sensor(
            "KOMPSAT3",
            4,
            16383,
            (2, 1, 0),
            (0.3,),
            0.15,
            ("KOMPSAT3A", "K3", "K3A"),
            note=_OTHER,
            wavelengths=(485, 560, 660, 830),
        ),
        Sensor("WVLegion", 8, 2047, (4, 2, 1), (0.3,), 0.15, ("WorldViewLegion", "Legion"), note=_OTHER),
        Sensor("PRISMA", None, 65535, (31, 20, 9), (0.3,), 0.15, note=_OTHER),
        Sensor("EnMAP", None, 10000, (42, 27, 9), (0.3,), 0.15, note=f"reflectance x 10000; {_OTHER}"),
        Sensor("CAVE", 31, 1, (29, 19, 9), (0.3,), 0.15, note=_OTHER, wavelengths=tuple(range(400, 701, 10))),
        Sensor("Harvard", 31, 1, (29, 19, 9), (0.3,), 0.15, note=_OTHER, wavelengths=tuple(range(420, 721, 10))),
        Sensor("none", None, 1, (2, 1, 0), (0.3,), 0.15, ("other",), note=_OTHER),
    )
}


_TOPS = (255, 1023, 2047, 4095, 10000, 16383, 65535)  # 8 to 16 bits, and reflectance times 10000


def divisor_of(top: float, dtype: object) -> float:
    """Return the divisor for data of a sensor that is not in the table, from their range and type.

    Args:
        top: the value that 99.99 % of the data do not exceed.
        dtype: NumPy dtype or its name.

    Returns:
        255 for 8-bit data; 1 for floating point up to 1.5; else the smallest usual full scale that is not below `top`.
    """
    name = str(dtype)
    if name in ("uint8", "int8"):
        return 255.0
    if name.startswith("float") and top <= 1.5:
        return 1.0
    return float(next((full for full in _TOPS if top <= full), 2 ** math.ceil(math.log2(max(top, 1) + 1)) - 1))


def find_sensor(name: str) -> Sensor | None:
    """Return the `Sensor` with this name or alias, or None."""
    key = normalise_sensor(name)
    for sensor_key, sensor in SENSORS.items():
        if key in (sensor_key, *map(normalise_sensor, sensor.aliases)):
            return sensor
    return None


def get_sensor(sensor: str | Sensor) -> Sensor:
    """Return the `Sensor` with this name or alias (a `Sensor` is returned as it is).

    Raises:
        UserError: no such sensor; the message suggests the nearest name.
    """
    found = sensor if isinstance(sensor, Sensor) else find_sensor(sensor)
    if found is None:
        names = [s.name for s in SENSORS.values()]
        spellings = [*names, *(alias for s in SENSORS.values() for alias in s.aliases)]
        raise UserError(f'unknown sensor "{sensor}"{nearest(str(sensor), spellings)}; known: {", ".join(names)}')
    return found


MATLAB_TABLE = "Quality_Indices/private/sensor_table.m"  # in the MATLAB package
_MATLAB_TABLE = """\
function rows = sensor_table()
%SENSOR_TABLE  One row per sensor: name, other names, MTF gains of MS, whose gains with 'published', largest value.
%
%   A single gain serves any number of bands; [] stands for no known largest value.
%   Written from utils/sensors.py by `python -m lemamba.utils.sensors`; edit that file instead.

rows = {
{rows}};
end
"""


def matlab_table() -> str:
    """Return the text of the MATLAB package's ``sensor_table.m``."""
    rows = []
    for s in SENSORS.values():
        aliases = ", ".join(f"'{alias}'" for alias in s.aliases)
        gains = " ".join(map(str, s.ms_gains))
        peak = f"{s.divisor:g}" if s.name != "none" else "[]"
        rows.append(f"    '{s.name}', {{{aliases}}}, [{gains}], '{s.published_gains}', {peak}")
    return _MATLAB_TABLE.replace("{rows}", "\n".join(rows))


@dataclass(frozen=True)
class DatasetEntry:
    """One data set of the field: which sensor took it, its ratio, and its files by split.

    Attributes:
        name: lower-case name used on the command line and in file names.
        sensor: name in `SENSORS`.
        task: "pansharpening" or "hmif".
        ratio: resolution ratio H/h.
        files: file name by split ("train", "valid", "test", "test_full"); HMIF sets have no "test_full".
    """

    name: str
    sensor: str
    task: str
    ratio: int
    files: dict[str, str]


def files_of(task: str, name: str) -> dict[str, str]:
    """Return the field's file names by split: "train", "valid", "test", and for pansharpening "test_full"."""
    files = {split: f"{split}_{name}.h5" for split in ("train", "valid", "test")}
    if task == "hmif":
        return files
    return files | {"test": f"test_{name}_multiExm1.h5", "test_full": f"test_{name}_OrigScale_multiExm1.h5"}


def full_file(name: str) -> str:
    """Return the file name of an observed hyperspectral pair, split "test_full"; the published sets have none."""
    return f"test_{name}_OrigScale.h5"


def _pansharpening(name: str, sensor: str) -> DatasetEntry:
    return DatasetEntry(name, sensor, "pansharpening", 4, files_of("pansharpening", name))


def _hmif(name: str, sensor: str, ratio: int) -> DatasetEntry:
    return DatasetEntry(name, sensor, "hmif", ratio, files_of("hmif", name))


DATASETS: dict[str, DatasetEntry] = {
    d.name: d
    for d in (
        _pansharpening("wv3", "WV3"),
        _pansharpening("wv2", "WV2"),
        _pansharpening("qb", "QB"),
        _pansharpening("gf2", "GF2"),
        _pansharpening("ikonos", "IKONOS"),
        _pansharpening("geoeye1", "GeoEye1"),
        _pansharpening("wv4", "WV4"),
        _pansharpening("demo", "WV3"),
        _hmif("cave_x4", "CAVE", 4),
        _hmif("cave_x8", "CAVE", 8),
        _hmif("harvard_x4", "Harvard", 4),
        _hmif("harvard_x8", "Harvard", 8),
    )
}


def get_dataset(name: str) -> DatasetEntry:
    """Return the data set called `name` (any case, ``-`` read as ``_``); unknown names suggest the nearest."""
    entry = DATASETS.get(name.lower().replace("-", "_"))
    if entry is None:
        raise UserError(f'unknown dataset "{name}"{nearest(name, DATASETS)}; known: {", ".join(DATASETS)}')
    return entry


if __name__ == "__main__":
    package = Path(__file__).resolve().parent.parent / "Pansharpening_Hyper_SR_Matlab_Test_Package"
    (package / MATLAB_TABLE).write_text(matlab_table(), encoding="utf-8")
