"""Boards of many runs: labels, seeds, a grid of settings, tests over images, and what an interrupted board keeps."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from scipy.stats import wilcoxon
from small_files import write_test_set

from lemamba.commands import board as leaderboard
from lemamba.commands import budget, parse, prepare, train
from lemamba.commands.options import BoardOptions
from lemamba.commands.rows import given_weights, grid_points, split_values
from lemamba.engine.weights.files import save_weights
from lemamba.model import list_models
from lemamba.reporting.board import describe_tests, merge_seeds, paired_tests
from lemamba.reporting.tables import to_csv, to_latex, to_markdown
from lemamba.utils.command_line import parse_options
from lemamba.utils.config import Config, to_dict
from lemamba.utils.errors import UserError

GRID = ["--grid", "loss.name=l1,mse,charbonnier"]
SHARED = """
data: {crop: 16}
optimizer: {name: adamw, lr: 2.0e-3}
schedule: {name: constant}
train: {batch_size: 25, grad_accum_steps: 1, ema_decay: null, val_n_epoch: 0, checkpoint_every_n: 0, clip_norm: 1}
"""


def here(command, **_):
    """Run the training command that a board starts in this process: its start-up costs more than such a training."""
    try:
        status = train.run(parse("train", command[command.index("--arch") :]))
        return subprocess.CompletedProcess(command, status, "", "")
    except UserError as error:
        return subprocess.CompletedProcess(command, 2, "", f"error: {error}")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """One command on the synthetic set: three settings x three seeds of one network, next to the classical methods."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.run(
            parse("prepare", ["synthetic", "--out", "data", "--size", "128", "--name", "tiny", "--sensor", "QB"])
        )
        (folder / "shared.yaml").write_text(SHARED)
        patch.setattr(budget, "subprocess", SimpleNamespace(run=here))
        patch.setattr(leaderboard, "run_isolated", leaderboard.run_job)  # tests/test_leaderboard.py has the processes
        line = ["--dataset", "tiny", "--data_root", "data", "--methods", "classical,DiCNN", *GRID, "--seeds", "1,2,3"]
        line += ["--train_epochs", "1", "--train_config", "shared.yaml", "--out", "board", "--strict"]
        assert leaderboard.run(parse("board", line)) == 0
    return folder, line, json.loads((folder / "board/leaderboard.json").read_text())


def test_three_runs_of_three_seeds_stand_next_to_the_classical_methods(board):
    folder, _, report = board
    runs = {f"DiCNN loss.name={loss}" for loss in ("l1", "mse", "charbonnier")}
    classical = {name for name in list_models("pansharpening", "classical") if name in report["scores"]}
    assert set(report["scores"]) == runs | classical and len(classical) > 10 and not report["failures"]
    assert {label: report["seeds"][label] for label in runs} == dict.fromkeys(runs, [1, 2, 3])
    assert len(list((folder / "log_file/leaderboard").glob("tiny_DiCNN_loss.name=*_s[123]/weights"))) == 9
    assert len(set(report["weights"].values())) == len(report["weights"]) == 9
    assert all((folder / "board" / name).is_file() for name in leaderboard.FILES)


def test_both_deviations_are_those_of_what_they_are_named_after(board):
    folder, _, report = board
    row = report["scores"]["DiCNN loss.name=mse"]["psnr"]
    assert len(row["per_seed"]) == 3 and len(row["per_sample"]) == 4
    assert row["mean"] == pytest.approx(statistics.mean(row["per_seed"]))
    assert row["std_seeds"] == pytest.approx(statistics.stdev(row["per_seed"])) and row["std_seeds"] > 0
    assert row["std"] == pytest.approx(statistics.stdev(row["per_sample"]))
    assert "std_seeds" not in report["scores"]["EXP"]["psnr"]
    page, latex = ((folder / f"board/leaderboard.{kind}").read_text() for kind in ("md", "tex"))
    assert "standard deviation over 4 images, second ±: over 3 seeds" in page and r"$\pm$: over 3 seeds" in latex
    with (folder / "board/leaderboard.csv").open() as file:
        rows = {line["method"]: line for line in csv.DictReader(file)}
    assert (
        float(rows["DiCNN loss.name=mse"]["psnr_std_seeds"]) == row["std_seeds"] and rows["EXP"]["psnr_std_seeds"] == ""
    )


