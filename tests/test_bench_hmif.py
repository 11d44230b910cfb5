"""The benchmark of hyperspectral fusion: ground that is not shared, rows that are kept, tables."""

from __future__ import annotations

import itertools
import json
import sys
from functools import partial

import h5py
import numpy as np
import pytest

from benchmarks import bench_hmif, hmif_page, hmif_sets
from lemamba.datasets.simulation import wald
from lemamba.utils.errors import UserError

SEEN = wald.Degradation(np.eye(16)[[2, 8, 13]], 4, wald.gaussian_kernel(9, 2.0))


@pytest.mark.parametrize("boxes", [hmif_sets.JASPER, hmif_sets.PARIS])
def test_no_pixel_is_in_two_parts(boxes):
    ground = {
        split: {(r, c) for r in range(100)[rows] for c in range(100)[columns]}
        for split, (rows, columns) in boxes.items()
    }
    assert not any(a & b for a, b in itertools.combinations(ground.values(), 2))
    assert all(slice_.stop % 8 == 0 for box in boxes.values() for slice_ in box)  # whole MS pixels at both ratios


def test_no_part_sees_the_others(shared, tmp_path):
    """Noise on the test ground changes no training file: the image is cut before it is blurred."""
    cube = hmif_sets._read(shared("data/jasper_ridge_r198.mat"))
    other = cube.values.copy()
    rows, columns = hmif_sets.JASPER["test"]
    other[:, rows, columns] = np.random.default_rng(0).random(other[:, rows, columns].shape)
    parts = []
    for values in (cube.values[::12], other[::12]):
        box = (slice(None), *hmif_sets.JASPER["train"])
        parts.append(wald.hyperspectral(values[box], wald.Degradation(np.ones((1, len(values))), 8, SEEN.psf)))
    for role in ("gt", "ms", "lms", "pan"):
        np.testing.assert_array_equal(parts[0][role], parts[1][role])


def test_drawn_scenes_are_hyperspectral():
    cube = hmif_sets.draw_cube(3, 64)
    assert cube.shape == (31, 64, 64) and cube.min() >= 0 and cube.max() == 1
    spectra = np.corrcoef(cube.reshape(31, -1))
    assert np.linalg.matrix_rank(cube.reshape(31, -1) - cube.reshape(31, -1).mean(1, keepdims=True), tol=1e-3) > 6
    assert np.diagonal(spectra, 1).min() > 0.95  # neighbouring bands look alike


def small_set(folder, shared):
    cube = np.random.default_rng(1).random((16, 64, 96)).cumsum(0) / 16
    boxes = {
        "train": (slice(0, 32), slice(0, 64)),
        "valid": (slice(0, 32), slice(64, 96)),
        "test": (slice(32, 64), slice(0, 96)),
    }
    facts = {"wavelengths": np.linspace(400, 700, 16), "response": SEEN.response, "psf": SEEN.psf, "offset": 2}
    degrade = lambda box: wald.hyperspectral(cube[(slice(None), *box)], SEEN)  # noqa: E731
    hmif_sets._write("small", folder, boxes, degrade, 4, facts)


class Inline:
    """Stands in for the process of a row."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, job):
        return type("Future", (), {"result": staticmethod(partial(function, job))})


@pytest.fixture
def bench(tmp_path, monkeypatch):
    one = hmif_sets.HmifSet("small", "Small ×4", 4, (650.0, 550.0, 450.0), small_set, ((4, 4), (8, 40), (20, 90)))
    monkeypatch.setattr(bench_hmif, "SETS", {"small": one})
    monkeypatch.setattr(hmif_page, "SETS", {"small": one})
    monkeypatch.setattr(bench_hmif, "ProcessPoolExecutor", Inline)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/page.md"
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(bench_hmif, "PAGE", page)

    def run(*words):
        line = ["--work", tmp_path / "work", "--results", tmp_path / "rows.json", *words]
        monkeypatch.setattr(sys, "argv", ["bench_hmif", *map(str, line)])
        bench_hmif.main()
        return json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))

    run.page, run.results = page, tmp_path / "rows.json"
    return run


def test_rows_are_kept_and_a_failure_does_not_stop_the_others(bench, monkeypatch, capsys):
    trained = []

    def no_training(method, *_):
        trained.append(str(method))
        raise UserError("training SSRNet: diverged")

    monkeypatch.setattr(bench_hmif, "train", no_training)
    rows = bench("--methods", "SSRNet,EXP,GSA-HS", "--seeds", 1, 2, "--minutes", 3)
    assert list(rows) == ["small|EXP|-|-", "small|GSA-HS|-|-", "small|SSRNet|1|3", "small|SSRNet|2|3"]
    assert rows["small|SSRNet|1|3"]["failed"] == "training SSRNet: diverged"
    with h5py.File(bench.results.parent / "work/data/test_small.h5") as file:
        gt, lms = (file[key][:].astype(np.float64) for key in ("GT", "HSI_up"))
    psnr = np.mean(-10 * np.log10(((gt - lms) ** 2).mean((0, 2, 3))))
    assert rows["small|EXP|-|-"]["scores"]["psnr"][0] == pytest.approx(psnr, rel=1e-5)
    before = rows["small|EXP|-|-"] | {"date": "kept"}
    bench.results.write_text(json.dumps(rows | {"small|EXP|-|-": before}))
    assert bench("--methods", "SSRNet,EXP", "--minutes", 3, "--seeds", 1)["small|EXP|-|-"] == before
    assert trained == ["SSRNet"] * 3  # failed rows are measured again, others are not
    bench("--methods", "EXP", "--page")
    text = bench.page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.index("| GSA-HS |") < text.index("| EXP |") and "- SSRNet: training SSRNet: diverged" in text
    assert (bench.page.parent.parent / "figs/hmif_small.png").stat().st_size > 10_000
    capsys.readouterr()


def test_methods_are_named_with_arguments():
    method = bench_hmif.Method.read("lemamba:spectral_rank=16,width=32")
    assert str(method) == "LEMamba:spectral_rank=16,width=32" and method.trained
    assert str(bench_hmif.Method.read("exp")) == "EXP"
    with pytest.raises(UserError, match="expected a method such as"):
        bench_hmif.Method.read("LEMamba:spectral_rank")
    with pytest.raises(UserError, match='did you mean "LEMamba"'):
        bench_hmif.Method.read("LEMambo")


def test_seeds_share_a_row_of_the_table():
    scores = {index: [1.0, 0.0] for index in hmif_page.INDICES}
    same = {"set": "small", "method": "N", "cpu_s_per_mpx": 2.0, "peak_mib": 5.0, "parameters": 1000}
    same |= {"training": {"minutes": 3.0, "steps": 100, "rate": 2e-3}}
    rows = {
        f"small|N|{seed}|3": same | {"seed": seed, "scores": scores | {"sam": [sam, 0.0]}}
        for seed, sam in ((1, 2.0), (2, 4.0))
    }
    found = hmif_page.groups(rows, hmif_sets.HmifSet("small", "", 4, (0, 0, 0), small_set, ()))
    (line,) = [line for line in hmif_page.table(found).splitlines() if line.startswith("| N")]
    assert "**3.000** ± 1.414" in line and "3 min, 100 steps, rate 0.002, 2 seeds" in line and "1,000" in line
