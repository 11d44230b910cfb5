"""A data set by name and split: one table of names (`lemamba.utils.sensors`), one data root, no path of anyone's disk.

Files are looked for at `<root>/<file>`, then `<root>/<name>/<file>`; the root is an argument or LEMAMBA_DATA.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.transforms import Augment
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.formats.bounds import check_not_divided
from lemamba.utils.sensors import DATASETS, DatasetEntry, Sensor, files_of, get_dataset

SPLITS = ("train", "valid", "test", "test_full")
ROOT_VARIABLE = "LEMAMBA_DATA"
_FILE = re.compile(r"(?:train|valid|test)_(\w+?)(?:_OrigScale)?(?:_multiExm1)?\.h5")


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of data sets: `root`, else LEMAMBA_DATA; neither, or no such folder, is a `UserError`."""
    given = root or os.environ.get(ROOT_VARIABLE)
    if not given:
        raise UserError(f"no data root: give --data_root DIR or set {ROOT_VARIABLE} to the folder of the H5 files")
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f'data root "{folder}" is not a folder; correct --data_root or {ROOT_VARIABLE}')
    return folder


def _own_name(name: str, folder: Path) -> DatasetEntry | None:
    """Entry of a data set outside the table whose files follow the naming, e.g. one that `prepare_data.py` made."""
    plain = name.lower().replace("-", "_")
    if not plain.isidentifier():  # a name, never a way out of the folder
        return None
    hmif, pansharpening = files_of("hmif", plain), files_of("pansharpening", plain)
    there = {file.name for sub in (folder, folder / plain) if sub.is_dir() for file in sub.glob(f"*{plain}*.h5")}
    for task, files in (("hmif", hmif), ("pansharpening", pansharpening)):
        if files["test"] in there:
            return DatasetEntry(plain, "", task, 0, files)
    return DatasetEntry(plain, "", "pansharpening", 0, pansharpening) if there & set(pansharpening.values()) else None


def find_entry(name: str, root: str | Path | None = None, file: Path | None = None) -> DatasetEntry:
    """Return the entry of a named data set.

    A name that is not in the table is taken when the data root, or the folder of `file`, holds files named after it;
    then `sensor` is "" and `ratio` 0, and both come from the file. Otherwise unknown names are a `UserError` that
    suggests the nearest.
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
    """Say which names there are: those of the table, and those after which files in `folders` are named."""
    files = [file.name for folder in folders for level in ("*.h5", "*/*.h5") for file in folder.glob(level)]
    own = sorted({match[1] for match in map(_FILE.fullmatch, files) if match})
    there = f"; files there are of: {', '.join(own)}" if own else ""
    where = there if folders else "; a name of your own needs --data_root, the folder of its files"
    return UserError(f'unknown dataset "{name}"{nearest(name, [*DATASETS, *own])}; known: {", ".join(DATASETS)}{where}')


def find_file(name: str, split: str, root: str | Path | None = None) -> Path:
    """Return the H5 file of a split of a named data set.

    Raises:
        UserError: unknown name or split, no data root, a split the data set does not have, or no such file.
    """
    if split not in SPLITS:
        raise UserError(f'unknown split "{split}"; known: {", ".join(SPLITS)}')
    entry = find_entry(name, root)
    if split not in entry.files:
        raise UserError(f'data set "{entry.name}" has no split "{split}"; it has: {", ".join(entry.files)}')
    folder, file = data_root(root), entry.files[split]
    for path in (folder / file, folder / entry.name / file):
        if path.is_file():
            return path
    raise UserError(
        f'expected "{file}" or "{entry.name}/{file}" in the data root "{folder}", neither is there; '
        "download or make it (prepare_data.py)"
    )


def open_h5(
    path: str | Path,
    *,
    sensor: str | Sensor | None = None,
    ratio: int | None = None,
    divisor: float | None = None,
    augment_prob: float = 0.0,
    crop: int | None = None,
    seed: int = 0,
    need_gt: bool = False,
) -> H5Dataset:
    """Open any H5 file of the field by its path.

    Args:
        path: the file.
        sensor: name; None takes the file's attribute, else "none" (then `divisor` 1 unless given).
        ratio: checked against the shapes; None accepts the file's.
        divisor: None takes the file's attribute, else the sensor's.
        augment_prob: see `lemamba.datasets.transforms.Augment`.
        crop: side of a random crop in gt pixels, or None.
        seed: base of the augmentation's random numbers.
        need_gt: refuse a file without ground truth.

    Returns:
        `H5Dataset`: `dataset[i]` or `dataset[(epoch, i)]` is a dict of float32 tensors.

    Raises:
        UserError: what `H5Dataset` refuses.
    """
    augment = Augment(augment_prob, crop, seed)
    return H5Dataset(path, sensor=sensor, ratio=ratio, divisor=divisor, augment=augment, need_gt=need_gt)


def build_dataset(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    ratio: int | None = None,
    sensor: str | Sensor | None = None,
    divisor: float | None = None,
    augment_prob: float = 0.0,
    crop: int | None = None,
    seed: int = 0,
) -> H5Dataset:
    """Open a split of a named data set.

    Args:
        name: a name in `lemamba.utils.sensors.DATASETS`, any case, or one whose files are in the data root.
        split: "train", "valid", "test" (reduced resolution, with gt) or "test_full" (without).
        root: data root; None takes LEMAMBA_DATA.
        ratio: see `open_h5`; None takes the table's.
        sensor: see `open_h5`; None takes the table's.
        divisor: see `open_h5`.
        augment_prob: see `open_h5`.
        crop: see `open_h5`.
        seed: see `open_h5`.

    Raises:
        UserError: what `find_file` and `H5Dataset` refuse.
    """
    path, entry = find_file(name, split, root), find_entry(name, root)
    return open_h5(
        path,
        sensor=sensor or entry.sensor or None,
        ratio=ratio or entry.ratio or None,
        divisor=divisor,
        augment_prob=augment_prob,
        crop=crop,
        seed=seed,
        need_gt=split != "test_full",
    )


def check_range(dataset: H5Dataset) -> None:
    """Refuse data whose numbers were divided before; the first, the middle and the last sample are looked at."""
    picks = {0, len(dataset) // 2, len(dataset) - 1}
    largest = max(float(dataset[i]["ms"].max()) * dataset.divisor for i in picks)
    check_not_divided(str(dataset.path), largest, dataset.divisor)
