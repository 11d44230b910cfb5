"""The pages of the site that are made from the code: Python names, options of the commands, settings of a training.

What is public: the names in ``__all__`` of the packages in `PACKAGES`, those in `ALSO`, every registered network,
method and loss, and whatever the Python examples of README and docs import from `lemamba`. Each gets an entry;
`problems` names those without a docstring, or whose docstring documents an argument that does not exist.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import lemamba  # noqa: E402
from lemamba.commands import COMMANDS, parser_of  # noqa: E402
from lemamba.utils import config  # noqa: E402
from lemamba.utils.command_line import Parser, shown_default  # noqa: E402
from lemamba.utils.registry import Entry, ModelEntry, scan_folder  # noqa: E402

PACKAGES = {  # package: title of its page
    "lemamba": "Fuse, load, share",
    "lemamba.model": "Networks and methods",
    "lemamba.model.ops": "Selective scan",
    "lemamba.losses": "Losses",
    "lemamba.metrics": "Quality indices",
    "lemamba.operators": "Image operators",
    "lemamba.datasets": "Data sets",
    "lemamba.engine": "Training and fusing",
    "lemamba.commands": "Commands as functions",
    "lemamba.utils": "Registry, errors, facts",
}
ALSO = (  # public although no package lists them: what a method or loss of one's own, and code that calls ours, needs
    "lemamba.utils.errors.UserError",
    "lemamba.utils.facts.DataFacts",
    "lemamba.utils.registry.ModelEntry",
    "lemamba.utils.registry.Traits",
    "lemamba.utils.registry.register_loss",
    "lemamba.utils.registry.register_model",
    "lemamba.utils.sensors.get_dataset",
    "lemamba.utils.sensors.get_sensor",
)
_ANCHOR = "[](){{#{}}}\n"


@dataclasses.dataclass(frozen=True)
class Name:
    """A public name: how it is imported, and where it is defined."""

    public: str
    defined: str

    @property
    def package(self) -> str:
        """Return the package on whose page it stands: the longest of `PACKAGES` that it is in."""
        return max((p for p in PACKAGES if self.public.startswith(p + ".")), key=len)


def source_of(module: str) -> Path | None:
    """Return the file of a module, in the layout of the clone; None if there is none."""
    below = module.removeprefix("lemamba").strip(".").replace(".", "/")
    base = ROOT / below if below else ROOT / "lemamba"
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def definition(module: str, name: str) -> str:
    """Return the dotted name under which `name`, imported from `module`, is defined.

    Raises:
        SystemExit: the module does not exist.
    """
    if module == "lemamba" and name in lemamba._FRONT_DOOR:
        return definition(lemamba._FRONT_DOOR[name], name)
    path = source_of(module)
    if path is None:
        raise SystemExit(f"reference: no module {module}; correct the example or the list that names it")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lemamba"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(node.module, alias.name)
    return f"{module}.{name}"


def listed(module: str) -> list[str]:
    """Return ``__all__`` of a module, read from its source; [] if it has none."""
    path = source_of(module)
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path else []:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def example_imports() -> Iterator[tuple[str, str]]:
    """Yield (module, name) for each import from this project in the Python examples of README and docs."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lemamba":
                    yield from ((str(node.module), alias.name) for alias in node.names)


def public_names() -> list[Name]:
    """Return all public names but the registered classes, sorted, each once."""
    pairs = {(package, name) for package in PACKAGES for name in listed(package)}
    pairs |= {(module, name) for module, _, name in (also.rpartition(".") for also in ALSO)}
    found: dict[str, Name] = {}
    for module, name in sorted(pairs) + sorted(set(example_imports()) - pairs):
        defined = definition(module, name)
        if source_of(f"{module}.{name}") and defined == f"{module}.{name}":
            continue  # a module: its names are listed one by one
        found.setdefault(defined, Name(f"{module}.{name}", defined))
    return sorted(found.values(), key=lambda n: n.public.lower())


def registered(kind: str) -> list[Entry]:
    """Return the entries of the repository under "register_model" or "register_loss", sorted by name."""
    entries = scan_folder(ROOT / ("model" if kind == "register_model" else "losses"), kind)
    return sorted(entries.values(), key=lambda entry: entry.name.lower())


