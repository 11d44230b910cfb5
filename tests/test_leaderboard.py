"""The leaderboard: every method measured alone, one that breaks does not stop the others."""

from __future__ import annotations

import csv
import json
import re
import sys

import h5py
import pytest
from small_files import write_test_set

from lemamba.commands import board as leaderboard
from lemamba.commands import parse
from lemamba.commands.options import BoardOptions
from lemamba.commands.rows import chosen_methods, not_for_guides
from lemamba.utils.command_line import parse_options
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts

NEW_METHOD = """
from torch import nn
from lemamba.utils.registry import register_model

@register_model("{name}", tasks=("pansharpening",), ratios=(4,), family="classical")
class Method(nn.Module):
    def __init__(self, img_channel, condition_channel, out_channel, *, ratio=4, sensor="none"):
        super().__init__()

    def forward(self, ms, lms, pan):
        {body}
"""


@pytest.fixture
def new_methods(tmp_path, monkeypatch):
    """Two methods in files of their own, outside the project: one adds the guide's detail, one breaks."""
    folder = tmp_path / "methods"
    folder.mkdir()
    for name, body in (("Mine", "return lms + 0.1 * (pan - pan.mean())"), ("Broken", "raise ValueError('no luck')")):
        (folder / f"{name.lower()}.py").write_text(NEW_METHOD.format(name=name, body=body))
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(folder))


def test_board_reports_scores_cost_pictures_and_failures(tmp_path, new_methods, monkeypatch, capsys):
    script = tmp_path / "script.py"  # a user's, which calls `lemamba.run` outside of a main guard
    script.write_text("raise SystemExit('a process of the board ran the script again')")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    data, full = write_test_set(tmp_path / "test.h5"), write_test_set(tmp_path / "full.h5", with_gt=False)
    out = tmp_path / "board"
    arguments = ["--data", str(data), "--full", str(full), "--dataset", "ikonos", "--out", str(out)]
    assert leaderboard.run(parse("board", [*arguments, "--methods", "EXP,mine,broken", "--sort", "psnr"])) == 0

    report = json.loads((out / "leaderboard.json").read_text())
    assert set(report["scores"]) == set(report["cost"]) == {"EXP", "Mine"}
    assert (report["file"], report["sensor"], report["divisor"], report["weights"]) == ("test.h5", "IKONOS", 2047, {})
    assert "no luck" in report["failures"]["Broken"] and "no luck" in capsys.readouterr().err
    assert len(report["sha256"]["data"]["sha256"]) == 64 and report["seed"] == 3407
    exp, cost = report["scores"]["EXP"], report["cost"]["EXP"]
    assert exp["psnr"]["mean"] == pytest.approx(sum(exp["psnr"]["per_sample"]) / 2) and "hqnr" in exp
    assert cost["s_per_mpx"] > 0 and cost["peak_mib"] >= 0

    rows = list(csv.DictReader((out / "leaderboard.csv").open()))
    psnr = [float(row["psnr"]) for row in rows]
    assert psnr == sorted(psnr, reverse=True)
    assert "Broken failed" in (out / "leaderboard.md").read_text()
    assert (out / "leaderboard.tex").read_text().count(r"\\") == 4
    page = (out / "leaderboard.html").read_text()
    (shown,) = (json.loads(text) for text in re.findall(r'id="sample-\d+">(.*?)</script>', page, re.S))
    assert list(shown["fused"]) == list(shown["maps"]) == [row["method"] for row in rows] and shown["name"] == "0"
    assert "Broken failed" in page and f"{exp['psnr']['mean']:.2f}" in page
    for picture in ("grid.png", "scatter.png"):
        assert (out / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_method_with_weights_is_compared_whatever_is_chosen(tmp_path):
    data = str(write_test_set(tmp_path / "test.h5"))
    arguments = [
        "--data",
        data,
        "--dataset",
        "ikonos",
        "--methods",
        "EXP,PNN",
        "--weights",
        "pannet=w",
        "--weights",
        "PNN=v",
    ]
    jobs, _, _ = leaderboard.plan(parse_options(BoardOptions, [*arguments, "--out", str(tmp_path / "board")]))
    assert [(job["name"], job["weights"]) for job in jobs] == [("EXP", None), ("PNN", "v"), ("PanNet", "w")]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--methods", "expp"], "did you mean"),
        (["--methods", "PNN"], "at least one method"),
        (["--weights", "PNN"], "LABEL=RUN"),
        (["--sort", "beauty"], "--sort"),
        (["--methods", "EXP", "--device", "toaster"], "device"),
        (["--method", "EXP", "--colour"], "--colour"),
        (["--methods", "EXP", "--device", "toaster"], "--device cpu"),
        (["--methods", "PNN", "--train", "1", "--train_config", "{data}.yaml"], "expected a YAML file"),
        (["--methods", "PNN", "--rates", "fast"], "rates above 0 such as"),
        (["--methods", "PNN", "--train", "-1"], "--train above 0"),
        (["--methods", "PNN", "--train_epochs", "0"], "--train_epochs above 0"),
        (["--methods", "EXP", "--out", "{data}/board"], "cannot write"),
    ],
)
def test_bad_input_is_one_line(tmp_path, extra, words):
    data = write_test_set(tmp_path / "test.h5", count=1)
    filled = [e.format(data=data) for e in extra]
    with pytest.raises(UserError, match=words) as error:
        leaderboard.run(
            parse("board", ["--data", str(data), "--dataset", "ikonos", "--out", str(tmp_path / "board"), *filled])
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "board").exists()