def test_the_tests_are_scipys_on_the_scores_of_the_images(board):
    _, _, report = board
    tests = report["tests"]["indices"]["ergas"]
    reference = report["tests"]["against"]
    assert reference == next(iter(report["scores"])) and tests["images"] == 4
    for label, found in tests["methods"].items():
        one, other = (report["scores"][name]["ergas"]["per_sample"] for name in (label, reference))
        assert found["p"] == pytest.approx(wilcoxon(one, other).pvalue)
        assert found["p_holm"] >= found["p"]
    assert "no difference can count as one" in (board[0] / "board/leaderboard.md").read_text()  # of four images
    assert set(report["ranks"]["mean"]) == set(report["scores"]) and report["ranks"]["images"] == 4


def test_a_second_call_trains_nothing_and_says_that_it_replaces_the_board(board, monkeypatch, capsys):
    folder, line, report = board
    monkeypatch.chdir(folder)
    monkeypatch.setattr(budget, "subprocess", None)  # trained again, it would fail
    rows = {label: {i: v["per_sample"] for i, v in row.items()} for label, row in report["scores"].items()}

    def measured(job):  # the measuring itself is not in question
        values = rows[job["member"].label]
        scores = {index: (statistics.mean(v), statistics.stdev(v)) for index, v in values.items()}
        return {"scores": scores, "per_sample": values, "cost": {"parameters": 1}, "notes": []}

    monkeypatch.setattr(leaderboard, "run_isolated", measured)
    monkeypatch.setattr(leaderboard, "draw_board", lambda *_: None)
    assert leaderboard.run(parse("board", [*line, "--against", "EXP"])) == 0
    assert "note: replaces the board in board, made by:" in capsys.readouterr().out
    again = json.loads((folder / "board/leaderboard.json").read_text())
    assert again["tests"]["against"] == "EXP" and again["seeds"] == report["seeds"]


def write_run(folder: Path, seed: int | None, lr: float = 1e-3, name: str = "PNN") -> str:
    """A run's best weights, as far as a board looks at them before it measures."""
    meta = {"model": {"name": name, "args": {}}}
    config = to_dict(Config())
    config["train"]["seed"], config["optimizer"]["lr"] = seed, lr
    save_weights(folder / "weights/best.safetensors", {}, meta | ({"config": config} if seed is not None else {}))
    return str(folder)


def test_any_number_of_runs_of_one_network_stand_on_one_board(tmp_path, capsys):
    """Each under its own label; under one label they are seeds, and other differences between them are reported."""
    a, b, c = (
        write_run(tmp_path / name, seed, lr) for name, seed, lr in (("a", 1, 1e-3), ("b", 2, 1e-3), ("c", 3, 5e-4))
    )
    members = given_weights([f"first={a}", f"second run={b}", f"pnn={a}"])
    assert [(m.title, m.name, m.weights) for m in members] == [
        ("first", None, a),
        ("second run", None, b),
        ("PNN", "PNN", a),
    ]
    members = given_weights([f"mine={a}", f"mine={b}"])
    assert [(m.label, m.title) for m in members] == [("mine", "mine, seed 1"), ("mine", "mine, seed 2")]
    assert capsys.readouterr().out == ""
    given_weights([f"mine={a}", f"mine={c}"])
    assert "more than the seed: optimizer.lr" in capsys.readouterr().out
    assert given_weights([f"Z-PNN tuned={a}"])[0].name == "Z-PNN"


