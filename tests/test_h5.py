"""The H5 reader: both families of keys, three orders of axes, workers, and everything a file can have wrong."""

import multiprocessing
import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from small_files import HMIF, SIZES, TO_FILE, values, write_h5
from torch.utils.data import DataLoader

from lemamba.datasets import h5
from lemamba.datasets.build import build_dataset, find_entry, find_file
from lemamba.datasets.h5 import H5Dataset, describe
from lemamba.utils.errors import UserError


@pytest.mark.parametrize("cache_limit", [0, 2**30])
@pytest.mark.parametrize("rename", [None, HMIF])
@pytest.mark.parametrize("layout", list(TO_FILE))
def test_every_order_and_family_gives_the_same_samples(tmp_path, layout, rename, cache_limit):
    data = values()
    dataset = H5Dataset(write_h5(tmp_path / "a.h5", data, layout, rename), divisor=2047, cache_limit=cache_limit)
    facts = dataset.facts
    assert dataset.contents.layout == layout
    assert (len(dataset), facts.bands, facts.guide_bands, facts.ratio, facts.has_gt) == (5, 4, 1, 4, True)
    for index in (0, 4, -1):
        sample = dataset[index]
        assert set(sample) == {"gt", "ms", "lms", "pan"}
        for key, tensor in sample.items():
            assert tensor.dtype == torch.float32 and tensor.is_contiguous()
            np.testing.assert_allclose(tensor.numpy(), data[key][index] / 2047, rtol=1e-6)
    with pytest.raises(IndexError):
        dataset[5]


def test_stops_when_iterated(tmp_path):
    assert len(list(H5Dataset(write_h5(tmp_path / "a.h5", values())))) == 5


@pytest.mark.parametrize("cache_limit", [0, 2**30])
def test_pickled_and_read_by_workers(tmp_path, cache_limit):
    data = values()
    dataset = H5Dataset(write_h5(tmp_path / "a.h5", data), divisor=2047, cache_limit=cache_limit)
    first = dataset[0]["gt"]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0]["gt"], first)
    assert len(pickle.dumps(dataset)) < 10_000  # neither handle nor cache travels
    for context in ("fork", "spawn"):
        loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=context)
        got = torch.cat([batch["gt"] for batch in loader])
        np.testing.assert_allclose(got.numpy(), data["gt"] / 2047, rtol=1e-6)


def opener(dataset: H5Dataset, answers) -> None:
    """Read a sample in a forked process; answer with the processes that opened the file for it, and the sample."""
    opened, original = [], h5.open_file
    h5.open_file = lambda path: opened.append(os.getpid()) or original(path)
    sample = dataset[1]["gt"].numpy()
    answers.put((os.getpid(), opened, sample))


def test_a_forked_process_opens_a_large_file_for_itself(tmp_path):
    """The parent's open file must not be read from two processes."""
    data = values()
    dataset = H5Dataset(write_h5(tmp_path / "a.h5", data), cache_limit=0)
    dataset[0]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=opener, args=(dataset, answers))
    child.start()
    pid, opened, sample = answers.get(timeout=60)
    child.join()
    assert opened == [pid] and pid != os.getpid()
    np.testing.assert_allclose(sample, data["gt"][1], rtol=1e-6)


def test_large_file_is_not_held_in_memory(tmp_path):
    dataset = H5Dataset(write_h5(tmp_path / "a.h5", values()), cache_limit=100)
    dataset[0]
    assert all(isinstance(a, h5py.Dataset) for a in dataset._arrays.values())


def test_divisor_comes_from_argument_file_or_sensor(tmp_path):
    data = values()
    assert H5Dataset(write_h5(tmp_path / "a.h5", data)).facts.divisor == 1
    assert H5Dataset(tmp_path / "a.h5", sensor="gf2").facts.divisor == 1023
    own = write_h5(tmp_path / "b.h5", data, sensor="IKONOS", divisor=4095.0)
    assert H5Dataset(own).facts.sensor == "IKONOS" and H5Dataset(own).facts.divisor == 4095
    assert H5Dataset(own, divisor=10).facts.divisor == 10
    bytes8 = {key: (value / 8).astype(np.uint8) for key, value in data.items()}
    assert H5Dataset(write_h5(tmp_path / "c.h5", bytes8), sensor="GeoEye1").facts.divisor == 255
    assert H5Dataset(tmp_path / "c.h5").facts.divisor == 1  # of no sensor: the numbers as they are


