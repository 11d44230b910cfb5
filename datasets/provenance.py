"""Facts about a data file for the record of a training run: name, size, samples, SHA-256, and its sources."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemamba.datasets.h5 import H5Dataset
from lemamba.utils.atomic import sha256

HASH_LIMIT = 256 * 2**20  # bytes; larger files would delay the start of training by seconds to minutes


def file_facts(split: str, dataset: H5Dataset) -> dict[str, Any]:
    """Return {"split", "file", "bytes", "samples", "sha256", "origin"} of an open data set.

    "sha256" is None above `HASH_LIMIT`; "origin" lists the sources named in the file's attributes, or is "".
    """
    size = dataset.path.stat().st_size
    return {
        "split": split,
        "file": dataset.path.name,
        "bytes": size,
        "samples": len(dataset),
        "sha256": sha256(dataset.path) if size <= HASH_LIMIT else None,
        "origin": _origin(dataset.contents.attributes),
    }


def _origin(attributes: Any) -> str:
    """Return the sources and their SHA-256, as `lemamba.datasets.simulation` writes them."""
    sources, digests = _texts(attributes.get("source")), _texts(attributes.get("sha256"))
    if len(digests) == len(sources):
        sources = [f"{source} (sha256 {digest})" for source, digest in zip(sources, digests, strict=True)]
    seed = _texts(attributes.get("seed"))
    return ", ".join(sources) + (f", seed {' '.join(seed)}" if sources and seed else "")


def _texts(written: Any) -> list[str]:
    found = np.asarray([] if written is None else written).ravel()
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in found[:100]]
