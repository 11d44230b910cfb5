"""Other implementations next to ours: the equal ones are equal, the others differ for the reason on the page."""

from __future__ import annotations

import importlib
import math
import re

import numpy as np
import pytest
import scipy.io
import torch

from benchmarks import foreign_definitions as foreign
from benchmarks import foreign_metrics as table
from benchmarks import plain_numpy_metrics as plain
from lemamba import metrics
from lemamba.utils.errors import UserError

SAME = [row for row in table.rows() if row.tolerance is not None]
OTHER = [row for row in table.rows() if row.tolerance is None]


def name_of(row: table.Row) -> str:
    return f"{row.index}-{row.who}"


def needs(library: str):
    return pytest.importorskip({"scikit-image": "skimage.metrics"}.get(library, library))


@pytest.fixture(scope="module")
def scenes() -> list[tuple[table.Images, dict[str, float]]]:
    found = [table.drawn_scene(seed) for seed in (14, 1)]
    return [(x, table.ours(x)) for x in found]


@pytest.fixture(scope="module")
def x(scenes) -> table.Images:
    return scenes[0][0]


def bands_last(image):
    return np.ascontiguousarray(np.moveaxis(image, 0, -1))


# The table


@pytest.mark.parametrize("row", SAME, ids=name_of)
def test_the_same_definition_gives_the_same_number(row, scenes):
    if row.library:
        needs(row.library)
    for images, own in scenes:
        assert row.measure(images) == pytest.approx(own[row.index] * row.unit, rel=row.tolerance)


@pytest.mark.parametrize("row", OTHER, ids=name_of)
def test_another_definition_gives_another_number_and_a_reason(row, scenes):
    if row.library:
        needs(row.library)
    assert row.why
    images, own = scenes[0]
    assert abs(row.measure(images) / own[row.index] - 1) > 1e-7


def test_equal_images_are_best_in_every_implementation(x):
    """The tables exchange no arguments: sr = gt gives 0 or 1 wherever an index says so."""
    same = table.Images(x.gt, x.gt, x.fused, x.ms, x.lms, x.pan)
    best = {"sam": 0, "ergas": 0, "scc": 1, "qave": 1, "ssim": 1}
    for row in table.rows():
        if row.index in best and (row.library is None or table.installed(row.library)):
            # The sewar-like SCC of a window without edges is 0, and arccos of 1 - 1e-16 is 1e-8.
            assert row.measure(same) == pytest.approx(best[row.index], abs=1e-5), name_of(row)


# The reasons


def test_whole_cube_psnr_is_one_mse_over_all_bands(x):
    expected = 10 * math.log10(2047**2 / np.mean([np.mean((s - g) ** 2) for s, g in zip(x.sr, x.gt, strict=True)]))
    assert foreign.psnr_cube(x.sr, x.gt, 2047) == pytest.approx(expected, rel=1e-12)
    whole = [row for row in OTHER if row.index == "psnr"]
    assert {row.who for row in whole} == {"torchmetrics", "sewar", "scikit-image", "py_pansharpening"}
    for row in whole:
        if row.library is None or table.installed(row.library):
            assert row.measure(x) == pytest.approx(expected, rel=1e-6)


def test_the_mean_of_band_psnrs_is_never_below_that_of_the_cube(x):
    assert plain.psnr(x.sr, x.gt, 2047) >= foreign.psnr_cube(x.sr, x.gt, 2047)
    one_error = np.stack([x.gt[0]] * 3), np.stack([x.gt[0] + 5] * 3)
    assert plain.psnr(*one_error, 2047) == pytest.approx(foreign.psnr_cube(*one_error, 2047), rel=1e-12)


def test_torchmetrics_uqi_has_a_gaussian_window(x):
    image = needs("torchmetrics").functional.image
    theirs = image.universal_image_quality_index(*(torch.from_numpy(i.copy())[None] for i in (x.sr, x.gt)))
    assert float(theirs) == pytest.approx(foreign.over_bands(foreign.q_gaussian, x.sr, x.gt), rel=1e-5)


