"""Draw LE-Mamba, figs/le-mamba-architecture.svg, from a network that is built and run: ``make figs``.

Stages, blocks, sizes and channels are read from the modules, and which state reaches which block from one forward pass,
so the picture shows what the code does. `tests/test_figures.py` fails where it no longer does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from lemamba.model import build_model

BANDS = 8  # with PAN, as on WorldView-2 and WorldView-3
WIDTH, BOX, HIGH, GAP, TOP, INDENT = 1240, 312, 112, 46, 100, 70
SQUARE, STEP = 28, 56  # side of a block in its stage, and from one to the next
RAIL = 36  # from the sides to the lines of the guide
BLUE, ORANGE, PURPLE, GREY = "#1f5a96", "#b35900", "#7a3e9d", "#5b6673"


@dataclass(frozen=True)
class Block:
    """One LEVM block: where the states come from that it receives, as (stage, number) of a block, None where none."""

    previous: tuple[str, int] | None
    skip: tuple[str, int] | None


@dataclass(frozen=True)
class Stage:
    """One stage of the network, as built.

    Attributes:
        name: "encoder 1" is the shallowest, as is "decoder 1".
        shrink: the full size divided by the size of its maps.
        channels: c.
        window: side of the windows of the local scan, None without one.
        local_states, states: state sizes N of the local and the global scan; the first None without one.
        inner: channels D of the global scan.
        blocks: in the order in which they run.
    """

    name: str
    shrink: int
    channels: int
    window: int | None
    local_states: int | None
    states: int
    inner: int
    blocks: tuple[Block, ...]


def stage_modules(network: Any) -> dict[str, Any]:
    """Return the blocks of every stage by its name, "encoder 1", in the order in which they run."""
    return {re.sub(r"(\d)", r" \1", name): blocks for name, blocks in network.stages().items()}


@torch.inference_mode()
def describe(network: Any) -> list[Stage]:
    """Run LE-Mamba on zeros and return its stages in the order in which they run."""
    stages, side = stage_modules(network.eval()), network.multiple
    calls: dict[tuple[str, int], tuple[Any, ...]] = {}  # block -> x, previous state, skip state, its own state
    handles = []
    for name, blocks in stages.items():
        for j, block in enumerate(blocks):

            def keep(_: Any, given: Any, result: Any, key: tuple[str, int] = (name, j)) -> None:
                x, _, previous, skip = given
                calls[key] = (x, previous, skip, result[1])

            handles.append(block.register_forward_hook(keep))
    lms = torch.zeros(1, network.img_channel, side, side)
    network(lms, lms, torch.zeros(1, network.condition_channel, side, side))
    for handle in handles:
        handle.remove()

    def source(state: Any) -> tuple[str, int] | None:
        return next((key for key, call in calls.items() if state is not None and call[3] is state), None)

    def stage(name: str, blocks: Any) -> Stage:
        first, x = blocks[0], calls[name, 0][0]
        received = [Block(source(calls[name, j][1]), source(calls[name, j][2])) for j in range(len(blocks))]
        scan, local = first.whole.ss2d, first.local
        states = None if local is None else local.ss2d.d_state
        sizes = (side // x.shape[1], x.shape[3], first.window, states, scan.d_state, scan.inner)
        return Stage(name, *sizes, tuple(received))

    return [stage(name, blocks) for name, blocks in stages.items()]


# Parts of the picture. Positions are in units of the viewBox, x to the right and y down.


def text(x: float, y: float, words: str, kind: str = "", fill: str = "") -> str:
    """Return a text; `kind` is a class of the style sheet."""
    colour = f' style="fill: {fill}"' if fill else ""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}"{colour}>{words}</text>'


def box(x: float, y: float, wide: float, high: float, kind: str = "") -> str:
    """Return a rounded box."""
    return f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="7" class="{kind}"/>'


def line(points: list[tuple[float, float]], kind: str, *, head: bool = True) -> str:
    """Return a line through points; `kind` is "data", "guide" or "state", which sets its colour and dashes."""
    path = " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{path}" class="{kind}"{f" marker-end={chr(34)}url(#{kind}){chr(34)}" if head else ""}/>'


def places(stages: list[Stage]) -> dict[str, tuple[float, float]]:
    """Return the upper left corner of every stage's box: the encoder goes down on the left, the decoder up."""
    found = {}
    for stage in stages:
        level = stage.shrink.bit_length() - 1
        left = 76 + INDENT * level
        x = {"e": left, "m": (WIDTH - BOX) / 2, "d": WIDTH - left - BOX}[stage.name[0]]
        found[stage.name] = (x, TOP + level * (HIGH + GAP))
    return found


