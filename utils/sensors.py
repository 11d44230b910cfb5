"""THE table of sensors and data sets: bands, divisor, MTF gains at Nyquist, RGB bands, file names.

No torch here, so that the command line stays instant. A sensor is given as its name (any case) or as a `Sensor`.

Sources: Nyquist gains as used by the pansharpening toolbox of Vivone et al. (GRSM 2015 and 2021); divisors and file
names as in PanCollection (Deng et al., GRSM 2022). No gains are published for GF2: it uses those of "other".
"""

from __future__ import annotations

from dataclasses import dataclass

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
        note: what a user should know about these numbers.
    """

    name: str
    bands: int | None
    divisor: float
    rgb: tuple[int, int, int]
    ms_gains: tuple[float, ...]
    pan_gain: float
    note: str = ""

    def gains(self, bands: int) -> tuple[float, ...]:
        """Nyquist gains for an image of `bands` bands; a wrong number of bands is an error, never silently cut."""
        if len(self.ms_gains) == 1:
            return self.ms_gains * bands
        if bands != len(self.ms_gains):
            raise UserError(
                f"sensor {self.name} has {len(self.ms_gains)} bands, the data have {bands}; name another sensor"
            )
        return self.ms_gains

    def divisor_for(self, dtype: object) -> float:
        """Return what numbers of a type (NumPy's, or its name) are divided by: 8-bit ones by 255 at most."""
        return min(self.divisor, 255) if str(dtype) == "uint8" else self.divisor

    def rgb_for(self, bands: int) -> tuple[int, int, int]:
        """0-based RGB bands, falling back to the first (or only) ones where the image has too few bands.

        A sensor of any number of bands shows those of the first sensor in the table that has as many.
        """
        rgb = self.rgb
        if self.bands is None:
            rgb = next((s.rgb for s in SENSORS.values() if s.bands == bands), rgb)
        if max(rgb) < bands:
            return rgb
        return (0, 0, 0) if bands < 3 else (2, 1, 0)


_WV2_GAINS = (0.35, 0.35, 0.35, 0.35, 0.35, 0.35, 0.35, 0.27)
_WV3_GAINS = (0.325, 0.355, 0.360, 0.350, 0.365, 0.360, 0.335, 0.315)
_OTHER = "no published gains: the generic 0.3 (MS) and 0.15 (PAN) are used"

SENSORS: dict[str, Sensor] = {
    s.name.lower(): s
    for s in (
        Sensor("WV3", 8, 2047, (4, 2, 1), _WV3_GAINS, 0.14),
        Sensor("WV2", 8, 2047, (4, 2, 1), _WV2_GAINS, 0.11),
        Sensor("QB", 4, 2047, (2, 1, 0), (0.34, 0.32, 0.30, 0.22), 0.15),
        Sensor("IKONOS", 4, 2047, (2, 1, 0), (0.26, 0.28, 0.29, 0.28), 0.17),
        Sensor("WV4", 4, 2047, (2, 1, 0), (0.23,) * 4, 0.16),
        Sensor("GeoEye1", 4, 2047, (2, 1, 0), (0.23,) * 4, 0.16, "8-bit files: divisor 255"),
        Sensor("GF2", 4, 1023, (2, 1, 0), (0.3,), 0.15, _OTHER),
        Sensor("CAVE", 31, 1, (29, 19, 9), (0.3,), 0.15, _OTHER),
        Sensor("Harvard", 31, 1, (29, 19, 9), (0.3,), 0.15, _OTHER),
        Sensor("none", None, 1, (2, 1, 0), (0.3,), 0.15, _OTHER),
    )
}


def get_sensor(sensor: str | Sensor) -> Sensor:
    """Return the `Sensor` called `sensor` (any case). "other" is an alias of "none". Unknown: a `UserError`."""
    if isinstance(sensor, Sensor):
        return sensor
    key = {"other": "none"}.get(sensor.lower(), sensor.lower())
    if key not in SENSORS:
        names = [s.name for s in SENSORS.values()]
        raise UserError(f'unknown sensor "{sensor}"{nearest(sensor, names)}; known: {", ".join(names)}')
    return SENSORS[key]


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
