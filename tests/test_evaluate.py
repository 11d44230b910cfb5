"""evaluate.py as a user meets it: table, written files, and one line with status 2 for what cannot be measured."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from lemamba import metrics
from lemamba.commands import evaluate, parse
from lemamba.commands.options import EvaluateOptions
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import write_mat

ROOT = Path(__file__).resolve().parent.parent


def images(B: int = 3, C: int = 4, H: int = 64, W: int = 96, ratio: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    gt = np.clip(
        rng.random((B, C, H // 8, W // 8)).repeat(8, 2).repeat(8, 3) * 1800 + rng.normal(0, 60, (B, C, H, W)), 0, 2047
    )
    sr, lms = (np.clip(gt + rng.normal(0, s, gt.shape), 0, 2047) for s in (30, 60))
    arrays = {"sr": sr, "gt": gt, "lms": lms, "ms": gt[..., ::ratio, ::ratio], "pan": gt.mean(1, keepdims=True)}
    return {k: v.astype(np.float32) for k, v in arrays.items()}


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    path = tmp_path / "data_PanNet_qb.mat"
    savemat(path, images())
    return path


def run(*arguments: object) -> None:
    evaluate.run(parse("evaluate", [str(a) for a in arguments]))


def numbers(text: str, label: str) -> list[float]:
    """The numbers in the line of a table that starts with `label`."""
    line = next(line for line in text.splitlines() if re.match(rf"\s*{re.escape(label)}\s", line))
    return [float(x) for x in line.replace(label, "", 1).split()]


def expected(arrays: dict[str, np.ndarray], protocol: str, **options) -> dict[str, torch.Tensor]:
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    if protocol == "reduced":
        return metrics.reduced_resolution(tensors["sr"], tensors["gt"], ratio=4, const=2047)
    del tensors["gt"]
    return metrics.full_resolution(**tensors, ratio=4, **options)


def test_the_table_shows_every_sample_and_the_summary(mat, capsys):
    run(mat, "--const", 2047)
    out = capsys.readouterr().out
    values = expected(images(), "reduced")
    assert out.splitlines()[2].split() == ["sample", *values]
    for i in range(3):
        assert numbers(out, str(i + 1)) == [pytest.approx(float(v[i]), abs=5.1e-7) for v in values.values()]
    assert numbers(out, "mean") == [pytest.approx(float(v.mean()), abs=5.1e-7) for v in values.values()]
    assert numbers(out, "± std") == [pytest.approx(float(v.std()), abs=5.1e-7) for v in values.values()]


@pytest.mark.parametrize("flag", ["--full", "--full_res"])
def test_full_resolution_can_be_forced_where_there_is_a_gt(mat, capsys, flag):
    run(mat, flag, "--sensor", "qb")
    values = expected(images(), "full", sensor="QB")
    assert numbers(capsys.readouterr().out, "2") == [pytest.approx(float(v[1]), abs=5.1e-7) for v in values.values()]


def test_without_gt_full_resolution_is_measured_and_published_is_passed_on(tmp_path, capsys):
    arrays = images(B=1)
    savemat(tmp_path / "x.mat", {k: v for k, v in arrays.items() if k != "gt"})
    run(tmp_path / "x.mat", "--sensor", "QB", "--published")
    out = capsys.readouterr().out
    values = expected(arrays, "full", sensor="QB", published=True)
    assert numbers(out, "1") == [pytest.approx(float(v[0]), abs=5.1e-7) for v in values.values()]
    assert "IKONOS gains" in out


def test_the_sensor_gives_the_peak(mat, capsys):
    run(mat, "--sensor", "QB")
    by_sensor = capsys.readouterr().out
    run(mat, "--const", 2047)
    assert by_sensor == capsys.readouterr().out


def test_written_files_hold_the_same_numbers(mat, tmp_path, capsys):
    files = {k: tmp_path / "out" / f"r.{k}" for k in ("json", "csv", "latex", "html")}
    run(mat, "--const", 2047, *(x for k, p in files.items() for x in (f"--{k}", p)))
    values = expected(images(), "reduced")
    content = json.loads(files["json"].read_text())
    # one image at a time against a batch: a vector's last lanes may round otherwise
    assert list(content["scores"]) == ["data_PanNet_qb"]
    scores = content["scores"]["data_PanNet_qb"]
    assert scores["sam"]["per_sample"] == pytest.approx(values["sam"].tolist(), rel=1e-12)
    assert scores["qn"]["mean"] == pytest.approx(float(values["qn"].mean()), rel=1e-12)
    assert scores["qn"]["std"] == pytest.approx(float(values["qn"].std()), rel=1e-9)
    assert (content["protocol"], content["divisor"], content["ratio"]) == ("reduced", 2047, 4)
    assert content["file"] == "data_PanNet_qb.mat" and content["version"] and content["command"]
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [r["sample"] for r in rows] == ["1", "2", "3", "mean", "std"]
    assert [float(r["ssim"]) for r in rows[:3]] == pytest.approx(values["ssim"].tolist(), rel=1e-12)
    assert (
        f"{float(values['ergas'].mean()):.4f}" in files["latex"].read_text()
        and r"data\_PanNet\_qb" in files["latex"].read_text()
    )
    assert f"{float(values['psnr'][1]):.6f}" in files["html"].read_text()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in files.values())


def samples_of(page: str) -> list[dict]:
    """Return what a page holds of its images."""
    return [json.loads(text) for text in re.findall(r'id="sample-\d+">(.*?)</script>', page, re.S)]


def test_the_page_is_self_contained_and_its_pictures_are_pictures(mat, tmp_path, capsys):
    run(mat, "--const", 2047, "--html", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "const: 2047<" in page
    assert not re.search(r'(src|href)="', page)
    shown = samples_of(page)
    assert [one["name"] for one in shown] == ["1", "2", "3"]
    for one in shown:
        assert set(one["images"]) == {"lms", "pan", "gt"} and set(one["maps"]["sr"]) == {"error", "sam", "q2n"}
        assert one["images"]["gt"]["shape"][1:] == one["fused"]["sr"]["shape"][1:] == [64, 96]


def test_the_page_at_full_resolution_maps_hqnr(mat, tmp_path, capsys):
    run(mat, "--full", "--sensor", "QB", "--html", tmp_path / "r.html")
    for one in samples_of((tmp_path / "r.html").read_text()):
        assert set(one["images"]) == {"lms", "pan"} and not one["bands"]
        assert {name: packed["shape"] for name, packed in one["maps"]["sr"].items()} == {
            name: [1, 2, 3] for name in ("hqnr", "d_lambda_k", "d_s")
        }


def test_equal_images_are_written_as_text_that_json_knows(tmp_path, capsys):
    arrays = images(B=2)
    savemat(tmp_path / "x.mat", {"sr": arrays["gt"], "gt": arrays["gt"]})
    run(tmp_path / "x.mat", "--const", 2047, "--json", tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert content["scores"]["x"]["psnr"] == {"mean": "inf", "std": "nan", "per_sample": ["inf", "inf"]}


def test_a_folder_of_images_equals_the_batch(tmp_path, capsys):
    arrays = images(B=11, C=3, H=32, W=40)
    for i in range(11):  # 10 must come after 9, not after 1
        savemat(tmp_path / f"output_mulExm_{i}.mat", {k: arrays[k][i].transpose(1, 2, 0) for k in ("sr", "gt")})
    (tmp_path / "notes.txt").write_text("not an image")
    run(tmp_path, "--const", 2047)
    out = capsys.readouterr().out
    values = expected(arrays, "reduced")
    for i in range(11):
        assert numbers(out, str(i))[0] == pytest.approx(float(values["sam"][i]), abs=5.1e-7)


def test_samples_of_a_folder_have_their_files_numbers(tmp_path, capsys):
    """As the MATLAB scripts print them: the number in the name, in its order, wherever the numbers begin."""
    arrays, out = images(B=2, C=3, H=32, W=40), tmp_path / "out"
    for number, i in ((10, 1), (2, 0)):
        savemat(tmp_path / f"output_mulExm_{number}.mat", {k: arrays[k][i].transpose(1, 2, 0) for k in ("sr", "gt")})
    run(tmp_path, "--const", 2047, *(x for k in ("json", "csv", "html") for x in (f"--{k}", out / f"r.{k}")))
    shown = capsys.readouterr().out
    values = expected(arrays, "reduced")["psnr"].tolist()
    assert [numbers(shown, n)[5] for n in ("2", "10")] == [pytest.approx(v, abs=5.1e-7) for v in values]
    content = json.loads((out / "r.json").read_text())
    assert content["samples"] == [2, 10]
    (scores,) = content["scores"].values()
    assert scores["psnr"]["per_sample"] == pytest.approx(values, rel=1e-12)  # axes in another order, sums in another
    assert [line.split(",")[0] for line in (out / "r.csv").read_text().splitlines()[1:3]] == ["2", "10"]
    page = (out / "r.html").read_text()
    assert [one["name"] for one in samples_of(page)] == ["2", "10"]
    (tmp_path / "output_mulExm_02.mat").write_bytes(b"")
    with pytest.raises(UserError, match="one file of each number"):
        run(tmp_path, "--const", 2047)


def test_one_band_images_without_a_third_axis(tmp_path, capsys):
    arrays = images(B=1, C=1, H=64, W=64)
    savemat(tmp_path / "one.mat", {k: v[0, 0] for k, v in arrays.items() if k != "gt"})
    run(tmp_path / "one.mat", "--sensor", "none")
    assert numbers(capsys.readouterr().out, "1")[0] == pytest.approx(
        float(expected(arrays, "full", sensor="none")["d_lambda_k"]), abs=5.1e-7
    )


def test_data_in_unit_range_and_generic_gains_are_told(tmp_path, capsys):
    arrays = {k: v / 2047 for k, v in images(B=1).items()}
    savemat(tmp_path / "x.mat", arrays)
    run(tmp_path / "x.mat", "--const", 1)
    assert "65535" in capsys.readouterr().out
    run(tmp_path / "x.mat", "--full", "--sensor", "GF2")
    out = capsys.readouterr().out
    assert "65535" in out and "no published gains" in out


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, (), "--const"),
        ({}, ("--full",), "--sensor"),
        ({}, ("--full", "--sensor", "WV3"), "8 bands"),
        ({}, ("--sensor", "WV9"), "unknown sensor"),
        ({}, ("--const", "-1"), "positive"),
        ({}, ("--const", "2047", "--ratio", "0"), "positive"),
        ({}, ("--const", "2047", "--device", "toaster"), "device"),
        ({"ms": None}, ("--full", "--sensor", "QB"), "missing: ms"),
        ({"sr": None}, ("--const", "2047"), "missing: sr"),
        ({"gt": images(B=2)["gt"]}, ("--const", "2047"), "one B"),
        ({"gt": images(C=3)["gt"]}, ("--const", "2047"), "sample 1: expected images of one shape"),
        ({"sr": images()["sr"] * np.nan}, ("--const", "2047"), "NaN"),
    ],
)
def test_what_cannot_be_measured(tmp_path, change, arguments, message):
    arrays = {k: v for k, v in (images() | change).items() if v is not None}
    savemat(tmp_path / "x.mat", arrays)
    with pytest.raises(UserError, match=re.escape(message)):
        run(tmp_path / "x.mat", *arguments, "--json", tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_all_reports_can_be_written_or_none_is(tmp_path, mat):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        run(mat, "--const", 2047, "--json", tmp_path / "r.json", "--html", tmp_path / "file/r.html")
    assert not (tmp_path / "r.json").exists()


def test_sizes_no_multiple_of_32_bind_full_resolution_only(tmp_path, capsys):
    savemat(tmp_path / "x.mat", images(B=1, H=48, W=40))
    run(tmp_path / "x.mat", "--const", 2047)
    with pytest.raises(UserError, match="multiples of 32"):
        run(tmp_path / "x.mat", "--full", "--sensor", "QB")


def _keep(path: Path, arrays: dict[str, np.ndarray], order: str, program: str) -> None:
    """Write images (B, C, H, W) with their axes in `order`, as `program` does."""
    turned = {k: v.transpose(["BCHW".index(axis) for axis in order]) for k, v in arrays.items()}
    if program == "MATLAB v7":
        savemat(path, turned)
    elif program == "MATLAB v7.3":
        write_mat(path, turned, v73=True)
    else:
        with h5py.File(path, "w") as file:
            for name, array in turned.items():
                file[name] = array.transpose() if program == "MATLAB h5write" else array


@pytest.mark.parametrize("without_ms", [False, True])
@pytest.mark.parametrize(
    ("order", "program"),
    [
        ("BCHW", "MATLAB v7.3"),
        ("HWCB", "MATLAB v7"),
        ("HWCB", "MATLAB v7.3"),
        ("BHWC", "MATLAB v7"),
        ("BCHW", "h5py"),
        ("BHWC", "h5py"),
        ("BCHW", "MATLAB h5write"),
    ],
)
def test_axes_in_another_order_give_the_same_numbers_and_the_same_picture(
    tmp_path, capsys, mat, order, program, without_ms
):
    arrays = {k: v for k, v in images().items() if k != "ms" or not without_ms}
    _keep(tmp_path / "other.mat", arrays, order, program)
    run(mat, "--const", 2047, "--html", tmp_path / "ours.html")
    ours = capsys.readouterr().out
    run(tmp_path / "other.mat", "--const", 2047, "--html", tmp_path / "other.html")
    theirs = capsys.readouterr().out
    for label in ("1", "2", "3", "mean"):
        assert numbers(theirs, label) == numbers(ours, label)
    assert (",".join(order) in theirs) == (order != "BCHW") and "B,C,H,W" not in ours
    pictures = [samples_of((tmp_path / f"{name}.html").read_text()) for name in ("ours", "other")]
    assert pictures[0] == pictures[1] and pictures[0]


@pytest.mark.parametrize("order", ["HWC", "CHW"])
def test_a_single_image_may_have_its_bands_first_or_last(tmp_path, capsys, order):
    one = {k: v[0].transpose(["CHW".index(axis) for axis in order]) for k, v in images().items()}
    savemat(tmp_path / "x.mat", one)
    run(tmp_path / "x.mat", "--const", 2047)
    found = numbers(capsys.readouterr().out, "1")
    of_first = expected({k: v[:1] for k, v in images().items()}, "reduced")
    assert found == pytest.approx([float(v) for v in of_first.values()], abs=1e-6)


@pytest.mark.parametrize("kind", ["missing", "empty folder", "other variables", "not a mat"])
def test_paths_that_hold_no_images(tmp_path, kind):
    path = tmp_path / "x.mat"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "other variables":
        savemat(path, {"a": 1.0})
    elif kind == "not a mat":
        path.write_bytes(b"hello")
    with pytest.raises(UserError, match=re.escape(str(path))):
        run(path, "--const", 2047)


def test_options_do_not_import_torch():
    code = "import sys, lemamba.commands.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_user_errors_are_one_line_and_status_2(mat):
    command = [sys.executable, "evaluate.py", str(mat), "--full", "--sensor", "WV3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_every_option_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(EvaluateOptions))
