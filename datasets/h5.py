"""Lazy reader of the field's H5 files: PanCollection (`gt ms lms pan`) and HMIF (`GT LRHSI HSI_up RGB`).

The file is opened on first use, once per process, so the data set can be pickled and forked. Samples are read on
demand, except that a small file is kept in memory. The declared sizes are validated against what the file stores.
Legend: N samples, C bands, P guide bands, H W size, h w size of ms, r = H/h.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lemamba.datasets.layout import Shape, as_nchw, find_layout, read_sample, to_nchw
from lemamba.datasets.transforms import Augment
from lemamba.operators import interpolate
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts, Matrix
from lemamba.utils.formats.bounds import MAX_COMPRESSION, check_chunks, check_own_data, hdf5_member
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import Sensor, find_sensor, get_sensor

if TYPE_CHECKING:
    import h5py

FAMILIES: tuple[dict[str, str], ...] = (
    {"ms": "ms", "lms": "lms", "pan": "pan", "gt": "gt"},
    {"ms": "LRHSI", "lms": "HSI_up", "pan": "RGB", "gt": "GT"},
)
# Other people's names, in lower case; every name is accepted in any case. "p" and "rgb" alone would be guesses.
ALIASES: dict[str, tuple[str, ...]] = {
    "ms": ("ms", "lrms", "lr_ms", "ms_lr", "lrhsi"),
    "lms": ("lms", "usp_ms", "ums", "ms_up", "up_ms", "hsi_up"),
    "pan": ("pan",),
    "gt": ("gt",),
}
CACHE_LIMIT = 512 * 2**20  # bytes of float32 that a process keeps in memory
_SUFFIXES = (".h5", ".hdf5", ".hdf", "")  # such a file is damaged if HDF5 refuses it, any other is of another format
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)  # what h5py raises on damaged files


@dataclass(frozen=True)
class Contents:
    """What an H5 file holds.

    Attributes:
        path: the file.
        keys: role ("ms", "pan", perhaps "lms" and "gt") -> key in the file, inside a group "group/key".
        shapes: role -> (N, C, H, W); of "lms" also where the file has none, so that it is interpolated from ms.
        layout: order of the axes in the file, a name in `LAYOUTS`.
        dtypes: role -> NumPy dtype name.
        attributes: the file's own attributes.
    """

    path: Path
    keys: Mapping[str, str]
    shapes: Mapping[str, Shape]
    layout: str
    dtypes: Mapping[str, str]
    attributes: Mapping[str, Any]

    @property
    def ratio(self) -> int:
        """H/h."""
        return self.shapes["lms"][2] // self.shapes["ms"][2]


def open_file(path: Path) -> h5py.File:
    """Open an H5 file for reading; raise `UserError` where it is missing, truncated or of another format."""
    import h5py

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f'expected an H5 file, "{path}" {what}; check the path')
    try:
        return h5py.File(path, "r", locking=False)  # locks fail on many network disks and a reader needs none
    except OSError as error:
        if path.suffix.lower() not in _SUFFIXES:
            raise UserError(
                f'expected an H5 file, given "{path}"; fuse a GeoTIFF pair with --ms and --pan, make a data set of a '
                "scene or cube with prepare_data.py simulate, measure fused images with evaluate.py"
            ) from error
        reason = "truncated" if "truncated" in str(error) else "truncated, damaged or not an H5 file"
        raise UserError(f'cannot read "{path}": {reason}; copy or make it again') from error


def checked_dataset(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    """Return a numeric data set whose values are stored in this file, as many as it declares."""
    import h5py

    data = hdf5_member(path, file, key)
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iuf":
        raise UserError(f'{path}: expected "{key}" to be an array of numbers; make the file again')
    check_own_data(path, key, data)
    declared, stored = math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
    if declared > MAX_COMPRESSION * stored:
        raise UserError(
            f'{path}: "{key}" declares {declared} bytes {tuple(data.shape)} and stores {stored}; '
            "the file is damaged or was never filled"
        )
    check_chunks(path, key, data)
    return data


def describe(path: str | Path) -> Contents:
    """Read keys, shapes and axis order of an H5 file.

    Raises:
        UserError: the file is missing or truncated, lacks a key, has inconsistent shapes, an ambiguous axis order, a
            link to another file, or declares more data than it stores.
    """
    path = Path(path)
    with open_file(path) as file:
        try:
            keys = _roles(path, file)
            data = {role: checked_dataset(path, file, key) for role, key in keys.items()}
            shapes = {role: tuple(d.shape) for role, d in data.items()}
            dtypes = {role: d.dtype.name for role, d in data.items()}
            attributes = {k: file.attrs[k] for k in file.attrs}
        except DAMAGE as error:
            raise UserError(f'cannot read "{path}": damaged; copy or make it again') from error
    if any(0 in shape for shape in shapes.values()):
        raise UserError(f"{path}: expected at least one sample, it has none: {_listed(shapes)}; make it again")
    layout = find_layout(path, shapes)
    found = {role: to_nchw(shape, layout) for role, shape in shapes.items()}
    found.setdefault("lms", (*found["ms"][:2], *found["pan"][2:]))
    contents = Contents(path, keys, found, layout, dtypes, attributes)
    if contents.ratio < 2:
        raise UserError(f"{path}: expected lms to be larger than ms, both have the same size; check the file")
    return contents


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{role} {shape}" for role, shape in shapes.items())


def _roles(path: Path, file: h5py.File) -> dict[str, str]:
    """Map roles to the file's keys: a family's, else those in `ALIASES`; at the root or in the one group with them."""
    import h5py

    present = list(file)
    found = _named(path, present)
    if {"ms", "pan"} <= set(found):
        return found
    groups = {name: list(file[name]) for name in present if isinstance(file.get(name), h5py.Group)}
    inside = {name: _named(path, keys) for name, keys in groups.items()}
    whole = [name for name, roles in inside.items() if {"ms", "pan"} <= set(roles)]
    if len(whole) == 1:
        return {role: f"{whole[0]}/{key}" for role, key in inside[whole[0]].items()}
    if whole:
        raise UserError(
            f"{path} holds several data sets, in the groups {', '.join(whole[:20])}; store each in a file of its own"
        )
    family = max(FAMILIES, key=lambda f: len({key.lower() for key in f.values()} & {key.lower() for key in present}))
    missing = next(family[role] for role in ("ms", "pan") if role not in found)
    held = ", ".join(map(repr, [*present, *(f"{g}/{k}" for g, keys in groups.items() for k in keys)][:20]))
    raise UserError(
        f'{path} has no key "{missing}"; it holds: {held or "nothing"}; expected gt, ms, lms, pan or GT, LRHSI, '
        "HSI_up, RGB; rename the keys"
    )


def _named(path: Path, present: list[str]) -> dict[str, str]:
    """Return the keys that have a role's name: all of one family if it is complete, else by `ALIASES`."""
    for family in FAMILIES:
        if {family["ms"], family["lms"], family["pan"]} <= set(present):
            return {role: key for role, key in family.items() if key in present}
    names = ALIASES | {"pan": (*ALIASES["pan"], *(("rgb",) if any(k.lower() == "lrhsi" for k in present) else ()))}
    found = {}
    for role, known in names.items():
        keys = [key for key in present if key.lower() in known]
        if len(keys) > 1:
            raise UserError(
                f"{path}: which key is {role} is not clear: {', '.join(keys)}; rename them to {role} and gt"
            )
        if keys:
            found[role] = keys[0]
    return found


