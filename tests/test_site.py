"""The site of `make docs`: it builds without a warning, is complete, and needs no network."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lemamba.commands import COMMANDS, parser_of
from lemamba.losses import list_losses
from lemamba.model import list_models

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
griffe = pytest.importorskip("griffe")
ROOT = Path(__file__).resolve().parent.parent
COUNTED = ("h1", "h2", "h3", "h4", "li", "ul", "ol", "table", "tr", "th", "td", "pre", "img", "strong", "em")


@pytest.fixture(scope="module")
def hooks():
    """The module of hooks; it imports `site_reference` next to it, as mkdocs has it do."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield importlib.import_module("site_hooks")
    sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1", "LEMAMBA_MODEL_PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return folder


def html(site: Path, page: str) -> str:
    return (site / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["lemamba", *(f"lemamba.{p}" for p in ("metrics", "operators", "model", "losses"))])
def test_every_public_name_has_an_anchor(site, package):
    page = html(site, f"reference/{package.rpartition('.')[2]}.html")
    anchors = set(re.findall(r'id="([^"]+)"', page))
    names = importlib.import_module(package).__all__
    assert len(names) >= 2
    assert not [name for name in names if f"{package}.{name}" not in anchors]


def test_every_registered_method_and_loss_has_a_heading(site):
    pages = "".join(html(site, f"reference/{name}.html") for name in ("networks", "classical", "loss_classes"))
    titles = {
        re.sub(r"<[^>]+>", "", title).partition("&para;")[0].strip()
        for title in re.findall(r"<h2.*?</h2>", pages, re.S)
    }
    titles = {title.replace("\N{PILCROW SIGN}", "") for title in titles}
    assert not [name for name in [*list_models(), *list_losses()] if name not in titles]


def test_every_option_of_every_command_is_in_the_reference(site):
    page = html(site, "reference/options.html")
    for name in COMMANDS:
        section = page.partition(f'id="lemamba-{name}"')[2].partition("<h2")[0]
        missing = [flag for flag in parser_of(name)._option_string_actions if f"<code>{flag}</code>" not in section]
        assert set(missing) <= {"-h", "--help"}, name


def test_nothing_is_fetched_from_a_network(site):
    tags = r"<(?:script|link|img|iframe|source|object|video)\b[^>]*\b(?:src|href|srcset|data)=[\"']?(https?:)?//"
    for path in site.rglob("*.html"):
        assert not re.search(tags, path.read_text(encoding="utf-8")), path.name
    for path in (site / "assets").rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", path.read_text(encoding="utf-8")), path.name


