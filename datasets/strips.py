"""A fused scene in strips: files of all columns and some rows, in a folder next to the result.

Several processes write the strips of one scene; a killed run continues with those that are missing; a VRT joins them
without copying. A strip is a GeoTIFF that has its name only when it is whole. The folder is hidden and removed when the
result is complete; that of a VRT gets a plain name, `NAME_strips` for `NAME.vrt`.
"""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from lemamba.datasets.geotiff import gdal_errors
from lemamba.datasets.pair import ScenePair
from lemamba.datasets.raster import Span, Window
from lemamba.datasets.writers import ELSEWHERE, VRT, Output, Preview, Put, stored, write_strip
from lemamba.utils.atomic import read_json, refusal, renamed, write_atomically, write_json
from lemamba.utils.errors import UserError

_JOB, _LEARNT = "job.json", "learnt.pt"
_OURS = re.compile(r"\.?\d+\.(tif|npy)(\..*)?|\.?(job\.json|learnt\.pt)(\..*)?")


def hidden_folder(out: Path) -> Path:
    """Return the folder in which the strips of `out` lie while it is made."""
    return out.with_name(f".{out.name}.strips")


def vrt_folder(out: Path) -> Path:
    """Return the folder in which the strips of a VRT stay."""
    return out.with_name(f"{out.stem}_strips")


def remove_folder(folder: Path) -> None:
    """Remove a folder of strips, if there is one; other files in it are a `UserError`."""
    if not folder.is_dir():
        return
    foreign = next((p.name for p in folder.iterdir() if not _OURS.fullmatch(p.name)), None)
    if foreign:
        raise UserError(f'expected "{folder}" to hold strips only, it holds "{foreign}"; choose another --out')
    shutil.rmtree(folder)


def is_complete(out: Path, job: str) -> bool:
    """Return whether `mark_complete` was called for this very file and job."""
    return out.is_file() and read_json(hidden_folder(out) / _JOB) == {"job": job, "complete": _stamp(out)}


def mark_complete(out: Path, job: str) -> None:
    """Note in a hidden folder that `out` is complete, so that a list that continues leaves it as it is."""
    write_json(hidden_folder(out) / _JOB, {"job": job, "complete": _stamp(out)})


def _stamp(out: Path) -> list[int]:
    known = out.stat()
    return [known.st_size, known.st_mtime_ns]


class Strips:
    """The strips of one result.

    Attributes:
        folder: where they are written.
        stay: they are part of the result, a VRT.

    Args:
        out: the result.
        pair: the scene.
        output: how it is written.
        spans: first and last row of every strip, top to bottom.
    """

    def __init__(self, out: Path, pair: ScenePair, output: Output, spans: Sequence[Span]) -> None:
        self.out, self.pair, self.output, self.spans = out, pair, output, list(spans)
        self.folder = hidden_folder(out)
        self.stay = out.suffix.lower() == VRT

    def learnt(self, job: str) -> dict[str, torch.Tensor] | None:
        """Return the weights that a killed run of the same job has learnt on the scene; None if there are none."""
        about, path = read_json(self.folder / _JOB) or {}, self.folder / _LEARNT
        if not (job and about.get("job") == job and path.is_file()):
            return None
        print(f"note: the weights learnt on the scene are in {self.folder}; it is not trained again")
        learnt: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
        return learnt

    def keep_learnt(self, learnt: dict[str, torch.Tensor]) -> None:
        """Keep weights learnt on the scene until the result is complete."""
        write_atomically(self.folder / _LEARNT, lambda temporary: torch.save(learnt, temporary))

    def begin(self, job: str, fitted: str, resume: bool) -> list[int]:
        """Make the folder, and return which strips are missing.

        Args:
            job: names everything the result depends on.
            fitted: the same of the statistics of the scene.
            resume: keep the strips that are there, if they are of the same job.
        """
        about = {"job": job, "fitted": fitted, "strips": [list(span) for span in self.spans]}
        if self.stay and vrt_folder(self.out).exists() and not vrt_folder(self.out).is_dir():
            raise refusal(vrt_folder(self.out), "it is a file")
        for left in self.out.parent.iterdir() if resume and self.out.parent.is_dir() else ():
            if left.name.startswith(f".{self.out.name}.") and left.suffix == ".tmp":  # of the run that was killed
                left.unlink()
        there = self.folder.is_dir() and any(self.folder.glob("*.tif"))
        if not (resume and job and read_json(self.folder / _JOB) == about):
            if resume and there:
                print(f"note: the strips in {self.folder} are of another input, method or option; all are made anew")
            remove_folder(self.folder)
            write_json(self.folder / _JOB, about)
        missing = [i for i in range(len(self.spans)) if not self.path(i).is_file()]
        if len(missing) < len(self.spans):
            print(f"note: {len(self.spans) - len(missing)} of {len(self.spans)} strips are there; the others follow")
        return missing

    def path(self, i: int) -> Path:
        """Return the file of a strip."""
        return self.folder / f"{i:05d}.tif"

    def remove(self) -> None:
        """Remove the hidden folder."""
        remove_folder(self.folder)

    def read(self, i: int, boxes: Iterable[Window]) -> Iterator[tuple[Window, np.ndarray]]:
        """Yield the windows of a strip with their pixels (C, h, w), as stored."""
        import rasterio

        top = self.spans[i][0]
        with gdal_errors(f"cannot read {self.path(i)}"), rasterio.Env(), rasterio.open(self.path(i)) as file:
            for box in boxes:
                (first, last), columns = box
                yield box, file.read(window=((first - top, last - top), columns))

    def read_preview(self, i: int, preview: Preview) -> None:
        """Copy what a strip holds of the quick-look."""
        if preview.image is not None:
            preview.image[:, preview.rows(self.spans[i])] = np.load(self.path(i).with_suffix(".npy"))

    def join(self) -> None:
        """Give the folder its plain name and write the VRT; an older one is replaced."""
        folder = vrt_folder(self.out)
        with renamed(self.out) as temporary:
            content = self._vrt_content(folder.name)
            self.out.unlink(missing_ok=True)  # it reads the folder that is replaced
            remove_folder(folder)
            strips = {self.path(i) for i in range(len(self.spans))}
            for extra in set(self.folder.iterdir()) - strips:
                extra.unlink()
            self.folder.replace(folder)
            temporary.write_bytes(content)

    def _vrt_content(self, folder: str) -> bytes:
        """Return a VRT over all strips: GDAL's own over the first one, with the other sources added."""
        import rasterio.shutil

        model = self.folder / "00000.tif.vrt"
        with gdal_errors(f'cannot write "{self.out}"', ELSEWHERE), rasterio.Env():
            rasterio.shutil.copy(self.path(0), model, driver="VRT")
        root = ElementTree.fromstring(model.read_bytes())
        model.unlink()
        root.set("rasterYSize", str(self.pair.size[0]))
        for parent in list(root.iter()):
            for source in [child for child in parent if child.find("SourceFilename") is not None]:
                place = list(parent).index(source)
                parent.remove(source)
                for i, (first, last) in enumerate(self.spans):
                    one = copy.deepcopy(source)
                    name = _found(one, "SourceFilename")
                    name.text = f"{folder}/{self.path(i).name}"
                    name.set("relativeToVRT", "1")
                    if (size := one.find("SourceProperties")) is not None:
                        size.set("RasterYSize", str(last - first))
                    _found(one, "SrcRect").set("ySize", str(last - first))
                    _found(one, "DstRect").set("ySize", str(last - first))
                    _found(one, "DstRect").set("yOff", str(first))
                    parent.insert(place + i, one)
        return ElementTree.tostring(root)


