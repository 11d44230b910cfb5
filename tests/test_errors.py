"""What all commands share: one line and status 2 for bad input, complete files, threads that do not spin."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lemamba.utils.atomic import check_writable, read_json, renamed, write_json
from lemamba.utils.errors import UserError, nearest

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    head = "import os\nfrom lemamba.utils.errors import UserError\nfrom lemamba.utils.startup import run_cli"
    code = f"{head}\n{code}\nrun_cli(main)"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)


def test_user_error_is_one_line_and_status_2():
    done = run("def main(): raise UserError('expected a\\n file, given none')")
    assert done.returncode == 2 and done.stderr == "error: expected a file, given none\n"


def test_no_folder_for_temporary_files_is_one_line():
    none = "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/proc/none']"
    done = run(f"{none}\ndef main(): tempfile.gettempdir()")
    assert done.returncode == 2 and "set TMPDIR" in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" in run("def main(): open('/proc/none')").stderr


def test_ctrl_c_is_one_line_and_status_130():
    done = run("import signal\ndef main(): signal.raise_signal(signal.SIGINT)")
    assert done.returncode == 130 and done.stderr.startswith("interrupted") and done.stderr.count("\n") == 1


def test_ctrl_c_in_an_import_takes_effect_after_it(tmp_path):
    """A library that catches everything while it loads neither swallows the interrupt nor stays half loaded."""
    (tmp_path / "half.py").write_text(
        "import signal\nwhole = False\ntry:\n    signal.raise_signal(signal.SIGINT)\n    whole = True\n"
        "except BaseException:\n    pass\n"
    )
    done = run(f"""
import sys
from lemamba.utils.startup import delayed_interrupt
sys.path.append({str(tmp_path)!r})
def main():
    try:
        with delayed_interrupt(): import half
        print("the end")
    finally: print("whole", sys.modules["half"].whole)
""")
    assert (done.returncode, done.stdout) == (130, "whole True\n") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("handler", "status"), [("SIG_IGN", 0), ("default_int_handler", 130)])
def test_a_delayed_interrupt_respects_an_ignored_signal_and_restores_the_handler(handler, status):
    done = run(f"""
import signal
from lemamba.utils.startup import delayed_interrupt
signal.signal(signal.SIGINT, signal.{handler})
def main():
    try:
        with delayed_interrupt(): signal.raise_signal(signal.SIGINT)
    finally: assert signal.getsignal(signal.SIGINT) is signal.{handler}
""")
    assert done.returncode == status, done.stderr


def test_clean_up_after_ctrl_c_is_not_interrupted_unless_the_user_does():
    code = """
import contextlib, signal, threading, time
@contextlib.contextmanager
def cleaning():
    try:
        yield
    finally:
        {again}
        for _ in range(30): time.sleep(0.05)
        print("clean")
def main():
    with cleaning(): signal.raise_signal(signal.SIGINT)
"""
    done = run(code.format(again="pass"))
    assert done.returncode == 130 and done.stdout == "clean\n" and done.stderr.count("\n") == 1
    done = run(code.format(again="signal.raise_signal(signal.SIGINT)"))
    assert done.returncode == 130 and done.stdout == "" and done.stderr.count("\n") == 1


def test_ctrl_c_is_not_taken_where_it_was_ignored():
    """As `nohup` and shells do for what they start in the background."""
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ndef main(): signal.raise_signal(signal.SIGINT)"
    assert run(code).returncode == 0


def test_a_bug_keeps_its_traceback():
    done = run("def main(): return 1 / 0")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(given, expected):
    done = run("def main(): print(os.environ.get('GOMP_SPINCOUNT'))", **given)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(("given", "hint"), [("pannte", "PanNet"), ("FUSIONNET", "FusionNet"), ("zzz", "")])
def test_nearest_name(given, hint):
    text = nearest(given, ["PanNet", "FusionNet"])
    assert (hint in text) if hint else text == ""


@pytest.mark.parametrize("fsync", [False, True])
def test_a_failing_writer_leaves_the_old_file(tmp_path, fsync):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="midway"), renamed(path, fsync) as temporary:
        temporary.write_text("half")
        raise ValueError("midway")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with renamed(path, fsync) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_synced_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Otherwise a power cut could leave the new name with the content of neither file."""
    synced = []

    def fsync(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, (tmp_path / "x.json").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "x.json", {"a": 1}, fsync=True)
    assert synced == [((tmp_path / "x.json").stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    write_json(tmp_path / "y.json", {"a": 1})
    assert len(synced) == 2


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), renamed(tmp_path / "file" / "x.txt") as temporary:
        temporary.write_text("x")


def test_what_is_in_the_way_of_a_file_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path / "file/sub/x.txt", 'file" is a file, not a folder'), (tmp_path, "it is a folder")):
        with pytest.raises(UserError, match=words):
            check_writable(None, tmp_path / "new/x.txt", path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_long_words_of_a_library_are_not_shown(tmp_path):
    """HDF5 prints its flags in hexadecimal instead of the system's "no space"."""
    with pytest.raises(UserError) as error, renamed(tmp_path / "x.h5"):
        raise OSError(errno.ENOSPC, "unable to extend, o_flags = 242")
    assert os.strerror(errno.ENOSPC) in str(error.value) and "o_flags" not in str(error.value)


def test_json_has_no_infinities(tmp_path):
    write_json(tmp_path / "x.json", {"psnr": (math.inf, math.nan), "ergas": [1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"psnr": ["inf", "nan"], "ergas": [1.5]}


def test_json_that_is_absent_or_broken_is_none(tmp_path):
    (tmp_path / "x.json").write_text("{")
    assert read_json(tmp_path / "x.json") is None and read_json(tmp_path / "y.json") is None
