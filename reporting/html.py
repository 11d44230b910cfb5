"""A self-contained HTML page for one evaluated file: a table per sample, mean and std, and embedded pictures.

Pictures are (H, W, 3) uint8 or an error map (H, W) in [0, 1], as from `lemamba.reporting.pictures.quick_look`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np

from lemamba.reporting.pictures import ERROR_COLOURS

LONGEST_SIDE = 512  # pixels; larger pictures are averaged, so that the page stays small enough to mail

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 77rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
tfoot td, tfoot th { font-weight: 600; border-top: 2px solid #8888; }
.scroll { overflow-x: auto; }
.row { display: flex; gap: .6rem; overflow-x: auto; margin: .3rem 0 1.2rem; }
figure { margin: 0; } figcaption { text-align: center; opacity: .8; }
img { height: 220px; image-rendering: pixelated; }
.note { opacity: .8; }
"""


def embedded(picture: np.ndarray) -> str:
    """Return a picture as a data URI (PNG)."""
    from matplotlib.image import imsave

    step = -(-max(picture.shape[:2]) // LONGEST_SIDE)
    H, W = (side // step for side in picture.shape[:2])
    blocks = picture[: H * step, : W * step].reshape(H, step, W, step, -1).mean(axis=(1, 3))
    whole = picture.ndim == 3
    shown = np.round(blocks).astype(np.uint8) if whole else blocks[..., 0]
    file = io.BytesIO()
    imsave(file, shown, format="png", cmap=ERROR_COLOURS, vmin=0, vmax=1)  # the last three are for (H, W) only
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _figures(pictures: Mapping[str, np.ndarray]) -> str:
    figures = (
        f'<figure><img src="{embedded(p)}" alt="{html.escape(n)}"><figcaption>{html.escape(n)}</figcaption></figure>'
        for n, p in pictures.items()
    )
    return f'<div class="row">{"".join(figures)}</div>'


def html_report(
    title: str,
    facts: Mapping[str, str],
    notes: Sequence[str],
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    summary: Mapping[str, Sequence[str]],
    pictures: Mapping[str, Mapping[str, np.ndarray]],
) -> str:
    """Return the page; it needs no other file.

    Args:
        title: heading.
        facts: what was measured and how, name -> text.
        notes: sentences under the facts.
        columns: headings of the indices.
        rows: sample -> cells, one per column.
        summary: label ("mean", "std") -> cells.
        pictures: sample -> title -> picture.
    """

    def line(name: str, cells: Sequence[str]) -> str:
        return f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{html.escape(c)}</td>' for c in cells)}</tr>"

    head = "".join(f"<th>{html.escape(c)}</th>" for c in ("sample", *columns))
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>",
        f"<p>{' · '.join(f'{html.escape(k)}: {html.escape(v)}' for k, v in facts.items())}</p>",
        *(f'<p class="note">{html.escape(n)}</p>' for n in notes),
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>',
        f"<tbody>{''.join(line(n, c) for n, c in rows.items())}</tbody>",
        f"<tfoot>{''.join(line(n, c) for n, c in summary.items())}</tfoot></table></div>",
        *(f"<h2>{html.escape(name)}</h2>{_figures(shown)}" for name, shown in pictures.items()),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"
