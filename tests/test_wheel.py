"""The wheel: complete, built without a compiler, and its names collide with nobody's."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import lemamba

ROOT = Path(__file__).resolve().parent.parent
MATLAB = "Pansharpening_Hyper_SR_Matlab_Test_Package"
DATA_FILES = {".c", ".h", ".yaml", ".m", ".safetensors", ".json", ".js", ".css", ".html", ".LICENSE"}
FOLDERS = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"lemamba", "benchmarks"} | {
    "configs",
    "weights",
    MATLAB,
}
QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_NO_INDEX": "1"}


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command to its end; return what it printed."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    line = [str(part) for part in command]
    done = subprocess.run(line, cwd=cwd, env=clean | QUIET | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A git repository with the files of this checkout as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    folder = tmp_path_factory.mktemp("clone")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run(*git, "commit", "-q", "--no-verify", "-m", "A copy", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory) -> Path:
    """Built as ``pip install git+file://…`` builds it, with a compiler that fails."""
    out = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out)
    run(*build, f"git+file://{clone}", cwd=out, CC="false", CXX="false")
    (found,) = out.glob("*.whl")
    return found


def environment(folder: Path, *more: Path) -> Path:
    """Make a fresh environment that sees the packages installed here and those in `more`; return its Python."""
    venv.EnvBuilder(symlinks=os.name != "nt").create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(own) / "seen.pth").write_text("\n".join(map(str, (*more, *site.getsitepackages()))))
    return python


def install(python: Path, *what: object) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-deps", "--no-build-isolation", "--force-reinstall", *what, cwd=python.parent)


def hugging_face(folder: Path) -> Path:
    """Return where Hugging Face's `datasets` is installed; where it is not, make a stand-in in `folder`."""
    try:
        return Path(str(importlib.metadata.distribution("datasets").locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        (folder / "datasets").mkdir()
        (folder / "datasets/__init__.py").write_text("class Dataset: ...\n\n\nclass IterableDataset: ...\n")
        facts = folder / "datasets-9.9.9.dist-info/METADATA"
        facts.parent.mkdir()
        facts.write_text("Metadata-Version: 2.1\nName: datasets\nVersion: 9.9.9\n")
        return folder


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """Python of a fresh environment with the wheel and Hugging Face's `datasets`."""
    found = environment(tmp_path_factory.mktemp("fresh"), hugging_face(tmp_path_factory.mktemp("others")))
    install(found, wheel)
    return found


@pytest.fixture(scope="module")
def elsewhere(python, tmp_path_factory) -> Path:
    """A user's folder with `utils/` and `model/` that are not ours, and a synthetic data set from the wheel."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("utils", "model"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"OWNER = 'the user of {name}'\n")
    command = (python, "-m", "lemamba", "prepare", "synthetic", "--size", "128", "--sensor", "WV3", "--out", "data")
    run(*command, cwd=folder)
    return folder


def console_script(python: Path) -> Path:
    return python.parent / ("lemamba.exe" if os.name == "nt" else "lemamba")


def test_it_holds_every_module_source_and_configuration(clone, wheel):
    """A package missing in pyproject.toml fails here."""
    files = [p.relative_to(clone) for p in clone.rglob("*") if p.suffix in {".py", *DATA_FILES}]
    expected = {f"lemamba/{p.as_posix()}" for p in files if p.parts[0] in FOLDERS}
    expected |= {p.as_posix() for p in files if p.parts[0] == "lemamba"} | {f"lemamba/{MATLAB}/README.md"}
    expected.add("lemamba/weights/README.md")
    assert len(expected) > 150
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert wheel.name == f"lemamba-{lemamba.__version__}-py3-none-any.whl", "nothing compiled"


def test_one_version(python, elsewhere):
    assert run(console_script(python), "--version", cwd=elsewhere).strip() == f"lemamba {lemamba.__version__}"
    code = "import importlib.metadata as m, lemamba; print(m.version('lemamba') == lemamba.__version__)"
    assert run(python, "-c", code, cwd=elsewhere).strip() == "True"


def test_extras_have_the_bounds_of_the_requirements_files():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = settings.partition("[project.optional-dependencies]")[2].partition("\n\n")[0]
    extras = re.findall(r'"([\w-]+[<>=][^"]*)"', section)
    files = "".join((ROOT / f"requirements-{name}.txt").read_text(encoding="utf-8") for name in ("dev", "gpu"))
    assert len(extras) >= 2
    assert all(re.search(rf"^{re.escape(extra)}\s", files, flags=re.M) for extra in extras)


def test_names_of_others_stay_theirs(python, elsewhere):
    """`utils` and `model` are the user's, `datasets` is Hugging Face's; ours lie below `lemamba`."""
    code = """
import pathlib, sys
import lemamba.model, lemamba.datasets.h5, lemamba.utils.config, lemamba.commands.train
import model, utils
from datasets import Dataset
assert (model.OWNER, utils.OWNER) == ("the user of model", "the user of utils")
home = pathlib.Path(lemamba.__file__).resolve().parent
assert pathlib.Path(sys.prefix).resolve() in home.parents
assert home not in pathlib.Path(sys.modules["datasets"].__file__).resolve().parents
assert Dataset is not lemamba.datasets.Dataset and list(lemamba.__path__) == [str(home)]
"""
    run(python, "-c", code, cwd=elsewhere)


def test_fuse(python, elsewhere):
    data = next((elsewhere / "data").glob("test*.h5"))
    out = elsewhere / "fused.mat"
    run(
        console_script(python), "fuse", "--arch", "GSA", "--data", data, "--out", out, "--json", "s.json", cwd=elsewhere
    )
    assert out.is_file()
    assert set(json.loads((elsewhere / "s.json").read_text())["scores"]) >= {"EXP", "GSA"}


def test_train_with_two_processes(python, elsewhere):
    (train,) = (elsewhere / "data").glob("train_*.h5")
    name = train.stem.removeprefix("train_")
    command = (python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lemamba", "train")
    settings = ("--arch", "PNN", "--dataset", name, "--data_root", "data", "--num_worker", "0", "-e", "1", "-b", "2")
    run(*command, *settings, "--run_name", "r", cwd=elsewhere, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    (log,) = (elsewhere / "log_file").glob("*/r/train.log")
    assert "2 process(es)" in log.read_text()


def test_editable_install_sees_the_folders_of_the_clone(clone, tmp_path):
    python = environment(tmp_path / "editable")
    install(python, "-e", clone)
    code = "import lemamba.model.ops, lemamba.datasets.h5 as h5; print(h5.__file__)"
    assert Path(run(python, "-c", code, cwd=tmp_path).strip()) == clone / "datasets/h5.py"
