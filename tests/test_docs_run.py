"""Every block of bash and Python in README, CONTRIBUTING and docs is run, from the first to the last, on made data.

A page has one folder with the files that it names (`folder_of_a_reader`, `FILES`). Commands run in this process, with
fewer steps, methods and pixels than printed (`SMALLER`, `SMALLER_PYTHON`); `NOT_RUN` holds those that do not, with the
reason. Printed as they are, the commands of all pages go through the real parsers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from small_files import smooth, tif, write_h5, write_training_set
from test_boards import here
from test_export import SMALL

from lemamba.commands import COMMANDS, adapt, budget, choose, parse, run
from lemamba.commands import board as leaderboard
from lemamba.engine.weights.files import read_weights, resolve_weights
from lemamba.model import build_model
from lemamba.utils import config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {entry.script: name for name, entry in COMMANDS.items() if entry.script}
LAUNCHERS = ("accelerate", "torchrun", "srun")  # what they start is run without them: tests/test_two_processes.py
SHELL = ("mkdir", "cat", "diff", "export")  # done here as a shell does it
NOT_RUN = {  # pattern in a command -> why it is not run
    r"^git clone|USER/NAME": "a download",
    r"^make venv|^source |^pip install|^pre-commit install": "the environment of the tests is there",
    r"^make (test|lint)$": "it runs this test",
    r"^make demo$|^python reproduce.py (synthetic|ikonos|pleiades)": "minutes; tests/test_demo.py, test_recipes.py",
    r"PANCOLLECTION": "hours, and data that are not part of the project; tests/test_recipes.py reads every recipe",
    r"^python -m benchmarks\.|make figs": "measures for minutes or hours; each has a test of its own on less",
    r"^uvicorn|^curl": "a server; tests/test_serve.py asks it",
    r"^docker": "needs a container engine",
    r"^gdalwarp|^gdalbuildvrt|ms\.vrt": "needs GDAL's programs",
    r"^lemamba export": "80 s of processor time; tests/test_export.py",
    r"_SAFE|\.SAFE": "a product of a gigabyte as it is downloaded; tests/test_scene_files.py makes one",
    r"--register": "a shift needs hundreds of pixels; tests/test_scene_files.py",
    r"dlpan:(fusionnet|pannet)\.pth|cave_x4_best": "published weights; tests/test_zoo.py and test_bands.py read them",
    r"adapt .*(--from|--data)": "as the line before, from other weights and data; tests/test_adapt.py",
    r"--replay|HOST0=\$": "what a failed run or a scheduler leaves",
}
SMALLER = {  # command -> (pattern, what replaces it) of its words
    "train": (
        (r" (-e|-b|--max_minutes|--num_worker|--grad_accum_steps) \S+", ""),
        (r" --compile| --config_file \S+", ""),
        (r"( --run_name \S+)", r"\1 --overwrite"),
        (r"$", " -e 1 -b 1"),
        (r"(--resume_path .*) -e 1 -b 1", r"\1 -e 2"),
    ),
    "fuse": ((r" --compile", ""), (r"(--arch Z\S+ .*)", r"\1 --adapt_steps 2")),
    "adapt": ((r" --minutes \S+", ""), (r"$", " --rounds 1")),
    "board": (
        (r"--methods classical,LEMamba\S*", "--methods EXP,LEMamba"),
        (r"--methods classical,(?!LEMamba)\S+", "--methods EXP"),
        (r"--methods (classical|EXP,(?!LEMamba)\S+)", "--methods EXP"),
        (r"(state_grad=)detached,full|(share_\S+=)false,true", lambda m: f"{m[1]}full" if m[1] else f"{m[2]}true"),
        (r"--(train|train_epochs) \d+", "--train_epochs 1"),
        (r"--seeds 1,2,3", "--seeds 1"),
        (r"--rates 2e-3,5e-4", "--rates 2e-3"),
        (r"^(?!.*--methods)", "--methods EXP,PNN "),
    ),
    "prepare": ((r"^( synthetic .*?)( --size \d+)?$", r"\1 --size 128"),),
}
SMALLER_PYTHON = {  # page -> the same of its Python
    "README.md": (('"data/demo")', '"data/demo", "-e", "1", "-b", "1")'),),
    "data.md": (("some/file.h5", "test_wv3.h5"),),
    "deployment.md": (('lemamba.push_to_hub(network, "USER/NAME", private=True)', "pass"),),
    "howto_cave_table.md": (("96", "64"),),
    "howto_landsat.md": (("(64, 64)", "(16, 16)"),),
    "howto_library.md": (
        ("pair.integers(0, 2048, (4, 32, 32)", "pair.integers(0, 2048, (4, 16, 16)"),
        ("pair.integers(0, 2048, (128, 128)", "pair.integers(0, 2048, (64, 64)"),
    ),
    "howto_worldview_bundle.md": (("(64, 64)", "(16, 16)"),),
    "geotiff.md": (("(0, 0, 512, 512)", "(0, 0, 64, 64)"), ('sensor="WV3"', 'sensor="IKONOS"')),
}


def assigned(words: list[str]) -> list[str]:
    """Return the leading words NAME=value."""
    return words[: next((i for i, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word, re.S)), len(words))]


def not_run(words: list[str]) -> bool:
    return any(re.search(pattern, " ".join(words)) for pattern in NOT_RUN)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return (line, text) of the blocks of a language, or of several ("bash|python"), those inside lists too."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^( *)```(?:{language})\n(.*?)^\1```", text, flags=re.S | re.M)
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
    words = words[len(assigned(words)) :]
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
    words = words[len(assigned(words)) :]
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
        assert not words or words[0] in SHELL or not_run(words), words


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


def launched(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, int, list[str]]:
    """Let accelerate or torchrun prepare a line, but start nothing: its launcher, processes, the script's options."""
    from accelerate.commands import launch
    from accelerate.utils import launch as environment
    from torch.distributed import run as torchrun

    words = words[words.index("torchrun") :] if "torchrun" in words else words
    if words[0] == "torchrun":
        options = torchrun.get_args_parser().parse_args(words[1:])
        plan, _, given = torchrun.config_from_args(options)
        assert options.training_script in SCRIPTS and given[1] == options.training_script
        return "torchrun", plan.max_nodes * plan.nproc_per_node, given[2:]
    called: list[tuple[str, argparse.Namespace]] = []
    for name in ("simple", "multi_gpu", "deepspeed"):
        monkeypatch.setattr(launch, f"{name}_launcher", lambda args, name=name: called.append((name, args)))
    launch.launch_command(launch.launch_command_parser().parse_args(words[2:]))
    ((name, options),) = called
    assert options.training_script in SCRIPTS and not options.cpu
    if name == "multi_gpu":  # FSDP processes get the environment that tests/sharded.py gives its own
        told = environment.prepare_multi_gpu_env(options)
        config = yaml.safe_load((ROOT / options.config_file).read_text()) if options.config_file else {}
        for key, value in config.get("fsdp_config", {}).items():
            assert told[key.upper()] == (str(value).lower() if isinstance(value, bool) else str(value))
        assert (told.get("ACCELERATE_USE_FSDP") == "true") == ("fsdp_config" in config)
    return name, options.num_processes, options.training_script_args