def test_found_by_name_in_both_places(tmp_path, monkeypatch):
    write_h5(tmp_path / "train_qb.h5", values())
    write_h5(tmp_path / "gf2" / "test_gf2_OrigScale_multiExm1.h5", {k: v for k, v in values().items() if k != "gt"})
    dataset = build_dataset("QB", "train", root=tmp_path)
    assert (dataset.facts.sensor, dataset.facts.divisor, dataset.path) == ("QB", 2047, tmp_path / "train_qb.h5")
    monkeypatch.setenv("LEMAMBA_DATA", str(tmp_path))
    full = build_dataset("gf2", "test_full")
    assert (full.facts.divisor, full.facts.has_gt) == (1023, False) and "gt" not in full[0]
    nested = write_h5(tmp_path / "qb" / "train_qb.h5", values())
    assert find_file("qb", "train") == tmp_path / "train_qb.h5"  # the root comes first
    (tmp_path / "train_qb.h5").unlink()
    assert find_file("qb", "train") == nested
    write_h5(tmp_path / "train_mine.h5", values(), sensor="WV4")
    assert build_dataset("mine", "train").facts.sensor == "WV4"


def test_names_roots_and_files_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("LEMAMBA_DATA", raising=False)
    with pytest.raises(UserError, match="no data root.*LEMAMBA_DATA"):
        build_dataset("wv3", "train")
    with pytest.raises(UserError, match='unknown dataset "wv33".*did you mean "wv3"'):
        build_dataset("wv33", "train", root=tmp_path)
    with pytest.raises(UserError, match="your own data set needs --data_root"):
        find_entry("lab_x4")
    for name in ("test_lab_x4.h5", "west/test_west_OrigScale_multiExm1.h5", "notes.h5"):
        write_h5(tmp_path / "own" / name, values())
    with pytest.raises(UserError, match=r'did you mean "lab_x4".*; found in the data root: lab_x4, west$'):
        find_entry("lab_x", tmp_path / "own")
    assert find_entry("lab_x4", file=tmp_path / "own/test_lab_x4.h5").task == "hmif"
    with pytest.raises(UserError, match="is not a folder"):
        build_dataset("wv3", "train", root=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r'expected "train_wv3\.h5" or "wv3/train_wv3\.h5"'):
        find_file("wv3", "train", tmp_path)
    with pytest.raises(UserError, match="unknown split"):
        find_file("wv3", "training", tmp_path)
    with pytest.raises(UserError, match='no split "test_full"'):
        find_file("cave_x4", "test_full", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        H5Dataset(tmp_path / "none.h5")


def test_missing_key_names_those_present(tmp_path):
    data = values()
    del data["pan"]
    with pytest.raises(UserError, match='no key "pan"; it holds: .*ms'):
        H5Dataset(write_h5(tmp_path / "a.h5", data))
    with pytest.raises(UserError, match="no ground truth"):
        write_h5(tmp_path / "train_qb.h5", {k: v for k, v in values().items() if k != "gt"})
        build_dataset("qb", "train", root=tmp_path)


def test_wrong_bands_and_ratio(tmp_path):
    path = write_h5(tmp_path / "train_wv3.h5", values())
    with pytest.raises(UserError, match="expected 8 bands for sensor WV3, given 4"):
        build_dataset("wv3", "train", root=tmp_path)
    with pytest.raises(UserError, match="expected ratio 8, its shapes say 4"):
        H5Dataset(path, ratio=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ms": (5, 4, 5, 6)}, "whole multiple"),
        ({"ms": (5, 4, 4, 12)}, "whole multiple"),
        ({"pan": (5, 1, 16, 20)}, "expected pan of the size"),
        ({"gt": (5, 3, 16, 24)}, "as many bands in gt"),
        ({"pan": (4, 1, 16, 24)}, "as many samples in pan"),
        ({"gt": (5, 16, 24)}, "four axes"),
        ({key: (0, *shape[1:]) for key, shape in SIZES.items()}, "expected at least one sample"),
        ({key: (4, 4, 4, 4) for key in SIZES}, "can be read as NCHW or NHWC or WHCN"),
        ({"ms": (5, 4, 16, 24)}, "larger than ms"),
    ],
)
def test_shapes_that_contradict_each_other(tmp_path, change, message):
    path = write_h5(tmp_path / "a.h5", values(SIZES | change))
    with pytest.raises(UserError, match=message):
        H5Dataset(path)


