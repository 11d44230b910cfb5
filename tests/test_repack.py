"""Repacking an H5 file: the same values and attributes, one sample one chunk, nothing lost without a word."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from small_files import HMIF, SIZES, TO_FILE, values, write_h5

from lemamba.commands import parse, prepare
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.repack import repack
from lemamba.utils.errors import UserError


def whole():
    return {key: value.round() for key, value in values().items()}


@pytest.mark.parametrize("rename", [None, HMIF])
@pytest.mark.parametrize("layout", list(TO_FILE))
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_values_keys_and_attributes_stay(tmp_path, dtype, layout, rename):
    path = write_h5(tmp_path / "a.h5", whole(), layout, rename, sensor="QB", divisor=2047.0)
    repack(path, tmp_path / "sub/b.h5", dtype)
    old, new = H5Dataset(path), H5Dataset(tmp_path / "sub/b.h5")
    assert (new.contents.keys, new.contents.shapes) == (old.contents.keys, old.contents.shapes)
    assert (new.contents.attributes, new.facts) == (old.contents.attributes, old.facts)
    for one, two in zip(old, new, strict=True):
        assert all(np.array_equal(one[role], two[role]) for role in SIZES)
    with h5py.File(tmp_path / "sub/b.h5") as file:
        assert all(file[key].chunks == (1, *file[key].shape[1:]) and file[key].dtype == dtype for key in file)


@pytest.mark.parametrize("value", [0.5, -1.0, 65536.0, np.nan])
def test_what_would_be_lost_is_refused_and_leaves_nothing(tmp_path, value):
    data = whole()
    data["pan"][3, 0, 1, 2] = value
    path = write_h5(tmp_path / "a.h5", data)
    with pytest.raises(UserError, match='"pan" of sample 3 has'):
        repack(path, tmp_path / "b.h5", "uint16")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
    if np.isfinite(value):
        repack(path, tmp_path / "b.h5", "float32")
        assert H5Dataset(tmp_path / "b.h5", divisor=1)[3]["pan"][0, 1, 2] == value


def test_eight_bits_stay_eight_bits(tmp_path):
    """Their type decides the divisor."""
    data = {key: (value / 8).astype(np.uint8) for key, value in whole().items()}
    repack(write_h5(tmp_path / "a.h5", data), tmp_path / "b.h5")
    old, new = (H5Dataset(tmp_path / name, sensor="GeoEye1") for name in ("a.h5", "b.h5"))
    assert old.facts.divisor == new.facts.divisor == 255 and np.array_equal(old[1]["ms"], new[1]["ms"])


def test_integers_beyond_float32_and_the_input_itself_are_refused(tmp_path):
    path = write_h5(tmp_path / "a.h5", {key: np.full(shape, 2**24 + 1) for key, shape in SIZES.items()})
    with pytest.raises(UserError, match="float32 does not hold"):
        repack(path, tmp_path / "b.h5")
    before = path.read_bytes()
    with pytest.raises(UserError, match="is the input"):
        repack(path, path)
    assert path.read_bytes() == before


def test_command_line_reports_what_was_gained(tmp_path, capsys):
    path = write_h5(tmp_path / "a.h5", whole())
    arguments = ["repack", str(path), "--out", str(tmp_path / "b.h5"), "--dtype", "uint16"]
    assert prepare.run(parse("prepare", arguments)) == 0
    size, read = capsys.readouterr().out.splitlines()
    assert f"{path.stat().st_size / 2**20:.2f} MiB -> {(tmp_path / 'b.h5').stat().st_size / 2**20:.2f} MiB" in size
    assert "samples/s" in read
