"""`lemamba runs`: what a run left in its folder is listed, filtered and compared as it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from tiny_training import make_job

from lemamba.commands import parse, runs
from lemamba.engine.training.checkpoint import open_run
from lemamba.engine.training.fit import fit
from lemamba.engine.training.history import curves, differences, flat, in_use, read_run
from lemamba.engine.weights.files import save_weights
from lemamba.utils import config
from lemamba.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """p/run, trained; q/half, with another rate, of which only the settings and half an epoch of scores are there."""
    root = tmp_path_factory.mktemp("runs")
    job = make_job(root, "--log_every", "2", "--clip_norm", "1")
    config.save(job.config, job.folder / "config.yaml")
    fit(job, Accelerator(cpu=True))
    half = root / "log/q/half"
    settings = config.resolve(config.parse(["--arch", "PNN", "--lr", "5e-3", "--seed", "5", "-e", "3"]).flags)
    facts = {"metrics": {"sam": 3.5}, "training": {"epoch": 1, "step": 7}, "data": {"ratio": 3}}
    save_weights(half / "weights/last.safetensors", {}, facts)
    save_weights(half / "weights/best.safetensors", {}, {"metrics": {"sam": 3.5}})
    config.save(settings, half / "config.yaml")
    return root / "log"


def run(folder: Path, *words: object) -> int:
    return runs.run(parse("runs", ["--log_dir", str(folder), *map(str, words)]))


def test_a_run_is_what_its_files_say(folder):
    one = read_run(folder / "p/run")
    best = json.loads((folder / "p/run/weights/best.json").read_text())
    assert (one.name, one.state, one.scores) == ("p/run", "finished", best["metrics"])
    assert one.settings["optimizer.lr"] == 0.01 and (one.cost["epoch"], one.cost["step"]) == (3, 9)
    assert read_run(folder / "q/half").state == "stopped" and read_run(folder / "p") is None


def test_a_run_in_which_a_process_trains_is_training(folder):
    lock = open_run(folder / "r" / "now")
    try:
        assert in_use(folder / "r/now")
    finally:
        lock.close()
    assert not in_use(folder / "r/now")


def test_the_list_can_be_filtered_sorted_and_written(folder, tmp_path, capsys):
    assert run(folder, "--csv", tmp_path / "list.csv", "--sort", "name") == 0
    rows = list(csv.DictReader((tmp_path / "list.csv").open()))
    assert [row["run"] for row in rows] == ["p/run", "q/half"]
    assert rows[0]["epochs"] == "3/3" and rows[1]["network"] == "PNN" and rows[1]["PSNR"] == ""
    assert "p/run" in capsys.readouterr().out
    for words, names in (
        (["half"], ["q/half"]),
        (["p/*"], ["p/run"]),
        (["--where", "optimizer.lr=5e-3", "train.seed=5"], ["q/half"]),
        (["--where", "data.ratio=3"], ["q/half"]),  # the configuration leaves it to the data
        (["--state", "finished"], ["p/run"]),
        (["--sort", "sam"], sorted(["p/run", "q/half"], key=lambda n: read_run(folder / n).scores["sam"])),
    ):
        run(folder, *words, "--json", tmp_path / "runs.json")
        assert list(json.loads((tmp_path / "runs.json").read_text())["runs"]) == names


def test_comparing_shows_what_differs_and_nothing_that_only_names_a_run(folder, capsys):
    assert run(folder, "--compare") == 0
    shown = capsys.readouterr().out
    assert "optimizer.lr" in shown and "0.005" in shown and "0.01" in shown and "model.arch" in shown
    assert "train.seed" not in shown and "log.run_name" not in shown and "SAM" in shown


def test_differences_are_those_of_the_values():
    settings = {"a": flat({"x": {"y": 1, "z": [1, 2]}}), "b": flat({"x": {"y": 1.0, "z": [1, 3]}, "log": {"dir": "d"}})}
    assert differences(settings) == {"x.z": {"a": [1, 2], "b": [1, 3]}}


def test_curves_are_those_of_the_log_or_of_the_file_of_metrics(folder, tmp_path):
    found = curves(folder / "p/run")
    assert [step for step, _ in found["valid/sam"]] == [3, 6, 9]
    last = json.loads((folder / "p/run/weights/last.json").read_text())["metrics"]["sam"]
    assert found["valid/sam"][-1][1] == pytest.approx(last, abs=1e-5)  # the log has five digits
    assert {"train/total", "train/l1", "loop/lr"} <= set(found) and found["train/total"][-1][0] == 9

    lines = [{"step": 2, "epoch": 0, "time": 1.5, "train/total": 0.5}, {"step": 4, "train/total": 0.4, "note": "x"}]
    lines += [{"step": 2, "train/total": 0.6}]  # repeated after a kill
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 6, "tr')
    assert curves(tmp_path) == {"train/total": [(2, 0.6), (4, 0.4)]}
    assert curves(tmp_path / "nowhere") == {}

    (tmp_path / "old").mkdir()  # a run from before metrics.jsonl
    (tmp_path / "old/train.log").write_text(
        "2026-11-29 10:00:00 training\n  network  PNN\n"
        "2026-11-29 10:00:01 epoch 1/2 step 50 total 0.04429 l1 0.04400 lr 2.00e-03 norm 0.5396 110.6 samples/s\n"
        "2026-11-29 10:00:02 validation after epoch 1: loss 0.05665 sam 13.60715 ergas inf\n"
    )
    assert curves(tmp_path / "old") == {
        **{"train/total": [(50, 0.04429)], "train/l1": [(50, 0.044)], "loop/lr": [(50, 0.002)]},
        **{"loop/grad_norm": [(50, 0.5396)], "valid/loss": [(50, 0.05665)], "valid/sam": [(50, 13.60715)]},
        "valid/ergas": [(50, float("inf"))],
    }


def test_curves_are_drawn(folder, tmp_path, capsys):
    assert run(folder, "--curves", tmp_path / "c.png", "--curve", "total", "valid/sam") == 0
    assert (tmp_path / "c.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "(train/total, valid/sam)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hal"], ""),
        (["q/halff"], 'no run fits .*did you mean "q/half"'),
        (["--where", "optimizer.lrr=1"], 'did you mean "optimizer.lr"'),
        (["--where", "optimizer.lr"], "KEY=VALUE"),
        (["--where", "optimizer.lr=7"], "none of 2 runs"),
        (["--sort", "beauty"], "one of .*sam"),
        (["--curve", "total"], "--curves FILE.png"),
        (["--curve", "valid/qq", "--curves", "x.png"], "no run has a curve valid/qq"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    if not says:
        assert run(folder, *words) == 0
        return
    with pytest.raises(UserError, match=says) as error:
        run(folder, *words)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        run(tmp_path)
    with pytest.raises(UserError, match="does not exist; give --log_dir"):
        run(tmp_path / "nowhere")
