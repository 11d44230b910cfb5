"""Data sets by name and split: one table of names (`lemamba.utils.sensors`) and one data root.

Files are searched at `<root>/<file>`, then `<root>/<name>/<file>`; the root is an argument or LEMAMBA_DATA.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.transforms import Augment
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.formats.bounds import check_not_divided
from lemamba.utils.sensors import DATASETS, DatasetEntry, Sensor, divisor_of, files_of, full_file, get_dataset

SPLITS = ("train", "valid", "test", "test_full")
ROOT_VARIABLE = "LEMAMBA_DATA"
_FILE = re.compile(r"(?:train|valid|test)_(\w+?)(?:_OrigScale)?(?:_multiExm1)?\.h5")


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of data sets: `root`, else LEMAMBA_DATA; raise `UserError` where neither names a folder."""
    given = root or os.environ.get(ROOT_VARIABLE)
    if not given:
        raise UserError(f"no data root: give --data_root DIR or set {ROOT_VARIABLE} to the folder of the H5 files")
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f'data root "{folder}" is not a folder; correct --data_root or {ROOT_VARIABLE}')
    return folder


def _own_name(name: str, folder: Path) -> DatasetEntry | None:
    """Return the entry of a data set outside the table whose files in `folder` follow the naming convention."""
    plain = name.lower().replace("-", "_")
    if not plain.isidentifier():  # a name, never a path
        return None
    hmif, pansharpening = files_of("hmif", plain), files_of("pansharpening", plain)
    there = {file.name for sub in (folder, folder / plain) if sub.is_dir() for file in sub.glob(f"*{plain}*.h5")}
    for task, files in (("hmif", hmif), ("pansharpening", pansharpening)):
        if files["test"] in there:
            observed = {"test_full": full_file(plain)} if full_file(plain) in there else {}
            return DatasetEntry(plain, "", task, 0, files | observed)
    return DatasetEntry(plain, "", "pansharpening", 0, pansharpening) if there & set(pansharpening.values()) else None


def find_entry(name: str, root: str | Path | None = None, file: Path | None = None) -> DatasetEntry:
    """Return the entry of a named data set.

    A name that is not in the table is accepted if the data root, or the folder of `file`, has files named after it;
    then `sensor` is "" and `ratio` 0, and both come from the file. Any other name raises `UserError` with the nearest
    known one.
    """
    if name.lower().replace("-", "_") in DATASETS:
        return get_dataset(name)
    folders = [data_root(root)] if root or os.environ.get(ROOT_VARIABLE) else []
    folders += [file.parent] if file else []
    for folder in folders:
        entry = _own_name(name, folder)
        if entry is not None:
            return entry
    raise _unknown(name, folders)


def _unknown(name: str, folders: list[Path]) -> UserError:
    """Return the "unknown dataset" error, with the known names and those found in `folders`."""
    files = [file.name for folder in folders for level in ("*.h5", "*/*.h5") for file in folder.glob(level)]
    own = sorted({match[1] for match in map(_FILE.fullmatch, files) if match})
    there = f"; found in the data root: {', '.join(own)}" if own else ""
    where = there if folders else "; your own data set needs --data_root, the folder of its files"
    return UserError(f'unknown dataset "{name}"{nearest(name, [*DATASETS, *own])}; known: {", ".join(DATASETS)}{where}')


def find_file(name: str, split: str, root: str | Path | None = None) -> Path:
    """Return the H5 file of a split of a named data set.

    Raises:
        UserError: unknown name or split, no data root, a split the data set does not have, or no such file.
    """
    return _locate(name, split, root)[1]


def _locate(name: str, split: str, root: str | Path | None) -> tuple[DatasetEntry, Path]:
    if split not in SPLITS:
        raise UserError(f'unknown split "{split}"; known: {", ".join(SPLITS)}')
    entry = find_entry(name, root)
    if split not in entry.files:
        raise UserError(f'data set "{entry.name}" has no split "{split}"; it has: {", ".join(entry.files)}')
    folder, file = data_root(root), entry.files[split]
    for path in (folder / file, folder / entry.name / file):
        if path.is_file():
            return entry, path
    raise UserError(
        f'expected "{file}" or "{entry.name}/{file}" in the data root "{folder}", found neither; '
        "download it or make it (prepare_data.py)"
    )


def build_dataset(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    sensor: str | Sensor | None = None,
    ratio: int | None = None,
    divisor: float | None = None,
    augment: Augment | None = None,
) -> H5Dataset:
    """Open a split of a named data set; a file is opened by its path with `H5Dataset`.

    Args:
        name: a name in `lemamba.utils.sensors.DATASETS`, any case, or one whose files are in the data root.
        split: "train", "valid", "test" (reduced resolution, with gt) or "test_full" (without).
        root: data root; None takes LEMAMBA_DATA.
        sensor: see `H5Dataset`; None takes the table's.
        ratio: see `H5Dataset`; None takes the table's.
        divisor: see `H5Dataset`.
        augment: see `H5Dataset`.

    Raises:
        UserError: what `find_file` and `H5Dataset` refuse.
    """
    entry, path = _locate(name, split, root)
    return H5Dataset(
        path,
        sensor=sensor or entry.sensor or None,
        ratio=ratio or entry.ratio or None,
        divisor=divisor,
        augment=augment,
        need_gt=split != "test_full",
    )


def names_no_divisor(dataset: H5Dataset) -> bool:
    """Return whether neither a sensor nor the file itself says what its values are divided by."""
    return dataset.facts.sensor == "none" and "divisor" not in dataset.contents.attributes


def check_range(dataset: H5Dataset) -> None:
    """Check the divisor against the data, and take it from them where neither sensor nor file says it.

    The first, the middle and the last sample are looked at. A divisor taken from the data is printed.

    Raises:
        UserError: data that have been divided before.
    """
    divisor = dataset.facts.divisor
    samples = [dataset[i]["ms"] for i in sorted({0, len(dataset) // 2, len(dataset) - 1})]
    if names_no_divisor(dataset):
        top = divisor * max(float(np.quantile(sample, 0.9999)) for sample in samples)
        found = divisor_of(top, dataset.contents.dtypes["ms"])
        if found != divisor:
            dataset.facts = replace(dataset.facts, divisor=found)
            print(f"note: no sensor is known: the values of {dataset.path} are divided by {found:g}, by their range")
        return
    largest = max(float(sample.max()) * divisor for sample in samples)
    check_not_divided(str(dataset.path), largest, divisor)
