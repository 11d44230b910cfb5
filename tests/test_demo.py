"""The demo: its command lines are valid, and it claims its gain only where the compiled scan runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemamba.commands import demo, parse
from lemamba.commands.options import DemoOptions
from lemamba.utils import config
from lemamba.utils.errors import UserError


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


def test_with_one_a_gain_below_the_promise_is_an_error(shown, tmp_path):
    with pytest.raises(UserError, match=r"at least 3.0 dB, reached 2.90 dB.*--minutes"):
        shown(tmp_path, gain=2.9)