def test_every_file_of_a_board_is_known_to_be_writable_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "board/grid.png").mkdir(parents=True)
    monkeypatch.setattr(leaderboard, "run_all", lambda *_: pytest.fail("the work has begun"))
    data = write_test_set(tmp_path / "test.h5")
    with pytest.raises(UserError, match=r"grid.png.* is a folder, not a file"):
        leaderboard.run(parse("board", ["--data", str(data), "--dataset", "ikonos", "--out", str(tmp_path / "board")]))


def test_all_takes_what_fits_task_and_ratio():
    classical = chosen_methods("classical", "pansharpening", 4)
    assert {"EXP", "GSA", "MTF-GLP-FS", "BDSD-PC"} <= set(classical) and "LEMamba" not in classical
    assert "LEMamba" in chosen_methods("learned", "hmif", 8)
    assert "GSA" not in chosen_methods("all", "hmif", 8)


def test_methods_for_one_band_are_named_where_the_guide_has_several():
    rgb, pan = (DataFacts("none", 1.0, 4, 31, guides) for guides in (3, 1))
    told = not_for_guides("PNN, classical", rgb)
    assert told.endswith("are for one PAN band, the data have 3 guide bands: left out")
    assert "MTF-GLP-HPM," in told and "EXP" not in told and "HySure" not in told
    assert not_for_guides("GSA", rgb) == not_for_guides("learned", rgb) == not_for_guides("all", pan) == ""


@pytest.mark.parametrize("divided", ["test.h5", "full.h5"])
def test_numbers_that_were_divided_before_are_refused_as_in_inference(tmp_path, divided):
    files = {"test.h5": write_test_set(tmp_path / "test.h5")}
    files["full.h5"] = write_test_set(tmp_path / "full.h5", with_gt=False)
    with h5py.File(files[divided], "r+") as file:
        for key in list(file):
            file[key][:] = file[key][:] / 2047
    arguments = ["--data", str(files["test.h5"]), "--full", str(files["full.h5"]), "--dataset", "ikonos"]
    arguments += ["--methods", "EXP", "--out", str(tmp_path / "board")]
    with pytest.raises(UserError, match=rf"{divided} end at .* would be divided by 2047; give --divisor 1"):
        leaderboard.run(parse("board", arguments))
    assert not (tmp_path / "board").exists()


def test_a_board_of_divided_numbers_scores_as_that_of_the_numbers_themselves(tmp_path):
    """ERGAS and SAM do not depend on a common factor."""
    scores = {}
    for name, factor in (("digital", 1.0), ("divided", 2047.0)):
        data = write_test_set(tmp_path / f"{name}.h5")
        with h5py.File(data, "r+") as file:
            for key in list(file):
                file[key][:] = file[key][:] / factor
        arguments = ["--data", str(data), "--dataset", "ikonos", "--methods", "EXP", "--out", str(tmp_path / name)]
        assert leaderboard.run(parse("board", [*arguments, *(["--divisor", "1"] if factor > 1 else [])])) == 0
        report = json.loads((tmp_path / name / "leaderboard.json").read_text())
        scores[name] = report["scores"]["EXP"]
    for index in ("ergas", "sam", "psnr"):
        assert scores["divided"][index]["mean"] == pytest.approx(scores["digital"][index]["mean"], rel=2e-4)


def test_a_name_of_ones_own_takes_sensor_and_ratio_from_its_files(tmp_path):
    """What `prepare_data.py … --name mine` wrote goes onto a board as it goes into training and inference."""
    data = write_test_set(tmp_path / "test_mine_multiExm1.h5")
    with h5py.File(data, "r+") as file:
        file.attrs["sensor"] = "GeoEye1"
    arguments = ["--data_root", str(tmp_path), "--dataset", "mine", "--methods", "EXP", "--out", str(tmp_path / "b")]
    jobs, files, _ = leaderboard.plan(parse_options(BoardOptions, arguments))
    assert [job["sensor"] for job in jobs] == ["GeoEye1"] and files == {"data": data}
    arguments[:2] = ["--data", str(data)]  # the file says enough
    assert leaderboard.plan(parse_options(BoardOptions, arguments))[0] == jobs