def test_runs_that_are_no_seeds_of_one_label_are_refused(tmp_path):
    a, same, unknown = write_run(tmp_path / "a", 1), write_run(tmp_path / "b", 1), write_run(tmp_path / "c", None)
    with pytest.raises(UserError, match="both have seed 1: give them different labels"):
        given_weights([f"mine={a}", f"mine={same}"])
    with pytest.raises(UserError, match="does not name its seed"):
        given_weights([f"mine={a}", f"mine={unknown}"])
    nameless = tmp_path / "old.pth"
    nameless.touch()
    with pytest.raises(UserError, match=r'does not name its network \(did you mean "PNN"\?\); start the label'):
        given_weights([f"PNNN={nameless}"])
    assert [given_weights([f"{label}={nameless}"])[0].name for label in ("PNN old", "pnn, old")] == ["PNN", "PNN"]


def test_the_grid_is_every_combination():
    assert grid_points([]) == [()]
    points = grid_points(["state_grad=detached,full", "share_local_state=false,true"])
    assert len(points) == 4 and points[1] == (("state_grad", "detached"), ("share_local_state", "true"))
    assert split_values("[8,8],{a: [1,2]},none") == ["[8,8]", "{a: [1,2]}", "none"]


LINE = ["--methods", "LEMamba", "--train_epochs", "1"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([*LINE, "--grid", "state_grad=detached,ful"], "state_grad"),
        ([*LINE, "--grid", "stategrad=detached"], r'no argument stategrad \(did you mean "state_grad"\?\)'),
        ([*LINE, "--grid", "optimizer.lrr=1"], r'optimizer.lrr.*did you mean "lr"'),
        ([*LINE, "--grid", "state_grad="], "KEY=V,V"),
        ([*LINE, "--grid", "width=8,8"], "different values"),
        ([*LINE, "--grid", "width=8", "width=16"], "given twice"),
        ([*LINE, "--grid", "train.seed=1,2"], "use --seeds"),
        ([*LINE, "--grid", "data.crop=16"], "other data"),
        ([*LINE, "--seeds", "1,1"], "different whole numbers"),
        ([*LINE, "--against", "LEMambo"], 'did you mean "LEMamba"'),
        (["--methods", "EXP", "--seeds", "1,2"], "for networks that the board trains"),
        (["--methods", "EXP,PNN", "--grid", "width=8"], "for networks that the board trains"),
        ([*LINE, "--rates", "1e-3,2e-3", "--grid", "optimizer.lr=1,2"], "--rates"),
    ],
)
def test_bad_input_is_one_line_before_any_training(tmp_path, monkeypatch, extra, words):
    monkeypatch.setattr(leaderboard, "run_all", lambda *_: pytest.fail("the work has begun"))
    data = write_test_set(tmp_path / "test.h5", count=1)
    with pytest.raises(UserError, match=words) as error:
        leaderboard.run(
            parse("board", ["--data", str(data), "--dataset", "ikonos", "--out", str(tmp_path / "b"), *extra])
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("extra", "status"), [([], 0), (["--strict"], 1)])
def test_strict_counts_what_failed_or_was_left_out(tmp_path, monkeypatch, extra, status):
    row = {"scores": {"qn": (0.5, 0.1)}, "per_sample": {"qn": [0.4, 0.6]}, "notes": [], "cost": {}, "seed": None}
    monkeypatch.setattr(leaderboard, "run_all", lambda *_: ({"EXP": row}, {}))
    monkeypatch.setattr(leaderboard, "draw_board", lambda *_: None)
    data = write_test_set(tmp_path / "test.h5", count=1)
    line = ["--data", str(data), "--dataset", "ikonos", "--methods", "EXP,PNN", "--out", str(tmp_path / "b"), *extra]
    assert leaderboard.run(parse("board", line)) == status  # PNN has no weights


