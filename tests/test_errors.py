"""What every command shares: one line and status 2 for bad input, whole files, threads that do not spin."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lemamba.utils.atomic import check_writable, renamed, write_json
from lemamba.utils.errors import UserError, nearest

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = f"import os\nfrom utils.errors import UserError, run_cli\n{code}\nrun_cli(main)"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)


def test_user_error_is_one_line_and_status_2():
    done = run("def main(): raise UserError('expected a\\n file, given none')")
    assert done.returncode == 2 and done.stderr == "error: expected a file, given none\n"


def test_ctrl_c_is_one_line_and_status_130():
    done = run("import signal\ndef main(): signal.raise_signal(signal.SIGINT)")
    assert done.returncode == 130 and done.stderr.startswith("interrupted") and done.stderr.count("\n") == 1


SLEEP = "import time; [time.sleep(0.05) for _ in range(400)]; print('the end')"


@pytest.mark.parametrize(
    "place",
    [
        "import half; print('whole', half.whole)",
        "class C:\n        def __del__(self): signal.raise_signal(signal.SIGINT)\n    C()",
        "c = type('C', (), {})(); weakref.finalize(c, signal.raise_signal, signal.SIGINT); del c",
        "list(map(ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: signal.raise_signal(signal.SIGINT)), [1]))",
    ],
    ids=["import", "del", "weak reference", "callback from C"],
)
def test_ctrl_c_ends_a_command_wherever_it_arrives(tmp_path, place):
    """Python forgets what is raised in the last three; the first is a library that catches all while it loads."""
    (tmp_path / "half.py").write_text(
        "import signal\nwhole = False\ntry:\n    signal.raise_signal(signal.SIGINT)\n    whole = True\n"
        "except BaseException:\n    pass\n"
    )
    begun = time.monotonic()
    head = f"import ctypes, signal, sys, weakref\nsys.path.append({str(tmp_path)!r})"
    done = run(f"{head}\ndef main():\n    {place}\n    {SLEEP}")
    assert done.returncode == 130 and "interrupted; files are whole or absent" in done.stderr
    assert "the end" not in done.stdout and time.monotonic() - begun < 15
    if "CFUNCTYPE" not in place:
        assert done.stderr.count("\n") == 1
    if "half" in place:
        assert done.stdout == "whole True\n"


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


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="midway"), renamed(path) as temporary:
        temporary.write_text("half")
        raise ValueError("midway")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


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
    """HDF5 tells its flags in hexadecimal where the system says: no space."""
    with pytest.raises(UserError) as error, renamed(tmp_path / "x.h5"):
        raise OSError(errno.ENOSPC, "unable to extend, o_flags = 242")
    assert os.strerror(errno.ENOSPC) in str(error.value) and "o_flags" not in str(error.value)


def test_json_has_no_infinities(tmp_path):
    write_json(tmp_path / "x.json", {"psnr": (math.inf, math.nan), "ergas": [1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"psnr": ["inf", "nan"], "ergas": [1.5]}
