"""Hooks of mkdocs (`mkdocs.yml`, ``make docs``): the pages stay as a git host shows them, and the site is checked.

- README and the other pages of the repository join those of docs/; links that leave docs/ follow them. A linked file of
  the code becomes a page that shows it, so the site is complete without the repository and without a network.
- Markdown of a git host (GFM) is written so that Python-Markdown reads it alike: `as_python_markdown`.
- `site_reference` makes the pages of the reference; a public name that is not documented ends the build.
- `broken` reads the finished HTML: a link, picture or anchor that leads nowhere, or anything fetched from a network,
  ends the build.
"""

from __future__ import annotations

import html.parser
import logging
import posixpath
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import griffe
import site_reference
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "docs"
PAGES = {  # page of the repository: its name on the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "SECURITY.md",
    "Pansharpening_Hyper_SR_Matlab_Test_Package/README.md": "matlab_package.md",
    "weights/README.md": "weights.md",
}
_FENCE = re.compile(r"^( *)(```+|~~~+)(.*)$")
_LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()([^)\s]+)((?:\s+\"[^\"]*\")?\))")
_ATTRIBUTE = re.compile(r"""(\s(?:src|href|srcset)=["'])([^"']+)(["'])""")
_ITEM = re.compile(r"^( *)([-*+]|\d+\.)( +)(?=\S)")
_LANGUAGES = {
    ".py": "python",
    ".c": "c",
    ".h": "c",
    ".m": "matlab",
    ".yaml": "yaml",
    ".toml": "toml",
    ".md": "markdown",
}
_log = logging.getLogger("mkdocs.hooks.site")


def slug(title: str, separator: str) -> str:
    """Return the anchor of a heading as git hosts make it: lower case, no punctuation, a hyphen for each space."""
    return re.sub(r"[^\w -]", "", title.lower().strip()).replace(" ", separator)


def on_config(config: Any) -> None:
    """Set what YAML cannot: anchors."""
    config.mdx_configs["toc"]["slugify"] = slug


def on_startup(**_: Any) -> None:
    """Make the folder where mkdocstrings, which looks at once, finds the package as a wheel has it."""
    package = STAGE / "lemamba"
    shutil.rmtree(STAGE, ignore_errors=True)
    package.mkdir(parents=True)
    for path in (ROOT / "lemamba").glob("*.py"):
        (package / path.name).symlink_to(path)
    for path in ROOT.glob("*/__init__.py"):
        if path.parent.name not in ("lemamba", "benchmarks"):
            (package / path.parent.name).symlink_to(path.parent)


def on_pre_build(config: Any) -> None:
    """End the build if a public name is not documented."""
    package = griffe.load(
        "lemamba",
        search_paths=[STAGE],
        allow_inspection=False,
        try_relative_path=False,
        docstring_parser=griffe.Parser.google,
        docstring_options={"warnings": False},  # it does not know arguments that share a line: "ms, lms, pan: …"
    )
    for problem in site_reference.problems(package):  # type: ignore[arg-type]
        _log.warning(problem)  # with --strict, an error


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository, its pictures, the reference, and the files of the code that pages link to."""
    for path, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for path in sorted((ROOT / "figs").iterdir()):
        if path.suffix in (".png", ".svg", ".jpg", ".webp"):
            files.append(File.generated(config, f"figs/{path.name}", abs_src_path=str(path)))
    for name, text in site_reference.pages().items():
        files.append(File.generated(config, name, content=text))
    for file in [*files.documentation_pages()]:
        if not file.src_uri.startswith("reference/"):
            for target in _targets(file):
                if target.startswith("source/") and not files.get_file_from_path(target):
                    files.append(File.generated(config, target, content=_source_page(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Make the links of a page lead to pages of the site, and its lists and tables those of a git host."""
    if page.file.src_uri.startswith(("reference/", "source/")):
        return markdown
    return as_python_markdown(_outside_code(markdown, lambda text: _with_links(text, page.file.src_uri)))


def on_post_page(output: str, page: Page, config: Any) -> str:
    """Name the theme's search dialog, which a screen reader announces without one."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def on_post_build(config: Any) -> None:
    """Write the search index as a script too, and end the build if a link leads nowhere, or a page needs a network."""
    index = Path(config.site_dir) / "search" / "search_index.json"  # a page opened from the disk cannot read JSON
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")
    found = broken(Path(config.site_dir))
    for line in found:
        _log.warning(line)
    if found and config.strict:
        raise PluginError(f"the site has {len(found)} broken links or outside requests; the first: {found[0]}")


def repository_path(name: str) -> str:
    """Return where a page of the site lies in the repository."""
    return next((path for path, there in PAGES.items() if there == name), f"docs/{name}")


def site_path(path: str) -> str:
    """Return the name on the site of a file or folder of the repository."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and path.endswith((".md", ".png", ".svg")):
        return path.removeprefix("docs/")
    if path.startswith("figs/") and path != "figs/":
        return path
    return f"source/{path.rstrip('/') or 'repository'}.md"


def _followed(target: str, name: str) -> str:
    """Return a link of the page `name`, as the repository has it, as one of the site."""
    address, anchor = urldefrag(target)
    if not address or urlsplit(target).scheme:
        return target
    path = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(name)), unquote(address)))
    there = posixpath.relpath(site_path(path), posixpath.dirname(name) or ".")
    return f"{there}#{anchor}" if anchor else there


