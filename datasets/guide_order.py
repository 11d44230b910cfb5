"""In which order the bands of a guide lie, so that a network is not given BGR that learnt RGB.

A guide band's place is the centre of its spectral response along the bands of the hyperspectral image, from 0 (first
band) to 1 (last). The response is that of the file, or estimated from some samples.
Legend: C bands, P guide bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.pair_windows import windows_of
from lemamba.datasets.raster import MULTISPECTRAL
from lemamba.operators.observation import estimate_response
from lemamba.operators.window import Window
from lemamba.utils.errors import UserError

Centres = tuple[float, ...]
_GROUPS = 32  # bands are averaged to so many: enough for an order, and quick
_APART = 0.04  # of the bands' range: centres nearer than that have no clear order


def centres_of(response: np.ndarray) -> Centres:
    """Return the centre of each row of a response (P, C), 0 to 1."""
    weight = np.clip(np.asarray(response, np.float64), 0, None)
    place = np.linspace(0, 1, weight.shape[1])
    return tuple(float(v) for v in weight @ place / np.maximum(weight.sum(1), 1e-30))


def estimated_centres(windows: Callable[[], Iterable[Window]]) -> Centres:
    """Return the centres by a response that is estimated from windows of a pair."""

    def grouped() -> Iterable[Window]:
        for window in windows():
            parts = torch.tensor_split(window.ms, min(_GROUPS, window.ms.shape[1]), dim=1)
            ms = torch.cat([part.mean(1, keepdim=True) for part in parts], dim=1)
            yield replace(window, ms=ms)

    return centres_of(estimate_response(grouped).numpy())


def dataset_centres(dataset: H5Dataset) -> Centres | None:
    """Return the centres of a data set's guide bands; None for a guide of one band, or without hyperspectral bands."""
    facts = dataset.facts
    if facts.guide_bands < 2 or facts.bands <= MULTISPECTRAL:
        return None
    written = np.asarray(dataset.contents.attributes.get("response", ()))
    if written.shape == (facts.guide_bands, facts.bands) and written.dtype.kind == "f":
        return centres_of(written if dataset.guide_order is None else written[list(dataset.guide_order)])
    samples = [dataset[i] for i in sorted({0, len(dataset) // 2, len(dataset) - 1})]
    parts = [windows_of(s["ms"].numpy(), s["pan"].numpy(), facts.geometry) for s in samples]
    try:
        return estimated_centres(lambda: chain.from_iterable(part() for part in parts))
    except UserError:  # black samples, or a ratio that is not whole
        return None


def order_to_match(known: Centres, found: Centres) -> tuple[int, ...] | None:
    """Return the 1-based guide bands of `found` in the order of `known`; None where they agree or are not clear."""
    if len(known) != len(found):
        return None
    if not (are_clear(known) and are_clear(found)):
        return None
    by_rank = np.argsort(found)
    order = tuple(int(by_rank[rank]) + 1 for rank in np.argsort(np.argsort(known)))
    return None if order == tuple(range(1, len(known) + 1)) else order


def are_clear(centres: Centres) -> bool:
    """Return whether the centres are far enough apart for an order."""
    return len(centres) > 1 and bool(np.diff(np.sort(centres)).min() >= _APART)


def described(centres: Centres) -> str:
    """Return an order of guide bands in words: RGB, BGR, or the ranks of their wavelengths."""
    ranks = tuple(int(r) + 1 for r in np.argsort(np.argsort(centres)))
    known: dict[tuple[int, ...], str] = {(3, 2, 1): "RGB", (1, 2, 3): "BGR"}
    return known.get(ranks, "wavelength ranks " + ",".join(map(str, ranks)))


def checked_order(order: tuple[int, ...], guide_bands: int) -> tuple[int, ...]:
    """Return --guide_order as 0-based indices.

    Raises:
        UserError: not every guide band once.
    """
    if sorted(order) != list(range(1, guide_bands + 1)):
        raise UserError(
            f"expected --guide_order to name each of the {guide_bands} guide bands once, from 1, given "
            f"{','.join(map(str, order))}; correct it"
        )
    return tuple(band - 1 for band in order)
