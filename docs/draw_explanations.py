"""Draw figs/state_sharing.svg, figs/levm.svg and figs/pixel_geometry.svg for the explanations in docs/.

Run ``python -m docs.draw_explanations`` in the root of the repository. Which state goes where is read from a network
that runs, and where pixels lie from `lemamba.utils.geometry`; only the placing on the page is chosen here.

The palette is safe for colour-blind readers (Okabe and Ito), and each kind of line has its own dash pattern. Drawings
have their own background, so they can be read on a light or a dark page.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from docs.draw_network import describe
from lemamba.model import build_model
from lemamba.utils.geometry import Geometry

ROOT = Path(__file__).resolve().parent.parent
Point = tuple[float, float]
Flows = set[tuple[str, str, str]]  # sender, receiver, "prev" or "skip"

STYLE = """
text { font: 15px sans-serif; fill: #222; text-anchor: middle }
.title { font: bold 17px sans-serif }
.small { font: 13px sans-serif }
.left { text-anchor: start }
.page { fill: #fff }
.box { fill: #eef3fa; stroke: #3b6ea5; stroke-width: 1.5 }
.step { fill: #f4f4f4; stroke: #777; stroke-width: 1.2 }
.maps { stroke: #d5d8dc; stroke-width: 16; fill: none; stroke-linecap: round }
.thin { stroke: #777; stroke-width: 1.6; fill: none }
.prev { stroke: #0072b2; stroke-width: 3; fill: none }
.skip { stroke: #d55e00; stroke-width: 3; fill: none; stroke-dasharray: 9 5 }
.option { stroke: #008f68; stroke-width: 2.5; fill: none; stroke-dasharray: 2 5 }
.head-thin { fill: #777 } .head-prev { fill: #0072b2 } .head-skip { fill: #d55e00 } .head-option { fill: #008f68 }
.pan { fill: #f1f1f1; stroke: #b5b5b5; stroke-width: 1 }
.first { fill: #f0c987; stroke: #b5b5b5; stroke-width: 1 }
.ms { fill: #0072b2; fill-opacity: 0.08; stroke: #0072b2; stroke-width: 2.5 }
.dot { fill: #0072b2 }
.corner { fill: #b37400 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e6e6 }
.page { fill: #16191d }
.box { fill: #22303f; stroke: #7fb0e0 }
.step { fill: #2a2d31; stroke: #a0a0a0 }
.maps { stroke: #3a3f45 }
.thin { stroke: #a0a0a0 }
.prev { stroke: #56b4e9 } .skip { stroke: #ff9a4d } .option { stroke: #2fd0a0 }
.head-thin { fill: #a0a0a0 } .head-prev { fill: #56b4e9 } .head-skip { fill: #ff9a4d } .head-option { fill: #2fd0a0 }
.pan { fill: #2a2d31; stroke: #5a5f66 }
.first { fill: #7a5a1c; stroke: #5a5f66 }
.ms { fill: #56b4e9; fill-opacity: 0.12; stroke: #56b4e9 }
.dot { fill: #56b4e9 }
.corner { fill: #f0b74a }
}
"""


def page(width: int, height: int, parts: list[str]) -> str:
    """Return the SVG of `parts` with style, arrow heads and background."""
    heads = "\n".join(
        f'<marker id="{kind}" markerUnits="userSpaceOnUse" markerWidth="14" markerHeight="12" refX="11" refY="6" '
        f'orient="auto"><path d="M0 0 L13 6 L0 12 z" class="head-{kind}"/></marker>'
        for kind in ("thin", "prev", "skip", "option")
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f"<style>{STYLE}</style>\n<defs>{heads}</defs>\n"
        f'<rect width="{width}" height="{height}" class="page"/>\n{body}\n</svg>\n'
    )


def text(at: Point, words: str, kind: str = "") -> str:
    """Return one line of text; `kind` is a list of classes of `STYLE`."""
    return f'<text x="{at[0]:g}" y="{at[1]:g}" class="{kind}">{words}</text>'


def rect(at: Point, size: Point, kind: str, round_: int = 0) -> str:
    """Return a rectangle with its upper left corner `at`."""
    return f'<rect x="{at[0]:g}" y="{at[1]:g}" width="{size[0]:g}" height="{size[1]:g}" rx="{round_}" class="{kind}"/>'


def arrow(path: str, kind: str) -> str:
    """Return a path of SVG that ends in an arrow head; "maps" has none."""
    head = "" if kind == "maps" else f' marker-end="url(#{kind})"'
    return f'<path d="{path}" class="{kind}"{head}/>'


# ------------------------------------------------------------------------------------------------- state sharing


def flows(**options: bool) -> Flows:
    """Run LE-Mamba tiny, narrowed, and return which block's final state reaches which block, and as what.

    Args:
        **options: `share_across_stages`, `chain_decoder_states` of `lemamba.model.panMamba.LEMamba`.

    Returns:
        (sender, receiver, "prev" | "skip"); blocks are named "encoder 1.2" (stage 1, block 2), "middle 1", …
    """
    net = build_model("LEMamba", img_channel=2, condition_channel=1, out_channel=2, width=4, **options)
    stages = {stage.name: stage for stage in describe(net)}

    def named(stage: str, number: int) -> str:
        return f"{stage}.{number + 1}" if stage[-1].isdigit() else f"{stage} {number + 1}"

    return {
        (named(*sender), named(name, number), kind)
        for name, stage in stages.items()
        for number, block in enumerate(stage.blocks)
        for kind, sender in (("prev", block.previous), ("skip", block.skip))
        if sender is not None
    }


BLOCK = (132, 58)
PLACES: dict[str, Point] = {  # centres
    "encoder 1.1": (110, 130),
    "encoder 1.2": (310, 130),
    "encoder 2.1": (370, 265),
    "encoder 3.1": (430, 400),
    "middle 1": (600, 520),
    "decoder 3.1": (770, 400),
    "decoder 2.1": (830, 265),
    "decoder 1.1": (890, 130),
    "decoder 1.2": (1090, 130),
}
FEATURES = tuple(PLACES)  # the way of the feature maps


def between(a: str, b: str) -> str:
    """Return the straight path from the rim of block `a` to that of block `b`."""
    (x0, y0), (x1, y1) = PLACES[a], PLACES[b]
    w, h = BLOCK[0] / 2, BLOCK[1] / 2
    if y0 == y1:
        w = w if x1 > x0 else -w
        return f"M{x0 + w:g} {y0:g} L{x1 - w:g} {y1:g}"
    h = h if y1 > y0 else -h
    return f"M{x0:g} {y0 + h:g} L{x1:g} {y1 - h:g}"


def state_path(a: str, b: str, kind: str) -> str:
    """Return the way of a state: straight, or in an arc over the blocks between."""
    (x0, y0), (x1, _) = PLACES[a], PLACES[b]
    if kind == "skip" and abs(x1 - x0) > 700:
        return f"M{x0:g} {y0 - 29:g} C{x0 + 90:g} {y0 - 110:g} {x1 - 90:g} {y0 - 110:g} {x1:g} {y0 - 29:g}"
    return between(a, b)


def state_sharing() -> str:
    """Return the drawing of where final scan states go in LE-Mamba tiny."""
    plain = flows()
    optional = flows(share_across_stages=True, chain_decoder_states=True) - plain
    parts = [text((600, 30), "LE-Mamba tiny: where the final state of a block's scan goes", "title")]
    parts += [arrow(between(a, b), "maps") for a, b in pairwise(FEATURES)]
    ends = [(a, b) for a, b, kind in sorted(plain) if kind == "skip" and abs(PLACES[b][0] - PLACES[a][0]) < 700]
    parts += [arrow(between(a, b), "maps") for a, b in ends]
    for kind in ("skip", "prev"):
        parts += [arrow(state_path(a, b, kind), kind) for a, b, k in sorted(plain) if k == kind]
    parts += [arrow(beside(between(a, b)), "option") for a, b, _ in sorted(optional)]
    for name, (x, y) in PLACES.items():
        parts.append(rect((x - BLOCK[0] / 2, y - BLOCK[1] / 2), BLOCK, "box", 8))
        side, number = name.split()
        stage, _, block = number.partition(".")
        parts.append(text((x, y - 3), side if side == "middle" else f"{side} {stage}", "title"))
        parts.append(text((x, y + 18), f"block {block or stage}", "small"))
    for y, size in ((178, "H × W"), (265, "H/2 × W/2"), (400, "H/4 × W/4"), (520, "H/8 × W/8")):
        parts.append(text((110, y), size, "small"))
    parts += legend()
    return page(1200, 680, parts)


def beside(path: str) -> str:
    """Move a straight path to its side, so that it does not cover another."""
    (x0, y0), (x1, y1) = ((float(v) for v in end.split()) for end in path[1:].split(" L"))
    shift = (0, 14) if y0 == y1 else (-22, 0)
    return f"M{x0 + shift[0]:g} {y0 + shift[1]:g} L{x1 + shift[0]:g} {y1 + shift[1]:g}"


def legend() -> list[str]:
    """Return what the lines of the drawing of the states mean."""
    lines = (
        (60, 600, "prev", "state of the block or stage before"),
        (60, 640, "skip", "state of the encoder stage of the same size"),
        (620, 600, "option", "options share_across_stages, chain_decoder_states"),
        (620, 640, "maps", "feature maps"),
    )
    return [
        part
        for x, y, kind, words in lines
        for part in (arrow(f"M{x} {y} L{x + 70} {y}", kind), text((x + 90, y + 5), words, "left"))
    ]


# ---------------------------------------------------------------------------------------------------------- LEVM


def steps(y: float, boxes: list[tuple[float, float, list[str]]]) -> list[str]:
    """Return boxes in a row: centre, width and lines of each."""
    parts = []
    for x, width, lines in boxes:
        parts.append(rect((x - width / 2, y - 32), (width, 64), "step", 6))
        top = y + 5 - 10 * (len(lines) - 1)
        parts += [text((x, top + 20 * i), line) for i, line in enumerate(lines)]
    return parts


def along(y: float, *ends: Point, kind: str = "thin") -> list[str]:
    """Return level arrows at height `y` from the first to the second of each pair."""
    return [arrow(f"M{a:g} {y:g} L{b:g} {y:g}", kind) for a, b in ends]


def levm() -> str:
    """Return the drawing of one LEVM block and of the scan inside it that takes a shared state."""
    y, z = 120.0, 400.0
    parts = [text((20, 34), "One block (LEVM)", "title left"), text((38, y + 5), "x")]
    parts += steps(
        y,
        [
            (190, 216, ["+ embedded guide", "(1 × 1, depth-wise 3 × 3)"]),
            (480, 210, ["local: scan in windows", "x + factor · block(x)"]),
            (790, 210, ["global: scan of the map", "block(x)"]),
        ],
    )
    parts += along(y, (52, 80), (300, 373), (587, 683), (897, 1000))
    parts += [text((1080, y + 5), "x, to the next block")]
    parts += [text((190, 56), "guide (PAN, RGB)", "small"), arrow("M190 62 L190 86", "thin")]
    parts += [arrow("M740 210 L740 154", "prev"), text((660, 232), "states that arrive: prev, skip", "small")]
    parts += [arrow("M840 154 L840 210", "prev"), text((930, 232), "final state, to other blocks", "small")]
    parts.append(text((20, 300), "Inside the global scan: how a shared state enters", "title left"))
    parts += steps(
        z,
        [
            (150, 190, ["s = W1 · prev", "+ W2 · skip"]),
            (400, 190, ["Σ over n: s[n] · g[n]", "g: gate of each pixel"]),
            (620, 130, ["ρ · …", "per channel"]),
            (800, 90, ["+"]),
            (1000, 170, ["selective scan,", "starts at zero"]),
        ],
    )
    parts += along(z, (10, 53), kind="prev") + along(z, (245, 303), (495, 553), (685, 753), (845, 913))
    parts += [text((62, 350), "prev, skip", "small"), text((800, 330), "pixels in scan order", "small")]
    parts += [arrow("M800 338 L800 366", "thin")]
    parts += along(z, (1085, 1140)) + [text((1160, z + 5), "y")]
    parts += [
        arrow("M1000 432 L1000 486", "prev"),
        text((880, 512), "final state (D × N in each of 4 directions)", "small"),
    ]
    parts.append(text((880, 534), "state_grad = detached: no gradient passes here; full: it does", "small"))
    return page(1200, 560, parts)


# ------------------------------------------------------------------------------------------------ pixel geometry

PANEL = 250.0
CASES = (
    ("corners agree: (r − 1)/2", "ordinary products: WorldView,", "Pléiades, Sentinel-2"),
    ("research toolboxes: r/2", "Wald's protocol, PanCollection,", "files of prepare_data.py"),
    ("first centres agree: 0", "Landsat 8 and 9 (ratio 2),", "every r-th pixel from the first"),
)


def geometries(ratio: int) -> list[Geometry]:
    """Return the three conventions at a ratio, in the order of `CASES`."""
    return [Geometry.corners(ratio), Geometry.toolbox(ratio), Geometry((ratio, ratio), (0, 0))]


def panel(at: Point, geometry: Geometry) -> list[str]:
    """Return PAN pixels, MS pixels over them, their centres, and the offset."""
    r = geometry.nominal
    count = 8 if r == 4 else 6
    cell = PANEL / (count + 3.5)
    x0, y0 = at[0] + 2.2 * cell, at[1] + 2.2 * cell  # the corner of PAN

    def place(row: float, column: float) -> Point:
        return x0 + (column + 0.5) * cell, y0 + (row + 0.5) * cell

    parts = [
        rect((x0 + j * cell, y0 + i * cell), (cell, cell), "first" if i == j == 0 else "pan")
        for i in range(count)
        for j in range(count)
    ]
    centres = [geometry.offset[0] + i * r for i in range(count // r)]
    for row in centres:
        for column in centres:
            x, y = place(row, column)
            side = r * cell
            parts.append(rect((x - side / 2, y - side / 2), (side, side), "ms"))
            parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="5" class="dot"/>')
    (xp, yp), (xm, ym) = place(0, 0), place(centres[0], centres[0])
    if centres[0]:
        parts.append(arrow(f"M{xp:g} {yp:g} L{xm - 3:g} {ym - 3:g}", "skip"))
    parts.append(f'<circle cx="{xp:g}" cy="{yp:g}" r="{3.5 if centres[0] else 2.5}" class="corner"/>')
    return parts


def pixel_geometry() -> str:
    """Return the drawing of the three conventions at ratios 4 and 2."""
    parts = []
    for column, (name, *examples) in enumerate(CASES):
        x = 215 + column * 370
        parts.append(text((x, 34), name, "title"))
        parts += [text((x, 58 + 18 * i), line, "small") for i, line in enumerate(examples)]
    for row, ratio in enumerate((4, 2)):
        top = 90 + row * 300
        parts.append(text((16, top + 130), f"r = {ratio}", "title left"))
        for column, geometry in enumerate(geometries(ratio)):
            left = 90 + column * 370
            parts += panel((left, top), geometry)
            parts.append(text((left + 136, top + 274), f"offset {geometry.offset[0]:g} PAN pixels", ""))
    y = 716
    parts += [rect((60, y - 15), (18, 18), "pan"), text((90, y), "PAN pixel", "left")]
    parts += [rect((190, y - 15), (18, 18), "first"), text((220, y), "PAN pixel (0, 0), its centre a dot", "left")]
    parts += [rect((490, y - 15), (18, 18), "ms"), text((520, y), "MS pixel, its centre a large dot", "left")]
    parts += [arrow(f"M780 {y - 5} L830 {y - 5}", "skip"), text((845, y), "offset, in rows and in columns", "left")]
    return page(1200, 740, parts)


DRAWINGS = {
    "figs/state_sharing.svg": state_sharing,
    "figs/levm.svg": levm,
    "figs/pixel_geometry.svg": pixel_geometry,
}


def main() -> None:
    """Write all drawings."""
    for name, draw in DRAWINGS.items():
        (ROOT / name).write_text(draw(), encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
