"""Pictures for people: names can be read, grids are full, errors share a scale, colours are those of the sensor."""

from __future__ import annotations

import itertools
import re

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lemamba.reporting import pictures
from lemamba.reporting.pictures import choose_bands, save_grid, save_panels, save_scene, shared_error_maps
from lemamba.reporting.scatter import _place_labels, save_scatter
from lemamba.utils.sensors import get_sensor


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
    radii = {name: 20.0 if name == "METHOD-3" else 4.0 for name in points}
    _place_labels(axis, points, radii)
    figure.draw_without_rendering()
    labels = {t.get_text(): t.get_window_extent() for t in axis.texts if t.get_text()}
    assert set(labels) == set(points)
    marks = [axis.transData.transform(p) for p in points.values()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(labels.values(), 2))
    assert not any(box.contains(*mark) for box in labels.values() for mark in marks)
    x, y = axis.transData.transform(points["METHOD-3"])  # a large circle, which no name may touch
    assert all(np.hypot(x - np.clip(x, b.x0, b.x1), y - np.clip(y, b.y0, b.y1)) > 20 for b in labels.values())
    frame = axis.get_window_extent()
    assert all(frame.containsx(box.x0) and frame.containsx(box.x1) for box in labels.values())


def test_panels_are_stretched_by_gt():
    """gt rises from 0 to 1: its lowest and highest hundredth are black and white, an error of 0.049 is half."""
    gt = np.broadcast_to(np.linspace(0, 1, 100 * 100).reshape(1, 100, 100), (3, 100, 100))
    images = {"lms": gt + 2, "sr": gt + 0.049, "gt": gt}  # a tenth of the range from 1 to 99 per cent is 0.098
    lms, sr, shown, error = pictures.quick_look(images, (2, 1, 0)).values()
    assert (lms == 255).all() and abs(int(shown[50, 0, 0]) - 127) <= 1 and shown[0, 0, 0] == 0
    assert (shown[99] == 255).all() and sr[50, 0, 1] > shown[50, 0, 1]
    np.testing.assert_allclose(error, 0.5, atol=1e-3)


@pytest.mark.parametrize("hard", [1e-3, 10.0])
def test_error_maps_of_several_methods_share_a_scale_that_fits_the_scene(hard):
    gt = np.random.default_rng(0).uniform(size=(4, 40, 50))
    error = hard * np.arange(2000.0).reshape(1, 40, 50) / 2000
    maps = shared_error_maps({"good": gt + error, "bad": gt - 2 * error}, gt)
    assert (maps["good"] == 1).mean() + (maps["bad"] == 1).mean() == pytest.approx(2 * 0.02, abs=2e-3)
    below = maps["bad"] < 1
    np.testing.assert_allclose(maps["bad"][below], 2 * maps["good"][below], atol=1e-9 / hard)


@pytest.mark.parametrize(("methods", "columns"), [(3, [5]), (5, [4, 3]), (10, [6, 6]), (11, [5, 5, 3])])
def test_a_grid_has_rows_of_equal_length(tmp_path, monkeypatch, methods, columns):
    """PAN and ground truth come first; each row of methods is three rows of panels: image, zoom, error."""
    shown = []
    monkeypatch.setattr(pictures, "save_panels", lambda path, rows, *_, **__: shown.extend(rows))
    arrays = {
        "sr": np.ones((3, 32, 32)),
        "gt": np.random.default_rng(0).random((3, 32, 32)),
        "pan": np.ones((1, 32, 32)),
    }
    save_grid(tmp_path / "grid.png", {f"M{i}": arrays for i in range(methods)}, (2, 1, 0))
    assert [len(row) for row in shown[::3]] == columns


def test_bands_of_an_unnamed_sensor_are_shown_in_true_colours():
    """Where the sensor is not said, the number of bands tells which are red, green and blue."""
    none = get_sensor("none")
    for bands, like in ((8, "WV3"), (4, "QB"), (31, "CAVE")):
        assert none.rgb_for(bands) == get_sensor(like).rgb
    assert none.rgb_for(5) == (2, 1, 0) and none.rgb_for(1) == (0, 0, 0)


