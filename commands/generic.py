"""The weights that serve any sensor: their training data, planes of drawn scenes, and their file.

Nothing real enters. A scene is drawn with its instrument (`lemamba.datasets.simulation.drawn`); its planes are made as
for fusing (`lemamba.model.lemamba_any`) with the statistics of the whole scene, and patches of some bands are kept. A
sample of the H5 files has the bands as ``lms`` and ``gt``, the planes as ``pan``, all stored as 0.5 + plane / RANGE;
``ms``, which the network does not read, is every fourth pixel of ``lms``.
Legend: S side of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lemamba.datasets.simulation.drawn import DrawnPair, draw_pair
from lemamba.datasets.writers import whole_set, write_h5
from lemamba.engine.weights.files import read_weights, resolve_weights, save_weights
from lemamba.model.lemamba_any import GUIDES, RANGE, band_planes, scene_statistics
from lemamba.operators import sample as take_samples
from lemamba.operators.window import cut_windows
from lemamba.utils.atomic import check_writable, read_json, sha256, write_text
from lemamba.utils.progress import track
from lemamba.utils.sensors import files_of, get_sensor

SPLITS = ("train", "valid", "test")
SIDE, SMALL = 288, (72, 160)  # of a scene in PAN pixels, about, and of the small ones, whose statistics are uncertain
PATCH = 48
BANDS, PATCHES = 4, 3  # of a scene that are kept: bands, and patches of each
_SMALL = 0.25  # share of small scenes
_ALIASED = 0.1  # share of scenes whose MS was decimated without a low-pass, as some files at reduced resolution are
_UNKNOWN = 0.5  # share of scenes that are fused with the gain of the nameless sensor
_MOVED = 0.25  # share of scenes whose PAN is moved by a whole pixel, to be found by the registration
_NOISY = 0.15  # share of scenes whose PAN is as noisy as one decimated without a filter
_MARGIN = 96  # PAN pixels, mirrored around a scene

Sample = dict[str, np.ndarray]


def scene_samples(seed: int, patches: int = PATCHES) -> Iterator[Sample]:
    """Draw a scene and yield patches of some of its bands, see the module's docstring."""
    generator = np.random.default_rng([seed, 1])
    pair = _draw(generator, seed)
    gains = pair.gains if generator.random() > _UNKNOWN else get_sensor("none").gains(len(pair.gains))
    pan = pair.pan
    if generator.random() < _MOVED:
        rows, columns = generator.integers(-1, 2, 2)
        pan = np.pad(pan, ((0, 0), (1, 1), (1, 1)), "symmetric")[:, 1 + rows :, 1 + columns :]
        pan = pan[:, : pair.pan.shape[1], : pair.pan.shape[2]]
    if generator.random() < _NOISY:
        spread = generator.uniform(0.02, 0.15) * pan.std()
        pan = pan + spread * generator.standard_normal(pan.shape, dtype=np.float32)
    ms, guide, truth = (torch.from_numpy(np.array(x, np.float64))[None] for x in (pair.ms, pan, pair.gt))
    if generator.random() < _ALIASED:
        ms = take_samples(truth, pair.geometry, tuple(ms.shape[-2:]))
    ((_, window),) = cut_windows(ms, guide, pair.geometry, max(guide.shape[-2:]), _MARGIN)
    scene = scene_statistics(partial(iter, (window,)), gains)
    kept = set(generator.permutation(len(gains))[:BANDS].tolist())
    for k, planes in enumerate(band_planes(window, scene)):
        if k not in kept or scene.deviation[k] == 0:
            continue
        stored = 0.5 + window.crop(planes)[0].numpy() / RANGE
        gt = 0.5 + ((truth[0, k : k + 1] - scene.mean[k]) / scene.deviation[k]).numpy() / RANGE
        for _ in range(patches):
            top, left = (int(generator.integers(0, n - PATCH + 1)) for n in gt.shape[-2:])
            cut = (slice(None), slice(top, top + PATCH), slice(left, left + PATCH))
            lms = stored[:1][cut]
            yield {"gt": gt[cut], "lms": lms, "ms": lms[:, ::4, ::4], "pan": stored[cut]}