def _found(element: ElementTree.Element, name: str) -> ElementTree.Element:
    found = element.find(name)
    if found is None:
        raise UserError(f"this GDAL writes a VRT without {name}; choose an --out that ends in .tif")
    return found


class StripWriter:
    """``with StripWriter(strips, clip, done) as put: put((row, column, sr))``: writes strips as their pieces come.

    Args:
        strips: where they go.
        clip: clip sr to [0, 1] first.
        done: called with the number of a strip that is whole.
        seen: called with the number of a strip, a window of the scene and its pixels as stored, for each piece.
    """

    def __init__(
        self,
        strips: Strips,
        clip: bool,
        done: Callable[[int], object],
        seen: Callable[[int, Window, np.ndarray], object] = lambda *_: None,
    ) -> None:
        self._strips, self._clip, self._done, self._seen = strips, clip, done, seen
        self._open: dict[int, tuple[ExitStack, Put]] = {}
        self._pixels: dict[int, int] = {}
        self._preview = Preview(strips.pair, strips.output)

    def __enter__(self) -> Callable[[tuple[int, int, torch.Tensor]], None]:
        return self._put

    def _put(self, piece: tuple[int, int, torch.Tensor]) -> None:
        row, column, sr = piece
        for i, (first, last) in enumerate(self._strips.spans):
            top, bottom = max(row, first), min(row + sr.shape[-2], last)
            if bottom > top:
                self._put_part(i, top, column, sr[..., top - row : bottom - row, :])

    def _put_part(self, i: int, row: int, column: int, sr: torch.Tensor) -> None:
        strips = self._strips
        if i not in self._open:
            stack, span = ExitStack(), strips.spans[i]
            file = write_strip(strips.path(i), strips.pair, strips.output, span, packed=strips.stay)
            put = stack.enter_context(file)
            self._open[i], self._pixels[i] = (stack, put), 0
        stack, put = self._open[i]
        window = (row, row + sr.shape[-2]), (column, column + sr.shape[-1])
        numbers, seen = stored(strips.pair, window, sr, self._clip, strips.output)
        put(window, numbers)
        self._seen(i, window, numbers)
        self._preview.add(row, column, seen)
        self._pixels[i] += sr.shape[-2] * sr.shape[-1]
        first, last = strips.spans[i]
        if self._pixels[i] == (last - first) * strips.pair.size[1]:
            if self._preview.image is not None:
                rows = self._preview.image[:, self._preview.rows((first, last))]
                with renamed(strips.path(i).with_suffix(".npy")) as temporary, temporary.open("wb") as opened:
                    np.save(opened, rows)
            del self._open[i]
            stack.close()
            self._done(i)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for stack, _ in self._open.values():  # not whole
            stack.__exit__(kind or UserError, error or UserError("the strip is not whole"), tb)
        self._open.clear()


def job_name(about: dict[str, Any], files: Iterable[Path]) -> str:
    """Return a text that differs where any of `about`, or the size or time of one of the files, does."""
    stamps = []
    for path in files:
        parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        stamps += [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in parts if p.is_file()]
    return hashlib.sha256(repr((sorted(about.items()), stamps)).encode()).hexdigest()
