"""Equal budgets: what is asked of the training command, the search for a rate, runs that are taken as they are."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from small_files import write_test_set, write_training_set

from lemamba.commands import board as leaderboard
from lemamba.commands import budget as engine_budget
from lemamba.commands import parse
from lemamba.commands.budget import Budget, train_with
from lemamba.utils.atomic import write_json
from lemamba.utils.errors import UserError


@pytest.fixture
def budget(tmp_path, monkeypatch) -> Budget:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "shared.yaml"
    config.write_text("train: {epochs: 4}\n")
    return Budget("ikonos", str(tmp_path), None, None, 20, (1e-2, 1e-3, 1e-4), str(config), 3407)


@pytest.fixture
def trainings(monkeypatch) -> list[tuple[float | None, float]]:
    """A stand-in for the training command: notes (rate, share); 1e-2 diverges, 1e-3 validates best."""
    done: list[tuple[float | None, float]] = []

    def train(name, budget, run, rate, share):
        done.append((rate, share))
        if rate == 1e-2:
            raise UserError("training ended with status 2: loss not finite")
        return {
            "config": {"optimizer": {"lr": rate}},
            "training": {"step": 20, "minutes": 0.1},
            "metrics": {"ergas": {1e-3: 2.0, 1e-4: 3.0}.get(rate, 9.0) * (1.0 if share < 1 else 0.5)},
        }

    monkeypatch.setattr(engine_budget, "_train", train)
    return done


def test_every_rate_gets_the_same_small_share_and_the_best_the_whole(budget, trainings):
    folder, record = train_with("PNN", budget)
    assert trainings == [(1e-2, 0.1), (1e-3, 0.1), (1e-4, 0.1), (1e-3, 1.0)]
    assert (record["rate"], record["searched"]) == (1e-3, {"0.01": None, "0.001": 2.0, "0.0001": 3.0})
    assert folder == Path("log_file/leaderboard/ikonos_PNN_s3407")


def test_a_divisor_reaches_the_training_and_is_part_of_the_budget(budget, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 2, "", "error: enough")

    monkeypatch.setattr(engine_budget.subprocess, "run", run)
    divided = dataclasses.replace(budget, divisor=1.0, rates=())
    with pytest.raises(UserError, match="enough"):
        train_with("PNN", divided)
    assert commands[0][commands[0].index("--divisor") + 1] == "1"
    assert divided.facts()["divisor"] == 1 and "divisor" not in budget.facts()  # earlier records stay valid


def test_a_finished_run_is_taken_only_if_its_budget_is_the_same(budget, trainings, tmp_path):
    train_with("PNN", budget)
    count = len(trainings)
    assert train_with("PNN", budget)[1]["steps"] == 20 and len(trainings) == count
    train_with("PNN", dataclasses.replace(budget, epochs=21))
    assert len(trainings) == 2 * count
    Path(budget.config).write_text("train: {epochs: 5}\n")  # the same name, other settings
    train_with("PNN", dataclasses.replace(budget, epochs=21))
    assert len(trainings) == 3 * count


def test_no_run_replaces_that_of_another_budget(budget, trainings):
    """Seeds and settings are in the name; what differs otherwise gets a number; the same budget finds its run again."""
    wider = dataclasses.replace(budget, seed=1, settings=("model.args.width=8", "loss.name=mse"))
    folders = [train_with("PNN", one)[0].name for one in (budget, wider, dataclasses.replace(budget, epochs=21), wider)]
    assert folders == ["ikonos_PNN_s3407", "ikonos_PNN_width=8_loss.name=mse_s1", "ikonos_PNN_s3407_2", folders[1]]
    Path("log_file/leaderboard/ikonos_PNN_s3407").rename("log_file/leaderboard/ikonos_PNN")  # as older boards named it
    assert train_with("PNN", budget)[0].name == "ikonos_PNN"


def test_a_search_is_not_repeated_and_a_training_goes_on_from_its_checkpoint(budget, monkeypatch):
    commands = []

    def run(command, **_):
        """The training command: the first rate is the best of the search; it is killed in the whole training."""
        commands.append(command)
        whole = command[command.index("-e") + 1] == "20"
        folder = Path("log_file/leaderboard") / command[command.index("--run_name") + 1]
        if whole and "--resume_path" not in command:
            (folder / "checkpoints/step_00000003").mkdir(parents=True)
            raise KeyboardInterrupt
        rate = float(command[command.index("--lr") + 1])
        facts = {"config": {"optimizer": {"lr": rate}}, "metrics": {"ergas": rate if whole else 1 / rate}}
        for name in ("best", "last"):
            write_json(folder / f"weights/{name}.json", facts | {"training": {"step": 9, "epoch": 20, "minutes": 1}})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(engine_budget.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        train_with("PNN", budget)
    assert len(commands) == 4 and "--overwrite" in commands[3]
    folder, record = train_with("PNN", budget)
    assert len(commands) == 5 and commands[4][commands[4].index("--resume_path") + 1] == str(folder)
    assert record["rate"] == 1e-2 and record["searched"] == {"0.01": 100.0, "0.001": 1000.0, "0.0001": 10000.0}


def test_a_training_that_was_stopped_is_no_reason_for_another_rate(budget, monkeypatch):
    """A scheduler's signal lets the training save and end with status 0, before its budget is used up."""
    done = []

    def run(command, **_):
        done.append(command)
        folder = Path("log_file/leaderboard") / command[command.index("--run_name") + 1]
        write_json(folder / "weights/last.json", {"training": {"epoch": 1, "minutes": 0.1}})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(engine_budget.subprocess, "run", run)
    with pytest.raises(UserError, match="stopped before its end; run the same command again"):
        train_with("PNN", budget)
    assert len(done) == 1
    minutes = dataclasses.replace(budget, epochs=None, minutes=10.0)
    assert minutes.used_up({"minutes": 9.9996}, 1.0) and not minutes.used_up({"minutes": 9.9}, 1.0)
    assert minutes.used_up({"minutes": 1.0}, 0.1) and budget.used_up({"epoch": 2}, 0.1)


