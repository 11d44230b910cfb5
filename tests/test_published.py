"""A published table made again: its printed digits, what counts as equal, and bad input."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from lemamba.commands import parse, published, reproduce
from lemamba.utils.errors import UserError

TABLE = published.read_table(published.known_tables()["pleiades"])
ROWS = {row.label: row for row in TABLE.rows}


@pytest.fixture(scope="module")
def images(shared):
    return published.read_image(TABLE, shared("data/pleiades_reduced.mat"))


@pytest.mark.parametrize("label", [row.label for row in TABLE.rows if row.arch and row.published])
def test_published_rows(label, images):
    """PRACS to every printed digit, the others as close as the table's file says."""
    found = published._measure(ROWS[label].arch, "", TABLE, images)
    wanted = published.expected(ROWS[label])
    assert set(wanted) == {"psnr", "ssim", "sam", "cc", "ergas"}
    assert {name: found[name] for name in wanted if not wanted[name].met_by(found[name])} == {}


def test_generic_weights_beat_every_published_row(images):
    found = published._measure("", "generic", TABLE, images)
    for row in TABLE.rows:
        for name, text in row.published.items():
            better = found[name] < float(text) if name in ("sam", "ergas") else found[name] > float(text)
            assert better, (row.label, name)


def test_equal_means_equal_when_printed():
    row = published.Row("x", published={"psnr": "33.30", "sam": "4.1"})
    wanted = published.expected(row)
    assert wanted["psnr"].met_by(33.3049) and not wanted["psnr"].met_by(33.306)
    assert wanted["sam"].met_by(4.149) and not wanted["sam"].met_by(4.16)


def test_numbers_outside_are_marked(capsys):
    table = dataclasses.replace(TABLE, rows=(published.Row("x", arch="EXP", published={"psnr": "33.30"}),))
    assert published.compare(table, {"x": {"psnr": 33.301}})
    assert "outside" not in capsys.readouterr().out
    assert not published.compare(table, {"x": {"psnr": 33.31}})
    assert "33.31 outside" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": None}, "rows missing"),
        ({"rows": [{"label": "x", "arhc": "EXP"}]}, 'did you mean "arch"'),
        ({"rows": [{"label": "x", "published": {"pnsr": "1.0"}}]}, "psnr"),
        ({"cut": "four"}, "cut"),
    ],
)
def test_a_bad_table_names_what_is_wrong(change, message, tmp_path):
    values = yaml.safe_load(published.known_tables()["pleiades"].read_text(encoding="utf-8")) | change
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        published.read_table(tmp_path / "own.yaml")


def test_another_scene_is_refused(tmp_path):
    with pytest.raises(UserError, match="give its file with --scene"):
        reproduce.run(parse("reproduce", ["pleiades", "--out", str(tmp_path)]))
    (tmp_path / "x.mat").write_bytes(b"another")
    with pytest.raises(UserError, match="is not the scene"):
        reproduce.run(parse("reproduce", ["pleiades", "--scene", str(tmp_path / "x.mat"), "--out", str(tmp_path)]))
    assert not (tmp_path / "pleiades").exists()
