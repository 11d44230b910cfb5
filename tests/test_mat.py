"""`.mat` files: both containers round-trip, Octave and scipy agree, and damaged or hostile files are refused."""

import shutil
import struct
import subprocess
import zlib

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from lemamba.utils.errors import UserError
from lemamba.utils.formats import mat
from lemamba.utils.formats.mat import read_mat, write_mat


@pytest.fixture
def arrays():
    generator = np.random.default_rng(1)
    return {
        "sr": generator.random((2, 3, 5, 4)).astype(np.float32),
        "pan": generator.random((2, 1, 5, 4)).astype(np.float32),
    }


@pytest.mark.parametrize("v73", [False, True])
def test_round_trip_keeps_axes_values_and_dtype(tmp_path, arrays, v73):
    write_mat(tmp_path / "new" / "out.mat", arrays, v73=v73)
    back = read_mat(tmp_path / "new" / "out.mat")
    assert sorted(back) == ["pan", "sr"]
    for key, value in arrays.items():
        assert back[key].dtype == np.float32
        np.testing.assert_array_equal(back[key], value)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.mat"]


def test_v5_is_what_scipy_reads(tmp_path, arrays):
    write_mat(tmp_path / "out.mat", {"sr": arrays["sr"].astype(np.float64)})
    other = loadmat(tmp_path / "out.mat")["sr"]
    assert other.dtype == np.float32
    np.testing.assert_array_equal(other, arrays["sr"])


def test_v73_layout_is_matlabs(tmp_path, arrays):
    write_mat(tmp_path / "out.mat", arrays, v73=True)
    head = (tmp_path / "out.mat").read_bytes()[:520]
    assert head.startswith(b"MATLAB 7.3 MAT-file") and head[124:128] == b"\x00\x02IM"
    assert head[512:520] == b"\x89HDF\r\n\x1a\n"
    with h5py.File(tmp_path / "out.mat") as file:
        assert file.userblock_size == 512
        assert file["sr"].shape == (4, 5, 3, 2)
        assert file["sr"].attrs["MATLAB_class"] == b"single"


def test_large_variable_becomes_v73_by_itself(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(mat, "V5_LIMIT", 100)
    write_mat(tmp_path / "out.mat", arrays)
    assert h5py.is_hdf5(tmp_path / "out.mat")
    np.testing.assert_array_equal(read_mat(tmp_path / "out.mat", ["sr"])["sr"], arrays["sr"])
    with pytest.raises(UserError, match="2 GiB"):
        write_mat(tmp_path / "other.mat", arrays, v73=False)


def test_v5_ends_at_two_gib_a_variable(tmp_path):
    """MATLAB's own bound. (One number seen 2^29 times: nothing of that size is in memory.)"""
    with pytest.raises(UserError, match="2147483648 bytes; write v7.3"):
        write_mat(tmp_path / "x.mat", {"sr": np.broadcast_to(np.float32(0), (2**15, 2**14))}, v73=False)
    assert list(tmp_path.iterdir()) == []


def test_integers_logicals_and_scalars_survive(tmp_path):
    data = {"counts": np.arange(6, dtype=np.uint16).reshape(2, 3), "mask": np.array([[True, False]]), "one": 3.0}
    for v73 in (False, True):
        write_mat(tmp_path / "out.mat", data, dtype=None, v73=v73)
        back = read_mat(tmp_path / "out.mat")
        assert back["counts"].dtype == np.uint16 and back["one"].shape == (1, 1)
        np.testing.assert_array_equal(back["mask"].astype(bool), data["mask"])


@pytest.mark.skipif(shutil.which("octave-cli") is None, reason="octave is not installed")
def test_octave_reads_both_and_its_files_are_read(tmp_path, arrays):
    write_mat(tmp_path / "v5.mat", arrays, v73=False)
    write_mat(tmp_path / "v73.mat", arrays, v73=True)
    script = (
        "a = load('v5.mat'); b = load('v73.mat'); assert(size(b.sr), [2 3 5 4]); assert(double(a.sr), double(b.sr));"
        "x = reshape(1:24, 2, 3, 4); t = 'WV3'; save('-v7', 'octave.mat', 'x', 't');"
    )
    subprocess.run(["octave-cli", "--no-init-file", "--eval", script], cwd=tmp_path, check=True, capture_output=True)
    back = read_mat(tmp_path / "octave.mat")
    np.testing.assert_array_equal(back["x"], np.arange(1.0, 25).reshape((2, 3, 4), order="F"))
    assert str(back["t"].item()) == "WV3"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", "c16"])
def test_v5_reader_agrees_with_scipy(tmp_path, dtype, compressed):
    values = np.random.default_rng(0).integers(0, 100, (3, 4, 2)).astype(dtype)
    values = values + 1j if dtype == "c16" else values
    savemat(tmp_path / "a.mat", {"x": values, "row": values[0, 0], "empty": values[:0]}, do_compression=compressed)
    ours, theirs = read_mat(tmp_path / "a.mat"), loadmat(tmp_path / "a.mat")
    for key in ("x", "row", "empty"):
        np.testing.assert_array_equal(ours[key], theirs[key].astype(dtype))
        assert ours[key].dtype == np.dtype(dtype) and ours[key].shape == theirs[key].shape


def test_v4_is_read(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.arange(6.0).reshape(2, 3)}, format="4")
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat")["x"], np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("name", ["ikonos_scene", "jasper_ridge_r198", "worldview2_west", "worldview3_tile"])
def test_real_scenes_agree_with_scipy(shared, name):
    path = shared(f"data/{name}.mat")
    theirs = loadmat(path)
    ours = read_mat(path)
    assert {k for k, v in theirs.items() if not k.startswith("__") and v.dtype.kind in "uifU"} == set(ours)
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key])


