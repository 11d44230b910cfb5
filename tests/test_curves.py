"""metrics.jsonl and metrics.csv, TensorBoard's hyperparameters, other trackers, and a log that is never silent."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import tiny_training
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from small_files import write_training_set
from tiny_training import make_job

from lemamba.commands import train as accelerate_main
from lemamba.engine.training import logger
from lemamba.engine.training.curves import Curves, read_curves
from lemamba.engine.training.logger import Logger
from lemamba.utils import config
from lemamba.utils.errors import UserError

STEPS_PER_EPOCH = 3


def train(folder, *flags, stop_after=None, resume=False):
    job = make_job(folder, *flags, resume=resume)
    tiny_training.train(job, Accelerator(cpu=True), stop_after)
    return job.folder


def without_time(rows: list[dict], group: str) -> list[dict]:
    """The rows that hold values of a group, without what depends on the clock."""
    kept = [row for row in rows if any(name.startswith(f"{group}/") for name in row)]
    return [{k: v for k, v in row.items() if k not in ("time", "loop/samples_per_second")} for row in kept]


def test_the_curves_say_what_the_log_says(tmp_path):
    folder = train(tmp_path, "--log_every", "1")
    rows, log = read_curves(folder), (folder / "train.log").read_text()
    losses = re.findall(r"step (\d+) total ([\d.]+) .* norm ([\d.]+)", log)
    assert len(losses) == 9
    trained = [row for row in rows if "train/total" in row]
    assert [(str(r["step"]), f"{r['train/total']:.5f}", f"{r['loop/grad_norm']:.4f}") for r in trained] == losses
    valid = re.findall(r"validation after epoch (\d+): loss ([\d.]+) sam ([\d.]+)", log)
    found = [(f"{r['epoch']:g}", f"{r['valid/loss']:.5f}", f"{r['valid/sam']:.5f}") for r in rows if "valid/sam" in r]
    assert found == valid and len(valid) == 3
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row, cells in zip(rows, table, strict=True):
        assert {name: float(cell) for name, cell in cells.items() if cell} == pytest.approx(row)


def test_a_resumed_run_continues_its_curves_without_a_double(tmp_path):
    """Stopped once by a signal; then lines are added as a killed session leaves them, the last one cut short."""
    whole = train(tmp_path / "whole", "--log_every", "1")
    folder = train(tmp_path / "parts", "--log_every", "1", stop_after=4)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "epoch": 1.6, "time": 1.0, "train/total": 7.0}\n{"step": 6, "epo')
    train(tmp_path / "parts", "--log_every", "1", resume=True)
    one, two = read_curves(whole), read_curves(folder)
    for group in ("train", "valid"):
        assert without_time(two, group) == without_time(one, group)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(two) == len((folder / "metrics.csv").read_text().splitlines()) - 1


def test_a_value_that_is_not_finite_is_null_and_a_new_run_starts_anew(tmp_path):
    curves = Curves(tmp_path, 0)
    curves.add({"train/total": float("nan")}, step=1, epoch=0.5, seconds=1)
    curves.add({"valid/psnr": float("inf"), "valid/sam": 2.0}, step=1, epoch=0.5, seconds=1)
    lines = [json.loads(line, parse_constant=None) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("train/total", 0) for line in lines] == [None, 0] and lines[1]["valid/psnr"] is None
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "step,epoch,time,train/total,valid/psnr,valid/sam"
    Curves(tmp_path, 0)
    assert read_curves(tmp_path) == [] and (tmp_path / "metrics.csv").read_text() == "step,epoch,time\n"


def test_a_disk_that_refuses_lines_does_not_end_the_training(tmp_path):
    curves = Curves(tmp_path, 0)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    curves.add({"a": 1.0}, step=1, epoch=0, seconds=0)
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "ep')  # what the full disk took
    curves.add({"a": 2.0}, step=2, epoch=0, seconds=0)
    assert [row["a"] for row in read_curves(tmp_path)] == [2.0]


def test_a_slow_run_logs_between_the_lines_that_were_asked_for(tmp_path, monkeypatch):
    """With no patience at all there is a line for every step, every batch of a step and every batch of a validation."""
    quiet = train(tmp_path / "quiet", "--set", "log.log_every=1000", "-e", "1")
    monkeypatch.setattr(logger, "LINE_EVERY", 0.0)
    folder = train(tmp_path / "slow", "--set", "log.log_every=1000", "-e", "1")
    log = (folder / "train.log").read_text()
    assert re.findall(r"step (\d+) total", log) == ["1", "2", "3"]
    assert re.findall(r"epoch 1/1 step (\d), batch (\d) of (\d)\n", log) == [
        *(("1", "1", "2"), ("1", "2", "2"), ("2", "1", "2"), ("2", "2", "2"), ("3", "1", "1")),
    ]
    assert "validating, 1 of 2 batches" in log
    log = (quiet / "train.log").read_text()
    assert re.findall(r"step (\d+) total", log) == ["3"] and "batch 1 of" not in log and "validating" not in log


def test_the_view_moves_with_every_batch(tmp_path, monkeypatch):
    positions = []
    monkeypatch.setattr(Logger, "has_view", True)
    monkeypatch.setattr(Logger, "move", lambda self, share, trained, doing="": positions.append(share))
    train(tmp_path, "-e", "1", "--set", "log.log_every=1000")
    assert positions[:5] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])  # five batches, of steps of 2, 2 and 1


def test_a_tracker_that_fails_is_named_and_dropped(tmp_path):
    class Tracker:
        name = "cloud"
        seen: list = []

        def log(self, values, step=None):
            self.seen.append((step, values))
            if step == 2:
                raise ConnectionError("gone")

    log = Logger(tmp_path, None, main=True, step=0, shown=False, trackers=[Tracker()])
    for step in (1, 2, 3):
        log.values({"train/total": 0.5}, step=step, epoch=0.1, seconds=1.0)
    log.close()
    assert [step for step, _ in Tracker.seen] == [1, 2]
    assert Tracker.seen[0][1] == {"train/total": 0.5, "epoch": 0.1}
    assert "cloud failed (gone)" in (tmp_path / "train.log").read_text()
    assert [row["step"] for row in read_curves(tmp_path)] == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------- whole command


@pytest.fixture
def run(tmp_path, monkeypatch):
    write_training_set(tmp_path / "train_ikonos.h5", 8, 0)
    write_training_set(tmp_path / "valid_ikonos.h5", 2, 1)
    monkeypatch.chdir(tmp_path)
    line = "--arch PNN --dataset ikonos --data_root . -e 2 -b 4 --lr 1e-4 --optimizer adam --run_name r "

    def train(more: str) -> Path:
        accelerate_main.run(config.parse(shlex.split(line + more)))
        AcceleratorState._reset_state(reset_partial_state=True)
        return tmp_path / "log_file/LE-Mamba/r"

    return train


def test_tensorboard_has_the_settings_with_the_final_scores_and_the_log_their_sources(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder = run("--log_with tensorboard --set model.args.widths=[8,8]")
    events = EventAccumulator(str(tmp_path / "runs/LE-Mamba/r")).Reload()
    content = events.summary_metadata
    start = HParamsPluginData.FromString(
        content["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info.hparams
    assert start["train.epochs"].number_value == 2 and start["model.arch"].string_value == "PNN"
    assert start["network.img_channel"].number_value == 4 and start["optimizer.lr"].number_value == 1e-4
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"].plugin_data.content).experiment
    named = {info.name.tag for info in experiment.metric_infos}
    assert named == {"valid/loss", "valid/sam", "valid/ergas", "valid/psnr"}
    last = [row for row in read_curves(folder) if "valid/psnr" in row][-1]
    for tag in named:
        assert events.Scalars(tag)[-1].value == pytest.approx(last[tag], rel=1e-6)
    by_source: dict[str, str] = {}
    heading = ""
    for line in (folder / "train.log").read_text().splitlines():
        if match := re.match(r"  (set by \S.*?|by default|)  +(.*)", line):
            heading = match[1] or heading
            by_source[heading] = by_source.get(heading, "") + " " + match[2]
    assert "train.epochs 2" in by_source["set by the command line"]
    assert "network.widths [8, 8]" in by_source["set by the command line"]
    assert "loss.name mse" in by_source["set by configs/PNN_config.yaml"]
    assert "train.seed 3407" in by_source["by default"]
    assert "network.img_channel 4" in by_source["set by the data"]


def test_mlflow_without_a_server_gets_settings_and_curves_and_a_resumed_run_is_the_same_run(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(None)
    folder = run("--log_with mlflow")
    run("--resume_path latest -e 3")
    (experiment,) = [e for e in mlflow.search_experiments() if e.name == "LE-Mamba"]
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "r" and found.data.params["model.arch"] == "PNN"
    history = client.get_metric_history(found.info.run_id, "train/total")
    expected = [(row["step"], row["train/total"]) for row in read_curves(folder) if "train/total" in row]
    assert [(m.step, pytest.approx(m.value)) for m in history] == expected and len(expected) == 3


def test_wandb_offline_writes_into_the_run_s_folder(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run("--log_with wandb")
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"train/total" in content and b"model.arch" in content


def test_trackio_keeps_the_curves_on_this_machine(run, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run("--log_with trackio")
    assert list((tmp_path / "trackio").glob("LE-Mamba*.db"))


def test_a_tracker_that_is_unknown_or_not_installed_is_one_line_and_nothing_is_written(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r'expected some of .*, given "wandbb" \(did you mean "wandb"'):
        run("--log_with wandbb")
    monkeypatch.setattr(accelerate_main.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package wandb: pip install wandb"):
        run("--log_with tensorboard,wandb")
    assert not (tmp_path / "log_file").exists()