def square(stage: Stage, j: int, at: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """Return the middle of block j: on the left in the box of a decoder, on the right in others."""
    x, y = at[stage.name]
    if stage.name[0] == "d":
        return x + 32 + j * STEP, y + HIGH / 2
    return x + BOX - (52 if stage.name == "middle" else 32) - (len(stage.blocks) - 1 - j) * STEP, y + HIGH / 2


def stage_box(stage: Stage, at: dict[str, tuple[float, float]]) -> Iterator[str]:
    """Draw the box of a stage with its blocks, and the states that they hand on to one another."""
    x, y = at[stage.name]
    yield box(x, y, BOX, HIGH, "stage")
    size = "H × W" if stage.shrink == 1 else f"H/{stage.shrink} × W/{stage.shrink}"
    local = f"windows {stage.window}×{stage.window}, N {stage.local_states}" if stage.window else "no windows"
    left = x + (BOX - 190 if stage.name[0] == "d" else 14)
    yield text(left, y + 25, stage.name, "name")
    for row, words in enumerate((f"{size} × {stage.channels}", local, f"whole map, N {stage.states}, D {stage.inner}")):
        yield text(left, y + 48 + 22 * row, words, "small")
    for j, block in enumerate(stage.blocks):
        cx, cy = square(stage, j, at)
        yield box(cx - SQUARE / 2, cy - SQUARE / 2, SQUARE, SQUARE, "block")
        if block.previous and block.previous[0] == stage.name:
            yield line([(cx + SQUARE / 2 - STEP, cy), (cx - SQUARE / 2 - 3, cy)], "state")


def _down_and_up(stages: list[Stage], at: dict[str, tuple[float, float]]) -> Iterator[str]:
    """Draw the features between stages: halved on the way down, doubled on the way up."""
    for a, b in pairwise(stages):
        (xa, ya), (xb, yb) = at[a.name], at[b.name]
        if yb > ya:
            x = (max(xa, xb) + min(xa, xb) + BOX) / 2
            yield line([(x, ya + HIGH), (x, yb - 3)], "data")
            yield text(x + 10, ya + HIGH + GAP / 2 + 6, "2×2, stride 2", "small")
        else:
            x = min(xa, xb) + BOX - 12
            yield line([(x, ya), (x, yb + HIGH + 3)], "data")
            side, kind = (10, "small") if a.name == "middle" else (-10, "small right")
            yield text(x + side, ya - GAP / 2 + 6, "1×1, bilinear ×2", kind)


def _skips(stages: list[Stage], at: dict[str, tuple[float, float]]) -> Iterator[str]:
    """Draw what the encoder hands over to the decoder of the same size: features and the last state."""
    encoders = {stage.shrink: stage for stage in stages if stage.name[0] == "e"}
    for stage in (stage for stage in stages if stage.name[0] == "d"):
        encoder = encoders[stage.shrink]
        (xe, y), (xd, _) = at[encoder.name], at[stage.name]
        low, over = y + HIGH - 15, y + 22
        yield line([(xe + BOX, low), (xd - 3, low)], "data")
        for _, j in {block.skip for block in stage.blocks if block.skip}:
            x, centre = square(encoder, j, at)
            ends = [square(stage, k, at)[0] for k, b in enumerate(stage.blocks) if b.skip]
            yield line([(x, centre - SQUARE / 2), (x, over), (ends[-1], over)], "state", head=False)
            for end in ends:
                yield line([(end, over), (end, centre - SQUARE / 2 - 3)], "state")
        if stage.shrink == 1:
            yield text((xe + BOX + xd) / 2, low - 8, "features × learnt scales", "small middle")
            yield text((xe + BOX + xd) / 2, over - 8, "last state", "small middle", PURPLE)


def _from_below(stages: list[Stage], at: dict[str, tuple[float, float]]) -> Iterator[str]:
    """Draw the states that a stage's blocks take from the stage before it."""
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        taken = {j: b.previous for j, b in enumerate(stage.blocks) if b.previous and b.previous[0] != stage.name}
        for source in set(taken.values()):
            x, y = square(by_name[source[0]], source[1], at)
            low = at[stage.name][1] + HIGH + GAP / 2
            ends = [square(stage, j, at)[0] for j, s in taken.items() if s == source]
            yield line([(x, y - SQUARE / 2), (x, low), (ends[-1], low)], "state", head=False)
            for end in ends:
                yield line([(end, low), (end, square(stage, 0, at)[1] + SQUARE / 2 + 3)], "state")


def _guides(stages: list[Stage], at: dict[str, tuple[float, float]]) -> Iterator[str]:
    """Draw the guide: down both sides, and into every stage."""
    for x, letters in ((RAIL, "em"), (WIDTH - RAIL, "d")):
        inside = [at[stage.name] for stage in stages if stage.name[0] in letters]
        yield box(x - 28, 32, 56, 36, "pan")
        yield text(x, 56, "PAN", "middle", ORANGE)
        yield line([(x, 68), (x, max(y for _, y in inside) + HIGH / 2)], "guide", head=False)
        for left, y in inside:
            end = left - 4 if x == RAIL else left + BOX + 4
            yield line([(x, y + HIGH / 2), (end, y + HIGH / 2)], "guide")


def u_shape(stages: list[Stage]) -> Iterator[str]:
    """Draw the network: input, stages, arrows, output."""
    at = places(stages)
    for part in (_guides, _down_and_up):
        yield from part(stages, at)
    for stage in stages:
        yield from stage_box(stage, at)
    for part in (_skips, _from_below):
        yield from part(stages, at)
    first, last = at[stages[0].name], at[stages[-1].name]
    inlet, outlet = first[0] + 110, last[0] + BOX - 110
    for x, words in ((inlet, "lms: MS enlarged"), (outlet, "sr: MS sharpened")):
        yield box(x - 82, 22, 164, 36, "end")
        yield text(x, 46, words, "middle")
    yield line([(inlet, 58), (inlet, TOP - 3)], "data")
    yield text(inlet + 10, 84, "3×3", "small")
    yield line([(outlet, TOP), (outlet, 61)], "data")
    yield text(outlet - 10, 84, "3×3", "small right")
    yield line([(inlet + 82, 40), (outlet - 85, 40)], "data")
    yield text((inlet + outlet) / 2, 31, "added", "small middle")


def scan_sketch(x: float, y: float, side: float, windows: int) -> Iterator[str]:
    """Draw a map of 8 x 8 pixels and the row-wise path of a scan, in each of `windows` x `windows` windows."""
    yield f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" class="map"/>'
    part, rows = side / windows, 8 // windows
    for r in range(windows):
        for c in range(windows):
            left, top = x + c * part, y + r * part
            yield f'<rect x="{left:g}" y="{top:g}" width="{part:g}" height="{part:g}" class="map"/>'
            for i in range(rows):
                height = top + (i + 0.5) * part / rows
                yield line([(left + 4, height), (left + part - 8, height)], "path")


def block_detail(y: float, stage: Stage) -> Iterator[str]:
    """Draw the inside of a block of `stage` with the states that it receives."""
    middle = y + 186
    yield text(20, y + 24, "One LEVM block (local-enhanced vision Mamba)", "name")
    yield text(20, middle - 12, "x", "name")
    yield line([(20, middle), (147, middle)], "data")
    yield box(44, y + 56, 236, 52, "pan")
    yield text(162, y + 77, "guide at the stage's size,", "small middle")
    yield text(162, y + 98, "1×1, then 3×3 depth-wise", "small middle")
    yield line([(162, y + 108), (162, middle - 15)], "guide")
    for x in (162, 608):
        yield f'<circle cx="{x}" cy="{middle}" r="12" class="plus"/>' + text(x, middle + 6, "+", "middle")
    yield line([(174, middle), (219, middle)], "data")
    yield from _scan(222, middle, 2, "scan in windows", f"of {stage.window}×{stage.window}, N {stage.local_states}")
    yield line([(514, middle), (593, middle)], "data")
    yield text(554, middle - 10, "× factor", "small middle")
    yield line([(198, middle), (198, middle + 84), (608, middle + 84), (608, middle + 15)], "data")
    yield line([(620, middle), (665, middle)], "data")
    yield from _scan(668, middle, 1, "scan of the whole", f"map, N {stage.states}")
    yield line([(960, middle), (1040, middle)], "data")
    yield text(1050, middle + 6, "x, same size", "name")
    yield box(580, y + 30, 310, 60, "share")
    yield text(735, y + 54, "s = W₁ · (state of a block)", "small middle", PURPLE)
    yield text(735, y + 77, "+ W₂ · (state of the encoder)", "small middle", PURPLE)
    yield line([(735, y + 90), (735, middle - 69)], "state")
    yield text(900, y + 44, "each pixel reads s through a gate and", "small", PURPLE)
    yield text(900, y + 65, "adds it to its input of the scan; only", "small", PURPLE)
    yield text(900, y + 86, "a stage's first block has a W₂", "small", PURPLE)
    yield line([(900, middle + 66), (900, middle + 92), (1040, middle + 92)], "state")
    yield text(1050, middle + 98, "last state", "small", PURPLE)


def _scan(x: float, middle: float, windows: int, *words: str) -> Iterator[str]:
    """Draw one of the two scans of a block."""
    yield box(x, middle - 66, 292, 132, "block")
    yield from scan_sketch(x + 10, middle - 44, 88, windows)
    for i, row in enumerate(words):
        yield text(x + 108, middle - 28 + 21 * i, row)
    for i, row in enumerate(("4 directions, summed;", "then a gated MLP")):
        yield text(x + 108, middle + 18 + 21 * i, row, "small")


def legend(y: float) -> Iterator[str]:
    """Draw what the lines mean."""
    for x, kind, words in ((20, "data", "features"), (200, "guide", "guide, resized"), (420, "state", "scan state")):
        yield line([(x, y), (x + 56, y)], kind)
        yield text(x + 68, y + 6, words, "small")
    yield box(600, y - 10, 20, 20, "block")
    yield text(630, y + 6, "LEVM block; N states, D channels of a scan; k×k: convolutions", "small")


def draw(network: Any, title: str) -> str:
    """Return the picture of a network."""
    stages = describe(network)
    deepest = max(stage.shrink for stage in stages).bit_length() - 1
    lower = TOP + (deepest + 1) * (HIGH + GAP) + 22
    height = lower + 336
    count = sum(p.numel() for p in network.parameters())
    parts = [
        *u_shape(stages),
        text(WIDTH - 20, lower - 44, f"{title}: {count:,} parameters", "right"),
        f'<path d="M20 {lower - 26} H{WIDTH - 20}" class="rule"/>',
        *block_detail(lower - 10, next(s for s in stages if s.window)),
        *legend(height - 24),
    ]
    shape = 'viewBox="0 0 10 8" refX="7" refY="4" orient="auto"'
    markers = "\n".join(
        f'<marker id="{kind}" markerWidth="{size}" markerHeight="{size}" {shape}>'
        f'<path d="M0 0 L9 4 L0 8 z" style="fill: {colour}; stroke: none"/></marker>'
        for kind, colour, size in (("data", GREY, 9), ("guide", ORANGE, 9), ("state", PURPLE, 9), ("path", BLUE, 5))
    )
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">
<style>
text {{ font: 17px sans-serif; fill: #222 }}
.small {{ font-size: 16px }} .name {{ font-weight: bold }}
.right {{ text-anchor: end }} .middle {{ text-anchor: middle }}
rect {{ fill: #fff; stroke: {GREY}; stroke-width: 1.5 }}
.stage {{ fill: #eef3fa; stroke: {BLUE} }} .block {{ fill: #cfe0f3; stroke: {BLUE} }}
.pan {{ fill: #fdf0e1; stroke: {ORANGE} }} .share {{ fill: #f3eaf8; stroke: {PURPLE} }}
.map {{ stroke: {BLUE}; stroke-width: 1 }} .plus {{ fill: #fff; stroke: {GREY} }}
path {{ fill: none; stroke-width: 2 }}
.data {{ stroke: {GREY} }} .guide {{ stroke: {ORANGE} }} .state {{ stroke: {PURPLE}; stroke-dasharray: 5 4 }}
.path {{ stroke: {BLUE}; stroke-width: 1.3 }} .rule {{ stroke: #c3cbd4; stroke-width: 1 }}
</style>
<defs>
{markers}
</defs>
<rect width="{WIDTH}" height="{height}" style="stroke: none"/>
{body}
</svg>
"""


def le_mamba() -> str:
    """Return the picture of LE-Mamba tiny, whose sizes are the defaults of the class."""
    network = build_model("LEMamba", img_channel=BANDS, condition_channel=1, out_channel=BANDS)
    return draw(network, f"LE-Mamba tiny, {BANDS} bands and PAN")
