"""The model card of a run's weights: ``weights/README.md``, in the form Hugging Face's hub reads.

One card serves the folder: the hub shows one README.md per model, and ``best`` and ``last`` differ in epoch and scores
only. The card is a function of the .json files and holds no times: equal trainings give equal cards. Rows without a
value are left out, as weights may be saved by callers that know less than the training command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lemamba.metrics import INDICES
from lemamba.utils.atomic import read_json

CARD = "README.md"
Facts = Mapping[str, Any]

_LONGEST = 2000  # characters of a table cell: names in data files may be of any length
_TASKS = {
    "pansharpening": "a multispectral image of {bands} bands and a sharp panchromatic one become one sharp image",
    "hmif": "a hyperspectral image of {bands} bands and a sharp one of {guide} bands become one sharp image",
}
_MEANING = {"best": "the validation with the best {metric}", "last": "the end of the training so far"}
_UNITS = {name: f"{name} ({index.unit})" for name, index in INDICES.items() if index.unit}

_PAGE = """\
---
{header}---

# {title}

Image fusion ({task}): {what}. Resolution ratio {of_ratio}{of_sensor}.

{files}

Weights are {averaged}, float32. The `.json` next to each file holds every setting and the sha256
that is checked when the file is read. The file's own header repeats the settings, so it can be used alone.
{other_settings}
## Use

In the project's folder, with `WEIGHTS` set to the folder of this page, `DATA` to that of the H5 files,
`MS` and `PAN` to a GeoTIFF pair:

```bash
{commands}
```

```python
import os, torch
from lemamba.engine.weights.files import load_strict, read_weights
from lemamba.model import build_model

state, meta = read_weights(os.environ["WEIGHTS"] + "/{name}")
network = build_model(meta["model"]["name"], **meta["model"]["args"]).eval()
load_strict(network, state)
ms = torch.rand(1, {bands}, 16, 16)  # digital numbers divided by {divisor:g}
lms = torch.nn.functional.interpolate(ms, scale_factor={ratio}, mode="bicubic")  # operators.interp23 in training
pan = torch.rand(1, {guide}, {side}, {side})
sr = network(ms, lms, pan).clamp(0, 1)  # (1, {bands}, {side}, {side})
```

## Scores on the validation set

{scores}

## Network

{network}

## Data

{data}

## Training

{training}

## Limits

Trained for sensor {sensor}, {bands} bands with a guide of {guide}, at ratio {of_ratio}.
Quality on other sensors, ratios, seasons and landscapes, at full resolution, or on values scaled otherwise, is unknown:
measure it there first. Fine detail is inferred from the guide and may be wrong.

## Licence

{licence}
"""


def folder_card(path: Path, facts: Facts, size: int) -> str:
    """Return the card of a folder in which the weight file `path` is about to be written.

    Args:
        path: a .safetensors file; its neighbours are read from the folder.
        facts: what its .json will hold.
        size: its bytes.
    """
    files: dict[str, Facts] = {path.name: {**facts, "bytes": size}}
    for other in path.parent.glob("*.safetensors"):
        found = _neighbour(other) if other != path else None
        if found:
            files[other.name] = found
    return model_card(facts, dict(sorted(files.items())))


def _neighbour(path: Path) -> Facts | None:
    """Return the facts of a file that exists already, None if they are not ours: a card must not end a training."""
    try:
        found = read_json(path.with_suffix(".json"))
        facts = {key: dict(found.get(key, {})) for key in ("metrics", "training", "config")}
        facts["config"] = {key: dict(value) for key, value in facts["config"].items()}
        facts["metrics"] = {key: float(value) for key, value in facts["metrics"].items()}
        return {**facts, "sha256": found["sha256"], "bytes": path.stat().st_size}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def model_card(meta: Facts, files: Mapping[str, Facts]) -> str:
    """Return the card.

    Args:
        meta: of one weight file: model, data, config, and, if known, files and facts.
        files: by name of the weight file, the same with "metrics", "training", "bytes" and "sha256".
    """
    data, task, name = meta.get("data", {}), meta.get("facts", {}).get("task"), next(iter(files))
    arguments = meta["model"]["args"]
    bands, guide = arguments.get("img_channel"), arguments.get("condition_channel")
    ratio, sensor = data.get("ratio", 4), data.get("sensor")
    return _PAGE.format(
        header=_header(meta, files),
        title=_title(meta),
        task=task or "task unknown",
        what=_TASKS.get(task, "two images of one area become one").format(bands=bands, guide=guide),
        bands=bands,
        guide=guide,
        ratio=ratio,
        of_ratio=data.get("ratio", "unknown"),
        side=16 * ratio,
        divisor=data.get("divisor", 1),
        sensor=sensor,
        of_sensor=f", sensor {sensor}" if sensor else "",
        files=_file_table(files),
        averaged="averaged over the steps (EMA)" if _section(meta, "train").get("ema_decay") else "not averaged",
        other_settings=_other_settings(meta, files),
        commands=_commands(meta, name),
        name=name,
        scores=_scores(files),
        network=_table(_network_rows(meta)),
        data=_table(_data_rows(meta, bands, guide)),
        training=_table(_training_rows(meta)),
        licence=_section(meta, "log").get("license")
        or "No licence was chosen for these weights; ask their author before using them.",
    )


def _section(meta: Facts, name: str) -> Facts:
    """Return a section of the run's configuration, {} if unknown."""
    return meta.get("config", {}).get(name, {})


