"""Recipes: each that ships is whole and counts right, one runs from end to end, and bad ones are one line."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lemamba.commands import parse, published, reproduce
from lemamba.commands.recipes import FOLDER, Expected, known_recipes, read_recipe
from lemamba.utils import config
from lemamba.utils.atomic import write_json
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import files_of

ROOT = Path(__file__).resolve().parent.parent
SCENE_BYTES = b"not the scene"


def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "reproduce.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture
def changed(tmp_path):
    """Write the synthetic recipe with other values; a value of None takes the key away."""

    def write(**values: object) -> Path:
        recipe = yaml.safe_load((FOLDER / "synthetic.yaml").read_text(encoding="utf-8")) | values
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", known_recipes())
def test_a_recipe_is_whole(name):
    """Its commands are understood, its network has the numbers it says, and it expects something."""
    recipe = read_recipe(name)
    counted = reproduce.count(recipe)
    assert counted["parameters"][0] == counted["parameters"][1]
    assert counted["gflops"][0] == pytest.approx(counted["gflops"][1], abs=0.05)
    given = parse("train", [*recipe.train_words(), "--dataset", recipe.dataset])
    settings = config.resolve(given.flags, given.config_file)
    assert (settings.model.arch, settings.train.seed) == (recipe.network.arch, recipe.seed)
    if recipe.prepare:
        words = recipe.prepare_words(Path("scene.mat"), Path("out"))
        asked = parse("prepare", words)
        assert (getattr(asked, "sensor", "none"), asked.name) == (recipe.sensor, recipe.dataset)
    published = [expected for rows in recipe.expect.values() for expected in rows.values() if expected is not None]
    assert all(expected.band > 0 for expected in published) and (published or name in ("cave_x4", "harvard_x4"))
    assert {"sam", "ergas"} <= set(recipe.expect["reduced"])


def test_a_band_has_two_sides_and_no_nan():
    band = Expected(2.0, 0.5)
    assert [band.met_by(x) for x in (1.49, 1.5, 2.5, 2.51, float("nan"))] == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tite": "x"}, 'unknown key "tite" (did you mean "title"?)'),
        ({"seed": None}, "seed missing"),
        ({"seed": "soon"}, "seed: expected"),
        ({"network": {"arch": "LEMamba"}}, "missing"),
        ({"expect": {"reduced": {"pnsr": {"value": 1, "band": 1}}}}, "unknown index 'pnsr' (did you mean \"psnr\"?)"),
        ({"expect": {"reduced": {"psnr": 30}}}, "expected a mapping"),
        ({"expect": {"half": {}}}, "expected reduced and full"),
        ({"expect": {}}, "given nothing"),
        ({"prepare": "simulate SCENE --sensor IKONOS"}, "give scene and sha256"),
        ({"train": "--arch LEMamba --max_minutes 5"}, "given minutes, which depend on the machine"),
    ],
    ids=str,
)
def test_a_bad_recipe_names_what_is_wrong(changed, values, message):
    with pytest.raises(UserError) as caught:
        read_recipe(str(changed(**values)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected the name of a recipe"),
        (("ikonoss",), 'did you mean "ikonos"?'),
        (("pleiade",), 'did you mean "pleiades"?'),
        (("ikonos",), "give its file with --scene"),
        (("ikonos", "--scene", "nowhere.mat"), "does not exist"),
        (("ikonos", "--scene", "other.mat"), "is not the scene of the recipe"),
        (("wv3", "--data_root", "."), "train_wv3.h5"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    (tmp_path / "other.mat").write_bytes(SCENE_BYTES)
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


def test_recipes_are_listed():
    done = run("--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*known_recipes(), *published.known_tables()]


class Steps:
    """Replaces the commands: records them, creates data files, and trains up to an epoch that the test chooses."""

    def __init__(self, out: Path) -> None:
        self.out, self.taken, self.epoch = out, [], 24

    def __call__(self, title: str, *command: object) -> None:
        self.taken.append(command)
        if command[0] == "prepare":
            (self.out / "own/data").mkdir(parents=True)
            for file in files_of("pansharpening", "recipe").values():
                (self.out / "own/data" / file).touch()
        elif command[0] == "train":
            run = self.out / "own/run"
            (run / f"checkpoints/step_{self.epoch:08d}").mkdir(parents=True)
            facts = {"training": {"epoch": self.epoch}, "config": {"train": {"epochs": 24}}}
            write_json(run / "weights/last.json", facts)
        else:
            protocol = Path(command[command.index("--json") + 1])
            write_json(protocol, {"scores": {"LEMamba": {}}})

    def names(self) -> list[object]:
        names, self.taken = [command[0] for command in self.taken], []
        return names


@pytest.fixture
def steps(tmp_path, monkeypatch):
    taken = Steps(tmp_path / "out")
    monkeypatch.setattr(reproduce, "run_step", taken)
    return taken


def test_a_training_that_was_stopped_is_resumed_and_not_measured(steps, changed, capsys):
    """A scheduler's signal lets a training end well with status 0, in the middle; it is no result of the recipe."""
    line, steps.epoch = [str(changed()), "--out", str(steps.out)], 23
    with pytest.raises(SystemExit) as stopped:
        reproduce.run(parse("reproduce", line))
    assert stopped.value.code == 130 and "run the same command again to resume" in capsys.readouterr().err
    assert steps.names() == ["prepare", "train"]

    steps.epoch = 24
    reproduce.run(parse("reproduce", line))
    assert "--resume_path" in steps.taken[0] and "--overwrite" not in steps.taken[0]
    assert steps.names() == ["train", "fuse", "fuse"]
    reproduce.run(parse("reproduce", line))
    assert steps.names() == ["fuse", "fuse"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"prepare": "synthetic --size 128 --seed 5 --sensor IKONOS"}, "prepare"),
        ({"train": "--arch LEMamba -c configs/budget.yaml -e 3"}, "train"),
        ({"seed": 7}, "seed"),
    ],
    ids=str,
)
@pytest.mark.parametrize("epoch", [2, 24], ids=["stopped", "finished"])
def test_what_another_recipe_made_is_not_taken_for_this_ones(steps, changed, values, named, epoch):
    line, steps.epoch = [str(changed()), "--out", str(steps.out)], epoch
    with contextlib.suppress(SystemExit):
        reproduce.run(parse("reproduce", line))
    steps.names()
    changed(**values)
    with pytest.raises(UserError, match=f"was made with another {named} than the recipe now has"):
        reproduce.run(parse("reproduce", line))
    assert steps.names() == []


