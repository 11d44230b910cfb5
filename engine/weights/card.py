"""The model card of a run's weights: ``weights/README.md``, in the form Hugging Face's hub reads.

A YAML header, then a page for readers: files, use, scores, network, data, training, limits, licence. One card serves
the folder: the hub shows one README.md per model, and ``best`` and ``last`` differ in epoch and scores only. It is a
function of what stands in the .json files, without times: equal trainings give equal cards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from lemamba.engine.weights.card_tables import (
    Facts,
    cell,
    channels,
    data_rows,
    network_rows,
    section,
    table,
    training_rows,
)
from lemamba.metrics import INDICES

CARD = "README.md"
_TASKS = {
    "pansharpening": "a multispectral image of {bands} bands and a sharp panchromatic one become one sharp image",
    "hmif": "a hyperspectral image of {bands} bands and a sharp one of {guide} bands become one sharp image",
}
_MEANING = {"best": "the validation with the best {metric}", "last": "where the training stood last"}
_UNITS = {name: f"{name} ({index.unit})" for name, index in INDICES.items() if index.unit}


def folder_card(path: Path, facts: Facts, size: int) -> str:
    """Return the card of a folder in which the weight file `path` is about to be written.

    Args:
        path: a .safetensors file; its neighbours are taken from the folder.
        facts: what its .json will hold.
        size: its bytes.
    """
    files: dict[str, Facts] = {path.name: {**facts, "bytes": size}}
    for other in path.parent.glob("*.safetensors"):
        if other != path:
            found = _neighbour(other)
            if found:
                files[other.name] = found
    return model_card(facts, dict(sorted(files.items())))


def _neighbour(path: Path) -> Facts:
    """Facts of a file that lies there already; {} where they are not what we write: a card must not end a training."""
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        facts = {key: dict(found.get(key, {})) for key in ("metrics", "training", "config")}
        facts["config"] = {key: dict(value) for key, value in facts["config"].items()}
        facts["metrics"] = {key: float(value) for key, value in facts["metrics"].items()}
        return {**facts, "sha256": found["sha256"], "bytes": path.stat().st_size}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def model_card(meta: Facts, files: Mapping[str, Facts]) -> str:
    """Return the card.

    Args:
        meta: what a weight file says of itself: model, data, config, and where known files and facts.
        files: by name of the weight file, the same with "metrics", "training", "bytes" and "sha256".
    """
    name, chosen = _title(meta), next(iter(files))
    parts = [
        f"---\n{_header(meta, files)}---\n\n# {name}",
        _summary(meta),
        _file_table(meta, files),
        "## Use\n\n" + _use(meta, chosen),
        "## Scores on the validation set\n\n" + _scores(files),
        "## Network\n\n" + table(network_rows(meta)),
        "## Data\n\n" + table(data_rows(meta)),
        "## Training\n\n" + table(training_rows(meta)),
        "## Limits\n\n" + _limits(meta),
        "## Licence\n\n" + _licence(meta),
    ]
    return "\n\n".join(parts) + "\n"


def _title(meta: Facts) -> str:
    variant = section(meta, "model").get("variant") if section(meta, "model").get("variants") else None
    trained = meta.get("data", {}).get("dataset")
    name = meta["model"]["name"] + (f" ({variant})" if variant else "")
    return cell(f"{name}, trained on {trained}" if trained else name)


def _header(meta: Facts, files: Mapping[str, Facts]) -> str:
    """Return the YAML that hub tools read; `safe_dump` quotes what needs quotes."""
    task, data = meta.get("facts", {}).get("task"), meta.get("data", {})
    sensor = data.get("sensor")
    tags = ["image-fusion", task, "remote-sensing" if task == "pansharpening" else None, meta["model"]["name"]]
    tags += [sensor if sensor != "none" else None]
    measured = sorted({name for facts in files.values() for name in facts.get("metrics", {})} - {"loss"})
    header = {
        "license": section(meta, "log").get("license"),
        "library_name": "pytorch",
        "pipeline_tag": "image-to-image",
        "tags": [tag for tag in tags if tag],
        "datasets": [data["dataset"]] if data.get("dataset") else None,
        "metrics": measured,
    }
    return yaml.safe_dump({key: value for key, value in header.items() if value}, sort_keys=False, allow_unicode=True)


def _summary(meta: Facts) -> str:
    task, (bands, guide) = meta.get("facts", {}).get("task"), channels(meta)
    told = _TASKS.get(task, "two images of one ground become one").format(bands=bands, guide=guide)
    data = meta.get("data", {})
    sensor = f", sensor {data['sensor']}" if data.get("sensor") else ""
    return f"Image fusion ({task or 'task not named'}): {told}. Resolution ratio {data.get('ratio')}{sensor}."


def _file_table(meta: Facts, files: Mapping[str, Facts]) -> str:
    lines = ["| file | what | epochs | steps | bytes | sha256 |", "|---|---|---:|---:|---:|---|"]
    for name, facts in files.items():
        done = facts.get("training", {})
        what = _MEANING.get(Path(name).stem, "").format(metric=section(facts, "train").get("best_metric"))
        numbers = f"{done.get('epoch', '')} | {done.get('step', '')} | {facts['bytes']} | `{cell(facts['sha256'])}`"
        lines.append(f"| `{cell(name)}` | {cell(what)} | {numbers} |")
    ema = "averaged over the steps (EMA)" if section(meta, "train").get("ema_decay") else "as the last step left them"
    lines += ["", f"Weights are {ema}, float32. The `.json` beside each file holds every setting and the sha256 that"]
    lines += ["reading checks; the file's own header repeats the settings, so that it can be used alone."]
    lines += [f"\n{note}" for note in _other_settings(meta, files)]
    return "\n".join(lines)


def _other_settings(meta: Facts, files: Mapping[str, Facts]) -> list[str]:
    """Say which files were made before the run was resumed with other settings than this page shows."""
    shown = {**meta.get("config", {}), "log": None}
    others = [name for name, facts in files.items() if {**facts.get("config", {}), "log": None} != shown]
    return [f"`{name}` was written under other settings than those below; its `.json` has them." for name in others]


def _use(meta: Facts, name: str) -> str:
    """Commands that run as printed, from the project's folder; a test runs them."""
    (bands, guide), data, given = channels(meta), meta.get("data", {}), section(meta, "data")
    ratio, weights = data.get("ratio", 4), f'--weights "$WEIGHTS/{name}"'
    chosen = "".join(f" --{key} {given[key]}" for key in ("sensor", "divisor") if given.get(key))
    commands = f'python inference.py {weights} --dataset {data.get("dataset")}{chosen} --data_root "$DATA"'
    if meta.get("facts", {}).get("task") == "pansharpening":
        commands += f'\npython inference.py {weights}{chosen} --ms "$MS" --pan "$PAN" --out fused.tif'
    return f"""In the project's folder, with `WEIGHTS` set to the folder of this page, `DATA` to that of the H5 files,
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
ms = torch.rand(1, {bands}, 16, 16)  # numbers of the sensor divided by {data.get("divisor", 1):g}
lms = torch.nn.functional.interpolate(ms, scale_factor={ratio}, mode="bicubic")  # operators.interp23 in training
pan = torch.rand(1, {guide}, {16 * ratio}, {16 * ratio})
sr = network(ms, lms, pan).clamp(0, 1)  # (1, {bands}, {16 * ratio}, {16 * ratio})
```"""


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
            lines.append(f"| `{cell(name)}` | {' | '.join(numbers)} |")
        lines += ["", "Means over the set, which chose the best weights: no substitute for a test set."]
    return "\n".join([*lines, *missing])


def _limits(meta: Facts) -> str:
    data, (bands, guide) = meta.get("data", {}), channels(meta)
    sensor, ratio = data.get("sensor"), data.get("ratio")
    return f"""Trained for sensor {sensor}, {bands} bands with a guide of {guide}, at ratio {ratio}.
How good it is on other sensors, ratios, seasons and grounds, at full resolution, or on numbers scaled otherwise, is not
known: measure it there first. Fine detail is inferred from the guide and may be wrong."""


def _licence(meta: Facts) -> str:
    chosen = section(meta, "log").get("license")
    return chosen if chosen else "No licence was chosen for these weights; ask their author before using them."