def _variant(meta: Facts) -> str | None:
    model = _section(meta, "model")
    return model.get("variant") if model.get("variants") else None


def _title(meta: Facts) -> str:
    trained, variant = meta.get("data", {}).get("dataset"), _variant(meta)
    name = meta["model"]["name"] + (f" ({variant})" if variant else "")
    return _cell(f"{name}, trained on {trained}" if trained else name)


def _header(meta: Facts, files: Mapping[str, Facts]) -> str:
    """Return the YAML that hub tools read; `safe_dump` quotes what needs quotes."""
    task, data = meta.get("facts", {}).get("task"), meta.get("data", {})
    sensor = data.get("sensor")
    tags = ["image-fusion", task, "remote-sensing" if task == "pansharpening" else None, meta["model"]["name"]]
    tags += [sensor if sensor != "none" else None]
    measured = sorted({name for facts in files.values() for name in facts.get("metrics", {})} - {"loss"})
    header = {
        "license": _section(meta, "log").get("license"),
        "library_name": "pytorch",
        "pipeline_tag": "image-to-image",
        "tags": [tag for tag in tags if tag],
        "datasets": [data["dataset"]] if data.get("dataset") else None,
        "metrics": measured,
    }
    return yaml.safe_dump({key: value for key, value in header.items() if value}, sort_keys=False, allow_unicode=True)


def _commands(meta: Facts, name: str) -> str:
    """Return commands that run as printed from the project's folder (a test runs them)."""
    given, weights = _section(meta, "data"), f'--weights "$WEIGHTS/{name}"'
    chosen = "".join(f" --{key} {given[key]}" for key in ("sensor", "divisor") if given.get(key))
    dataset = meta.get("data", {}).get("dataset")
    commands = f'python inference.py {weights} --dataset {dataset}{chosen} --data_root "$DATA"' if dataset else ""
    if meta.get("facts", {}).get("task") == "pansharpening":
        commands += f'\npython inference.py {weights}{chosen} --ms "$MS" --pan "$PAN" --out fused.tif'
    return commands.strip()


def _other_settings(meta: Facts, files: Mapping[str, Facts]) -> str:
    """Name the files that were written before the run was resumed with other settings than this page shows."""
    shown = {**meta.get("config", {}), "log": None}
    others = [name for name, facts in files.items() if {**facts.get("config", {}), "log": None} != shown]
    return "".join(
        f"\n`{name}` was written under other settings than those below; its `.json` has them.\n" for name in others
    )


# ------------------------------------------------------------------------------------------ tables