@pytest.mark.parametrize("cache_limit", [0, 2**30])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_names_file_key_and_index(tmp_path, bad, cache_limit):
    data = values()
    data["lms"][3, 1, 2, 2] = bad
    dataset = H5Dataset(write_h5(tmp_path / "a.h5", data, rename=HMIF), cache_limit=cache_limit)
    dataset[2]
    with pytest.raises(UserError, match=r'a\.h5: "HSI_up" of sample 3 has NaN'):
        dataset[3]


def test_truncated_empty_and_foreign_files(tmp_path):
    whole = write_h5(tmp_path / "a.h5", values()).read_bytes()
    for cut in (0, 10, 1000, len(whole) // 2, len(whole) - 8):
        (tmp_path / "cut.h5").write_bytes(whole[:cut])
        with pytest.raises(UserError, match="cannot read.*truncated"):
            H5Dataset(tmp_path / "cut.h5")


def test_damaged_chunk_is_one_line(tmp_path):
    data = values()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, value in data.items():
            file.create_dataset(key, data=value, chunks=(1, *value.shape[1:]), fletcher32=True)
        offset = file["gt"].id.get_chunk_info(2).byte_offset
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    raw[offset + 9] ^= 255
    (tmp_path / "a.h5").write_bytes(raw)
    lazy = H5Dataset(tmp_path / "a.h5", cache_limit=0)
    lazy[1]
    with pytest.raises(UserError, match='"gt" of sample 2 cannot be read'):
        lazy[2]
    with pytest.raises(UserError, match="damaged"):
        H5Dataset(tmp_path / "a.h5")[0]


def test_links_and_huge_claims_are_refused(tmp_path):
    data = values()
    write_h5(tmp_path / "other.h5", data)
    del data["gt"]
    path = write_h5(tmp_path / "a.h5", data)
    with h5py.File(path, "a") as file:
        file["gt"] = h5py.ExternalLink("other.h5", "gt")
    with pytest.raises(UserError, match='"gt" is a link'):
        H5Dataset(path)
    with h5py.File(path, "a") as file:
        del file["gt"]
        file.create_dataset("gt", SIZES["gt"], "f8", external=[(str(tmp_path / "other.h5"), 0, 10**6)])
    with pytest.raises(UserError, match="another file"):
        H5Dataset(path)
    with h5py.File(path, "a") as file:
        del file["gt"]
        file.create_dataset("gt", (2**30, 4, 2**14, 2**14), "f8", chunks=(1, 1, 64, 64))
    with pytest.raises(UserError, match="declares .* stores 0"):
        H5Dataset(path)


def test_describe_reads_shapes_in_one_order(tmp_path):
    contents = describe(write_h5(tmp_path / "a.h5", values(), "WHCN", note="x"))
    assert contents.shapes == SIZES and contents.layout == "WHCN" and contents.attributes == {"note": "x"}


@pytest.mark.parametrize(("name", "words"), [("scene.mat", "simulate"), ("ms.TIF", "--ms and --pan")])
def test_a_scene_is_not_a_data_set_and_the_message_names_the_right_command(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(UserError, match=f"expected an H5 file.*{words}"):
        H5Dataset(tmp_path / name)