def test_torchmetrics_ssim_equals_ours_inside_the_border(x):
    image = needs("torchmetrics").functional.image
    pair = [torch.from_numpy(i.copy())[None] for i in (x.sr, x.gt)]
    _, full = image.structural_similarity_index_measure(*pair, data_range=2047.0, return_full_image=True)
    assert float(full[..., 5:-5, 5:-5].mean()) == pytest.approx(float(metrics.ssim(*pair, const=2047)), rel=1e-6)
    spread = max(float(i.max() - i.min()) for i in pair)
    default, given = (image.structural_similarity_index_measure(*pair, **o) for o in ({}, {"data_range": spread}))
    assert float(default) == pytest.approx(float(given), rel=1e-6)


def test_default_windows_of_ssim_are_boxes(x):
    """sewar's default is scikit-image's with a box of 11; scikit-image's own default is a box of 7."""
    sewar, skimage = needs("sewar"), needs("scikit-image")
    options = {"data_range": 2047, "channel_axis": 0}
    box = skimage.structural_similarity(x.gt, x.sr, win_size=11, use_sample_covariance=False, **options)
    assert sewar.ssim(bands_last(x.gt), bands_last(x.sr), MAX=2047)[0] == pytest.approx(box, rel=1e-9)
    seven = skimage.structural_similarity(x.gt, x.sr, win_size=7, **options)
    assert skimage.structural_similarity(x.gt, x.sr, **options) == seven


@pytest.mark.parametrize("side", [8, 32])
def test_sewar_uqi_is_the_formula_with_means_in_place_of_sums(side, x):
    sewar = needs("sewar")
    theirs = sewar.uqi(bands_last(x.gt), bands_last(x.sr), ws=side)
    # It leaves out the last row and column of windows.
    inner = foreign.over_bands(lambda a, b: foreign.q_means_for_sums(a, b, side), x.sr[:, :-1, :-1], x.gt[:, :-1, :-1])
    assert theirs == pytest.approx(inner, rel=1e-9)
    assert theirs > foreign.over_bands(foreign.q_box(side), x.sr, x.gt)


def test_sewar_ratio_is_the_inverse(x):
    sewar = needs("sewar")
    ours = plain.ergas(x.sr, x.gt, 4)
    assert sewar.ergas(bands_last(x.gt), bands_last(x.sr), r=4) == pytest.approx(16 * ours, rel=1e-12)


@pytest.mark.parametrize("rounding", [np.asarray, np.round])
def test_sewar_q2n_differs_by_rounding_only(rounding, x):
    sewar = needs("sewar")
    theirs = sewar.q2n(bands_last(rounding(x.gt)), bands_last(rounding(x.sr)))
    assert theirs == pytest.approx(foreign.q2n_unrounded(x.sr, x.gt, rounding), rel=1e-10)


def test_distortions_of_torchmetrics_are_those_of_its_uqi(x):
    image = needs("torchmetrics").functional.image
    sr, ms, lms = (torch.from_numpy(i.copy())[None] for i in (x.fused, x.ms, x.lms))
    for theirs, against in ((ms, x.ms), (lms, x.lms)):
        expected = foreign.spectral_distortion(foreign.q_gaussian, x.fused, against)
        assert float(image.spectral_distortion_index(sr, theirs)) == pytest.approx(expected, rel=1e-4)
    low = plain.shrink(x.pan, 4)
    row = next(row for row in OTHER if row.index == "d_s" and row.library == "torchmetrics")
    expected = foreign.spatial_distortion(foreign.q_gaussian, x.fused, x.ms, x.pan, low)
    assert row.measure(x) == pytest.approx(expected, rel=1e-4)


def test_scc_of_unrelated_images_is_far_from_zero():
    """Edge magnitudes of Gaussian noise follow Rayleigh: E[m]^2 / E[m^2] = pi/4. The centred index is 0."""
    random = np.random.RandomState(3)
    noise = [random.standard_normal((3, 300, 300)) for _ in range(2)]
    ours = float(metrics.scc(*(torch.from_numpy(n)[None] for n in noise)))
    assert ours == pytest.approx(math.pi / 4, abs=0.005)
    assert foreign.windowed_edge_correlation(*noise) == pytest.approx(0, abs=0.01)
    assert foreign.pearson(*noise) == pytest.approx(0, abs=0.01)
    if table.installed("sewar"):
        assert importlib.import_module("sewar").scc(*map(bands_last, noise)) == pytest.approx(0, abs=0.01)


