"""Every block of bash and Python in README, CONTRIBUTING and docs is run on made data, or read as far as possible.

A page in `RUN` is run from its first block to its last in one folder; `NOT_RUN` holds the commands that are not, with
the reason. Commands of all pages, run or not, go through the real parsers.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_files import smooth, tif, values, write_h5

from lemamba.commands import COMMANDS, parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {entry.script: name for name, entry in COMMANDS.items() if entry.script}
LAUNCHERS = ("accelerate", "torchrun", "srun")  # several processes or a GPU: what they start is parsed
FOREIGN = {  # programs of others: not ours to test
    *("source", "git", "pip", "pre-commit", "mkdir", "diff", "gdalwarp", "uvicorn", "curl", "docker", "export", "hf"),
    *(
        "cd",
        "jupyter",
        "octave",
        "matlab",
        "ls",
        "tensorboard",
        "nvidia-smi",
        "unzip",
        "octave-cli",
        "deactivate",
        "cat",
    ),
}
NOT_RUN = {  # part of a command of a page in `RUN`: why it is not run
    "--weights RUN": "weights of the reader's own training",
    "LC08_L1TP_107035": "a product as it is downloaded: tests/test_scene_files.py",
    "S2A_MSIL2A": "a product as it is downloaded: tests/test_scene_files.py",
    "--register": "a shift is measured on more than a few pixels: tests/test_scene_files.py",
    "USER/NAME": "a download",
    "LE-Mamba/RUN": "weights of the reader's own training",
    "adapt": "minutes of training: tests/test_adapt.py",
    "--method auto": "trains and compares methods: tests/test_adapt.py",
    "-e 3 --dry_run": "needs a data set of training: tests/test_commands.py",
    "simulate": "needs a scene of hundreds of pixels: tests/test_simulate.py",
}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return (line, text) of the blocks of a language, those inside lists too."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.S | re.M)
    return [(text[: m.start()].count("\n") + 1, re.sub(rf"^{m[1]}", "", m[2], flags=re.M)) for m in found]


def commands(text: str) -> list[list[str]]:
    """Return the words of each command of a block of bash; the Python in a here-document is compiled."""
    for name, body in re.findall(r"^cat > (\S+) <<'?EOF'?\n(.*?)^EOF$", text, flags=re.S | re.M):
        if name.endswith(".py"):
            compile(body, name, "exec")
    text = re.sub(r"^(cat > \S+) <<'?EOF'?\n.*?^EOF$", r"\1", text, flags=re.S | re.M)
    lines = re.sub(r"\\\n\s*", " ", text).replace("\N{HORIZONTAL ELLIPSIS}", "").splitlines()
    found, quoted = [], ""
    for line in lines:  # a quotation may run over several lines: python -c "…"
        quoted = f"{quoted}\n{line}" if quoted else line
        try:
            words = shlex.split(quoted, comments=True)
        except ValueError:
            continue
        quoted = ""
        if words:
            found.append(words)
    assert not quoted, f"a quotation has no end: {quoted}"
    return found


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """Return (command, arguments) of a command line of this project, also of one that a launcher starts; else None."""
    words = words[: next((i for i, w in enumerate(words) if w in (">", "|", "&&")), len(words))]
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:3] == ["python", "-m", "lemamba"]:
        words = words[2:]
    if words[:1] == ["lemamba"] and len(words) > 1 and words[1] in COMMANDS:
        return words[1], words[2:]
    start = next((i for i, word in enumerate(words) if word in SCRIPTS), None)
    if start is None or words[0] not in ("python", *LAUNCHERS):
        return None
    return SCRIPTS[words[start]], words[start + 1 :]


def check_foreign(words: list[str]) -> None:
    """Check what can be checked of a command that is none of this project's."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words[2]
        path = ROOT / (words[2].replace(".", "/") + ".py")
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert not source or not [w for w in words if w.startswith("--") and f'"{w}"' not in source], words
    elif words[:2] == ["python", "-c"]:
        compile(words[2], "python -c", "exec")
    elif words and words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        assert not [w for w in words[1:] if "=" not in w and w not in targets], words
    elif words and words[0] == "python":
        assert (ROOT / words[1]).is_file(), f"no script {words[1]}"
    else:
        assert not words or words[0] in (*FOREIGN, *LAUNCHERS), f"{words[0]}: run it, or list it in FOREIGN"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_are_accepted_by_the_real_parsers(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line, text in blocks(page, "bash"):
        for words in commands(text):
            command = ours(words)
            where = f"{page.name}:{line}: {' '.join(words)}"
            for flag, name in zip(words, words[1:], strict=False):
                if name.startswith("configs/") and flag in ("-c", "--config_file"):
                    assert (ROOT / name).is_file(), where
            if command is None:
                check_foreign(words)
            elif not {"--help", "--list_models"} & set(command[1]):
                assert parse(command[0], command[1]) is not None, where


def launched(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return what accelerate's or torchrun's own parser makes of a line, and what it hands to the script."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    words = words[words.index("torchrun") :] if "torchrun" in words else words
    parser, given = (get_args_parser(), words[1:]) if words[0] == "torchrun" else (launch_command_parser(), words[2:])
    options = parser.parse_args(given)
    assert options.training_script in SCRIPTS
    return options, options.training_script_args


def test_launchers_take_the_launch_lines():
    lines = [(p.name, w) for p in PAGES for _, text in blocks(p, "bash") for w in commands(text)]
    several = [(name, w) for name, w in lines if {"accelerate", "torchrun"} & set(w[:2]) and ours(w)]
    taken = [(name, *launched(w)) for name, w in several]
    scaling = []
    for name, options, given in (t for t in taken if t[0] == "scaling.md"):
        if hasattr(options, "nnodes"):
            processes = int(options.nnodes) * int(options.nproc_per_node)
        else:
            config = yaml.safe_load((ROOT / options.config_file).read_text())
            processes = options.num_processes or config["num_processes"]
        scaling.append(processes)
        assert int(given[given.index("-b") + 1]) * processes == 32, f"{name}: another number of samples a step"
    assert sorted(scaling) == [1, 4, 4, 4, 8, 8, 8]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_use_names_that_exist(page):
    """They compile, what they import exists, and what they take from `lemamba` too."""
    for line, text in blocks(page, "python"):
        tree = ast.parse(text, f"{page.name}:{line}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                missing = [a.name for a in node.names if not hasattr(module, a.name)]
                assert not [n for n in missing if not importlib.util.find_spec(f"{node.module}.{n}")], (
                    f"{page.name}:{line}"
                )
            elif isinstance(node, ast.Import):
                assert all(importlib.util.find_spec(a.name) for a in node.names), f"{page.name}:{line}"
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "lemamba":
                assert hasattr(importlib.import_module("lemamba"), node.attr), f"{page.name}:{line}: {node.attr}"


def scene(folder: Path, bands: int = 4, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Write ms.tif and pan.tif under the names that the pages use; return both images."""
    pan = smooth(4 * side, 4 * side, bands, seed=1)
    ms = pan.reshape(bands, side, 4, side, 4).mean((2, 4)).round().astype(np.uint16)
    guide = pan.mean(0, keepdims=True).round().astype(np.uint16)
    for name in ("ms", "MS", "cut_ms"):
        tif(folder / f"{name}.tif", ms, pixel=2.0)
    for name in ("pan", "PAN", "cut_pan"):
        tif(folder / f"{name}.tif", guide)
    return ms, guide


def scenes_of_geotiff(folder: Path) -> None:
    """Write the files that docs/geotiff.md names."""
    from PIL import Image
    from scipy.io import savemat

    ms, pan = scene(folder)
    for band, name in enumerate(("red", "green", "blue", "nir")):
        tif(folder / f"{name}.tif", ms[band : band + 1], pixel=2.0)
    for band, name in enumerate(("B2", "B3", "B4")):
        tif(folder / f"{name}.TIF", ms[band : band + 1], pixel=30.0)
    tif(folder / "B8.TIF", np.asarray(smooth(64, 64, 1)), pixel=15.0)
    tif(folder / "aerial_rgb.tif", ms[:3], pixel=2.0)
    tif(folder / "aerial_pan.tif", pan)
    Image.fromarray((ms[:3] // 8).astype(np.uint8).transpose(1, 2, 0)).save(folder / "rgb.png")
    Image.fromarray((pan[0] // 8).astype(np.uint8)).save(folder / "pan.png")
    np.save(folder / "ms.npy", ms)
    np.save(folder / "pan.npy", pan)
    savemat(folder / "scene.mat", {"I_MS": ms.transpose(1, 2, 0), "I_PAN": pan[0]})
    savemat(folder / "others.mat", {"I_MS": ms.transpose(1, 2, 0), "I_PAN": pan[0]})
    sizes = {"gt": (2, 8, 64, 64), "lms": (2, 8, 64, 64), "ms": (2, 8, 16, 16), "pan": (2, 1, 64, 64)}
    write_h5(folder / "others.h5", values(sizes))


def names_of_geotiff() -> dict[str, object]:
    """Return what the Python block of docs/geotiff.md takes as given: a network, here a method without weights."""
    from lemamba.model import build_model

    return {"model": build_model("EXP", img_channel=4, condition_channel=1, out_channel=4)}


def names_of_the_readme() -> dict[str, object]:
    """Return the arrays of README's example."""
    generator = np.random.default_rng(0)
    return {"ms": generator.integers(0, 2048, (8, 16, 16)), "pan": generator.integers(0, 2048, (64, 64))}


RUN: dict[str, Callable[[Path], object]] = {  # page of docs/: what writes the files that it names
    "geotiff.md": scenes_of_geotiff,
    "no_training_data.md": scene,
}
PYTHON = {  # page: the names that its Python takes as given, and which lines need files of the reader
    "README.md": (names_of_the_readme, r"weights=|lemamba\.run\("),  # data, weights of a run
    "data.md": (dict, "train|sample|other|Augment"),
}


def not_run(command: str) -> bool:
    return any(re.search(rf"(?:^|\s){re.escape(part)}|{re.escape(part)}(?=\S)", command) for part in NOT_RUN)


@pytest.mark.parametrize("name", RUN)
def test_commands_run_one_after_the_other(name, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    RUN[name](tmp_path)
    count = 0
    for line, text in blocks(ROOT / "docs" / name, "bash"):
        for words in commands(text):
            command = ours(words)
            if command is None or words[0] in LAUNCHERS or not_run(" ".join(words)):
                continue
            module = importlib.import_module(f"lemamba.commands.{command[0]}")
            status = module.run(parse(command[0], command[1]))
            inspects = command[1][:1] == ["inspect"]  # its status is what it found
            assert not status or inspects, f"{name}:{line}: {' '.join(words)}"
            if "--out" in command[1]:
                assert Path(command[1][command[1].index("--out") + 1]).exists(), f"{name}:{line}"
            count += 1
    assert count


def test_the_python_of_geotiff_runs(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    scene(tmp_path)
    for _, text in blocks(ROOT / "docs" / "geotiff.md", "python"):
        text = text.replace('sensor="WV3"', 'sensor="IKONOS"')  # of the bands of the made scene
        text = text.replace("(0, 0, 512, 512)", "(0, 0, 128, 128)")
        exec(compile(text, "geotiff.md", "exec"), names_of_geotiff())
    assert (tmp_path / "fused.tif").is_file()


@pytest.mark.parametrize("name", PYTHON)
def test_python_runs_but_for_lines_that_need_files_of_the_reader(name, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    given, left_out = PYTHON[name]
    names, page = given(), ROOT / name if name == "README.md" else ROOT / "docs" / name
    for line, text in blocks(page, "python"):
        kept = [t for t in text.splitlines() if not re.search(left_out, t)]
        exec(compile("\n".join(kept), f"{name}:{line}", "exec"), names)
    assert len(names) > 2
