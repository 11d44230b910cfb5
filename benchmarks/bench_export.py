"""What `lemamba export` makes of every learned network: `python -m benchmarks.bench_export [NETWORK …]`.

Drawn weights, 4 bands and a PAN (a guide of 3 bands where the network takes no PAN), ratio 4, ms of 16 x 16 where sizes
are fixed; LE-Mamba as published, with 8 bands. Each network in a process of its own, with one thread: its processor
time and peak memory are those of the export, and an export that never ends is ended after ``--seconds`` of processor
time. Rows go to benchmarks/results/export_cpu.json, one after the other, and from there into docs/deployment.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bench_no_training_data import write_table
from lemamba.utils.atomic import read_json, write_json
from lemamba.utils.command_line import Parser
from lemamba.utils.progress import track
from lemamba.utils.startup import run_cli

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks/results/export_cpu.json", ROOT / "docs/deployment.md"
VARIANTS = ("tiny", "base")  # of LE-Mamba, as "LEMamba tiny"


def networks() -> list[str]:
    """Return what can be exported: learned networks that need weights and do not train on each image."""
    from lemamba.commands.adapting import STEPS
    from lemamba.model import list_models, model_entry

    found = []
    for name in list_models(family="learned"):
        traits = model_entry(name).traits
        if name not in STEPS and traits.needs_weights and not traits.any_size:
            found += [f"{name} {variant}" for variant in VARIANTS] if name == "LEMamba" else [name]
    return found


def measure(label: str, *, fixed: bool) -> dict[str, Any]:
    """Export one network in this process and return its row."""
    import torch
    import yaml

    from lemamba.engine.weights.onnx_file import Sizes, export
    from lemamba.model import build_model, model_entry
    from lemamba.model.ops.portable import portable
    from lemamba.utils.errors import UserError

    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, _, variant = label.partition(" ")
    bands, guide = (8 if variant else 4), (1 if "pansharpening" in model_entry(name).tasks else 3)
    more: dict[str, Any] = {}
    if variant:
        more = yaml.safe_load((ROOT / "configs/LEMamba_config.yaml").read_text())["model"]["variants"][variant]
    network = build_model(name, img_channel=bands, condition_channel=guide, out_channel=bands, ratio=4, **more).eval()
    started = time.process_time()
    try:
        file = export(network, Sizes(bands, guide, 4, 16), {}, fixed=fixed, recording=portable)
        row = {key: value for key, value in asdict(file).items() if key != "content"}
        row["mb"] = round(len(file.content) / 1e6, 2)
    except UserError as error:
        row = {"failed": str(error)}
    row["seconds"] = round(time.process_time() - started)
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    return row


def apart(label: str, seconds: int, *, fixed: bool) -> dict[str, Any]:
    """Return the row of a network, measured in a process that is ended after `seconds` of processor time."""
    words = [sys.executable, "-m", "benchmarks.bench_export", label, "--here", *(["--fixed"] if fixed else [])]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit, check=False, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    if lines:
        return json.loads(lines[-1])
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"failed": last if done.returncode > 0 else f"not done after {seconds} s", "seconds": seconds}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| network | batch | ms | file, MB | nodes | difference | export, s |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: item[0].lower()):
        if "failed" in row:
            lines.append(f"| {name} | | {row['failed']} | | | | {row['seconds']} |")
            continue
        sizes = f"from {row['smallest']} x {row['smallest']}" if row["smallest"] else "16 x 16 only"
        batch = "any" if row["batch"] else "1"
        cells = [name, batch, sizes, f"{row['mb']:.2f}", row["nodes"], f"{row['difference']:.1e}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['seconds'] or ''} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, save, and write the page."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="default: all that have no row yet")
    parser.add_argument("--seconds", type=int, default=900, help="processor time of one export (default %(default)s)")
    parser.add_argument("--fixed", action="store_true", help="do not try free sizes")
    parser.add_argument("--here", action="store_true", help="measure in this process and print the row")
    parser.add_argument("--table", action="store_true", help="write the page from the rows, measure nothing")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.networks[0], fixed=options.fixed)))
        return
    rows: dict[str, dict[str, Any]] = read_json(RESULTS) or {}
    todo = options.networks or [name for name in networks() if name not in rows]
    for name in [] if options.table else track(todo, "exporting"):
        rows[name] = apart(name, options.seconds, fixed=options.fixed)
        write_json(RESULTS, rows)
        print(f"{name}: {rows[name]}", flush=True)
    write_table(PAGE, table(rows))


if __name__ == "__main__":
    run_cli(main)
