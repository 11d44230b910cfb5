"""Checkpoints and weight files: whole or not there, nothing executed, errors in one line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lemamba.engine.training.checkpoint import (
    Checkpoints,
    create_folder,
    damage,
    find_run,
    open_run,
    read_checkpoint,
    sign,
)
from lemamba.engine.weights.files import load_strict, read_weights, resolve_weights, save_weights, weights_meta
from lemamba.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
META = {"model": {"name": "Net", "args": {"width": 3}}}


def tensors(value: float = 0.0):
    return {"model": {"a": torch.full((3,), value), "b.c": torch.arange(6.0).reshape(2, 3).T}, "optimizer": {}}


def store(folder: Path, *steps: int, keep: int = 0) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", keep)
    for step in steps:
        checkpoints.save(step, tensors(step), {"counters": {"step": step}, "config": {}}, META)
    return checkpoints


def names(checkpoints: Checkpoints) -> list[str]:
    return [p.name for p in checkpoints.list()]


def test_what_is_saved_comes_back(tmp_path):
    path = store(tmp_path, 7).latest()
    assert path.name == "step_00000007"
    assert {p.name for p in path.iterdir()} == {"model.safetensors", "optimizer.safetensors", "state.json"}
    loaded, state = read_checkpoint(path)
    assert all(torch.equal(loaded["model"][k], v) for k, v in tensors(7)["model"].items())
    assert state["counters"] == {"step": 7} and state["format"] == 1


def test_the_oldest_go_beyond_the_limit(tmp_path):
    assert names(store(tmp_path, 1, 2, 3, 4, keep=2)) == ["step_00000003", "step_00000004"]
    assert len(names(store(tmp_path / "all", 1, 2, 3, 4))) == 4


@pytest.mark.parametrize("harm", ["cut", "flip", "missing", "state", "a number of the state"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, harm):
    checkpoints = store(tmp_path, 1, 2)
    newest = checkpoints.latest()
    file = newest / "model.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[:-3])
    elif harm == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "missing":
        file.unlink()
    elif harm == "state":
        (newest / "state.json").write_text("[1, 2")
    else:
        state = newest / "state.json"
        state.write_text(state.read_text().replace('"step": 2', '"step": 3', 1))
    assert checkpoints.latest().name == "step_00000001"
    with pytest.raises(UserError, match="not a complete checkpoint"):
        read_checkpoint(newest)


def test_a_checkpoint_reads_no_file_but_its_own(tmp_path):
    path = store(tmp_path, 1).latest()
    state = json.loads((path / "state.json").read_bytes())
    del state["sha256"]
    for name in ("../../secret.safetensors", "/dev/zero", "state.json"):
        content = sign(state | {"files": {name: {"bytes": 1, "sha256": "x"}}})
        (path / "state.json").write_bytes(content)
        with pytest.raises(UserError, match="not a file of a checkpoint"):
            read_checkpoint(path)


def test_what_a_killed_writer_left_is_cleared_and_a_replaced_one_comes_back(tmp_path):
    checkpoints = store(tmp_path, 1, 2)
    (checkpoints.folder / ".new_step_00000003").mkdir()
    (checkpoints.folder / "step_00000002").rename(checkpoints.folder / ".old_step_00000002")
    checkpoints.recover()
    assert names(checkpoints) == ["step_00000001", "step_00000002"]
    assert damage(checkpoints.latest()) is None
    assert not list(checkpoints.folder.glob(".*"))


def test_the_same_step_may_be_saved_again(tmp_path):
    checkpoints = store(tmp_path, 5)
    checkpoints.save(5, tensors(9), {"counters": {"step": 5}, "config": {}}, META)
    assert float(read_checkpoint(checkpoints.latest())[0]["model"]["a"][0]) == 9
    assert names(checkpoints) == ["step_00000005"]


def test_a_file_the_system_refuses_to_grow_leaves_the_last_good_one(tmp_path):
    """A real failing write: the system's limit on file size, as a full disk would give it."""
    store(tmp_path, 1)
    code = f"""
import resource, torch
from pathlib import Path
from lemamba.engine.training.checkpoint import Checkpoints
c = Checkpoints(Path({str(tmp_path)!r}) / "checkpoints")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    c.save(2, {{"model": {{"a": torch.zeros(100_000)}}}}, {{}}, {{}})
except OSError as error:
    print("refused:", error.strerror, c.latest().name, sorted(p.name for p in c.folder.iterdir()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused: File too large step_00000001 ['step_00000001']"


def test_resume_paths_are_found_and_missing_ones_explained(tmp_path):
    log = tmp_path / "log"
    for run, step in (("old", 3), ("new", 1)):
        store(log / "p" / run, step)
    os.utime(log / "p/old/checkpoints/step_00000003/state.json", (1, 1))
    (log / "p/empty/checkpoints").mkdir(parents=True)
    new = log / "p/new"
    for given in (str(new), "p/new", str(new / "checkpoints"), str(new / "checkpoints/step_00000001"), "latest"):
        assert find_run(given, log, "p", None) == (new, new / "checkpoints/step_00000001")
    assert find_run("latest", log, "p", "old")[0].name == "old"
    for given, says in (("p/empty", "no complete checkpoint"), ("p/none", "does not exist"), (str(log), "no complete")):
        with pytest.raises(UserError, match=says):
            find_run(given, log, "p", None)
    with pytest.raises(UserError, match="no complete checkpoint"):
        find_run("latest", log, "another", None)


def test_the_latest_run_is_that_of_any_project_unless_one_is_named(tmp_path):
    log = tmp_path / "log"
    for time, (project, run) in enumerate((("LE-Mamba", "first"), ("demo", "second"), ("[odd]*", "third"))):
        newest = store(log / project / run, 1, 2).latest()
        for state in (log / project / run).rglob("state.json"):
            os.utime(state, (time + 1, time + 1))
    assert find_run("latest", log, None, None) == (log / "[odd]*/third", newest)
    assert find_run("latest", log, None, "second")[0] == log / "demo/second"
    assert find_run("latest", log, "LE-Mamba", None)[0] == log / "LE-Mamba/first"
    (newest / "model.safetensors").unlink()  # a damaged one is passed over, within the newest run first
    assert find_run("latest", log, None, None)[1].name == "step_00000001"
    for state in (log / "[odd]*").rglob("state.json"):
        state.unlink()
    assert find_run("latest", log, None, None)[0] == log / "demo/second"
    with pytest.raises(UserError, match=f"no complete checkpoint in {tmp_path}/nowhere/"):
        find_run("latest", tmp_path / "nowhere", None, None)


def test_overwriting_a_run_removes_its_curves(tmp_path):
    run, board = store(tmp_path / "run", 1).folder.parent, tmp_path / "board"
    board.mkdir()
    for file in (run / "metrics.jsonl", run / "metrics.csv", board / "events.out.tfevents.1", board / "mine.txt"):
        file.write_text("old")
    open_run(run, board, overwrite=True).close()
    assert [p.name for p in (*run.glob("metrics.*"), *board.iterdir())] == ["mine.txt"]


def test_weights_of_a_run_are_the_best_then_the_last_then_a_checkpoint(tmp_path):
    run = tmp_path / "log/p/r"
    store(run, 1, 2)
    assert resolve_weights(run) == run / "checkpoints/step_00000002/model.safetensors"
    save_weights(run / "weights/last.safetensors", tensors()["model"], META)
    assert resolve_weights("p/r", tmp_path / "log") == run / "weights/last.safetensors"
    save_weights(run / "weights/best.safetensors", tensors()["model"], META)
    assert resolve_weights(run) == run / "weights/best.safetensors"
    assert resolve_weights(run / "weights/last.safetensors").name == "last.safetensors"
    (tmp_path / "nothing").mkdir()
    for given, says in ((tmp_path / "nothing", "train first"), (tmp_path / "absent", "is neither")):
        with pytest.raises(UserError, match=says):
            resolve_weights(given)


def test_a_weight_file_rebuilds_its_network_alone(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors()["model"], META)
    beside = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").unlink()
    state, meta = read_weights(path)
    assert meta == META and torch.equal(state["b.c"], tensors()["model"]["b.c"])
    import hashlib

    assert beside == {**META, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    assert read_weights(tmp_path / "foreign.safetensors")[1] == {}


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_what_weights_say_of_themselves_is_read_without_their_tensors(tmp_path):
    """The file is sparse: 64 GiB of weights, more than could be read."""
    path, length = tmp_path / "run.safetensors", 2**36
    meta = {"data": {"dataset": "wv3"}}
    tensor = {"dtype": "F32", "shape": [length // 4], "data_offsets": [0, length]}
    header = json.dumps({"__metadata__": {"meta": json.dumps(meta)}, "weight": tensor}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + length)
    assert weights_meta(str(path)) == meta
    with path.open("r+b") as file:
        file.truncate(length)
    with pytest.raises(UserError, match="not a complete safetensors file"):
        weights_meta(str(path))
    with pytest.raises(UserError, match="neither"):
        weights_meta(str(tmp_path / "nowhere"))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    mark, file = tmp_path / "was_run", tmp_path / "bad.pth"
    torch.save({"state_dict": Harmful(mark)}, file)
    with pytest.raises(UserError, match="would run code.*convert"):
        read_weights(file)
    file.write_bytes(pickle.dumps(Harmful(mark)))
    with pytest.raises(UserError):
        read_weights(file)
    assert not mark.exists()


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
def test_legacy_files_are_read_whatever_wraps_them(tmp_path, wrapped):
    torch.save(wrapped({"module.a": torch.ones(2)}), tmp_path / "old.pth")
    assert list(read_weights(tmp_path / "old.pth")[0]) == ["a"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_empty_and_foreign_files_are_one_line(tmp_path, suffix):
    whole = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"a": torch.zeros(1000)}, whole)
    else:
        save_file({"a": torch.zeros(1000)}, whole)
    content = whole.read_bytes()
    for bad in (content[: len(content) // 2], b"", b"hello, no weights here", b"\xff" * 100):
        whole.write_bytes(bad)
        with pytest.raises(UserError):
            read_weights(whole)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="state_dict"):
        read_weights(tmp_path / "list.pth")
    with pytest.raises(UserError, match="does not exist"):
        read_weights(tmp_path / f"none{suffix}")


def test_strict_loading_reports_all_three_kinds():
    model = nn.Linear(2, 3)
    with pytest.raises(UserError) as error:
        load_strict(model, {"weight": torch.zeros(3, 5), "extra": torch.zeros(1)})
    for part in ("1 missing (first: bias)", "1 unexpected (first: extra)", "weight (3, 5) instead of (3, 2)"):
        assert part in str(error.value)
    load_strict(model, {"weight": torch.ones(3, 2), "bias": torch.ones(3)})
    assert float(model.weight.detach().sum()) == 6


def test_runs_named_after_one_second_get_a_folder_each(tmp_path):
    wanted = tmp_path / "log/p/net_20260101-000000"
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda _: create_folder(wanted), range(24)))
    assert set(created) == {wanted, *(wanted.with_name(f"{wanted.name}-{n}") for n in range(2, 25))}
    assert len(created) == 24 and all(folder.is_dir() for folder in created)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder; choose another place"):
        create_folder(tmp_path / "file/p/run")


def test_two_runs_with_one_name_do_not_mix(tmp_path):
    run = tmp_path / "log/p/r"
    with open_run(run), pytest.raises(UserError, match="another process"):
        open_run(run)
    open_run(run).close()  # its owner died before it had saved anything
    store(run, 1)
    with pytest.raises(UserError, match="--resume_path"):
        open_run(run)
    open_run(run, resuming=True).close()
    (run / "notes.txt").write_text("mine")
    open_run(run, overwrite=True).close()
    assert {p.name for p in run.iterdir()} == {".lock", "notes.txt"}
    with pytest.raises(UserError, match="is a file, not a folder; choose another place"):
        open_run(run / "notes.txt" / "below")
