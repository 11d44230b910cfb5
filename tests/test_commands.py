"""The command line: what every command understands, how fast its help is, and where it may be started."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import pytest

import lemamba
from lemamba.commands import COMMANDS, options, parse, steps
from lemamba.utils.command_line import REQUIRED, option, parse_options
from lemamba.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
NAMES = [(name, "") for name in COMMANDS if COMMANDS[name].options] + [
    ("prepare", key) for key in COMMANDS["prepare"].options
]
CLASSES = [c for c in vars(options).values() if isinstance(c, type) and c.__module__ == options.__name__]


def run(*command: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@dataclass(frozen=True, kw_only=True)
class Example(options.DataOptions, options.DeviceOptions):
    """An example."""

    dataset: str = option(REQUIRED, "a required one", "--dataset", group="data")
    numbers: tuple[int, ...] = option((), "several", "--number")
    switch: bool = option(False, "a switch", "--switch")
    size: float = option(1.0, "bounded", "--size", low=0)
    file: Path | None = option(None, "positional", "FILE")


@pytest.mark.parametrize(
    ("older", "line"),
    [
        ("--batch 3", "--batch_size 3"),
        ("-b 3", "--batch_size 3"),
        ("--precision fp16", "--mixed_precision fp16"),
        ("--precision float32", "--mixed_precision no"),
    ],
)
def test_older_spellings_mean_the_same(older, line):
    one, two = (parse_options(Example, ["--dataset", "d", *words.split()]) for words in (older, line))
    assert one == two


def test_values_have_the_type_of_their_field():
    line = "--dataset none --number 1 --number 2 --divisor 2047 --data a.h5 --switch b.h5"
    assert parse_options(Example, line.split()) == Example(
        dataset="none", numbers=(1, 2), divisor=2047.0, data=Path("a.h5"), switch=True, file=Path("b.h5")
    )
    assert parse_options(Example, ["--dataset", "d"]) == Example(dataset="d")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "required: --dataset"),
        ("--dataset d --batch 0", "--batch_size: expected at least 1, given 0"),
        ("--dataset d --size nan", "--size: expected at least 0"),
        ("--dataset d --batch many", "invalid int"),
        ("--dataset d --precision fp8", "fp16"),
        ("--dataset d --divisir 3", 'did you mean "--divisor"'),
    ],
)
def test_what_is_wrong_is_one_line(line, says):
    with pytest.raises(UserError) as error:
        parse_options(Example, line.split())
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_option_is_declared_whole(cls):
    """A help text, flags, and a frozen class with a docstring, which is the text of the help."""
    assert cls.__doc__ and cls.__dataclass_params__.frozen
    for field in fields(cls):
        assert field.metadata["help"] and field.metadata["flags"], field.name
        assert field.default is MISSING or field.default_factory is MISSING


@pytest.mark.parametrize(("name", "key"), NAMES, ids=str)
def test_help_loads_no_torch_and_names_the_program_as_typed(name, key):
    words = [*([key] if key else []), "--help"]
    shown = f"usage: {COMMANDS[name].script} {key}".rstrip()
    code = "import runpy, sys; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "finally: assert not {'torch', 'numpy', 'h5py', 'accelerate'} & set(sys.modules)"
    if COMMANDS[name].script:
        done = run("-c", code, COMMANDS[name].script, *words)
        assert done.returncode == 0 and done.stdout.startswith(shown), done.stderr
    installed = run("-m", "lemamba", name, *words)
    assert installed.stdout.startswith(f"usage: lemamba {name} {key}".rstrip())


def test_the_overview_and_the_version():
    done = run("-m", "lemamba")
    assert done.returncode == 0 and all(f"  {name} " in done.stdout for name in COMMANDS)
    assert run("-m", "lemamba", "--version").stdout == f"lemamba {lemamba.__version__}\n"
    done = run("-m", "lemamba", "fusee")
    assert done.returncode == 2 and 'did you mean "fuse"' in done.stderr and done.stderr.count("\n") == 1


def test_the_scripts_of_commands_exist():
    for name, command in COMMANDS.items():
        assert (ROOT / command.script).is_file() or (name, command.script) in (("adapt", ""), ("export", ""))


def test_the_front_door_is_imported_on_first_use():
    code = "import sys, lemamba; assert 'torch' not in sys.modules; print(lemamba.nonsense)"
    assert "no attribute 'nonsense'" in run("-c", code).stderr


def test_steps_run_from_any_folder_and_show_what_can_be_typed(tmp_path, monkeypatch):
    """A clone runs its scripts by path; an installed package has none and runs as a module."""
    monkeypatch.chdir(ROOT)
    assert steps.as_typed("prepare", "inspect", "a b") == "python prepare_data.py inspect 'a b'"
    monkeypatch.chdir(tmp_path)
    assert steps.as_typed("prepare", "inspect", 1) == f"python {ROOT}/prepare_data.py inspect 1"
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/__init__.py").write_text("raise SystemExit('a foreign utils was imported')")
    words = steps.command_of("prepare", "synthetic", "--out", "here", "--size", 128)
    done = run(*words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here/train_demo.h5").is_file(), "relative to the working folder"

    monkeypatch.setattr(steps, "ROOT", tmp_path)
    assert steps.as_typed("prepare", "inspect", 1) == "lemamba prepare inspect 1"
    assert steps.command_of("train", "-e", 3)[1:] == ["-m", "lemamba", "train", "-e", "3"]


def test_a_failing_step_ends_the_command_with_its_status(capfd):
    with pytest.raises(SystemExit) as stopped:
        steps.run_step("look", "prepare", "inspect", "nowhere.h5")
    assert stopped.value.code == 2
    out, err = capfd.readouterr()
    assert out.startswith("\n== look\n$ python ") and "prepare_data.py inspect nowhere.h5" in out and err
    assert parse("prepare", ["inspect", "nowhere.h5"]) == options.InspectOptions(files=(Path("nowhere.h5"),))