def _cell(value: Any) -> str:
    """Return one line that cannot break its table, whatever a file or a user wrote."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    line = "".join(character if character.isprintable() else " " for character in text)
    line = line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
    return line.replace("|", "\\|").replace("<", "&lt;")


def _table(rows: Facts) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items() if value not in (None, "", {}, [])]
    return "\n".join(["| | |", "|---|---|", *lines])


def _file_table(files: Mapping[str, Facts]) -> str:
    lines = ["| file | what | epochs | steps | bytes | sha256 |", "|---|---|---:|---:|---:|---|"]
    for name, facts in files.items():
        done = facts.get("training", {})
        what = _MEANING.get(Path(name).stem, "").format(metric=_section(facts, "train").get("best_metric"))
        numbers = f"{done.get('epoch', '')} | {done.get('step', '')} | {facts['bytes']} | `{_cell(facts['sha256'])}`"
        lines.append(f"| `{_cell(name)}` | {_cell(what)} | {numbers} |")
    return "\n".join(lines)


def _scores(files: Mapping[str, Facts]) -> str:
    measured = {name: facts["metrics"] for name, facts in files.items() if facts.get("metrics")}
    missing = [f"`{name}` was saved between two validations." for name in files if name not in measured]
    lines = []
    if measured:
        names = list(dict.fromkeys(metric for values in measured.values() for metric in values))
        lines.append(f"| file | {' | '.join(_UNITS.get(metric, metric) for metric in names)} |")
        lines.append("|---|" + "---:|" * len(names))
        for name, values in measured.items():
            numbers = [f"{values[metric]:.4f}" if metric in values else "" for metric in names]
            lines.append(f"| `{_cell(name)}` | {' | '.join(numbers)} |")
        lines += ["", "Means over the validation set, which chose the best weights: no substitute for a test set."]
    return "\n".join([*lines, *missing])


def _named(name: Any, arguments: Facts) -> str:
    given = {key: value for key, value in arguments.items() if value not in (None, {}, [])}
    return ", ".join([str(name), *(f"{key} {value}" for key, value in given.items())])


def _network_rows(meta: Facts) -> Facts:
    facts = meta.get("facts", {})
    return {
        "architecture": meta["model"]["name"],
        "variant": _variant(meta),
        "constructor arguments": f"`{json.dumps(meta['model']['args'])}`",
        "parameters": facts.get("parameters"),
        "FLOPs": facts.get("FLOPs"),
        "state_grad": facts.get("state_grad"),
    }


def _data_rows(meta: Facts, bands: Any, guide: Any) -> Facts:
    """Return sensor, scaling and the files, with what they were made from."""
    data = meta.get("data", {})
    rows = {
        "data set, sensor": f"{data.get('dataset')}, {data.get('sensor')}"
        if data.get("dataset")
        else data.get("sensor"),
        "adapted to": data.get("scene"),
        "bands": f"{bands}, guide {guide}" if bands else None,
        "ratio": data.get("ratio"),
        "values": f"divided by {data['divisor']:g} before the network" if data.get("divisor") else None,
    }
    for file in meta.get("files", []):
        digest = f"sha256 `{file['sha256']}`" if file.get("sha256") else "no sha256: the file is too large"
        rows[f"{file['split']} file"] = f"{file['file']}: {file['samples']} patches, {file['bytes']} bytes, {digest}"
        rows[f"{file['split']} made from"] = file.get("origin")
    return rows


def _training_rows(meta: Facts) -> Facts:
    """Return the settings that decide what is learnt, and what it ran on."""
    train, optimizer, schedule = (_section(meta, name) for name in ("train", "optimizer", "schedule"))
    loss, data, facts = _section(meta, "loss"), _section(meta, "data"), meta.get("facts", {})
    if not train:
        return {}
    batch, world, accumulated = train["batch_size"], facts.get("processes", 1), train["grad_accum_steps"]
    ema = f"decay {train['ema_decay']}{', rising at the start' if train['ema_warmup'] else ''}"
    pretrained = _section(meta, "model").get("pretrained")
    return {
        "loss": _named(loss["name"], loss["args"]),
        "optimizer": _named(optimizer["name"], {"weight decay": optimizer["weight_decay"], **optimizer["args"]}),
        "learning rate": f"peak {optimizer['lr']:g}",
        "schedule": _named(schedule["name"], {key: value for key, value in schedule.items() if key != "name"}),
        "epochs planned": train["epochs"],
        "time budget": f"{train['max_minutes']:g} minutes" if train["max_minutes"] else None,
        "batch per step": f"{batch * world * accumulated} = {batch} x {world} process(es) x {accumulated}",
        "clipping, EMA": f"norm {train['clip_norm']}; {ema if train['ema_decay'] else 'no EMA'}",
        "precision, seed": f"mixed precision {train['mixed_precision']}; {train['seed']}",
        "augmentation, crop": f"probability {data['aug_probs'][0]:g}; {data['crop'] or 'whole patches'}",
        "started from": Path(pretrained).name if pretrained else None,
        "device": facts.get("device"),
        "scan backend": facts.get("scan backend"),
        "project": facts.get("project"),
        "Python, torch": f"{facts['python']}, {facts['torch']}" if "torch" in facts else None,
    }
