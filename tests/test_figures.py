"""The pictures of README and docs show what the code does, and the gallery names every method."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lemamba.model import build_model, list_models
from lemamba.reporting.pictures import MARK, busiest_box, label_scale, marked

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def scripts(monkeypatch):
    """Import a script of docs/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module


def network(**arguments):
    return build_model("LEMamba", img_channel=8, condition_channel=1, out_channel=8, **arguments)


def test_the_drawn_architecture_is_that_of_the_network(scripts):
    """Blocks, channels, windows and states are those of the published configuration; if the file differs: make figs."""
    drawing = scripts("draw_network")
    net = network()
    stages = {stage.name: stage for stage in drawing.describe(net)}
    tiny = yaml.safe_load((ROOT / "configs/LEMamba_config.yaml").read_text())["model"]["variants"]["tiny"]
    levels = range(len(tiny["ssm_enc_blk_nums"]))
    for i in levels:
        encoder, decoder = stages[f"encoder {i + 1}"], stages[f"decoder {i + 1}"]
        local, whole = tiny["ssm_enc_d_states"][i]
        assert len(encoder.blocks) == tiny["ssm_enc_blk_nums"][i]
        assert len(decoder.blocks) == tiny["ssm_dec_blk_nums"][i]
        for stage in (encoder, decoder):
            assert (stage.shrink, stage.channels) == (2**i, tiny["width"])
            assert (stage.window, stage.local_states, stage.states) == (tiny["window_sizes"][i], local, whole)
            assert stage.inner == tiny["ssm_ratios"][i] * tiny["width"]
    assert stages["middle"].shrink == 2 ** len(levels)
    assert drawing.le_mamba() == (ROOT / "figs/le-mamba-architecture.svg").read_text(encoding="utf-8")


def test_the_drawn_states_are_those_that_have_weights(scripts):
    """A block that takes a state has W1 for it; where the states of a decoder are chained, they come from next door."""
    drawing = scripts("draw_network")
    for chained in (False, True):
        net = network(chain_decoder_states=chained, share_across_stages=chained)
        stages = {stage.name: stage for stage in drawing.describe(net)}
        modules = drawing.stage_modules(net)
        for name, stage in stages.items():
            for j, (block, module) in enumerate(zip(stage.blocks, modules[name], strict=True)):
                assert (block.previous is not None) == (module.whole.ss2d.W1 is not None)
                assert (block.skip is not None) == name.startswith("decoder")
                if block.skip:
                    source, last = block.skip
                    assert stages[source].shrink == stage.shrink and last == len(stages[source].blocks) - 1
                if j and block.previous:
                    assert (block.previous == (name, j - 1)) == (chained or not name.startswith("decoder"))


def test_the_gallery_names_every_method_once(scripts):
    """Shown in a picture or listed with a reason; if the page differs: make figs ONLY=gallery."""
    gallery = scripts("draw_gallery")
    shown = [method for sheet in gallery.sheets() for method in sheet.methods]
    missing = gallery.not_shown()
    assert set(shown) | set(missing) == set(list_models()) and not set(shown) & set(missing)
    assert all(missing.values())
    for sheet in gallery.sheets():
        assert (ROOT / "figs" / sheet.file).is_file()
    assert "\n".join(gallery.page()) + "\n" == (ROOT / "docs/gallery.md").read_text(encoding="utf-8")


def test_pictures_of_real_scenes_stay_where_these_are_missing(scripts, tmp_path, monkeypatch, capsys):
    figures = scripts("draw_figures")
    monkeypatch.setattr(sys, "argv", ["draw_figures.py", "--only", "le-mamba-teaser", "--shared", str(tmp_path)])
    monkeypatch.setattr(figures, "FIGS", tmp_path / "figs")
    figures.main()
    assert "left as it is" in capsys.readouterr().out and not (tmp_path / "figs").exists()


def test_every_drawn_picture_is_there_and_used(scripts):
    figures = scripts("draw_figures")
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    for file, _, _ in figures.FIGURES.values():
        assert (ROOT / "figs" / file).is_file()
        assert f"figs/{file}" in text or file.endswith(".md")


def test_a_frame_is_drawn_around_a_box_only():
    picture = np.full((160, 320, 3), 7, np.uint8)
    framed = marked(picture, (slice(40, 80), slice(100, 150)))
    changed = (framed != 7).any(-1)
    assert (framed[changed] == MARK).all() and (picture == 7).all()
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 79, 100, 149)
    assert not changed[43:77, 103:147].any()


def test_the_enlarged_part_has_the_most_edges_not_the_brightest_roof():
    scene = np.zeros((1, 128, 128))
    scene[0, 70:120, 70:120] = 1000  # a roof without detail
    scene[0, 0:32, 0:32] = 500 * (np.indices((32, 32)).sum(0) % 4 < 2)
    rows, columns = busiest_box(scene, 32)
    assert (rows.start, columns.start) == (0, 0)


def test_a_colour_bar_says_the_value_at_its_end():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    bar = figure.colorbar(axis.imshow(np.zeros((2, 2)), vmin=0, vmax=1))
    label_scale(bar, 15.3, "%")
    figure.draw_without_rendering()
    values = [float(label.get_text()) for label in bar.ax.get_yticklabels()]
    np.testing.assert_allclose(np.array(bar.get_ticks()) * 15.3, values)
    assert values[0] == 0 and 10 < values[-1] <= 15.3