@pytest.mark.parametrize("failure", ["diverges", "stalls"])
def test_a_rate_that_fails_later_gives_way_to_the_next_best(budget, monkeypatch, failure):
    """1e-2 looks best after a tenth; over the whole budget it diverges, or stays where the tenth had brought it."""

    def train(name, budget, run, rate, share):
        value = {1e-2: 2.0, 1e-3: 2.5, 1e-4: 3.0}[rate]
        if share == 1.0:
            if rate == 1e-2 and failure == "diverges":
                raise UserError("training ended with status 2: loss not finite")
            value = 1.99 if rate == 1e-2 else 1.0
        steps = {"step": 20, "minutes": 0.1}
        return {"config": {"optimizer": {"lr": rate}}, "training": steps, "metrics": {"ergas": value}}

    monkeypatch.setattr(engine_budget, "_train", train)
    _, record = train_with("PNN", budget)
    assert record["rate"] == 1e-3 and record["validation"] == {"ergas": 1.0}
    (why,) = record["given_up"].values()
    assert ("not finite" if failure == "diverges" else "no progress") in why


def test_a_network_that_no_rate_suits_is_a_failure_with_the_last_reason(budget, trainings):
    with pytest.raises(UserError, match="not finite"):
        train_with("PNN", dataclasses.replace(budget, rates=(1e-2, 1e-2)))


@pytest.mark.parametrize(
    ("minutes", "epochs", "share", "expected"),
    [
        (3.0, None, 0.1, "--max_minutes 0.3 -e 1000000"),
        (None, 20, 0.1, "-e 2"),
        (None, 4, 0.1, "-e 1"),
        (None, 20, 1.0, "-e 20"),
    ],
)
def test_a_share_of_the_budget_as_arguments(budget, minutes, epochs, share, expected):
    given = dataclasses.replace(budget, minutes=minutes, epochs=epochs)
    assert given.arguments(share) == expected.split()


def test_a_board_trains_measures_and_says_how_it_trained(tmp_path, monkeypatch):
    """The real commands: one network of the field, two epochs, then its row on the board."""
    monkeypatch.chdir(tmp_path)
    write_training_set(tmp_path / "train_ikonos.h5", 8, 0)
    write_training_set(tmp_path / "valid_ikonos.h5", 4, 1)
    data = write_test_set(tmp_path / "test_ikonos_multiExm1.h5", count=1)
    line = ["--data", str(data), "--dataset", "ikonos", "--data_root", str(tmp_path), "--methods", "EXP,DiCNN"]
    assert leaderboard.run(parse("board", [*line, "--train_epochs", "2", "--out", str(tmp_path / "board")])) == 0
    report = json.loads((tmp_path / "board/leaderboard.json").read_text())
    assert set(report["scores"]) == {"EXP", "DiCNN"} and not report["failures"]
    assert report["training"]["DiCNN"]["steps"] == 4  # 8 samples in batches of 4, twice
    assert report["weights"]["DiCNN"] == report["sha256"]["weights of DiCNN"]["sha256"]
