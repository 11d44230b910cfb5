"""What an installation needs: few packages, none of them compiled here, and importing that does nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "operators",
    "model",
    "datasets",
    "losses",
    "metrics",
    "reporting",
    "engine",
    "utils",
    "commands",
    "lemamba",
)
ENTRIES = ("accelerate_main", "inference", "evaluate", "leaderboard", "prepare_data", "demo", "reproduce")
IMPORT_NAMES = {"PyYAML": "yaml"}
# What is used where it is installed; the core must work without, so nothing of it is imported with a module.
OPTIONAL = ("timm", "torchvision", "mamba_ssm", "causal_conv1d", "deepspeed", "triton", "rasterio", "transformers")
APART = ("model/ops/triton/", "engine/weights/onnx_loops.py")  # imported inside functions that need their package


def requirements(name: str) -> dict[str, str]:
    """Package -> rest of its line, comment included."""
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if re.match(r"\w", line)]
    return dict(re.match(r"([\w-]+)(.*)", line).groups() for line in lines)


def sources() -> list[Path]:
    """Every module of the project but those for an optional package."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found += [ROOT / f"{entry}.py" for entry in ENTRIES]
    return [p for p in found if not p.relative_to(ROOT).as_posix().startswith(APART)]


def imported_with(path: Path) -> set[str]:
    """Top-level names that a module imports when it is imported itself: not inside functions or for types only."""
    names, nodes = set(), list(ast.parse(path.read_text(encoding="utf-8")).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            nodes += node.body
    return names


def test_the_core_asks_for_few_packages_and_says_why():
    core = requirements("requirements.txt")
    assert len(core) <= 11
    assert all("#" in rest and re.search(r"[<>=]=?\d", rest) for rest in core.values()), "a bound and its reason"
    assert not {p.replace("-", "_") for p in core} & set(OPTIONAL)
    # an open range would pull gigabytes of CUDA where only the CPU build fits
    assert ">=2.6,<2.14" in core["torch"]
    assert {"mamba-ssm", "causal-conv1d", "timm"} <= set(requirements("requirements-gpu.txt"))


def test_modules_import_only_what_the_core_asks_for():
    allowed = {IMPORT_NAMES.get(p, p) for p in requirements("requirements.txt")}
    allowed |= {"lemamba", *sys.stdlib_module_names}
    wrong = {f"{p.relative_to(ROOT)}: {name}" for p in sources() for name in imported_with(p) - allowed}
    assert not wrong


def test_only_one_name_reaches_site_packages():
    """Packages are `lemamba` or below it; tests are flat files, none of which is installed."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.findall(r'"([\w.]+)"', re.search(r"^packages = \[(.*?)^\]", settings, flags=re.M | re.S)[1])
    assert packages and {name.partition(".")[0] for name in packages} == {"lemamba"}
    assert 'pythonpath = ["."]' in settings
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [p for p in (ROOT / "tests").rglob("*.py") if p.parent != ROOT / "tests"]
    assert not [n for n in ("setup.py", "setup.cfg") if (ROOT / n).exists()]


def test_no_compiled_file_decides_which_python_may_run():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    never = {".so", ".pyd", ".dll", ".dylib", ".o", ".a", ".whl", ".pyc", ".pth", ".h5", ".safetensors", ".mexa64"}
    found = {name for name in done.stdout.split() if Path(name).suffix in never}
    assert found == {"weights/LEMambaAny_generic.safetensors"}  # the weights that come with the project


QUIET = """
import importlib, os, random, sys
import numpy, rich.console, torch  # rich draws a random number when it is imported
for name in {optional!r}:
    if name != "triton" or torch.version.cuda is None:  # a CUDA build of torch brings triton, and complains without
        sys.modules[name] = None  # as where it is not installed
before = dict(os.environ), torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()
for name in {modules!r}:
    importlib.import_module(name)
changed = [k for k in os.environ if os.environ[k] != before[0].get(k) and not k.startswith("TORCHINDUCTOR_")]
assert not changed, changed  # torch names its own folder
assert torch.equal(torch.get_rng_state(), before[1]) and random.getstate() == before[2], "generators"
assert (numpy.random.get_state()[1] == before[3]).all() and not torch.cuda.is_initialized()
from lemamba.model import build_model, list_models, model_entry
for name in list_models():
    guide = 1 if "pansharpening" in model_entry(name).tasks else 3
    build_model(name, img_channel=4, condition_channel=guide, out_channel=4)
"""


def test_everything_imports_without_optional_packages_and_does_nothing(tmp_path):
    """No compiler, no optional package: every module imports, silently, and every network and method is built."""
    modules = [
        ".".join(("lemamba", *p.relative_to(ROOT).with_suffix("").parts))
        .removesuffix(".__init__")
        .replace("lemamba.lemamba", "lemamba")
        for p in sources()
    ]
    code = QUIET.format(optional=OPTIONAL, modules=modules)
    environment = {"PATH": str(tmp_path), "LEMAMBA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "cache").exists(), "importing compiles nothing"
