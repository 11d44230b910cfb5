"""What every command line offers: defaults, examples, messages, completion, --list_models, --dry_run, doctor."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_files import PIXEL, smooth, tif, write_test_set, write_training_set

from lemamba.commands import (
    COMMANDS,
    LISTING,
    adapt,
    completion,
    doctor,
    fuse,
    listing,
    parse,
    parser_of,
    prepare,
    train,
)
from lemamba.engine.weights.files import SHIPPED
from lemamba.utils import config
from lemamba.utils.command_line import shown_default
from lemamba.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PLACES = [(name, "", cls) for name, c in COMMANDS.items() if not isinstance(cls := c.options, dict)]
PLACES += [("prepare", key, cls) for key, cls in COMMANDS["prepare"].options.items()]
IDS = [f"{name} {key}".strip() for name, key, _ in PLACES]


def help_of(name: str, key: str, prog: str = "") -> str:
    parser = parser_of(name, prog or f"lemamba {name}")
    if key:
        parser = next(a for a in parser._actions if a.dest == "subcommand").choices[key]
    return parser.format_help()


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("name", "key", "cls"), PLACES, ids=IDS)
def test_help_shows_every_default(name, key, cls):
    text = " ".join(help_of(name, key).split())
    for kind in (cls, *(config.SECTIONS.values() if name == "train" else ())):
        for field in dataclasses.fields(kind):
            default = shown_default(field)
            if default and field.metadata["flags"] and Path(default).suffix != ".yaml":  # an absolute path
                assert f"default {default}" in text, field.name


@pytest.mark.parametrize(("name", "key", "cls"), PLACES, ids=IDS)
def test_examples_end_the_help_and_can_be_typed(name, key, cls):
    text, _, end = help_of(name, key).partition("\nexamples:\n")
    lines, start = end.splitlines(), f"  lemamba {name} {key}".rstrip()
    assert 2 <= len(lines) <= 3 and "Examples:" not in text
    for line in lines:
        assert line.startswith(f"{start} ")
        words = shlex.split(line.removeprefix(f"  lemamba {name} "), comments=True)
        options = parse(name, words)
        if name == "train":  # values are checked when all settings are merged
            config.resolve(options.flags, options.config_file)
    if COMMANDS[name].script:
        shown = help_of(name, key, COMMANDS[name].script)
        assert f"examples:\n  python {COMMANDS[name].script} {key}".rstrip() in shown


def lemamba(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lemamba", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_quiet_prints_errors_only_and_verbose_more():
    quiet = lemamba("completion", "bash", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    verbose = lemamba("completion", "--verbose", "bash")
    assert "complete -o default" in verbose.stdout and " MiB of memory" in verbose.stderr
    wrong = ("prepare", "simulate", "--out", "x", "--ratio", "0")
    quiet, verbose = lemamba(*wrong, "--quiet"), lemamba(*wrong, "--verbose")
    assert quiet.returncode == verbose.returncode == 2
    assert quiet.stderr.count("\n") == 1 and quiet.stderr.startswith("error: ")
    assert verbose.stderr.startswith("Traceback") and verbose.stderr.endswith(quiet.stderr)


# ---------------------------------------------------------------------------------------------------- completion

ASKED = {  # what is typed before <tab> -> some of what is offered
    "lemamba f": {"fuse"},
    "lemamba prepare s": {"simulate", "synthetic"},
    "lemamba fuse --assume": {"--assume_aligned"},
    "lemamba fuse --arch BDS": {"BDSD-PC"},
    "lemamba prepare simulate --sensor IK": {"IKONOS"},
    "lemamba train --loss l1s": {"l1sam", "l1ssim"},
    "lemamba completion z": {"zsh"},
}
BASH = (
    """source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _lemamba; printf '%s\\n' "${COMPREPLY[@]}" """
)


def test_every_command_and_flag_is_completed_in_every_shell():
    places = completion.places()
    for write in (completion.bash, completion.zsh, completion.fish):
        script = write(places)
        for place in places:
            assert place.words[-1] in script
            for flag in place.flags:
                long = [s.lstrip("-") for s in flag.spellings if s.startswith("--")]
                assert all(word in script for word in long), flag
    assert {place.words[0] for place in places} == set(COMMANDS)


def _ask_zsh(file: Path) -> None:
    """Type into a zsh on a terminal, without which it offers nothing."""
    pexpect = pytest.importorskip("pexpect")
    shell = pexpect.spawn("zsh", ["-f", "-i"], encoding="utf-8", timeout=120, dimensions=(50, 300))
    shell.sendline(f"autoload -U compinit; compinit -u -D; source {shlex.quote(str(file))}; echo rea''dy")
    shell.expect_exact("ready")
    for line, offered in ASKED.items():
        shell.send(f"{line}\t")
        for word in sorted(offered):
            shell.expect_exact(word)
        shell.send("\x15echo do''ne\r")  # a new line
        shell.expect_exact("done")
    shell.close(force=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_offer_what_is_known(tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "script"
    file.write_text(
        {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}[shell](completion.places())
    )
    if shell == "zsh":
        _ask_zsh(file)
        return
    for line, offered in ASKED.items():
        words = ["bash", "-c", BASH, "bash", file, *line.split(" ")]
        if shell == "fish":
            words = ["fish", "--no-config", "-c", f"source {file}; complete -C '{line}'"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert {row.partition("\t")[0] for row in done.stdout.splitlines()} == offered, line


# ---------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("name", LISTING)
def test_list_models_needs_no_other_option(name, monkeypatch, capsys):
    monkeypatch.setattr(listing, "list_models", lambda: ["LEMamba", "GSA", "SSRNet", "ZS-Pan", "MTF-GLP"])
    with pytest.raises(SystemExit) as ended:
        parse(name, ["--list_models"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert rows["LEMamba"].split()[1:5] == ["both", "2024", "743,464", "needed"]  # the paper's 0.74 M
    assert rows["SSRNet"].split()[1:4] == ["hmif", "2021", "26,040"]  # 31 bands, docs/methods.md
    assert ("GSA" in rows) == (name != "train") and ("ZS-Pan" in rows) == (name != "train")
    if name != "train":
        assert rows["GSA"].split()[1:5] == ["pansharpening", "2007", "-", "none"]
        assert "trains on the image" in rows["ZS-Pan"] and rows["MTF-GLP"].split()[2] == "2006"


# ---------------------------------------------------------------------------------------------------- doctor


def test_doctor_names_each_problem_and_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "SCAN", (1, 4, 2, 16))
    monkeypatch.setattr(doctor, "_requirements", lambda: ["numpy>=1.24", "h5py>=99", "lemamba-no-such-package"])
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 0.0)
    copy = tmp_path / "x.safetensors"
    content = SHIPPED["generic"].read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    copy.with_suffix(".json").write_bytes(SHIPPED["generic"].with_suffix(".json").read_bytes())
    monkeypatch.setitem(doctor.SHIPPED, "other", copy)
    status = doctor.run(parse("doctor", ["--data_root", str(tmp_path / "nowhere"), "--scan_backend", "torch"]))
    lines = capsys.readouterr().out.splitlines()
    problems = {line: after.strip() for line, after in zip(lines, lines[1:], strict=False) if line.startswith("!!")}
    assert status == 1
    assert all(advice.startswith("-> ") for advice in problems.values())
    for topic, found, advice in (
        ("package", "h5py", 'pip install "h5py>=99"'),
        ("package", "lemamba-no-such-package is not installed", "pip install"),
        ("data root", "nowhere is not a folder", "--data_root"),
        ("weights", "other, x.safetensors: damaged", "restore"),
    ):
        assert any(f"{topic} " in k and found in k and advice in v for k, v in problems.items()), found
    text = "\n".join(lines)
    assert "weights    generic" in text and "as published" in text and "torch on cpu: " in text


def test_doctor_finds_nothing_wrong_with_whole_weights_and_data(tmp_path, monkeypatch):
    write_test_set(tmp_path / "test_mine_multiExm1.h5")
    monkeypatch.delenv("LEMAMBA_MODEL_PATH", raising=False)
    found = [*doctor.weights(), *doctor.data(tmp_path)]
    assert not [finding for finding in found if finding.advice]
    assert any("1 H5 files" in finding.text for finding in found)
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path / "nowhere"))
    assert [f.topic for f in doctor.data(tmp_path) if f.advice] == ["methods"]


def test_doctor_names_a_cache_that_cannot_be_written_and_threads_that_are_not_used(tmp_path, monkeypatch):
    """Folders are tried: for root, permissions say nothing, and of a folder that is yet to be made there are none."""
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file", tmp_path / "file/below"):
        monkeypatch.setenv("LEMAMBA_CACHE", str(cache))
        (finding,) = (one for one in doctor.disk() if one.text.startswith("kernels"))
        assert f"{cache} cannot be written" in finding.text and "set LEMAMBA_CACHE" in finding.advice
    monkeypatch.setenv("LEMAMBA_CACHE", str(tmp_path / "new/cache"))
    assert not any(one.advice for one in doctor.disk() if "cannot be written" in one.text)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: range(10**4), raising=False)
    for named, said in (("1", True), (None, False)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if named:
            monkeypatch.setenv("OMP_NUM_THREADS", named)
        found = next(iter(doctor.threads()))
        assert not found.advice and ("unset OMP_NUM_THREADS" in found.text) == said


# ---------------------------------------------------------------------------------------------------- dry runs


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "data"
    write_training_set(folder / "train_mine.h5", 11, 0)
    write_training_set(folder / "valid_mine.h5", 2, 1)
    return folder


def test_a_training_says_its_steps_and_writes_nothing(tmp_path, sets, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "--arch PNN --dataset mine --data_root data --sensor QB -e 3 -b 2 --grad_accum_steps 2 --run_name r --cpu"
    before = files_in(tmp_path)
    assert train.run(parse("train", f"{line} --dry_run".split())) == 0
    assert files_in(tmp_path) == before and {p.name for p in tmp_path.iterdir()} == {"data"}
    out = capsys.readouterr().out
    assert "3 epochs of 3 steps" in out  # 11 samples: five batches of two, two batches a step
    assert "log_file/LE-Mamba/r/" in out and out.endswith("dry run: nothing was written\n")
    weights = tmp_path / "log_file/LE-Mamba/r/weights/best.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    with pytest.raises(UserError, match="exists already"):
        train.run(parse("train", f"{line} --dry_run".split()))
    assert train.run(parse("train", f"{line} --dry_run --overwrite".split())) == 0 and weights.exists()


def test_fusing_says_its_tiles_and_files_and_writes_nothing(tmp_path, capsys):
    data = write_test_set(tmp_path / "test.h5", count=3)
    before = files_in(tmp_path)
    line = ["--arch", "GSA", "--data", str(data), "--sensor", "QB", "--dry_run", "--out"]
    assert fuse.run(parse("fuse", [*line, str(tmp_path / "sr.mat"), "--json", str(tmp_path / "m.json")])) == 0
    out = capsys.readouterr().out
    assert "3 images of 64 x 64 pixels" in out and "3 whole images" in out and f"{tmp_path / 'm.json'} (metrics)" in out
    fuse.run(
        parse("fuse", ["--arch", "Brovey", "--tile", "32", "--overlap", "16", *line[2:], str(tmp_path / "sr.mat")])
    )
    assert "27 tiles of 32 x 32 pixels" in capsys.readouterr().out  # starts 0, 16, 32 in both directions
    with pytest.raises(UserError, match="end in"):
        fuse.run(parse("fuse", [*line, str(tmp_path / "sr.xyz")]))
    assert files_in(tmp_path) == before


def test_pairs_and_adapting_write_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rasterio", reason="rasterio is optional")
    monkeypatch.chdir(tmp_path)
    image = smooth(288, 160, 4)
    tif(tmp_path / "ms.tif", image.reshape(4, 72, 4, 40, 4).mean((2, 4)).astype(np.uint16), pixel=4 * PIXEL)
    tif(tmp_path / "pan.tif", image.mean(0, keepdims=True).astype(np.uint16))
    (tmp_path / "pairs.csv").write_text("ms,pan,out\nms.tif,pan.tif,a.tif\nms.tif,pan.tif,b.tif\n")
    pair, before = "--ms ms.tif --pan pan.tif --sensor QB --dry_run", files_in(tmp_path)
    assert fuse.run(parse("fuse", f"{pair} --arch GSA --out sr.tif --rgb_png sr.png".split())) == 0
    out = capsys.readouterr().out
    assert "288 x 160 x 4, 369 kB before compression" in out and "sr.png (picture)" in out
    assert fuse.run(parse("fuse", ["--list", "pairs.csv", "--arch", "EXP", "--sensor", "QB", "--dry_run"])) == 0
    assert "2 of 2 pairs can be fused" in capsys.readouterr().out
    assert adapt.run(parse("adapt", f"{pair} --from scratch --arch PNN --rounds 2 --out sr.tif".split())) == 0
    out = capsys.readouterr().out
    assert "2 epochs of 40 steps" in out and "sr_adapted" in out
    epoch, both = (float(text) for text in re.search(r"([\d.]+) s an epoch, ([\d.]+) s in all", out).groups())
    assert both == pytest.approx(3 * epoch, rel=0.12)  # and one epoch at full resolution
    assert files_in(tmp_path) == before and not (tmp_path / "sr_adapted").exists()


def test_preparing_counts_what_would_be_written(tmp_path, capsys):
    cube = tmp_path / "cube.npy"
    np.save(cube, np.moveaxis(smooth(64, 64, 16), 0, -1))
    line = ["simulate", str(cube), "--wavelengths", "450:700", "--test_only", "--out", str(tmp_path / "out")]
    assert prepare.run(parse("prepare", [*line, "--dry_run"])) == 0
    planned = capsys.readouterr().out
    assert not (tmp_path / "out").exists() and "dry run: nothing was written" in planned
    assert prepare.run(parse("prepare", line)) == 0
    for row in capsys.readouterr().out.splitlines():
        file, _, samples = row.partition(": ")
        if samples.endswith(" samples"):
            assert f"{file} ({samples}" in planned
    assert prepare.run(parse("prepare", [*line, "--dry_run"])) == 0
    assert "replaces the one there" in capsys.readouterr().out
