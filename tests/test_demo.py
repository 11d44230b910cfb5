"""The demo: its command lines are valid, and it claims its gain only where the compiled scan runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from lemamba.commands import COMMANDS, demo, parse
from lemamba.commands.options import DemoOptions
from lemamba.utils import config
from lemamba.utils.startup import interpreter

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def shown(monkeypatch):
    """Run the demo without its programs; give their command lines. Fusing leaves scores with the gain asked for."""

    def run(folder: Path, *arguments: str, backend: str = "cpp", gain: float = 8.0) -> list[list[str]]:
        commands: list[list[str]] = []

        def step(title: str, *command: object) -> None:
            commands.append([str(word) for word in command])
            if command[0] == "fuse":
                scores = {name: {"psnr": {"mean": psnr}} for name, psnr in (("EXP", 28.0), ("LEMamba", 28.0 + gain))}
                Path(command[command.index("--json") + 1]).write_text(json.dumps({"device": "cpu", "scores": scores}))

        monkeypatch.setattr(demo, "run_step", step)
        monkeypatch.setattr(demo, "scan_backend", lambda: (backend, backend == "cpp"))
        assert demo.run(parse("demo", ["--out", str(folder), *arguments])) == 0
        return commands

    return run


def minutes(commands: list[list[str]]) -> float:
    return float(commands[1][commands[1].index("--max_minutes") + 1])


def test_its_command_lines_are_what_the_programs_take(shown, tmp_path):
    synthetic, train, fuse = shown(tmp_path)
    assert [c[0] for c in (synthetic, train, fuse)] == ["prepare", "train", "fuse"]
    assert parse("prepare", synthetic[1:]).out == tmp_path / "data"
    command = parse("train", train[1:])
    settings = config.resolve(command.flags, command.config_file)
    assert (settings.model.arch, settings.data.dataset, settings.train.device) == ("LEMamba", "demo", "cpu")
    fusing = parse("fuse", fuse[1:])
    run = Path(settings.log.log_dir) / settings.log.proj_name / settings.log.run_name
    assert Path(fusing.weights) == run, "what is fused with is what was trained"
    assert fusing.data_root == tmp_path / "data" == Path(settings.data.root)


def test_without_a_compiler_it_trains_for_a_shorter_time_and_claims_nothing(shown, tmp_path, capsys):
    assert minutes(shown(tmp_path)) == DemoOptions().minutes > 1
    assert minutes(shown(tmp_path, backend="torch", gain=0.5)) == 1
    assert "does not claim a gain" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["gain_db"] == 0.5


def test_with_one_a_gain_below_the_promise_is_a_warning(shown, tmp_path, capsys):
    shown(tmp_path, gain=2.9)
    warning = capsys.readouterr().err
    assert re.search(r"^warning: .*at least 3.0 dB, reached 2.90 dB.*--minutes 5", warning)
    shown(tmp_path, gain=3.1)
    assert capsys.readouterr().err == ""


def test_it_counts_core_time_and_saves_on_the_way(shown, tmp_path):
    command = parse("train", shown(tmp_path)[1][1:])
    train = config.resolve(command.flags, command.config_file).train
    assert train.clock == "core" and 0 < train.checkpoint_every_steps <= 50


def printed_commands(text: str) -> list[list[str]]:
    """Return the commands in a text, each as its words."""
    python = re.escape(interpreter())
    return [shlex.split(found) for found in re.findall(rf"{python} (?:\S+\.py|-m) .*", text)]


def test_every_command_that_it_prints_can_be_typed(shown, tmp_path, capsys, monkeypatch):
    """The interpreter is one that has the packages, the scripts exist, and they take the options."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no environment is activated
    monkeypatch.chdir(ROOT)
    shown(tmp_path, gain=1.0)
    out, err = capsys.readouterr()
    commands = printed_commands(out) + printed_commands(err)
    assert len(commands) == 4
    scripts = {command.script: name for name, command in COMMANDS.items()}
    for python, script, *arguments in commands:
        assert Path(python).samefile(sys.executable)
        if script == "-m":
            assert importlib.util.find_spec(arguments[0].partition(".")[0])
        else:
            parse(scripts[script], arguments)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin")
    assert interpreter() == "python"