def test_windowed_scc_differs_from_the_libraries_by_their_border(x):
    """Windows that reach over the border are a share of 1 - inside/all, and each counts -1 ... 1."""
    needs("torchmetrics"), needs("sewar")
    height, width = x.sr.shape[1:]
    border = 1 - (height - 9) * (width - 9) / (height * width)
    inside = foreign.windowed_edge_correlation(x.sr, x.gt)
    theirs = [row.measure(x) for row in OTHER if row.index == "scc" and row.library]
    assert theirs[0] == pytest.approx(theirs[1], rel=1e-6)
    assert abs(theirs[0] - inside) < border * (1 - inside)


def test_a_black_pixel(x):
    """Left out here and in sewar, 90 degrees where a small number is added, NaN in torchmetrics."""
    sr = x.sr.copy()
    sr[:, 3, 4] = 0
    pair = [torch.from_numpy(i.copy())[None] for i in (sr, x.gt)]
    ours = float(metrics.sam(*pair))
    kept = np.ones(sr.shape[1:], bool)
    kept[3, 4] = False
    without = [i[:, kept][:, None] for i in (sr, x.gt)]
    assert ours == pytest.approx(plain.sam(*without), rel=1e-12)
    if table.installed("sewar"):
        radians = importlib.import_module("sewar").sam(bands_last(x.gt), bands_last(sr))
        assert math.degrees(radians) == pytest.approx(ours, rel=1e-12)
    if table.installed("torchmetrics"):
        image = importlib.import_module("torchmetrics.functional.image")
        assert math.isnan(float(image.spectral_angle_mapper(*pair)))


# The formulas


def test_windows_and_cut():
    image = np.arange(30.0).reshape(5, 6)
    assert foreign.window_mean(image, 3)[1, 2] == image[1:4, 2:5].mean()
    assert foreign.gaussian_mean(np.ones((12, 11))) == pytest.approx(np.ones((2, 1)))
    # MATLAB: x = 1:6; x(2:end-2) is [2 3 4].
    assert foreign.cut_border(np.tile(np.arange(1, 7), (6, 1)), 2)[0].tolist() == [2, 3, 4]


def test_q_of_a_known_pair():
    """y = 2x: covariance 2v, variances v and 4v, means m and 2m give 4/5 * 4/5 in every window."""
    band = np.random.RandomState(0).random_sample((40, 36)) + 1
    for quality in (foreign.q_box(8), foreign.q_box(32), foreign.q_gaussian, foreign.q_whole, foreign.q_naples):
        assert quality(band, 2 * band) == pytest.approx(0.64, rel=1e-9)


@pytest.mark.parametrize("q2n", [foreign.q2n_naples, foreign.q2n_hs, foreign.q2n_unrounded])
def test_q2n_definitions_agree_on_whole_numbers_and_blocks(q2n, x):
    """Rounding and borders are all that differs."""
    sr, gt = x.sr[:, :96, :64].round(), x.gt[:, :96, :64]
    assert q2n(sr, gt) == pytest.approx(plain.q2n(sr, gt, 2047), rel=1e-12)


def test_regression_distortion_is_the_unexplained_variance():
    random = np.random.RandomState(2)
    bands = random.standard_normal((3, 200, 200))
    pan = np.tensordot([1.0, 2.0, 2.0], bands, 1) + random.standard_normal((200, 200))
    assert foreign.d_s_regression(bands, pan) == pytest.approx(1 / 10, rel=0.03)


