"""Parts of the HTML page of training runs: curves, settings, pictures of validations, model cards."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lemamba.reporting.tables import direction

Line = Sequence[tuple[int, float]]  # (step, value) in ascending steps
MOST_POINTS = 1500  # of a line; of more, every k-th and the last one are drawn
PICTURE_BYTES = 3_000_000  # of all pictures of validations


def curve_panels(curves: Mapping[str, Mapping[str, Line]]) -> list[dict[str, Any]]:
    """Return what the page draws, a panel for each quantity.

    Args:
        curves: run -> quantity -> points, as `lemamba.engine.training.history.curves` reads them.

    Returns:
        [{"title": quantity, "log": whether a logarithmic axis suits it, "lines": [{"run", "steps", "values"}, …]}, …];
        a value that is not finite is None.
    """
    quantities = dict.fromkeys(name for own in curves.values() for name in own)
    order = ("train/", "valid/", "loop/")
    ranked = sorted(
        quantities, key=lambda name: next((i for i, o in enumerate(order) if name.startswith(o)), len(order))
    )
    panels = []
    for name in ranked:
        lines = []
        for run, own in curves.items():
            points = thinned(own.get(name, ()))
            values = [value if math.isfinite(value) else None for _, value in points]
            if points:
                lines.append({"run": run, "steps": [step for step, _ in points], "values": values})
        growing = direction(name.rpartition("/")[2]) > 0  # decibels, and qualities that end at 1
        panels.append({"title": name, "log": not growing, "lines": lines})
    return panels


def thinned(points: Line) -> list[tuple[int, float]]:
    """Return at most `MOST_POINTS` + 1 of the points, evenly chosen, the last one among them."""
    every = -(-len(points) // MOST_POINTS) if points else 1
    kept = list(points[::every])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def settings_section(rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], title: str) -> str:
    """Return a table, key -> column -> text, as HTML; a sentence where there are no rows."""
    if not rows:
        return f'<section><h2 id="head-settings">{html.escape(title)}</h2><p class="note">None.</p></section>'
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("setting", *columns))
    body = "".join(
        f'<tr><th scope="row">{html.escape(key)}</th>'
        + "".join(f"<td>{html.escape(row.get(name, ''))}</td>" for name in columns)
        + "</tr>"
        for key, row in rows.items()
    )
    return (
        f'<section aria-labelledby="head-settings"><h2 id="head-settings">{html.escape(title)}</h2>'
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="head-settings">'
        f'<table id="settings"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def pictures_section(pictures: Mapping[str, Sequence[tuple[int, bytes]]]) -> str:
    """Return the pictures of validations with a slider for the step.

    Args:
        pictures: run -> [(step, PNG), …]; of a run whose pictures exceed its share of `PICTURE_BYTES`, the first ones
            are left out.
    """
    parts = []
    share = PICTURE_BYTES // max(len(pictures), 1)
    for number, (run, own) in enumerate(pictures.items()):
        kept: list[tuple[int, bytes]] = []
        used = 0
        for step, data in reversed(own):
            used += len(data) * 4 // 3
            if used > share and kept:
                break
            kept.insert(0, (step, data))
        if not kept:
            continue
        figures = "".join(_figure(run, step, data, i < len(kept) - 1) for i, (step, data) in enumerate(kept))
        slider = (
            f'<div class="tools"><label class="wide">{html.escape(run)}: validation <input type="range" min="0" '
            f'max="{len(kept) - 1}" value="{len(kept) - 1}" data-pictures="pictures-{number}"></label></div>'
        )
        parts.append(f'{slider if len(kept) > 1 else ""}<div class="pictures" id="pictures-{number}">{figures}</div>')
    if not parts:
        return ""
    head = '<h2 id="head-pictures">Pictures of the validations</h2>'
    return f'<section aria-labelledby="head-pictures">{head}{"".join(parts)}</section>'


def _figure(run: str, step: int, picture: bytes, hidden: bool) -> str:
    name, data = html.escape(run), base64.b64encode(picture).decode()
    image = f'<img alt="lms, pan, sr, gt and error of {name}, step {step}" src="data:image/png;base64,{data}">'
    caption = f"{name}, step {step}: lms | pan | sr | gt | error"
    return f"<figure{' hidden' if hidden else ''}>{image}<figcaption>{caption}</figcaption></figure>"


def cards_section(cards: Mapping[str, str]) -> str:
    """Return model cards, run -> Markdown, as HTML that unfolds; tags in a card stay text."""
    if not cards:
        return ""
    parts = [
        f'<details class="card"><summary>{html.escape(run)}</summary>{_rendered(text)}</details>'
        for run, text in cards.items()
    ]
    head = f'<h2 id="head-cards">Model card{"s" if len(cards) > 1 else ""}</h2>'
    return f'<section aria-labelledby="head-cards">{head}{"".join(parts)}</section>'


def _rendered(text: str) -> str:
    if text.startswith("---\n"):  # the header that tools read
        text = text.partition("\n---\n")[2]
    try:
        from markdown_it import MarkdownIt  # comes with rich
    except ImportError:
        return f"<pre>{html.escape(text)}</pre>"
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):  # below the page's own headings
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
    return str(reader.renderer.render(tokens, reader.options, {}))