def test_a_failing_seed_leaves_the_row_to_the_others(tmp_path, monkeypatch):
    """The number of seeds is that of those that were measured, and the failure is named."""
    monkeypatch.chdir(tmp_path)
    data = write_test_set(tmp_path / "test.h5", count=1)
    line = ["--data", str(data), "--dataset", "ikonos", "--methods", "PNN", "--train_epochs", "1", "--seeds", "1,2,3"]
    options = parse_options(BoardOptions, [*line, "--out", "b"])
    jobs, files, _ = leaderboard.plan(options)

    def trained(name, own):
        if own.seed == 2:
            raise UserError("diverged")
        return Path(write_run(tmp_path / str(own.seed), own.seed)), dict.fromkeys(leaderboard.TRAINING, 0)

    monkeypatch.setattr(leaderboard, "train_with", trained)
    monkeypatch.setattr(leaderboard, "shared_budget", lambda _: budget.Budget("d", None, None, None, 1, (), "", 0))
    score = {"1": 2.0, "3": 4.0}
    monkeypatch.setattr(
        leaderboard,
        "run_isolated",
        lambda job: {
            "scores": {"qn": (score[Path(job["weights"]).name], 0.0)},
            "per_sample": {"qn": [score[Path(job["weights"]).name]]},
            "cost": {"s_per_mpx": score[Path(job["weights"]).name]},
            "notes": [],
        },
    )
    results, failures = leaderboard.run_all(jobs, options, files)
    assert failures == {"PNN, seed 2": "diverged"} and results["PNN"]["seeds"] == [1, 3]
    assert (
        results["PNN"]["scores"]["qn"] == (3.0, 0.0, pytest.approx(2**0.5)) and results["PNN"]["cost"]["s_per_mpx"] == 3
    )
    assert set(files) == {"data", "weights of PNN, seed 1", "weights of PNN, seed 3"}


def test_a_single_run_is_not_averaged():
    result = {"scores": {"qn": (0.5, 0.1)}, "seed": 7}
    assert merge_seeds({"PNN": result}) == {"scores": {"qn": (0.5, 0.1)}, "seeds": [7]}
    assert merge_seeds({"EXP": {"scores": {}, "seed": None}}) == {"scores": {}}


def test_tables_print_both_deviations_and_any_label():
    table = {"a_b & 50% #1 | x": {"psnr": (30.0, 2.0, 0.25)}, "EXP": {"psnr": (28.0, 1.5)}}
    assert r"| a_b & 50% #1 \| x | **30.00 ± 2.00 ± 0.25** |" in to_markdown(table)
    assert r"a\_b \& 50\% \#1 | x & \textbf{30.00$\pm$2.00$\pm$0.25} \\" in to_latex(table)
    rows = list(csv.reader(to_csv(table).splitlines()))
    assert rows[0] == ["method", "psnr", "psnr_std", "psnr_std_seeds"] and rows[2] == ["EXP", "28.0", "1.5", ""]


def test_a_method_is_called_worse_only_where_the_corrected_p_is_small():
    """Twelve images: one method loses on all of them, one differs by nothing but noise, one lacks an index."""
    noise = np.random.default_rng(0).normal(size=(2, 12))
    rows = {"best": noise[0] + 9, "twin": noise[0] + 9 + 1e-3 * noise[1], "worse": 0.9 * noise[0] + 7}
    results = {name: {"per_sample": {"ergas": (-row).tolist(), "psnr": row.tolist()}} for name, row in rows.items()}
    results["best"]["per_sample"]["psnr"][3] = float("inf")
    tests = paired_tests(results, ["ergas", "psnr"], "best")
    assert (tests["indices"]["ergas"]["images"], tests["indices"]["psnr"]["images"]) == (12, 11)
    assert tests["indices"]["ergas"]["methods"]["worse"]["p_holm"] == pytest.approx(2 * 2 / 2**12)  # two methods
    table, line = describe_tests(tests, list(rows))
    assert table["worse"]["ERGAS"].endswith(" worse") and table["worse"]["PSNR"].endswith(" worse")
    assert (
        float(table["twin"]["ERGAS"]) > 0.05
        and "best" not in table
        and "12 images (PSNR 11), two-sided, corrected by Holm for 2 other rows" in line
    )
    assert describe_tests(paired_tests(results, ["psnr"], "worse"), list(rows))[0]["best"]["PSNR"].endswith(" better")