def default_divisor(contents: Contents, sensor: Sensor) -> float:
    """Return the divisor that maps the values to [0, 1]: the file's attribute, 255 for 8 bits, else the sensor's."""
    written = np.asarray(contents.attributes.get("divisor", 0))
    if written.size == 1 and written.dtype.kind in "iuf" and written.item() > 0:
        return float(written.item())
    return float(sensor.divisor_for(contents.dtypes["ms"]))


def file_sensor(contents: Contents) -> Sensor:
    """Return the sensor in the file's attributes; "none" where there is no attribute or the sensor is unknown."""
    written = contents.attributes.get("sensor", "none")
    written = written.decode("utf-8", "replace") if isinstance(written, bytes) else str(written)
    return find_sensor(written) or get_sensor("none")


def file_geometry(contents: Contents) -> Geometry:
    """Return where ms lies under pan: by the attribute "offset" in PAN pixels, one number or two, else at r/2.

    Raises:
        UserError: an offset that is no number, or larger than the ratio.
    """
    ratio = float(contents.ratio)
    written = contents.attributes.get("offset")
    if written is None:
        return Geometry.toolbox(ratio)
    found = np.asarray(written)
    if found.size not in (1, 2) or found.dtype.kind not in "iuf" or not (np.abs(found) <= ratio).all():
        raise UserError(
            f'{contents.path}: expected the attribute "offset" to be one or two PAN pixels, at most the ratio '
            f"{contents.ratio}, given {written}; correct or delete it"
        )
    rows, columns = (float(v) for v in np.broadcast_to(found.ravel(), 2))
    return Geometry((ratio, ratio), (rows, columns))


