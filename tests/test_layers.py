"""The layers of the house: who may import whom, and that importing does nothing.

Bottom to top: operators and the leaves of utils; model, datasets, losses, metrics; reporting; engine; commands. Inside
the code only `lemamba.…` is imported.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("operators", "model", "datasets", "losses", "metrics", "reporting", "engine", "utils", "commands")
OURS = ("lemamba", *PACKAGES, "benchmarks", "tests")
UTILS_LEAVES = (
    "geometry",
    "sensors",
    "registry",
    "errors",
    "atomic",
    "facts",
    "numbers",
    "formats.bounds",
    "formats.mat",
    "formats.mat5",
    "startup",
    "threads",
)
LEAVES = ("lemamba.operators", "lemamba.__version__", *(f"lemamba.utils.{leaf}" for leaf in UTILS_LEAVES))
BELOW = {
    "operators": (),
    "model": (),
    "datasets": (),
    "losses": (),
    "metrics": (),
    "reporting": ("utils", "metrics"),
    "engine": ("utils", "metrics", "reporting"),
    "utils": (),
    "commands": ("model", "datasets", "losses", "metrics", "reporting", "engine", "utils"),
}
ALLOWED = {
    package: (
        *(f"lemamba.{name}" for name in (package, *below)),
        *(("lemamba.utils.geometry", "lemamba.utils.errors") if package == "operators" else LEAVES),
    )
    for package, below in BELOW.items()
}
# Third-party packages that belong to one place, or to none of the core.
ONLY_IN = {
    "triton": ("model/ops",),
    "mamba_ssm": ("model",),
    "causal_conv1d": ("model",),
    "accelerate": ("engine", "commands/train.py"),
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all imports, those inside functions too; ``from a import b`` gives ``a.b``."""
    package = ("lemamba", *path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_downwards_only(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(package)
        for line, name in imported(path)
        if name.partition(".")[0] in OURS and not any(inside(name, a) for a in ALLOWED[package])
    ]
    assert not wrong


@pytest.mark.parametrize("leaf", UTILS_LEAVES)
def test_leaves_import_only_leaves(leaf):
    names = [name for _, name in imported(ROOT / "utils" / f"{leaf.replace('.', '/')}.py")]
    assert not [n for n in names if n.partition(".")[0] in OURS and not any(inside(n, a) for a in LEAVES)]


def test_operators_use_torch_alone():
    """The leaf that all may import brings nothing else with it."""
    foreign = {name.partition(".")[0] for path in files("operators") for _, name in imported(path)}
    assert foreign - set(sys.stdlib_module_names) <= {"torch", "lemamba"}


@pytest.mark.parametrize("package", ALLOWED)
def test_kernels_and_launchers_stay_in_their_place(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(package)
        for line, name in imported(path)
        for root, places in ONLY_IN.items()
        if inside(name, root) and not any(path.is_relative_to(ROOT / place) for place in places)
    ]
    assert not wrong


def test_no_star_imports_and_no_timm_or_torchvision():
    for package in ALLOWED:
        for path in files(package):
            names = [n for _, n in imported(path)]
            assert not [n for n in names if n.endswith(".*")], path
            assert not [n for n in names if inside(n, "torchvision")], path


@pytest.mark.parametrize(
    "module",
    [
        "lemamba",
        "lemamba.__main__",
        "lemamba.commands",
        "lemamba.utils.config",
        "lemamba.utils.sensors",
        "lemamba.utils.registry",
        "lemamba.utils.errors",
    ],
)
def test_light_modules_do_not_load_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_fusing_a_pair_does_not_wait_for_libraries_of_other_commands():
    """Each of these takes a tenth of a second to load or more, and a classical method on a small scene takes less."""
    heavy = ("sympy", "triton", "rich", "scipy", "h5py", "accelerate", "skimage", "torch.distributed.tensor")
    code = f"import sys, lemamba.commands.fuse; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_walk_sees_imports_inside_functions(tmp_path, monkeypatch):
    """The net itself: a forbidden import hidden in a function, relative or not, is found."""
    package = tmp_path / "model"
    package.mkdir()
    (package / "bad.py").write_text(
        "def f():\n    from lemamba.engine import fit\n    from . import layers\n    import datasets.h5\n"
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert [n for _, n in imported(package / "bad.py")] == ["lemamba.engine.fit", "lemamba.model.layers", "datasets.h5"]
    with pytest.raises(AssertionError, match="lemamba.engine.fit"):
        test_packages_import_downwards_only("model")