def test_search_has_every_page_also_from_the_disk(site):
    index = json.loads(html(site, "search/search_index.json"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    pages = {str(p.relative_to(site)) for p in site.rglob("*.html")} - {"404.html"}
    assert {page for page in pages if not page.startswith("source/")} <= found
    script = html(site, "search/search_index.js")
    assert json.loads(script.removeprefix("var __index = ")) == index
    assert "search_from_disk.js" in html(site, "index.html")


@pytest.mark.parametrize("page", ["howto_own_network.html", "deployment.html"])
def test_accessible(site, chromium, serious, page):
    """Light and dark; what is wider than the page can be scrolled by keys; the search dialog, too."""
    with chromium.new_context(viewport={"width": 390, "height": 900}, offline=True) as context:
        opened = context.new_page()
        opened.goto((site / page).as_uri())
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            assert serious(opened) == [], scheme
        wide = "[...document.querySelectorAll('.md-content *')].filter(one => one.scrollWidth > one.clientWidth + 1)"
        reached = f"{wide}.filter(one => getComputedStyle(one).overflowX === 'auto').map(one => one.tabIndex)"
        found = opened.evaluate(reached)
        assert found.count(0) == len(found) > 0
        if page == "howto_own_network.html":
            opened.click("label[for=__search].md-header__button")
            opened.keyboard.type("scan")
            opened.wait_for_selector(".md-search-result__item pre")
            assert serious(opened) == []
            opened.keyboard.press("Escape")


class Structure(HTMLParser):
    """How many of which elements a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in COUNTED:
            self.count[tag] += 1


def read_as_git_hosts_do(text: str) -> Counter[str]:
    markdown_it = pytest.importorskip("markdown_it")
    return Structure(markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)).count


def test_pages_have_the_structure_that_a_git_host_shows(site, hooks):
    """Headings, lists, items, tables, cells, code: as many as another reader of Markdown finds in the same file."""
    for page in ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]:
        article = html(site, hooks.site_path(page).replace(".md", ".html")).partition("<article")[2]
        article = re.sub(
            r'<div class="[^"]*highlight.*?</div>', "<pre></pre>", article.partition("</article>")[0], flags=re.S
        )
        expected = read_as_git_hosts_do((ROOT / page).read_text(encoding="utf-8"))
        assert Structure(article).count == expected, page


@pytest.mark.parametrize(
    "text",
    [
        "text\n- a\n  more\n- b\n",
        "1. a\n   - b\n     c\n   - d\n2. e\n\n   still e\n",
        "- a\n\n  ```bash\n  x\n  ```\n- b\n",
        "text\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        "- a | b\n\ntext\n```\n- no list\n```\n- c\n",
        "- a\nlazy\n- b\n",
    ],
)
def test_lists_and_tables_of_a_git_host_are_kept(hooks, text):
    markdown = pytest.importorskip("markdown")
    extensions = ["tables", "pymdownx.superfences"]
    built = markdown.markdown(hooks.as_python_markdown(text), extensions=extensions)
    built = re.sub(r'<div class="[^"]*highlight.*?</div>', "<pre></pre>", built, flags=re.S)
    assert Structure(built).count == read_as_git_hosts_do(text)


def test_links_follow_pages_pictures_and_files_of_the_code(hooks):
    assert (
        hooks._with_links("[a](../README.md#x) ![b](../figs/demo.png)", "data.md")
        == "[a](index.md#x) ![b](figs/demo.png)"
    )
    assert (
        hooks._with_links("[a](docs/data.md) [b](CONTRIBUTING.md)", "index.md") == "[a](data.md) [b](CONTRIBUTING.md)"
    )
    assert hooks._with_links("[a](../utils/facts.py)", "data.md") == "[a](source/utils/facts.py.md)"
    assert hooks._with_links('<img src="../figs/demo.png">', "data.md") == '<img src="figs/demo.png">'
    assert hooks._with_links("[a](https://x.org/../y) [b](#c)", "data.md") == "[a](https://x.org/../y) [b](#c)"
    assert hooks._outside_code("a `a` a\n```\na\n```\na", str.upper) == "A `a` A\n```\na\n```\nA"
    assert "class DataFacts" in hooks._source_page("source/utils/facts.py.md")
    with pytest.raises(hooks.PluginError, match="no/such.py"):
        hooks._source_page("source/no/such.py.md")


def test_broken_links_and_outside_requests_are_found(hooks, tmp_path):
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    good = '<a href="b.html#there">1</a><a href="https://x.org">2</a><a href="#own">3</a><p id="own"></p>'
    (tmp_path / "a.html").write_text(good)
    assert hooks.broken(tmp_path) == []
    bad = '<a href="b.html#gone">1</a><a href="c.html">2</a><img src="no.png"><script src="https://cdn.org/x.js"></script>'
    (tmp_path / "a.html").write_text(bad)
    found = hooks.broken(tmp_path)
    assert len(found) == 4
    for word in ("b.html#gone", "c.html", "no.png", "https://cdn.org/x.js"):
        assert sum(word in line for line in found) == 1


def test_a_name_without_documentation_is_found(hooks, monkeypatch, tmp_path):
    code = (
        'def bare(): ...\n\ndef good(a):\n    """G.\n\n    Args:\n        a: it.\n    """\n\n'
        'def wrong(a):\n    """W.\n\n    Args:\n        a, b: they.\n    """\n'
    )
    (tmp_path / "lemamba").mkdir()
    (tmp_path / "lemamba" / "__init__.py").write_text(code)
    names = [f"lemamba.{name}" for name in ("bare", "good", "wrong", "gone")]
    monkeypatch.setattr(hooks.site_reference, "all_definitions", lambda: names)
    settings = {"docstring_parser": griffe.Parser.google, "docstring_options": {"warnings": False}}
    package = griffe.load("lemamba", search_paths=[tmp_path], try_relative_path=False, **settings)
    found = hooks.site_reference.problems(package)
    assert [line.partition(":")[0] for line in found] == ["lemamba.bare", "lemamba.wrong", "lemamba.gone"]
    assert "names b, which" in found[1]