def _matrix(contents: Contents, name: str, shape: tuple[int, int] | None = None) -> Matrix | None:
    """Return an attribute of an observed pair as numbers; None where it is absent.

    The response of a simulated guide is in other units and left out: such files have no PSF.

    Raises:
        UserError: no finite matrix, or another shape.
    """
    found = np.asarray(contents.attributes.get(name, ()))
    if not found.size or "psf" not in contents.attributes:
        return None
    if (
        found.ndim != 2
        or found.dtype.kind not in "iuf"
        or not np.isfinite(found).all()
        or shape not in (None, found.shape)
    ):
        wanted = "a matrix of numbers" if shape is None else f"{shape[0]} x {shape[1]} numbers"
        raise UserError(f'{contents.path}: expected the attribute "{name}" as {wanted}, given {found.shape}; delete it')
    return tuple(tuple(map(float, row)) for row in found)


def rgb_indexes(written: Any, bands: int) -> tuple[int, int, int] | None:
    """Return the file's own 1-based bands for red, green, blue; None where it names none, or bands it lacks."""
    found = np.asarray(() if written is None else written)
    if found.size != 3 or found.dtype.kind not in "iuf" or not ((found >= 1) & (found <= bands)).all():
        return None
    red, green, blue = (int(band) for band in found.ravel())
    return red, green, blue