def class_of(entry: Entry) -> str:
    """Return the dotted name of a registered class."""
    return ".".join(("lemamba", *entry.path.relative_to(ROOT).with_suffix("").parts, entry.class_name))


def all_definitions() -> list[str]:
    """Return where each public name and each registered class is defined."""
    classes = [class_of(entry) for kind in ("register_model", "register_loss") for entry in registered(kind)]
    return [name.defined for name in public_names()] + classes


def problems(package: griffe.Object) -> list[str]:
    """Return one line for each public name that is not documented as the rules of CONTRIBUTING.md ask.

    Args:
        package: `lemamba` as griffe has loaded it, with docstrings of Google's style.
    """
    found = []
    for name in all_definitions():
        try:
            item = package[name.removeprefix("lemamba.")]
        except KeyError:
            found.append(f"{name}: named in __all__ or in an example, but not defined")
            continue
        if not item.docstring:
            found.append(f"{name}: public, but has no docstring")
            continue
        for function in [item] if item.is_function else [m for m in item.members.values() if m.is_function]:
            found += _wrong_arguments(function)
    return found


def _wrong_arguments(function: griffe.Function) -> list[str]:
    """Return a line if the docstring documents arguments that the function does not have."""
    owner = function.parent if function.name == "__init__" else function
    sections = (owner.docstring.parsed if owner and owner.docstring else []) if function.name != "__call__" else []
    documented: set[str] = set()
    for section in sections:
        if section.kind is griffe.DocstringSectionKind.parameters:
            documented |= {name.strip().lstrip("*") for argument in section.value for name in argument.name.split(",")}
    extra = documented - {parameter.name for parameter in function.parameters} - {""}
    return [f"{function.path}: the docstring names {', '.join(sorted(extra))}, which is no argument"] if extra else []


def _entry(defined: str, title: str, *anchors: str, level: int = 2) -> str:
    """Return the Markdown of one name; mkdocstrings fills it."""
    short = title.rpartition(".")[2]
    options = f'    options:\n      heading: "{title}"\n      heading_level: {level}\n      toc_label: "{short}"\n'
    return "".join(_ANCHOR.format(anchor) for anchor in anchors) + f"\n::: {defined}\n{options}"


def _package_page(package: str, names: list[Name]) -> str:
    """Return the page of a package: what its docstring says, and its names."""
    entries = [_entry(n.defined, n.public, *([n.public] if n.public != n.defined else [])) for n in names]
    about = f"::: {package}\n    options:\n      members: false\n      show_root_heading: false\n"
    about += "      show_root_toc_entry: false\n"
    return "\n".join([f"# {PACKAGES[package]}\n\n`{package}`\n", about, *entries])


def _registered_page(title: str, text: str, entries: list[Entry]) -> str:
    """Return a page of registered classes, each under its registered name."""
    parts = [f"# {title}\n\n{text}\n"]
    for entry in entries:
        facts = ""
        if isinstance(entry, ModelEntry):
            ratios = ", ".join(map(str, entry.ratios)) if len(entry.ratios) < 12 else f"up to {max(entry.ratios)}"
            facts = f"\n{entry.paper + '. ' if entry.paper else ''}Tasks: {', '.join(entry.tasks)}; ratios: {ratios}.\n"
        parts.append(_entry(class_of(entry), entry.name) + facts)
    return "\n".join(parts)


def _cell(text: str) -> str:
    """Return text for a cell of a table, with nothing that Markdown would read as markup."""
    escaped = re.sub(r"([\\|*_\[\]`])", r"\\\1", text.replace("\n", " "))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").strip()