def test_structures_are_passed_over_and_text_is_read(tmp_path):
    savemat(tmp_path / "a.mat", {"s": {"a": 1}, "c": np.array([1, "x"], dtype=object), "x": np.eye(2), "t": "WV2"})
    assert set(read_mat(tmp_path / "a.mat")) == {"x", "t"}
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file["t"] = np.array([[ord(c)] for c in "WV2"], dtype=np.uint16)
        file["t"].attrs["MATLAB_class"] = np.bytes_("char")
        file.create_group("s")
    assert read_mat(tmp_path / "b.mat")["t"].tolist() == ["WV2"]


def test_missing_file_folder_and_key(tmp_path, arrays):
    with pytest.raises(UserError, match="does not exist"):
        read_mat(tmp_path / "none.mat")
    with pytest.raises(UserError, match="is a folder"):
        read_mat(tmp_path)
    for v73 in (False, True):
        write_mat(tmp_path / "out.mat", arrays, v73=v73)
        with pytest.raises(UserError, match=r'no variable "gt".*it holds: .*sr'):
            read_mat(tmp_path / "out.mat", ["gt"])


@pytest.mark.parametrize("v73", [False, True])
def test_truncated_anywhere_is_refused(tmp_path, arrays, v73):
    write_mat(tmp_path / "out.mat", arrays, v73=v73)
    whole = (tmp_path / "out.mat").read_bytes()
    for cut in (0, 1, 100, 130, 600, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.mat").write_bytes(whole[:cut])
        with pytest.raises(UserError):
            read_mat(tmp_path / "cut.mat", ["sr", "pan"])


def test_not_a_mat(tmp_path):
    (tmp_path / "text.mat").write_text("hello " * 100)
    with pytest.raises(UserError, match=r"not a readable \.mat"):
        read_mat(tmp_path / "text.mat")


def test_declared_size_is_held_against_the_file(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.ones((2, 2))})
    data = bytearray((tmp_path / "a.mat").read_bytes())
    at = data.index(struct.pack("<iiii", 5, 8, 2, 2)) + 8
    data[at : at + 8] = struct.pack("<ii", 2**20, 2**20)
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(UserError, match="declares"):
        read_mat(tmp_path / "a.mat")
    with h5py.File(tmp_path / "b.mat", "w") as file:
        file.create_dataset("x", shape=(2**20, 2**20), dtype="f4", chunks=(16, 16))
    with pytest.raises(UserError, match="declares"):
        read_mat(tmp_path / "b.mat")


def test_inflating_element_is_bounded(tmp_path):
    """A compressed element whose header declares terabytes is refused from its header alone."""
    savemat(tmp_path / "a.mat", {"x": np.ones((2, 2))})
    plain = (tmp_path / "a.mat").read_bytes()
    body = bytearray(plain[128:])
    at = body.index(struct.pack("<iiii", 5, 8, 2, 2)) + 8
    body[at : at + 8] = struct.pack("<ii", 2**20, 2**20)
    packed = zlib.compress(bytes(body))
    (tmp_path / "a.mat").write_bytes(plain[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(UserError, match="declares"):
        read_mat(tmp_path / "a.mat")


def test_links_out_of_the_file_are_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(3)
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["x"] = h5py.ExternalLink("secret.h5", "x")
    with pytest.raises(UserError, match="link"):
        read_mat(tmp_path / "a.mat")
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file.create_dataset("x", (3,), "f8", external=[(str(tmp_path / "secret.h5"), 0, 24)])
    with pytest.raises(UserError, match="another file"):
        read_mat(tmp_path / "b.mat")


def test_folder_not_writable_is_one_line_and_leaves_nothing(tmp_path, arrays):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_mat(tmp_path / "file" / "out.mat", arrays)
    (tmp_path / "taken.mat").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_mat(tmp_path / "taken.mat", arrays)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.mat"]


def test_failing_write_keeps_the_old_file(tmp_path, arrays):
    write_mat(tmp_path / "out.mat", arrays)
    before = (tmp_path / "out.mat").read_bytes()
    with pytest.raises(ValueError, match="MATLAB variable name"):
        write_mat(tmp_path / "out.mat", {"no good": np.ones(2)})
    assert (tmp_path / "out.mat").read_bytes() == before
