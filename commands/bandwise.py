"""Training a network that fuses band by band (`lemamba.model.lemamba_any`) on one's own ground.

Its planes are made as for fusing, with the statistics of all the training ground, and stored as
``0.5 + plane / RANGE``: a sample has one band as ``lms`` and ``gt`` and the planes as ``pan``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lemamba.datasets.own_ground import OwnGround, Sample
from lemamba.model import build_model
from lemamba.model.lemamba_any import GUIDES, RANGE, LEMambaAny, band_planes
from lemamba.operators.window import Window

PIXELS = 2**18  # MS pixels of planes that are kept in memory, for 8 bands: 44 bytes each for every band


def training_network(network: LEMambaAny, described: Mapping[str, Any]) -> nn.Module:
    """Return the same network, with its weights, for samples of `band_ground`.

    Args:
        network: for the scene.
        described: its name and constructor arguments.
    """
    sizes = {"img_channel": 1, "condition_channel": GUIDES, "out_channel": 1}
    core = build_model(described["name"], **{**described["args"], **sizes})
    core.load_state_dict(network.state_dict())
    return core


def band_ground(network: LEMambaAny, ground: OwnGround) -> OwnGround:
    """Return the training ground as samples of single bands; nothing is held out of it."""
    facts = replace(ground.facts, bands=1, guide_bands=GUIDES, divisor=RANGE)
    made = OwnGround(facts, ground.crop, seed=ground.seed)
    pixels, chosen = 0, list[tuple[Sample, np.ndarray]]()
    for sample, valid in ground.train:
        if pixels < PIXELS * min(1.0, 8 / ground.facts.bands):
            pixels += valid.size
            chosen.append((sample, valid))
    seen = [_window(sample, valid, ground) for sample, valid in chosen]
    with torch.no_grad():
        scene = network.fit(lambda: iter(seen))
        for (sample, valid), window in zip(chosen, seen, strict=True):
            for k, planes in enumerate(band_planes(window, scene)):
                if float(scene.deviation[k]) > 0:
                    gt = (sample["gt"][k : k + 1].double() - scene.mean[k]) / scene.deviation[k]
                    made.train.append((_stored(planes[0], gt, ground.facts.ratio), valid))
    return made


def _stored(planes: torch.Tensor, gt: torch.Tensor, ratio: int) -> Sample:
    pan, gt = (0.5 + (x / RANGE).float() for x in (planes, gt))
    return {"gt": gt, "lms": pan[:1], "ms": pan[:1, ::ratio, ::ratio], "pan": pan}


def _window(sample: Sample, valid: np.ndarray, ground: OwnGround) -> Window:
    ms, lms, pan = (sample[role][None].double() for role in ("ms", "lms", "pan"))
    window, r = Window(ms, lms, pan, ground.facts.geometry), ground.facts.ratio
    if valid.all():
        return window
    h, w = ms.shape[-2:]
    coarse = valid.reshape(h, r, w, r).all(axis=(1, 3))
    return replace(window, valid=torch.from_numpy(valid), valid_ms=torch.from_numpy(coarse))
