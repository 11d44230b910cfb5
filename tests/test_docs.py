"""README and docs stay true: links, file map, drawn picture, versions; tests/test_docs_run.py runs their code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from lemamba.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ENTRIES = (
    "accelerate_main.py",
    "inference.py",
    "evaluate.py",
    "leaderboard.py",
    "prepare_data.py",
    "demo.py",
    "reproduce.py",
    "lemamba fuse",
    "lemamba adapt",
    "lemamba runs",
)
UNLISTED = {
    *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"),
    *("Makefile", "Dockerfile", "pyproject.toml", "hubconf.py", "mkdocs.yml"),
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return done.stdout.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    targets = [t for t in re.findall(r"\]\(([^)\s]+)", text) if "://" not in t]
    assert not [t for t in targets if not (page.parent / t.partition("#")[0]).exists()]
    for name, _, anchor in (t.partition("#") for t in targets if "#" in t):
        titles = re.findall(
            r"^#+ (.*)$", (page.parent / name if name else page).read_text(encoding="utf-8"), flags=re.M
        )
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_file_map_is_complete():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w./]+?)/?`", text.partition("## File map")[2].partition("\n\n`make")[0]))
    top = {name.partition("/")[0] for name in tracked() if not name.startswith(".")}
    top -= UNLISTED | {name for name in top if name.startswith("requirements")}
    assert top <= listed
    assert not [name for name in listed if name in ENTRIES and not (ROOT / name).is_file()]


def test_the_page_of_commands_has_every_command_and_its_script():
    rows = re.findall(r"^\| `(\w+)` \| (?:`([\w.]+)` )?\|", text_of("docs/command_line.md"), flags=re.M)
    assert dict(rows) == {name: entry.script for name, entry in COMMANDS.items()}


@pytest.mark.parametrize("name", ["README.md", "docs"])
def test_no_page_names_a_machine(name):
    """No home folder, no temporary path, no drive of anyone's machine."""
    pages = [ROOT / name] if name.endswith(".md") else PAGES[1:]
    wrong = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|mnt|data\d*)/|[A-Z]:\\\\")
    assert not [p.name for p in pages if wrong.search(p.read_text(encoding="utf-8"))]


def test_the_picture_of_the_layers_is_current():
    """If this fails: `make architecture`."""
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs/draw_architecture.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    assert drawing.draw(drawing.graph()) == text_of("figs/architecture.svg")


def test_hooks_and_lock_have_versions_of_the_requirements():
    """pre-commit has the bounds of requirements-dev.txt; the lock has every requirement, and no index."""
    wanted = re.findall(r"^([\w-]+)(\S*)", text_of("requirements.txt") + text_of("requirements-dev.txt"), flags=re.M)
    bounds = {name.lower(): bound for name, bound in wanted if not name.startswith("-")}
    hooks = re.findall(r'"([\w-]+)([<>=][^"]*)"', text_of(".pre-commit-config.yaml"))
    assert hooks and all(bounds[name] == bound for name, bound in hooks)
    lines = [line for line in text_of("requirements.lock").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert {name.strip(";") for name in bounds} <= {line.partition("==")[0].lower() for line in lines}


def test_the_release_is_in_changelog_and_citation():
    version = re.search(r'^__version__ = "(.*)"', text_of("lemamba/__init__.py"), flags=re.M)[1]
    assert f"\n## {version} - " in text_of("CHANGELOG.md")
    assert f"\nversion: {version}\n" in text_of("CITATION.cff")