def _with_links(text: str, name: str) -> str:
    """Return text with its links, in Markdown and HTML, as those of the site."""
    text = _LINK.sub(lambda m: m[1] + _followed(m[2], name) + m[3], text)
    return _ATTRIBUTE.sub(lambda m: m[1] + _followed(m[2], name) + m[3], text)


def _targets(file: File) -> set[str]:
    """Return the names on the site that a page links to."""
    found: set[str] = set()

    def note(text: str) -> str:
        for match in [*_LINK.finditer(text), *_ATTRIBUTE.finditer(text)]:
            address = urldefrag(_followed(match[2], file.src_uri))[0]
            if address and not urlsplit(address).scheme:
                found.add(posixpath.normpath(posixpath.join(posixpath.dirname(file.src_uri), address)))
        return text

    _outside_code(file.content_string, note)
    return found


def _source_page(name: str) -> str:
    """Return a page that shows a file of the repository, or the names in a folder."""
    path = name.removeprefix("source/").removesuffix(".md")
    file = ROOT if path == "repository" else ROOT / path
    if file.is_dir():
        names = sorted(p.name + "/" * p.is_dir() for p in file.iterdir() if not p.name.startswith((".", "__pyc")))
        return f"# {path}/\n\n" + "".join(f"- `{n}`\n" for n in names)
    if not file.is_file():
        raise PluginError(f"a page links to {path}, which the repository does not have")
    text = file.read_text(encoding="utf-8")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=2) + 3)
    return f"# {file.name}\n\n`{path}`\n\n{fence}{_LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Return Markdown with `change` applied to what is no code."""
    parts, fence = [], ""
    for line in markdown.splitlines(keepends=True):
        match = _FENCE.match(line.rstrip("\n"))
        if match and (not fence or (match[2].startswith(fence) and not match[3].strip())):
            fence = "" if fence else match[2]
            parts.append(("code", line))
        else:
            parts.append(("code" if fence else "text", line))
    result, text = [], ""
    for kind, line in [*parts, ("code", "")]:
        if kind == "text":
            text += line
            continue
        spans = re.split(r"(`[^`]+`(?!\]\())", text) if text else []
        result += [span if number % 2 else change(span) for number, span in enumerate(spans)] + [line]
        text = ""
    return "".join(result)


def as_python_markdown(markdown: str) -> str:
    """Return GFM so that Python-Markdown builds the same lists and tables.

    There a list, table or block of code needs an empty line before it, and what belongs to an item stands four columns
    to the right of it; in GFM it stands below the text of the item.
    """
    lines: list[str] = []
    stack: list[int] = []  # columns at which the text of the open items starts
    fence, before, in_parts = "", "", False  # in_parts: an empty line stands between parts of the item
    for line in markdown.splitlines():
        match = _FENCE.match(line)
        indent = len(line) - len(line.lstrip(" "))
        if fence:
            kept = line[min(indent, stack[-1] if stack else 0) :]
            lines.append(" " * (4 * len(stack)) + kept if line.strip() else line)
            if match and match[2].startswith(fence) and not match[3].strip():
                fence = ""
            continue
        item = _ITEM.match(line)
        open_items = len(stack)
        if line.strip():
            lazy = before.strip() and not item and not match and indent < (stack[-1] if stack else 0)
            while stack and indent < stack[-1] and not lazy:
                stack.pop()
        depth = len(stack)
        after_text = before.strip() and not _ITEM.match(before) and depth == open_items
        starts_list = item and (after_text or _FENCE.match(before) or (in_parts and before.strip()))
        starts_table = line.lstrip().startswith("|") and before.strip() and not before.lstrip().startswith("|")
        if starts_list or starts_table:
            lines.append("")
        lines.append(" " * (4 * depth) + line.lstrip(" ") if depth or item else line)
        if match:
            fence = match[2]
        if item:
            stack.append(len(item[0]))
        in_parts = not item and (in_parts or not line.strip())
        before = line
    return "\n".join(lines) + "\n"


class _Html(html.parser.HTMLParser):
    """The anchors of a page, what it links to and what a browser fetches for it."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []

    def has(self, anchor: str) -> bool:
        """Return whether a link to an anchor leads somewhere; those that start with "__" are the theme's."""
        return not anchor or anchor.startswith("__") or anchor in self.anchors

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values and tag != "meta"}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        rel = values.get("rel", "")
        if tag == "link" and rel not in ("canonical", "prev", "next"):
            self.fetched.append(values.get("href", ""))
        if tag != "a":
            self.fetched += [values[key] for key in ("src", "srcset", "data", "poster") if values.get(key)]


def broken(site: Path) -> list[str]:
    """Return one line for each link of the site that leads nowhere and each file that it fetches from elsewhere.

    Args:
        site: the folder of the built site.
    """
    pages: dict[Path, _Html] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = _Html()
        pages[path].feed(path.read_text(encoding="utf-8"))
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme in ("data", "mailto") or (parts.scheme and link in page.links):
                continue
            if parts.scheme or parts.netloc:
                found.append(f"{name}: fetches {link} from a network")
                continue
            below = unquote(parts.path)
            target = (site / below.lstrip("/") if below.startswith("/") else path.parent / below) if below else path
            target = target.resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{name}: the link {link} leads to no file")
            elif target in pages and not pages[target].has(unquote(parts.fragment)):
                found.append(f"{name}: the link {link} leads to no anchor")
    return found
