"""README and docs stay true: links lead somewhere, the file map names what is there, flags in examples exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

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
)
UNLISTED = {
    *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"),
    *("Makefile", "Dockerfile", "pyproject.toml", "hubconf.py"),
}


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return done.stdout.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in t]
    assert not [t for t in targets if not (page.parent / t).exists()]


def test_file_map_is_complete():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w./]+?)/?`", text.partition("## File map")[2].partition("\n\n`make")[0]))
    top = {name.partition("/")[0] for name in tracked() if not name.startswith(".")}
    top -= UNLISTED | {name for name in top if name.startswith("requirements")}
    assert top <= listed
    assert not [name for name in listed if name in ENTRIES and not (ROOT / name).is_file()]


@pytest.mark.parametrize("entry", ENTRIES)
def test_flags_in_the_readme_exist(entry):
    """Every long flag that README or docs use with an entry file is one that its --help knows."""
    used: set[str] = set()
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
            for command in block.replace("\\\n", " ").splitlines():
                if entry in command:
                    used |= set(re.findall(r"(?<=\s)--[a-z_]+", command.partition(entry)[2].partition("#")[0]))
    source = "".join(p.read_text() for p in (*ROOT.glob("commands/*.py"), *ROOT.glob("utils/*.py")))
    assert not [flag for flag in used if f'"{flag}"' not in source and flag != "--help"]


@pytest.mark.parametrize("name", ["README.md", "docs"])
def test_no_page_names_a_machine(name):
    """No home folder, no temporary path, no drive of anyone's machine."""
    pages = [ROOT / name] if name.endswith(".md") else PAGES[1:]
    wrong = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|mnt|data\d*)/|[A-Z]:\\\\")
    assert not [p.name for p in pages if wrong.search(p.read_text(encoding="utf-8"))]