def test_launchers_take_the_launch_lines(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = [(p.name, w) for p in PAGES for _, text in blocks(p, "bash") for w in commands(text)]
    several = [(name, w) for name, w in lines if {"accelerate", "torchrun"} & set(w[:4]) and ours(w)]
    taken = [(name, *launched(w, monkeypatch)) for name, w in several]
    scaling = [entry[1:] for entry in taken if entry[0] == "scaling.md"]
    for launcher, processes, given in scaling:
        assert int(given[given.index("-b") + 1]) * processes == 32, f"{launcher}: another number of samples a step"
    expected = [("deepspeed", 4), ("multi_gpu", 4), ("multi_gpu", 4), ("multi_gpu", 8), ("simple", 1)]
    assert sorted(entry[:2] for entry in scaling) == [*expected, ("torchrun", 8), ("torchrun", 8)]


# The folder of a reader

BANDS = {"wv3": 8, "wv2": 8, "demo": 8, "ikonos": 4, "qb": 4}
SIDE = 32  # pixels of a patch and of a test image


def samples_of(name: str) -> int:
    return 4 if name.startswith("train") else 1  # configs/budget.yaml has batches of 4


def shrink(folder: Path) -> None:
    """Cut the H5 files of a folder down to a batch of patches, or one image, of 32 x 32 pixels of the ground truth."""
    for path in folder.glob("*.h5"):
        with h5py.File(path) as file:
            side = next(file[key].shape[-1] for key in ("lms", "HSI_up") if key in file)
            arrays = {key: np.asarray(value[: samples_of(path.name)]) for key, value in file.items()}
            attributes = dict(file.attrs)
        cut = {key: x[..., : SIDE * x.shape[-1] // side, : SIDE * x.shape[-1] // side] for key, x in arrays.items()}
        write_h5(path, cut, **attributes)


def scene(folder: Path, bands: int = 4, rows: int = 16, columns: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Write a pair under all names that the pages use for one; return MS (C, h, w) and PAN (1, H, W)."""
    from scipy.io import savemat

    pan = smooth(4 * rows, 4 * columns, bands, seed=1)
    ms = pan.reshape(bands, rows, 4, columns, 4).mean((2, 4)).round().astype(np.uint16)
    guide = pan.mean(0, keepdims=True).round().astype(np.uint16)
    for name in ("ms", "MS", "cut_ms"):
        tif(folder / f"{name}.tif", ms, pixel=2.0)
    for name in ("pan", "PAN", "cut_pan"):
        tif(folder / f"{name}.tif", guide)
    for name in ("scene", "SCENE", "others"):
        savemat(folder / f"{name}.mat", {"I_MS": ms.transpose(1, 2, 0), "I_PAN": guide[0]})
    return ms, guide


def published(folder: Path, bands: int) -> None:
    """Write weights of two networks as their authors do, drawn."""
    for arch, names in {"PNN": ["pnn.pth"], "A-PNN": ["WV3_Z-PNN_model.tar", "WV3_ZL-PNN_model.tar"]}.items():
        weights = build_model(arch, img_channel=bands, condition_channel=1, out_channel=bands).state_dict()
        for name in names:
            torch.save(weights, folder / name)


def of_geotiff(folder: Path) -> None:
    from PIL import Image
    from scipy.io import savemat

    ms, pan = scene(folder)
    tif(folder / "aerial_rgb.tif", ms[:3], pixel=2.0)
    tif(folder / "aerial_pan.tif", pan)
    tif(folder / "cube.tif", smooth(32, 32, 16), pixel=30.0)
    Image.fromarray((ms[:3] // 8).astype(np.uint8).transpose(1, 2, 0)).save(folder / "rgb.png")
    Image.fromarray((pan[0] // 8).astype(np.uint8)).save(folder / "pan.png")
    savemat(folder / "others.mat", {"I_MS": smooth(32, 32, 8).transpose(1, 2, 0), "I_PAN": smooth(128, 128, 1)[0]})
    np.save(folder / "ms.npy", ms)
    np.save(folder / "pan.npy", pan)
    shutil.copy(folder / "data/wv2/test_wv2_multiExm1.h5", folder / "others.h5")


def scenes(folder: Path) -> None:
    """Write scenes that are long enough to be split into grounds for training, validation and test."""
    from scipy.io import savemat

    for name, bands in {"SCENE": 4, "ikonos_scene": 4, "worldview2_west": 8}.items():
        pan = smooth(4 * 96, 4 * 32, bands)
        savemat(folder / f"{name}.mat", {"I_MS": pan[:, 2::4, 2::4].transpose(1, 2, 0), "I_PAN": pan[0]})


def of_hmif(folder: Path) -> None:
    from scipy.io import savemat

    cube = smooth(4 * 96, 4 * 32, 16, high=4000)
    guide = cube[[3, 8, 13]]
    savemat(folder / "PAIR.mat", {"HSI": cube[:, 2::4, 2::4].transpose(1, 2, 0), "RGB": guide.transpose(1, 2, 0)})


FILES: dict[str, Callable[[Path], object]] = {  # page: what writes the files that only this page names
    "README.md": lambda folder: [scene(folder, bands=8), scenes(folder)],
    "geotiff.md": of_geotiff,
    "hmif.md": of_hmif,
    "methods.md": lambda folder: scene(folder, bands=8),
    "no_training_data.md": lambda folder: scene(folder, rows=64, columns=32),
    "boards.md": lambda folder: published(folder, 4),
    "results.md": scenes,
}
NAMES: dict[str, Callable[[], dict[str, object]]] = {  # page: what its Python takes as given
    "README.md": lambda: {"ms": smooth(16, 16, 4), "pan": smooth(64, 64, 1)[0]},
    "data.md": lambda: {"epoch": 0, "index": 0},
    "geotiff.md": lambda: {"model": build_model("EXP", img_channel=4, condition_channel=1, out_channel=4)},
}


def train(*words: str) -> None:
    run("train", *words, "-e", "1", "-b", "1", "--cpu")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module", autouse=True)
def _small_le_mamba(tmp_path_factory) -> Iterator[None]:
    """LE-Mamba with the published settings of training, but one stage of eight channels."""
    published_settings = yaml.safe_load((ROOT / "configs/LEMamba_config.yaml").read_text(encoding="utf-8"))
    published_settings["model"]["variants"] = {"tiny": SMALL}
    file = tmp_path_factory.mktemp("configs") / "LEMamba_config.yaml"
    file.write_text(yaml.safe_dump(published_settings), encoding="utf-8")
    found = config.arch_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "arch_file", lambda arch, *more: file if arch == "LEMamba" else found(arch, *more))
        yield


@pytest.fixture(scope="module")
def folder_of_a_reader(_small_le_mamba, tmp_path_factory) -> Path:
    """Data sets, pairs and weights of two trainings, which all pages start from."""
    folder = tmp_path_factory.mktemp("reader")
    for name, bands in BANDS.items():
        data = folder / "data" / name
        for seed, file in enumerate((f"train_{name}", f"valid_{name}", f"test_{name}_multiExm1")):
            write_training_set(data / f"{file}.h5", samples_of(file), seed, bands, SIDE)
        with h5py.File(data / f"test_{name}_multiExm1.h5") as file:
            full = {key: np.asarray(file[key]) for key in ("ms", "lms", "pan")}
        write_h5(data / f"test_{name}_OrigScale_multiExm1.h5", full)
    for name, bands in {"test": 4, "test_wv3": 8, "test_wv3_multiExm1": 8, "big": 8}.items():
        write_training_set(folder / f"{name}.h5", 1, 9, bands, 2 * SIDE)
    shutil.copy(folder / "data/wv3/test_wv3_OrigScale_multiExm1.h5", folder / "test_full.h5")
    scene(folder)
    published(folder, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("--dataset", "wv3", "--data_root", "data/wv3", "--run_name", "RUN")
        train("-c", "configs/demo.yaml", "--dataset", "ikonos", "--data_root", "data/ikonos", "--run_name", "first")
        torch.save(read_weights(resolve_weights("LE-Mamba/RUN"))[0], "weights.pth")
    shutil.copytree(folder / "log_file/demo/first", folder / "log_file/demo/second")
    shutil.copytree(folder / "log_file/demo/first", folder / "RUN")
    return folder


class Reader:
    """Types what a page says, in the working folder; `said` is what was printed, `done` the commands that ran."""

    def __init__(self, page: Path, drawn: Path, patch: pytest.MonkeyPatch) -> None:
        self.page, self.drawn, self.patch = page, drawn, patch
        self.names = NAMES.get(page.name, dict)()
        self.said, self.done, self.trained = io.StringIO(), [], ""

    def python(self, text: str, where: str) -> None:
        for printed, smaller in SMALLER_PYTHON.get(self.page.name, ()):
            assert printed in text or printed in self.page.read_text(encoding="utf-8"), printed
            text = text.replace(printed, smaller)
        with contextlib.redirect_stdout(self.said):
            exec(compile(text, where, "exec"), self.names)
        for shown in re.findall(r"^print\(.*\)  # ([(\d].*)$", text, flags=re.M):
            assert shown in self.said.getvalue().splitlines(), f"{where}: {shown}"

    def bash(self, text: str, where: str) -> None:
        for name, body in re.findall(r"^cat > (\S+) <<'?EOF'?\n(.*?)^EOF$", text, flags=re.S | re.M):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(body, encoding="utf-8")
        for words in commands(text):
            if not not_run(words):
                self.type(words, f"{where}: {' '.join(words)}")

    def type(self, words: list[str], where: str) -> None:
        """Do one command line."""
        set_here = dict(word.split("=", 1) for word in assigned(words))
        if len(set_here) == len(words):
            self.names |= set_here
            return
        if self.trained and "RUN" in words:
            words[words.index("RUN")] = self.trained
        words = [re.sub(r"\$\{?(\w+)\}?", lambda m: str(self.names.get(m[1], m[0])), word) for word in words]
        command = ours(words)
        if command is None:
            self.shell(words)
            return
        name, arguments = command[0], smaller(*command)
        if (name, arguments) in self.done:
            return
        self.done.append((name, arguments))
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
            for variable, value in set_here.items():
                patch.setenv(variable, value)
            status = self.run(name, arguments)
        if name == "train":
            self.trained = re.sub(r".*weights in (\S+)/weights.*", r"\1", said.getvalue(), flags=re.S)
        self.said.write(said.getvalue())
        finding = name == "doctor" or arguments[0] == "inspect" or "--measure" in arguments
        assert not status or (finding and status == 1), where
        if ">" in words:
            Path(words[words.index(">") + 1]).expanduser().write_text(said.getvalue(), encoding="utf-8")
        for flag in ("--out", "--html", "--curves", "--picture", "--rgb_png"):
            if flag in arguments:
                assert Path(arguments[arguments.index(flag) + 1]).exists(), f"{where}: {flag}"

    def run(self, name: str, arguments: list[str]) -> int | None:
        """Run a command; what draws or simulates data is cut down, and a drawn data set is not drawn again."""
        out = Path(arguments[arguments.index("--out") + 1]) if name == "prepare" and "--out" in arguments else None
        again = self.drawn / "_".join(arguments).replace("/", "_") if arguments[:1] == ["synthetic"] else None
        if out and again and again.is_dir():
            shutil.copytree(again, out, dirs_exist_ok=True)
            return None
        if name == "train" and not {"--run_name", "--resume_path"} & set(arguments):
            arguments = [*arguments, "--run_name", f"run{len(self.done)}"]  # runs of one second have one name
        try:
            status = run(name, *arguments)
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
        if out and out.is_dir():
            shrink(out)
            if again:
                shutil.copytree(out, again)
        return status

    def shell(self, words: list[str]) -> None:
        """Do what is none of this project's commands."""
        if words[0] == "mkdir":
            for name in words[words.index("-p") + 1 :]:
                Path(name).expanduser().mkdir(parents=True, exist_ok=True)
        elif words[0] == "export":
            self.patch.setenv(*words[1].split("=", 1))
        elif words[:2] == ["python", "-c"]:
            exec(compile(words[2], "python -c", "exec"), {})
        elif words[0] == "diff":
            quoted = " ".join(word if word[0] in "<(>" else shlex.quote(word).replace("'log", "log") for word in words)
            assert not subprocess.run(["bash", "-c", quoted], check=False, capture_output=True).stdout
        else:
            assert words[0] in SHELL, words


def smaller(name: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command with fewer steps, methods and pixels."""
    text = " " + shlex.join(arguments)
    for pattern, instead in SMALLER.get(name, ()):
        text = re.sub(pattern, instead, text)
    return shlex.split(text)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Folder of data sets that a page has drawn."""
    return tmp_path_factory.mktemp("drawn")


WITH_CODE = [page for page in PAGES if blocks(page, "bash|python")]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: p.name)
def test_a_page_runs_from_its_first_block_to_its_last(
    page, folder_of_a_reader, drawn, tmp_path, monkeypatch, one_thread
):
    pytest.importorskip("rasterio", reason="rasterio is optional")
    folder = tmp_path / "reader"
    shutil.copytree(folder_of_a_reader, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LEMAMBA_DATA", "data")
    monkeypatch.setattr(budget, "subprocess", SimpleNamespace(run=here))
    monkeypatch.setattr(leaderboard, "run_isolated", leaderboard.run_job)  # tests/test_leaderboard.py has the processes
    monkeypatch.setattr(adapt, "ROUND", 1)
    for module in (adapt, choose):
        monkeypatch.setattr(module, "classical_methods", lambda _: ["EXP", "GSA"])
    if page.name == "command_line.md":  # it writes there; on other pages, caches of libraries stay in use
        monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(leaderboard, "draw_board", lambda *_: None)  # a second each; tests/test_leaderboard.py draws
    FILES.get(page.name, lambda _: None)(folder)
    reader = Reader(page, drawn, monkeypatch)
    python = {text for _, text in blocks(page, "python")}
    for line, text in blocks(page, "bash|python"):
        (reader.python if text in python else reader.bash)(text, f"{page.name}:{line}")
    check_shown(page, reader.said.getvalue())


def check_shown(page: Path, said: str) -> None:
    """Tables that a page shows as output have the columns that were printed, in that order."""
    for _, text in blocks(page, ""):
        for row in re.findall(r"^\N{BOX DRAWINGS HEAVY VERTICAL}(.*)$", text, flags=re.M):
            columns = re.findall(r"[\w_]+", row)
            assert any(re.findall(r"[\w_]+", line)[: len(columns)] == columns for line in said.splitlines()), row


def test_what_is_not_run_is_on_a_page():
    lines = [" ".join(words) for page in PAGES for _, text in blocks(page, "bash") for words in commands(text)]
    assert not [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in lines)]