class H5Dataset(Dataset):
    """Samples of one H5 file as dicts of float32 tensors in [0, 1]: ms (C, h, w); lms, gt (C, H, W); pan (P, H, W).

    Attributes:
        path: the file.
        facts: sensor, divisor, ratio, bands, guide bands, `rgb` (the file's RGB_indexes), whether samples have "gt".
        contents: keys, shapes, axis order and attributes of the file.
        guide_order: 0-based bands of pan in the order in which samples have them; None = as stored.
    """

    guide_order: tuple[int, ...] | None = None

    def __init__(
        self,
        path: str | Path,
        *,
        sensor: str | Sensor | None = None,
        ratio: int | None = None,
        divisor: float | None = None,
        augment: Augment | None = None,
        need_gt: bool = False,
        cache_limit: int = CACHE_LIMIT,
    ) -> None:
        """Check the file's shapes; no data is read yet.

        Args:
            path: the file.
            sensor: name; None takes the file's attribute, else "none".
            ratio: compared with the file's; None accepts any.
            divisor: values are divided by it; None takes the file's attribute, else the sensor's.
            augment: random crop, flips and quarter turns; None leaves samples as they are.
            need_gt: refuse a file without ground truth.
            cache_limit: a file of at most this many bytes (as float32) is kept in memory.

        Raises:
            UserError: what `describe` refuses; no ground truth where `need_gt`; a number of bands other than the
                sensor's; another ratio; a crop that does not fit.
        """
        self.contents = contents = describe(path)
        self.path = contents.path
        known = file_sensor(contents) if sensor is None else get_sensor(sensor)
        bands = contents.shapes["ms"][1]
        own = rgb_indexes(contents.attributes.get("RGB_indexes"), bands)
        self.facts = DataFacts(
            sensor=known.name,
            divisor=default_divisor(contents, known) if divisor is None else float(divisor),
            ratio=contents.ratio,
            bands=bands,
            guide_bands=contents.shapes["pan"][1],
            rgb=(own[0] - 1, own[1] - 1, own[2] - 1) if own else None,
            has_gt="gt" in contents.keys,  # noqa: SIM118  (`keys` is a mapping of the file's keys)
            response=_matrix(contents, "response", (contents.shapes["pan"][1], bands)),
            psf=_matrix(contents, "psf"),
            geometry=file_geometry(contents),
        )
        self.augment = augment
        self._check(known, ratio, need_gt)
        stored = sum(4 * math.prod(shape) for shape in contents.shapes.values())
        self._cached = stored <= cache_limit
        self._arrays: Mapping[str, Any] = MappingProxyType({})
        self._file: h5py.File | None = None
        self._owner = -1

    def _check(self, sensor: Sensor, ratio: int | None, need_gt: bool) -> None:
        facts = self.facts
        if need_gt and not facts.has_gt:
            raise UserError(f"{self.path} has no ground truth (gt or GT), which this use needs; give another file")
        if sensor.bands is not None and sensor.bands != facts.bands:
            raise UserError(
                f"{self.path}: expected {sensor.bands} bands for sensor {sensor.name}, given {facts.bands}; "
                "name the right sensor or data set"
            )
        if ratio is not None and ratio != facts.ratio:
            raise UserError(f"{self.path}: expected ratio {ratio}, its shapes say {facts.ratio}; correct the ratio")
        if not (math.isfinite(facts.divisor) and facts.divisor > 0):
            raise UserError(f"{self.path}: expected a positive divisor, given {facts.divisor}; correct it")
        size, crop = self.contents.shapes["lms"][2:], self.augment.crop if self.augment else None
        if crop is not None and (crop <= 0 or crop % facts.ratio or crop > min(size)):
            raise UserError(
                f"{self.path}: expected a crop that is a multiple of the ratio {facts.ratio} and at most {min(size)}, "
                f"given {crop}; choose another"
            )

    def __len__(self) -> int:
        return self.contents.shapes["lms"][0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_arrays": {}, "_owner": -1}

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return sample `index`, or sample `(epoch, index)`; a plain index means epoch 0.

        Raises:
            UserError: a value in the sample is NaN or infinite (file, key and index are named).
            IndexError: no such sample.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        epoch, index = int(epoch), int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        sample = {role: self._read(role, index) for role in self.contents.keys}
        if self.guide_order is not None:
            sample["pan"] = sample["pan"][list(self.guide_order)]
        if "lms" not in sample:
            sample["lms"] = self._enlarged(sample["ms"])
        if self.augment is not None:
            sample = self.augment(sample, self.facts.ratio, epoch, index)
        return {role: torch.from_numpy(np.array(value, order="C")) for role, value in sample.items()}

    def reorder_guide(self, order: tuple[int, ...]) -> None:
        """Give samples the 0-based guide bands `order`, each band once."""
        self.guide_order = order
        if self.facts.response is not None:
            self.facts = replace(self.facts, response=tuple(self.facts.response[band] for band in order))

    def _enlarged(self, ms: np.ndarray) -> np.ndarray:
        """Return lms (C, H, W) of a file that has none, by the interpolation of the field's data sets."""
        size = self.contents.shapes["lms"][2:]
        return interpolate(torch.from_numpy(ms)[None], self.facts.geometry, size)[0].numpy()

    def _read(self, role: str, index: int) -> np.ndarray:
        """Return one array of one sample, (·, H, W) float32, divided, finite."""
        inherited = not self._cached and self._owner != os.getpid()  # a fork must not use its parent's handle
        if inherited or not self._arrays:
            self._open()
        source = self._arrays[role]
        try:
            values = source[index] if self._cached else read_sample(source, index, self.contents.layout)
        except DAMAGE as error:
            key = self.contents.keys[role]
            raise UserError(f'{self.path}: "{key}" of sample {index} cannot be read: damaged; copy it again') from error
        with np.errstate(over="ignore", invalid="ignore"):  # overflow becomes infinite and is refused below
            values = np.asarray(values, dtype=np.float32)
        if not np.isfinite(values).all():
            key = self.contents.keys[role]
            raise UserError(f'{self.path}: "{key}" of sample {index} has NaN or infinite values; fix or drop it')
        return values / np.float32(self.facts.divisor)

    def _open(self) -> None:
        file = open_file(self.path)
        try:
            data = {role: checked_dataset(self.path, file, key) for role, key in self.contents.keys.items()}
            if self._cached:
                self._arrays = {role: _in_memory(d, self.contents.layout) for role, d in data.items()}
            else:
                self._file, self._arrays = file, data
        except DAMAGE as error:
            raise UserError(f'cannot read "{self.path}": damaged or truncated; copy it again') from error
        finally:
            if self._file is not file:
                file.close()
        self._owner = os.getpid()


def _in_memory(data: h5py.Dataset, layout: str) -> np.ndarray:
    """Return the whole data set as (N, C, H, W) float32."""
    values = np.empty(data.shape, np.float32)
    data.read_direct(values)
    return np.ascontiguousarray(as_nchw(values, layout))