def _value(action: argparse.Action) -> str:
    """Return the placeholder of an option's value, as the help prints it."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return " or ".join(map(str, action.choices))
    shown = action.metavar or action.dest.rpartition(".")[2].upper()
    return " ".join(shown) if isinstance(shown, tuple) else str(shown)


def _options_of(parser: Parser, title: str, level: int) -> str:
    """Return the reference of one command line: text, examples, one table for each group of options."""
    parts = [f"{'#' * level} {title}", _markdown(parser.description or "")]
    if parser.epilog:
        lines = [line.strip() for line in parser.epilog.splitlines()[1:]]
        parts.append("```bash\n" + "\n".join(lines) + "\n```")
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not isinstance(a, argparse._SubParsersAction)]
        rows = [a for a in actions if a.help is not argparse.SUPPRESS and a.dest != "help"]
        if not rows:
            continue
        name = {"positional arguments": "arguments", "options": "options"}.get(group.title or "", group.title)
        parts.append(f"**{_cell(str(name))}**")
        table = ["| | value | |", "|---|---|---|"]
        for action in rows:
            flags = "<br>".join(f"`{flag}`" for flag in action.option_strings) or f"`{_value(action)}`"
            value = _cell(_value(action)) if action.option_strings else ""
            needed = " **Required.**" if action.required and action.option_strings else ""
            text = _cell((action.help or "").replace("%%", "%"))
            table.append(f"| {flags} | {value} | {text}{needed} |")
        parts.append("\n".join(table))
    return "\n\n".join(parts)


def _markdown(text: str) -> str:
    """Return the text of a help as Markdown: its paragraphs, with no markup."""
    return "\n\n".join(_cell(paragraph) for paragraph in text.split("\n\n"))


def options_page() -> str:
    """Return the page of all commands, made from the parsers that read the command lines."""
    parts = [
        "# Options of all commands",
        "Made from the parsers of the commands, so it says what `--help` says. What the commands are for: "
        "[command line](../command_line.md).",
    ]
    for name, command in COMMANDS.items():
        script = f"`python {command.script}`" if command.script else f"`python -m lemamba {name}`"
        parser = parser_of(name, f"lemamba {name}")
        parts.append(_options_of(parser, f"lemamba {name}", 2).replace("\n\n", f"\n\nIn a clone: {script}.\n\n", 1))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parts += [_options_of(sub, f"lemamba {name} {key}", 3) for key, sub in action.choices.items()]
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Return the page of all settings of a training, made from the dataclasses of `utils/config.py`."""
    parts = [
        "# Settings of a training",
        "Keys of the YAML files and of `--set section.key=value`, made from `utils/config.py`. How the layers of "
        "settings override each other, and what the settings mean: [training](../training.md).",
    ]
    for section in dataclasses.fields(config.Config):
        cls: Any = section.default_factory
        parts += [f"## {section.name}", _cell(cls.__doc__ or "")]
        table = ["| key | default | flag | |", "|---|---|---|---|"]
        for field in dataclasses.fields(cls):
            meta = field.metadata
            text = _cell(meta["help"]) + (f" ({' or '.join(meta['choices'])})" if meta["choices"] else "")
            text += f"; at least {meta['low']:g}" if meta["low"] is not None else ""
            flag = f"`{meta['flags'][0]}`" if meta["flags"] else ""
            default = _cell(shown_default(field)) or ("false" if field.default is False else "")
            table.append(f"| `{field.name}` | {default} | {flag} | {text} |")
        parts.append("\n".join(table))
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """Return name below the docs folder -> Markdown, for all pages made from the code."""
    names = public_names()
    found = {
        f"reference/{package.rpartition('.')[2]}.md": _package_page(package, [n for n in names if n.package == package])
        for package in PACKAGES
    }
    models = registered("register_model")
    families: dict[str, list[Entry]] = {"learned": [], "classical": []}
    for entry in models:
        families[entry.family if isinstance(entry, ModelEntry) else "learned"].append(entry)
    found["reference/networks.md"] = _registered_page(
        "Classes of the networks",
        "`lemamba.model.build_model(NAME, …)` builds them; these are their own arguments. What they are, how they "
        "compare and where weights are: [methods](../methods.md).",
        families["learned"],
    )
    found["reference/classical.md"] = _registered_page(
        "Classes of the classical methods",
        "`lemamba.model.build_model(NAME, …)` builds them; they need no weights. How they compare: "
        "[methods](../methods.md).",
        families["classical"],
    )
    found["reference/loss_classes.md"] = _registered_page(
        "Classes of the losses",
        "`--loss NAME`, or `lemamba.losses.build_loss(NAME, …)`. Arguments come from `loss.args` of the settings.",
        registered("register_loss"),
    )
    return found | {"reference/options.md": options_page(), "reference/settings.md": settings_page()}
