"""Draw figs/architecture.svg from the imports of the code: ``make architecture``.

Every box is a folder, every arrow "imports". A folder stands above all that it imports, so an arrow that would have to
point upwards ends the drawing with an error. Arrows that follow from others (a -> c where a -> b -> c) are left out.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "figs" / "architecture.svg"
LEAVES = "utils (leaves)"
ROOMS = {  # room: column of the picture, what is in it
    "scripts": (3, "accelerate_main.py, inference.py, …"),
    "lemamba": (3, "the package and its command line"),
    "commands": (3, "one module per command"),
    "engine": (1, "training, fusing, weights"),
    "reporting": (1, "tables, pictures, pages"),
    "utils": (0, "options, progress"),
    "metrics": (2, "one file per quality index"),
    "losses": (3, "one file per loss"),
    "datasets": (4, "readers, augmentation, simulation"),
    "model": (5, "networks, classical methods, scan"),
    LEAVES: (1.5, "errors, files, sensors, registry"),
    "operators": (3.5, "MTF, interpolation, SSIM map"),
}
BY_NAME = {"lemamba": {"commands"}}  # imported by a computed name, which the source does not show
WIDTH, BOX, HEIGHT, GAP = 1200, 180, 78, 52


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names below `lemamba` that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (tuple(name.split(".")[1:]) for name in names if name.startswith("lemamba."))


def graph() -> dict[str, set[str]]:
    """Return folder -> folders that it imports; files of `utils` that the lowest rooms import are a room themselves."""
    paths = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    found = {path: set(imports(path)) for path in paths}

    def leaf(name: tuple[str, ...]) -> Path | None:
        """Return the file of `utils` that an imported name belongs to."""
        files = ((ROOT.joinpath(*name[:n])).with_suffix(".py") for n in (3, 2))
        return next((p for p in files if p in found), None) if name[0] == "utils" else None

    low = ("operators", "model", "datasets", "losses", "metrics")
    todo = [p for p in found if p.relative_to(ROOT).parts[0] in low]
    leaves: set[Path] = set()
    while todo:
        new = {p for name in found[todo.pop()] if (p := leaf(name))} - leaves
        leaves |= new
        todo += new

    def room(path: Path) -> str:
        return LEAVES if path in leaves else "scripts" if path.parent == ROOT else path.relative_to(ROOT).parts[0]

    arrows = {name: set(BY_NAME.get(name, ())) for name in ROOMS}
    for path, names in found.items():
        for name in names:
            target = leaf(name)
            if target or name[0] in ROOMS:
                arrows[room(path)] |= {room(target) if target else name[0]} - {room(path)}
            elif room(path) == "scripts":  # elsewhere such names are constants: lemamba.__version__
                arrows["scripts"].add("lemamba")
    return arrows


def reach(arrows: dict[str, set[str]], start: str, seen: tuple[str, ...] = ()) -> set[str]:
    """Return all that `start` imports, directly or not."""
    if start in seen:
        raise SystemExit(f"imports in a circle: {' -> '.join((*seen, start))}")
    return arrows[start].union(*(reach(arrows, to, (*seen, start)) for to in arrows[start]))


def draw(arrows: dict[str, set[str]]) -> str:
    """Return the picture: a room's row is the longest way down from it."""
    below = {name: reach(arrows, name) for name in arrows}

    def depth(name: str) -> int:
        return max((1 + depth(to) for to in arrows[name]), default=0)

    highest = max(map(depth, arrows))
    place = {n: (WIDTH * (ROOMS[n][0] + 0.5) / 6, 20 + (highest - depth(n)) * (HEIGHT + GAP)) for n in arrows}
    parts = []
    for name, targets in arrows.items():
        for to in sorted(targets - set().union(*(below[via] for via in targets))):
            (x0, y0), (x1, y1) = place[name], place[to]
            curve = f"M{x0:.0f} {y0 + HEIGHT} C{x0:.0f} {y0 + HEIGHT + 35} {x1:.0f} {y1 - 45} {x1:.0f} {y1 - 8}"
            parts.append(f'<path d="{curve}" class="arrow" marker-end="url(#head)"/>')
    for name, (x, y) in place.items():
        parts.append(f'<rect x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="8"/>')
        title = {"scripts": "root scripts", LEAVES: LEAVES}.get(name, f"{name}/")
        parts.append(f'<text x="{x:.0f}" y="{y + 26}" class="name">{title}</text>')
        for number, line in enumerate(textwrap.wrap(ROOMS[name][1], 24)):
            parts.append(f'<text x="{x:.0f}" y="{y + 47 + 17 * number}">{line}</text>')
    height = 20 + highest * (HEIGHT + GAP) + HEIGHT + 20
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">
<style>
rect {{ fill: #eef3fa; stroke: #3b6ea5; stroke-width: 1.5 }}
text {{ font: 13px sans-serif; text-anchor: middle; fill: #333 }}
.name {{ font: bold 16px sans-serif; fill: #12385f }}
.arrow {{ fill: none; stroke: #7a8794; stroke-width: 1.5 }}
</style>
<defs><marker id="head" markerWidth="9" markerHeight="8" refX="7" refY="4" orient="auto">
<path d="M0 0 L9 4 L0 8 z" fill="#7a8794"/></marker></defs>
<rect width="{WIDTH}" height="{height}" style="fill: #fff; stroke: none"/>
{body}
</svg>
"""


def write(path: Path = TARGET) -> None:
    """Write the picture."""
    path.write_text(draw(graph()), encoding="utf-8")


if __name__ == "__main__":
    write()
    print(TARGET.relative_to(ROOT))
