"""Pictures for people: names in a scatter can be read."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.pictures import _place_labels


def test_names_in_a_scatter_cover_neither_one_another_nor_points():
    """Thirty methods, most of them close together, as on a real board."""
    draw = np.random.default_rng(0)
    points = {f"METHOD-{i}": (10 ** draw.uniform(0, 1), 0.9 + 0.02 * draw.normal()) for i in range(30)}
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.scatter(*zip(*points.values(), strict=True))
    axis.set_xscale("log")
    axis.margins(0.08)
    _place_labels(axis, points)
    figure.draw_without_rendering()
    labels = {t.get_text(): t.get_window_extent() for t in axis.texts if t.get_text()}
    assert set(labels) == set(points)
    marks = [axis.transData.transform(p) for p in points.values()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(labels.values(), 2))
    assert not any(box.contains(*mark) for box in labels.values() for mark in marks)
    frame = axis.get_window_extent()
    assert all(frame.containsx(box.x0) and frame.containsx(box.x1) for box in labels.values())