def _draw(generator: np.random.Generator, seed: int) -> DrawnPair:
    """Draw a scene of about SIDE pixels, or a small one, whatever its ratio."""
    ratio = draw_pair(seed, (8, 8)).ratio
    side = int(generator.integers(*SMALL)) if generator.random() < _SMALL else SIDE
    side = max(side // ratio, math.ceil(PATCH / ratio), 8)
    return draw_pair(seed, (side, side))


def write_generic(folder: Path, name: str, *, scenes: int, held_out: int, seed: int) -> dict[str, int]:
    """Write the H5 files of drawn scenes.

    Args:
        folder: where ``train_<name>.h5`` and the others go.
        name: of the data set.
        scenes: drawn for training.
        held_out: drawn for validation, and as many for the test.
        seed: 0 or more; no two splits share a scene.

    Returns:
        file name -> number of samples.
    """
    files = {split: files_of("pansharpening", name)[split] for split in SPLITS}
    check_writable(*(folder / file for file in files.values()))
    facts = {"sensor": "none", "divisor": 1.0, "guide": f"{GUIDES} planes", "seed": seed}
    with whole_set(folder) as written:
        for number, split in enumerate(SPLITS):
            count = scenes if split == "train" else held_out
            seeds = [seed + 1_000_000 * number + i for i in range(count)]
            samples = (sample for one in track(seeds, f"drawing {split}") for sample in scene_samples(one))
            written[files[split]] = write_h5(folder / files[split], samples, facts, "pansharpening")
    return written


def export_weights(run: Path, out: Path) -> str:
    """Write the last weights of a run as a file to be shipped, with its .json and card; return the sha256.

    Only what belongs to the weights is kept: network, data, numbers of the training, and no folders.
    """
    file = resolve_weights(run / "weights" / "last.safetensors")
    state, meta = read_weights(file)
    meta = read_json(file.with_suffix(".json")) or meta  # it also has the minutes
    config = {key: meta["config"][key] for key in ("loss", "optimizer", "schedule")}
    config["train"] = {key: meta["config"]["train"][key] for key in ("epochs", "batch_size", "ema_decay", "seed")}
    kept = {key: meta[key] for key in ("model", "data", "files", "facts", "metrics", "training")}
    save_weights(out, state, {**kept, "config": config})
    digest = sha256(out)
    steps, samples = meta["training"]["step"], meta["files"][0]["samples"]
    card = CARD.format(
        file=out.name,
        bytes=out.stat().st_size,
        sha256=digest,
        parameters=meta["facts"]["parameters"],
        steps=steps,
        batch=config["train"]["batch_size"],
        samples=samples,
        minutes=f"{meta['training'].get('minutes', math.nan):.0f}",
        device=meta["facts"]["device"],
        project=meta["facts"]["project"],
    )
    write_text(out.parent / "README.md", card)
    return digest


CARD = """\
---
license: apache-2.0
library_name: pytorch
pipeline_tag: image-to-image
tags: [image-fusion, pansharpening, remote-sensing, LEMambaAny]
---

# LEMambaAny, weights that serve any sensor

One PAN image and a multispectral image of any number of bands, at any ratio from 2 to 8 or 16, become one sharp image.
The network sees one band at a time with guides made from the pair, all in units of the scene: no divisor, sensor or
training data are needed. `inference.py --ms MS.tif --pan PAN.tif --out FUSED.tif` uses these weights.

| | |
|---|---|
| file | `{file}`, {bytes} bytes, sha256 `{sha256}` |
| parameters | {parameters} |
| training data | {samples} patches of scenes drawn by this project, with drawn instruments; no real image |
| training | {steps} steps of {batch}, {minutes} minutes on {device} |
| made by | `python reproduce.py generic`, project {project} |
| licence | Apache-2.0, as the project |

What they reach on real scenes, and what they cannot do: docs/no_training_data.md. The `.json` holds every setting.
"""
