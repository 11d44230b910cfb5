"""The tables of a model card: what is known of network, data and training, as rows of two columns.

Rows of which nothing is known are left out: weights may be saved by callers that tell less than the training command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LONGEST = 2000  # letters of a cell: names out of data files may be of any length

Facts = Mapping[str, Any]


def cell(value: Any) -> str:
    """One line that cannot leave its cell of a table, whatever a file or a user wrote."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    line = line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
    return line.replace("|", "\\|").replace("<", "&lt;")


def table(rows: Mapping[str, Any]) -> str:
    """Two columns; rows without a value are left out."""
    lines = [f"| {key} | {cell(value)} |" for key, value in rows.items() if value not in (None, "", {}, [])]
    return "\n".join(["| | |", "|---|---|", *lines])


def section(meta: Facts, name: str) -> Facts:
    """Return a section of the run's configuration, {} where it is not known."""
    return meta.get("config", {}).get(name, {})


def _named(name: Any, arguments: Facts) -> str:
    given = {key: value for key, value in arguments.items() if value not in (None, {}, [])}
    return ", ".join([str(name), *(f"{key} {value}" for key, value in given.items())])


def channels(meta: Facts) -> tuple[Any, Any]:
    """Return the bands C and those of the guide P, None where the network does not name them."""
    arguments = meta["model"]["args"]
    return arguments.get("img_channel"), arguments.get("condition_channel")


def network_rows(meta: Facts) -> Facts:
    """Architecture and size."""
    facts = meta.get("facts", {})
    return {
        "architecture": meta["model"]["name"],
        "variant": section(meta, "model").get("variant") if section(meta, "model").get("variants") else None,
        "constructor arguments": f"`{json.dumps(meta['model']['args'])}`",
        "parameters": facts.get("parameters"),
        "FLOPs": facts.get("FLOPs"),
        "state_grad": facts.get("state_grad"),
    }


def data_rows(meta: Facts) -> Facts:
    """Sensor, scaling and the files, with what they were made from."""
    data, (bands, guide), rows = meta.get("data", {}), channels(meta), {}
    rows["data set, sensor"] = f"{data.get('dataset')}, {data.get('sensor')}"
    rows["bands"] = f"{bands}, guide {guide}" if bands else None
    rows["ratio"] = data.get("ratio")
    rows["numbers"] = f"divided by {data['divisor']:g} before the network" if data.get("divisor") else None
    for file in meta.get("files", []):
        digest = f"sha256 `{file['sha256']}`" if file.get("sha256") else "sha256 not taken of so large a file"
        rows[f"{file['split']} file"] = f"{file['file']}: {file['samples']} patches, {file['bytes']} bytes, {digest}"
        rows[f"{file['split']} made from"] = file.get("origin")
    return rows


def training_rows(meta: Facts) -> Facts:
    """The settings that decide what is learnt, and what it ran on; no times."""
    train, optimizer, schedule = (section(meta, name) for name in ("train", "optimizer", "schedule"))
    loss, data, facts = section(meta, "loss"), section(meta, "data"), meta.get("facts", {})
    if not train:
        return {}
    batch, world, accumulated = train["batch_size"], facts.get("processes", 1), train["grad_accum_steps"]
    ema = f"decay {train['ema_decay']}{', rising at the start' if train['ema_warmup'] else ''}"
    pretrained = section(meta, "model").get("pretrained")
    return {
        "loss": _named(loss["name"], loss["args"]),
        "optimizer": _named(optimizer["name"], {"weight decay": optimizer["weight_decay"], **optimizer["args"]}),
        "learning rate": f"peak {optimizer['lr']:g}",
        "schedule": _named(schedule["name"], {key: value for key, value in schedule.items() if key != "name"}),
        "epochs asked for": train["epochs"],
        "time budget": f"{train['max_minutes']:g} minutes" if train["max_minutes"] else None,
        "batch of a step": f"{batch * world * accumulated} = {batch} x {world} process(es) x {accumulated}",
        "clipping, EMA": f"norm {train['clip_norm']}; {ema if train['ema_decay'] else 'no EMA'}",
        "precision, seed": f"mixed precision {train['mixed_precision']}; {train['seed']}",
        "augmentation, crop": f"probability {data['aug_probs'][0]:g}; {data['crop'] or 'whole patches'}",
        "started from": Path(pretrained).name if pretrained else None,
        "device": facts.get("device"),
        "scan backend": facts.get("scan backend"),
        "project": facts.get("project"),
        "Python, torch": f"{facts['python']}, {facts['torch']}" if "torch" in facts else None,
    }