def test_formulas_give_what_the_published_code_gave(shared):
    """Numbers of the programs themselves, run on these files by a reviewer who had them."""
    folder = shared("golden/metrics")
    ikonos, geoeye, full = (scipy.io.loadmat(folder / f"{n}.mat") for n in ("red_ikonos", "red_ge1_pad", "full_ikonos"))
    (sr, gt), (sr2, gt2) = ([f[n][0].astype(np.float64) for n in ("sr", "gt")] for f in (ikonos, geoeye))
    fused, ms, pan = (full[n][0].astype(np.float64) for n in ("sr", "ms", "pan"))
    q32 = foreign.q_box(32)
    published = {
        "fr-pansh-eval-tool Q": (foreign.over_bands(foreign.q_naples, sr, gt), 0.83372),
        "fr-pansh-eval-tool Q2n": (foreign.q2n_naples(sr2, gt2), 0.887091),
        "hs toolbox Q2n": (foreign.q2n_hs(sr2, gt2), 0.885904),
        "hs toolbox D_sR": (foreign.d_s_regression(fused, pan[0]), 0.08067),
        "py_pansharpening Q": (foreign.over_bands(foreign.q_box(8), sr2, gt2), 0.66556),
        "py_pansharpening SCC": (foreign.pearson(sr2, gt2), 0.96602),
        "py_pansharpening D_lambda": (foreign.spectral_distortion(q32, fused, ms), 0.0302),
        "py_pansharpening D_s": (
            foreign.spatial_distortion(q32, fused, ms, pan[0], foreign.pan_by_mtf(pan[0], 0.17, 4)),
            0.078123,
        ),
        "DLPan SAM, cut 21": (plain.sam(foreign.cut_border(sr, 21), foreign.cut_border(gt, 21)), 3.6132),
        "DLPan ERGAS, cut 21": (plain.ergas(foreign.cut_border(sr, 21), foreign.cut_border(gt, 21), 4), 2.444066),
    }
    wrong = {k: v for k, v in published.items() if v[0] != pytest.approx(v[1], abs=0.6 * 10 ** -digits(v[1]))}
    assert not wrong


def digits(number: float) -> int:
    return len(str(number).partition(".")[2])


def test_a_flat_band_of_the_reference_makes_its_block_zero(x):
    """One block of four: three quarters of the others' mean are left."""
    pair = table.flat_band(x.sr[:, :64, :64], x.gt[:, :64, :64], 32, 3)
    sr, gt = (torch.from_numpy(i)[None] for i in pair)
    blocks = [(slice(i, i + 32), slice(j, j + 32)) for i in (0, 32) for j in (0, 32)][1:]
    others = [float(metrics.q2n(sr[..., r, c], gt[..., r, c], const=2047)) for r, c in blocks]
    assert float(metrics.q2n(sr, gt, const=2047)) == pytest.approx(sum(others) / 4, abs=1e-9)


# The page


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def assert_same_table(page: str, measured: str) -> None:
    """Words are the same, and so are numbers to 1e-4: another processor may round the last digit otherwise."""
    assert len(cells(page)) == len(cells(measured))
    for old, new in zip(cells(page), cells(measured), strict=True):
        difference = 4 if len(new) > 2 else None  # follows from the numbers before it
        for column, (a, b) in enumerate(zip(old, new, strict=True)):
            number = re.fullmatch(r"-?\d+\.?\d*|inf", b)
            if number and column != difference:
                assert float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-4), new
            elif column != difference or b.startswith("equal"):
                assert a == b, new


def test_the_page_shows_what_the_command_measures():
    """If this fails: python -m benchmarks.foreign_metrics --markdown."""
    text = table.PAGE.read_text(encoding="utf-8")
    named = dict(re.findall(r"(torchmetrics|sewar|scikit-image) (\d[\w.]*\w)", table.section(text, "drawn scene")))
    assert set(named) == set(table.LIBRARIES)
    if any(table.installed(library) != version for library, version in named.items()):
        pytest.skip(f"the page was measured with {named}")
    tables = table.page_tables()
    assert {"drawn scene", "edge cases"} <= set(tables)
    for name, content in tables.items():
        assert_same_table(table.section(text, name), content)


def test_a_table_that_is_not_measured_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "installed", lambda library: "1.0")
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one: begin, by x -->\nold\n<!-- one: end -->\nb\n<!-- two: begin -->\n<!-- two: end -->\n")
    table.write_page({"two": "new"}, page)
    table.write_page({"two": "newer"}, page)
    text = page.read_text()
    assert (table.section(text, "one"), table.section(text, "two")) == ("old", "newer")
    assert text.startswith("a\n") and "\nb\n" in text and text.count("<!--") == 4
    with pytest.raises(UserError, match="markers '<!-- three: begin -->'"):
        table.write_page({"three": "x"}, page)
    assert page.read_text() == text


def test_without_a_library_its_rows_are_left_out_and_nothing_is_written(tmp_path, monkeypatch, x):
    monkeypatch.setattr(table, "installed", lambda library: None)
    assert not [m for m in table.measure(x) if m.row.library]
    page = tmp_path / "page.md"
    with pytest.raises(UserError, match="pip install torchmetrics sewar scikit-image"):
        table.write_page({"one": "x"}, page)
    assert not page.exists()