def test_bad_input_leaves_no_folder(steps):
    with pytest.raises(UserError, match="give its file with --scene"):
        reproduce.run(parse("reproduce", ["ikonos", "--out", str(steps.out)]))
    assert not steps.out.exists()


@pytest.mark.slow
def test_the_synthetic_recipe_from_end_to_end(tmp_path, changed):
    """All numbers in their bands; what is there is not made again; another expectation is not met."""
    recipe = changed()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "reproduce.py"), str(recipe), "--out", str(tmp_path / "out")]

    def again() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    first = again()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "outside" not in first.stdout and first.stdout.count("in its band") >= 10
    lines = [line for line in first.stdout.splitlines() if line.startswith("$ ")]
    assert [Path(shlex.split(line)[2]).name for line in lines] == [
        "prepare_data.py",
        "accelerate_main.py",
        "inference.py",
        "inference.py",
    ]

    expect = yaml.safe_load(recipe.read_text(encoding="utf-8"))["expect"]
    found = json.loads((tmp_path / "out/own/reduced.json").read_text(encoding="utf-8"))["scores"]["LEMamba"]["psnr"][
        "mean"
    ]
    expect["reduced"]["psnr"] = {"value": found + 1, "band": 0.9}
    changed(expect=expect)
    second = again()
    assert second.returncode == 1, second.stdout + second.stderr
    assert second.stdout.count("outside") == 1
    assert "accelerate_main.py" not in second.stdout and "prepare_data.py" not in second.stdout

    measured = run(recipe, "--measure", tmp_path / "out/own/reduced.mat", "--out", tmp_path / "out", cwd=tmp_path)
    assert measured.returncode == 1 and measured.stdout.count("outside") == 1


def test_ctrl_c_waits_for_the_step_and_ends_the_command(tmp_path):
    """A training saves a checkpoint: it is not killed, and no further step starts."""
    child = (
        "import pathlib, signal, time; signal.signal(signal.SIGINT, lambda *_: None); "
        "pathlib.Path('started').touch(); time.sleep(1.5); pathlib.Path('saved').touch()"
    )
    code = f"""
import sys
from lemamba.commands import steps
from lemamba.utils.startup import run_cli
steps.command_of = lambda name, code: [sys.executable, "-c", code]
def main():
    steps.run_step("one", "train", {child!r})
    steps.run_step("two", "fuse", "print(2)")
run_cli(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    for _ in range(300):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (tmp_path / "saved").exists()
    assert b"== two" not in out
