"""A self-contained HTML page: a sortable table of scores, curves, and a viewer of the images.

The page holds everything it needs: values of the pixels (`lemamba.reporting.viewer`), its own script and style and,
for spectra and curves, uPlot (MIT licence), all in `assets/`. Its content security policy forbids any connection.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Template

import numpy as np

from lemamba.reporting.pictures import ERROR_COLOURS
from lemamba.reporting.viewer import BAND_COLUMNS, MAPS

_ASSETS = Path(__file__).resolve().parent / "assets"


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _colours() -> str:
    """Return the 256 colours of maps, red green blue, as base64."""
    from matplotlib import colormaps

    table = colormaps[ERROR_COLOURS](np.arange(256), bytes=True)[:, :3]
    return base64.b64encode(table.astype(np.uint8).tobytes()).decode()


def _script(values: object) -> str:
    """Return JSON that may stand in a <script> element."""
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def _table(
    first: str,
    columns: Sequence[str],
    directions: Sequence[int],
    rows: Mapping[str, Sequence[str]],
    summary: Mapping[str, Sequence[str]],
) -> str:
    def line(name: str, cells: Sequence[str]) -> str:
        values = "".join(f"<td>{html.escape(c)}</td>" for c in cells)
        return f'<tr><th scope="row">{html.escape(name)}</th>{values}</tr>'

    heads = "".join(
        f'<th scope="col" data-direction="{d}">{html.escape(c)}</th>' for c, d in zip(columns, directions, strict=True)
    )
    return (
        f'<table id="scores"><thead><tr><th scope="col">{html.escape(first)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(line(n, c) for n, c in rows.items())}</tbody>"
        f"<tfoot>{''.join(line(n, c) for n, c in summary.items())}</tfoot></table>"
    )


def html_report(
    title: str,
    facts: Mapping[str, str],
    notes: Sequence[str],
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    summary: Mapping[str, Sequence[str]],
    samples: Sequence[str] = (),
    *,
    directions: Sequence[int] = (),
    first: str = "sample",
    curves: Sequence[Mapping[str, object]] = (),
    sections: str = "",
) -> str:
    """Return the page; it needs no other file.

    Args:
        title: heading.
        facts: what was measured and how, name -> text.
        notes: sentences under the facts.
        columns: headings of the indices.
        rows: sample or method -> cells, one per column.
        summary: label ("mean", "std") -> cells.
        samples: of `lemamba.reporting.viewer.Viewer`; a sample named like a row is shown when that row is clicked.
        directions: per column +1 if larger is better, -1 if smaller is, 0 if that is not known; empty: none is known.
        first: heading of the names of the rows.
        curves: panels, see `lemamba.reporting.run_page.curve_panels`.
        sections: HTML between the curves and the images.
    """
    about = {"count": len(samples), "maps": MAPS, "columns": BAND_COLUMNS, "colours": _colours() if samples else ""}
    about |= {"curves": list(curves)}
    data = [f'<script type="application/json" id="page">{_script(about)}</script>']
    data += [f'<script type="application/json" id="sample-{i}">{text}</script>' for i, text in enumerate(samples)]
    plots = bool(samples or curves)
    names = ["common.js", "table.js", *(["curves.js"] if curves else []), *(["viewer.js"] if samples else [])]
    scripts = [*([_asset("uPlot.iife.min.js")] if plots else []), *map(_asset, names)]
    styles = [*([_asset("uPlot.min.css")] if plots else []), _asset("page.css")]
    licence = f"<!-- uPlot:\n{_asset('uPlot.LICENSE')}-->" if plots else ""
    return Template(_asset("page.html")).substitute(
        title=html.escape(title),
        style="\n".join(styles),
        facts=" · ".join(f"{html.escape(k)}: {html.escape(v)}" for k, v in facts.items()),
        notes="\n".join(f'<p class="note">{html.escape(n)}</p>' for n in notes),
        table=_table(first, columns, directions or [0] * len(columns), rows, summary),
        curves=_asset("curves.html") if curves else "",
        sections=sections,
        viewer=_asset("viewer.html") if samples else "",
        data="\n".join(data),
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
        licence=licence,
    )