def test_a_cube_of_an_unknown_sensor_is_shown_in_the_colours_of_its_guide():
    """Its first bands, the bluest, are often noise; a guide of three bands tells which are like red, green, blue."""
    cube = np.random.default_rng(0).random((40, 16, 16))
    none, guide = get_sensor("none"), cube[[30, 20, 7]] + 0.01
    assert choose_bands(none, cube, guide) == (30, 20, 7)
    assert choose_bands(none, np.concatenate([cube, np.ones((1, 16, 16))]), guide) == (30, 20, 7)  # a dead band
    assert choose_bands(none, cube, None) == choose_bands(none, cube, guide[:1]) == (2, 1, 0)
    assert choose_bands(get_sensor("CAVE"), cube[:31], guide) == (29, 19, 9)
    assert choose_bands(get_sensor("CAVE"), cube[:31], guide, own=(1, 2, 3)) == (1, 2, 3)


def test_a_scene_is_shown_in_true_colour_in_colour_infrared_and_in_grey(tmp_path, monkeypatch):
    """Each band rises in a direction of its own, so the colours tell which band went where."""
    shown = []
    monkeypatch.setattr(pictures, "save_panels", lambda path, rows, **_: shown.extend(rows))
    right, down = np.meshgrid(np.arange(200.0), np.arange(200.0))
    ms = np.stack([right, down, 199 - right, 199 - down])
    save_scene(tmp_path / "x.png", ms, 5 + 3 * ms[:1], (2, 1, 0), infrared=3)
    colour, infrared, grey = shown[0].values()
    brightest = {"left": (colour, 100, 0), "top": (infrared, 0, 100)}  # of the band shown as red
    for picture, row, column in brightest.values():
        assert picture[row, column, 0] == 255 and picture[199, 199, 0] == 0
    assert (colour[..., 1] == infrared[..., 2]).all() and (grey[..., 0] == grey[..., 2]).all()
    # one hundredth of the values at either end is cut: columns 0, 1 and 198, 199 of 200
    assert (grey[:, :2] == 0).all() and (grey[:, -2:] == 255).all() and 0 < grey[0, 3, 0] < 255


def test_fine_stripes_turn_grey_in_a_panel_smaller_than_they_are(tmp_path):
    """Picked pixel by pixel, as small pictures are shown, they would come out as a pattern that is not there."""
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    save_panels(tmp_path / "x.png", [{"": stripes}])
    middle = matplotlib.image.imread(tmp_path / "x.png")[120:200, 120:200, :3]
    assert abs(middle - 0.5).max() < 0.2


@pytest.mark.parametrize(("fastest", "slowest", "ticks"), [(5.5, 51.0, {"10", "20"}), (0.04, 33.0, {"0.1", "1", "10"})])
def test_seconds_are_written_as_plain_numbers(tmp_path, monkeypatch, fastest, slowest, ticks):
    """2 x 10^1 is not how one says twenty."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch()))
    save_scatter(tmp_path / "x.png", {"A": (fastest, 0.9, None), "B": (slowest, 0.8, 10**6)}, "seconds", "Q2n")
    (figure,) = figures
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    texts = [t.get_text() for which in (axis.get_ticklabels(), axis.get_ticklabels(minor=True)) for t in which]
    assert ticks <= set(texts) and all(re.fullmatch(r"[0-9.]*", t) for t in texts)


def test_a_guide_of_several_bands_is_not_called_pan():
    images = {"lms": np.zeros((5, 8, 8)), "sr": np.zeros((5, 8, 8))}
    assert list(pictures.quick_look(images | {"pan": np.ones((3, 8, 8))}, (2, 1, 0))) == ["lms", "guide", "sr"]
    assert list(pictures.quick_look(images | {"pan": np.ones((1, 8, 8))}, (2, 1, 0))) == ["lms", "pan", "sr"]
