"""The drawings of the explanations show what the code does, and are current."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("draw_explanations", ROOT / "docs/draw_explanations.py")
drawing = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(drawing)


def test_states_go_where_the_paper_says():
    """Section 3.3 of the paper: along the blocks of an encoder stage, up the decoder, and across the skips."""
    up = ["middle 1", "decoder 3.1", "decoder 2.1", "decoder 1.1"]
    expected = {(a, b, "prev") for a, b in pairwise(up)} | {("encoder 1.1", "encoder 1.2", "prev")}
    expected |= {("decoder 2.1", "decoder 1.2", "prev")}
    expected |= {(f"encoder {s}", f"decoder {s}", "skip") for s in ("3.1", "2.1")}
    expected |= {("encoder 1.2", f"decoder 1.{j}", "skip") for j in (1, 2)}
    assert drawing.flows() == expected
    down = ["encoder 1.2", "encoder 2.1", "encoder 3.1", "middle 1"]
    assert drawing.flows(share_across_stages=True) - expected == {(a, b, "prev") for a, b in pairwise(down)}
    chained = drawing.flows(chain_decoder_states=True)
    assert chained - expected == {("decoder 1.1", "decoder 1.2", "prev")}
    assert expected - chained == {("decoder 2.1", "decoder 1.2", "prev")}


@pytest.mark.parametrize("name", drawing.DRAWINGS)
def test_drawings_are_current(name):
    """If this fails: `python -m docs.draw_explanations`."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert drawing.DRAWINGS[name]() == text
    ET.fromstring(text)  # whole XML: a browser shows nothing of a broken one
