"""The HTML page: what it stores, and in headless Chromium what it shows and how it is operated."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lemamba.commands import parse
from lemamba.commands import report as report_command
from lemamba.engine.training.curves import Curves
from lemamba.engine.weights.files import save_weights
from lemamba.metrics import q2n, sam
from lemamba.metrics.large import LargeImage
from lemamba.metrics.maps import angle_map, q2n_map
from lemamba.reporting.board import write_page
from lemamba.reporting.html import html_report
from lemamba.reporting.place import describe_place
from lemamba.reporting.pyramid import QUALITIES, Picture, encoded, pyramid
from lemamba.reporting.viewer import Viewer, band_scores
from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import write_mat

C, H, W = 5, 64, 96
HOLE = 10, 12  # row and column of a pixel without data
RGB = (4, 2, 0)
METHODS = ("good", "bad")


def sample(seed: int, size: tuple[int, int, int] = (C, H, W)) -> dict[str, np.ndarray]:
    """Smooth random images in 11 bits, with fractions."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(100, 1900, (size[0], size[1] // 8, size[2] // 8))
    gt = np.kron(coarse, np.ones((8, 8))) + rng.normal(0, 20, size)
    return {
        "gt": gt,
        "lms": np.kron(coarse, np.ones((8, 8))),
        "pan": gt.mean(0, keepdims=True),
        "good": gt + rng.normal(0, 10, size),
        "bad": gt + rng.normal(0, 60, size),
    }


def view(viewer: Viewer, name: str, images: dict[str, np.ndarray], **more) -> bool:
    known = {role: images[role] for role in ("gt", "lms", "pan") if role in images}
    return viewer.add(name, known, {m: images[m] for m in METHODS if m in images}, RGB, **more)


@pytest.mark.parametrize("masked", [False, True])
def test_means_of_the_maps_are_the_indices(masked):
    """Sides that are no multiple of 32 are mirrored by both."""
    images = {k: torch.from_numpy(v) for k, v in sample(1, (3, 72, 104)).items()}
    sr, gt = images["bad"], images["gt"]
    mask = torch.ones(72, 104, dtype=torch.bool)
    if masked:
        mask[40:50, 5:90] = False
    batch = {"mask": mask[None, None]} if masked else {}
    angles = angle_map(sr, gt, mask if masked else None)
    blocks = q2n_map(sr, gt, const=2047, mask=mask if masked else None)
    assert angles.shape == (72, 104) and blocks.shape == (3, 4)
    assert bool(angles.isnan().any()) == bool(blocks.isnan().any()) == masked
    torch.testing.assert_close(angles.nanmean(), sam(sr[None], gt[None], **batch)[0])
    torch.testing.assert_close(blocks.nanmean(), q2n(sr[None], gt[None], const=2047, **batch)[0])


def test_scores_of_bands_are_their_formulas():
    images, valid = sample(2), np.ones((H, W), bool)
    valid[:, :50] = False
    x, y = images["good"][3][valid], images["gt"][3][valid]
    rmse, psnr, correlation = band_scores(images["good"], images["gt"], 2047, valid)[3]
    assert rmse == pytest.approx(np.sqrt(((x - y) ** 2).mean()))
    assert psnr == pytest.approx(10 * np.log10(2047**2 / ((x - y) ** 2).mean()))
    assert correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    flat = np.ones((1, H, W))
    assert band_scores(flat, flat, None) == [[0.0, None, None]]


def test_a_page_has_a_limit_and_says_what_it_left_out():
    room, tight, tiny = (Viewer(4, const=2047, limit=limit) for limit in (10**7, 4 * 85_000, 150_000))
    for viewer in (room, tight, tiny):
        for i in range(4):
            view(viewer, str(i), sample(i))
    assert (len(room.samples), room.full) == (4, False)
    assert (len(tight.samples), tight.full) == (4, False) and sum(map(len, tight.samples)) <= 4 * 85_000
    assert 0 < len(tiny.samples) < 4 and tiny.full and sum(map(len, tiny.samples)) <= 150_000
    steps = [json.loads(viewer.samples[0])["images"]["gt"]["step"] for viewer in (room, tight)]
    assert steps[0] < 0.5 < steps[1]


def test_whole_numbers_are_kept_exactly_where_there_is_room():
    viewer = Viewer(1, const=2047)
    view(viewer, "1", {k: np.rint(v) for k, v in sample(3).items()})
    assert json.loads(viewer.samples[0])["images"]["gt"]["step"] == 1


def test_names_cannot_end_a_script_or_start_a_tag():
    viewer = Viewer(1)
    name = '</script><b x="1">&'
    view(viewer, name, sample(3))
    page = html_report(name, {name: name}, [name], [name], {name: ["1"]}, {}, viewer.samples)
    assert "<b x" not in page and page.count("</script>") == 6
    text = re.search(r'id="sample-0">(.*?)</script>', page, re.S)
    assert text and json.loads(text[1])["name"] == name


# ---- in the browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples():
    return [sample(10), sample(11)]


@pytest.fixture(scope="module")
def file(samples, tmp_path_factory) -> Path:
    viewer, valid = Viewer(2, const=2047), np.ones((H, W), bool)
    valid[HOLE] = False
    for i, images in enumerate(samples):
        assert view(viewer, str(i + 1), images, valid=valid, wavelengths=(450, 520, 600, 700, 850))
    rows = {"1": ["30.1", "2.0"], "2": ["28.5", "1.5"], "3": ["33.0", "9.0"]}
    summary = {"mean": ["30.5", "4.2"]}
    path = tmp_path_factory.mktemp("page") / "page.html"
    page = html_report(
        "A page", {"ratio": "4"}, ["A note."], ["PSNR", "SAM"], rows, summary, viewer.samples, directions=(1, -1)
    )
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium, file):
    """Open the page, or another one; its messages must be empty in the end."""
    contexts, messages = [], []

    def open_page(path=file, ready="body[data-ready='0']", **settings):
        settings = {"viewport": {"width": 1280, "height": 900}, "offline": True} | settings
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.append(request.url) if not request.url.startswith("file:") else 0)
        page.goto(path.as_uri())
        page.wait_for_selector(ready)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []


def click(page, row: int, column: int, method: str = "good", size: tuple[int, int] = (H, W)) -> None:
    """Click the middle of a pixel in the panel of a method."""
    H, W = size
    canvas = page.locator(f"#panels canvas[aria-label='{method}']")
    box = canvas.bounding_box()
    canvas.click(position={"x": (column + 0.5) * box["width"] / W, "y": (row + 0.5) * box["height"] / H})


def values(page) -> dict[str, list[float]]:
    """Return the table of values, a column per image."""
    rows = page.evaluate("[...document.querySelectorAll('#values tr')].map(r => [...r.cells].map(c => c.textContent))")
    return {name: [float(row[i]) for row in rows[1:]] for i, name in enumerate(rows[0]) if i}


def settled(page) -> None:
    """Wait until all images are drawn, those off the screen too."""
    page.wait_for_function("() => document.body.dataset.drawn === 'yes' && document.body.dataset.tiles === '0'")


def painted(page) -> np.ndarray:
    """Return the comparison as (H, W, 4), a colour for each pixel of the image."""
    settled(page)
    data = page.evaluate(
        """([H, W]) => {
        const shown = document.getElementById("compare"), c = document.createElement("canvas");
        [c.width, c.height] = [W, H];
        const context = c.getContext("2d", { willReadFrequently: true });
        context.imageSmoothingEnabled = false;  // the middle of each pixel
        context.drawImage(shown, 0, 0, W, H);
        return [...context.getImageData(0, 0, W, H).data];
    }""",
        [H, W],
    )
    return np.array(data, np.uint8).reshape(H, W, 4)


def test_the_spectrum_of_a_clicked_pixel(opened, samples):
    page = opened()
    for row, column in ((20, 70), (0, 0), (63, 95)):
        click(page, row, column)
        assert page.text_content("#pixel").startswith(f"Row {row}, column {column} ")
        shown = values(page)
        assert list(shown) == ["gt", "lms", *METHODS]
        for name, spectrum in shown.items():
            assert spectrum == pytest.approx(samples[0][name][:, row, column], abs=0.5)
    gt, sr = (samples[0][k][:, 63, 95] for k in ("gt", "good"))
    page.select_option("#map", "sam")
    angle = np.degrees(np.arccos(gt @ sr / np.linalg.norm(gt) / np.linalg.norm(sr)))
    found = re.search(r"SAM of good ([\d.]+)°", page.text_content("#pixel"))
    scale = float(page.text_content("#high").strip("≥ °"))
    assert found and float(found[1]) == pytest.approx(angle, abs=scale / 120)
    assert page.locator("#spectrum canvas").count() == 1
    page.focus("#panels")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#pixel").startswith("Row 63, column 94 ")
    page.keyboard.press("n")
    page.wait_for_selector("body[data-ready='1']")
    assert values(page)["bad"] == pytest.approx(samples[1]["bad"][:, 63, 94], abs=0.5)
    bands = page.evaluate("[...document.querySelectorAll('#bands td')].map(c => Number(c.textContent))")
    valid = np.ones((H, W), bool)
    valid[HOLE] = False
    expected = band_scores(samples[1]["good"], samples[1]["gt"], 2047, valid)
    assert np.reshape(bands, (C, 3)) == pytest.approx(np.array(expected, float), rel=1e-4)


def test_the_divider_shows_one_image_and_the_other(opened, samples):
    page = opened()
    page.select_option("#left", "gt")
    page.select_option("#right", "sr bad")
    gt, known = samples[0]["gt"], np.ones((H, W), bool)
    known[HOLE] = False
    low, high = np.percentile(gt[:, known], (1, 99), axis=1)[:, list(RGB), None, None]
    expected = {
        name: (255 * (samples[0][name][list(RGB)] - low) / (high - low)).clip(0, 255).transpose(1, 2, 0)
        for name in ("gt", "bad")
    }
    near_mark = np.zeros((H, W), bool)
    near_mark[H // 2 - 2 : H // 2 + 3, W // 2 - 2 : W // 2 + 3] = True
    for position, left in ((100, W), (0, 0), (25, W // 4)):
        page.locator("#divider").fill(str(position))
        shown = painted(page).astype(float)
        assert shown[HOLE][3] == 0, "no data, nothing painted"
        wanted = np.where(np.arange(W)[None, :, None] < left, expected["gt"], expected["bad"])
        line = np.abs(np.arange(W) - left + 0.5) < 1.6
        counts = known & ~near_mark & ~line[None]
        assert np.abs(shown[..., :3] - wanted)[counts].max() <= 2
    box = page.locator("#compare").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=3)
    page.mouse.up()
    assert float(page.input_value("#divider")) == pytest.approx(80, abs=1)


def test_all_images_zoom_together_and_the_pixel_under_the_pointer_stays(opened):
    page = opened()
    click(page, 20, 70)
    before = page.text_content("#pixel")
    first = page.evaluate("[...document.querySelectorAll('#panels canvas, #compare')].map(c => c.toDataURL())")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_selector("body.zoomed")
    click(page, 20, 70)
    assert page.text_content("#pixel") == before
    settled(page)
    zoomed = page.evaluate("[...document.querySelectorAll('#panels canvas, #compare')].map(c => c.toDataURL())")
    assert len(first) == 3 + 2 * len(METHODS) + 1 and all(a != b for a, b in zip(first, zoomed, strict=True))
    page.click("#fit")
    assert page.locator("body.zoomed").count() == 0


def test_worst_first_and_back(opened):
    page = opened()
    names = "[...document.querySelectorAll('#scores tbody th')].map(h => h.textContent)"
    page.click("#worst")
    assert page.evaluate(names) == ["2", "1", "3"]
    page.click("#scores thead button:text('SAM')")
    assert page.evaluate(names) == ["3", "1", "2"]
    page.click("#scores thead button:text('SAM')")
    assert page.evaluate(names) == ["2", "1", "3"]
    page.click("#original")
    assert page.evaluate(names) == ["1", "2", "3"]
    page.click("#scores tbody button:text('2')")
    page.wait_for_selector("body[data-ready='1']")
    assert page.text_content("#shown") == "sample 2"


@pytest.fixture(scope="module")
def board(samples, tmp_path_factory) -> Path:
    """The page of a board."""
    scores = {"good": {"psnr": (30.0, 1.0), "qn": (0.9, 0.1)}, "bad": {"psnr": (20.0, 2.0), "qn": (0.5, 0.1)}}
    common = {role: samples[0][role] for role in ("lms", "pan", "gt")}
    results = {
        name: {"scores": scores[name], "cost": {}, "notes": ["a note"], "arrays": common | {"sr": samples[0][name]}}
        for name in METHODS
    }
    out = tmp_path_factory.mktemp("board")
    facts = {"dataset": "wv3", "file": "test.h5", "sensor": "none", "divisor": 2047.0}
    write_page(out, results, {"broken": "no luck"}, facts, "psnr")
    return out / "leaderboard.html"


@pytest.mark.parametrize("kind", ["evaluate", "board", "scene with a map", "one run", "two runs"])
def test_accessible_and_no_wider_than_a_phone(opened, request, monkeypatch, serious, kind):
    """Light and dark, every kind of page."""
    if kind.endswith(("run", "runs")):
        folder = request.getfixturevalue("runs_folder")
        monkeypatch.chdir(folder)
        report_command.run(parse("report", ["p/*" if kind == "two runs" else "p/first", "--out", "page.html"]))
        path = folder / "page.html"
    else:
        path = request.getfixturevalue({"evaluate": "file", "board": "board"}.get(kind, "scene"))
    path = path[0] if isinstance(path, tuple) else path
    page = opened(path, viewport={"width": 390, "height": 844}, color_scheme="light")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert serious(page) == [], scheme


# ---- large images, on the ground ------------------------------------------------------------------------------------

LARGE = 3, 640, 1100  # averaged over 2 x 2 pixels


def striped(shape: tuple[int, int, int]) -> np.ndarray:
    """Flat, a ramp and a corner; at the lower left columns are 0 and 1000 in turn, so means of two are 500."""
    image = np.zeros(shape)
    image[0], image[1] = 900, np.arange(shape[2]) % 900
    image[2, 200:, 600:] = 1000
    image[:, 500:, :400] = 1000 * (np.arange(400) % 2)
    return image


class Read:
    """An image in a file, which is never read whole."""

    def __init__(self, image: np.ndarray) -> None:
        self.largest = 0
        self.image = LargeImage(self.part, image.shape, torch.float64)
        self._pixels = torch.from_numpy(image)

    def part(self, rows: slice, columns: slice) -> torch.Tensor:
        found = self._pixels[:, rows, columns]
        self.largest = max(self.largest, found[0].numel())
        return found


@pytest.fixture(scope="module")
def place():
    """UTM zone 32 north, rows 20 degrees off the east: no coordinate follows from a row or a column alone."""
    affine = pytest.importorskip("affine", reason="rasterio is not installed")
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(32632)
    cos, sin = 2 * np.cos(np.radians(20)), 2 * np.sin(np.radians(20))
    return crs, affine.Affine(cos, -sin, 620_000, -sin, -cos, 5_340_000)


@pytest.fixture(scope="module")
def scene(place, tmp_path_factory):
    """A page of a large image that is read by parts: its file, what was stored, and how much was read at once."""
    truth = striped(LARGE)
    reads = {"gt": Read(truth), "sr": Read(truth + 50)}
    viewer, seen = Viewer(1, const=2047), []
    where = describe_place(*place, LARGE[1:])
    images = {role: one.image for role, one in reads.items()}
    fused = {"good": images.pop("sr")}
    assert viewer.add("1", images, fused, (0, 1, 2), place=where, ratio=4, on_progress=seen.append)
    path = tmp_path_factory.mktemp("scene") / "page.html"
    path.write_text(html_report("A scene", {}, [], ["PSNR"], {"1": ["1"]}, {}, viewer.samples), encoding="utf-8")
    assert seen == sorted(seen) and seen[-1] == 1
    return path, json.loads(viewer.samples[0]), max(one.largest for one in reads.values())


def test_a_large_image_is_read_by_blocks_and_its_scores_are_those_of_the_whole(scene):
    _, stored, largest = scene
    assert largest <= 256 * 256 and (stored["factor"], stored["size"]) == (2, list(LARGE[1:]))
    truth = striped(LARGE)
    expected = band_scores(truth + 50, truth, 2047)
    assert stored["bands"]["good"] == [pytest.approx(row, rel=1e-9) for row in expected]
    assert stored["maps"]["good"]["error"]["shape"] == [1, 320, 550] and stored["scales"]["error"][1] == 50
    assert stored["maps"]["good"]["q2n"]["shape"] == [1, 640 // 32, -(-1100 // 32)]
    tiles = stored["tiles"]["gt"]
    assert tiles["first"] == 0 and [len(level) for level in tiles["levels"]] == [3 * 5]


def test_finest_levels_are_left_out_where_they_do_not_fit():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (520, 300, 4), np.uint8)
    noise[..., 3] = 255
    picture = Picture(lambda rows, columns: noise[rows, columns], (520, 300))
    small = Picture(lambda rows, columns: noise[rows, columns], (520, 300), finest=1)
    room = 10**7
    whole = pyramid({"a": picture, "b": small}, 2, room)
    assert (whole["a"]["first"], [len(level) for level in whole["a"]["levels"]]) == (0, [6, 2])
    assert (whole["b"]["first"], [len(level) for level in whole["b"]["levels"]]) == (1, [2])
    most = len(encoded(noise, QUALITIES[-1])) // 2
    tight = pyramid({"a": picture}, 2, most)
    assert tight["a"]["first"] == 1 and sum(len(text) for level in tight["a"]["levels"] for text in level) <= most
    assert pyramid({"a": picture}, 2, 1000) == {}


def test_the_grid_of_a_place_gives_longitude_and_latitude(place):
    """Between its nodes, too: for a scene of 60 km, by the formula that the page uses."""
    from rasterio.transform import xy
    from rasterio.warp import transform as project

    crs, transform = place
    H, W = 30_000, 30_000
    where = describe_place(crs, transform, (H, W))
    assert (where["crs"], where["unit"], where["metres"]) == ("EPSG:32632", "m", 1)
    grid = np.array(where["grid"])
    n = len(grid) - 1
    for x, y in np.random.default_rng(1).uniform(0, W, (20, 2)):
        u, v = x / W * n, y / H * n
        i, j, s, t = int(v), int(u), u % 1, v % 1
        vector = (1 - t) * ((1 - s) * grid[i, j] + s * grid[i, j + 1]) + t * (
            (1 - s) * grid[i + 1, j] + s * grid[i + 1, j + 1]
        )
        X, Y, Z = vector / np.linalg.norm(vector)
        east, north = xy(transform, y, x, offset="ul")
        (longitude,), (latitude,) = project(crs, "EPSG:4326", [east], [north])
        metres = 111_000 * np.hypot(np.degrees(np.arcsin(Z)) - latitude, np.degrees(np.arctan2(Y, X)) - longitude)
        assert metres <= 0.2
    assert describe_place(None, type(transform).identity(), (9, 9)) is None


def test_a_large_scene_shows_its_pixels_and_their_coordinates(opened, scene, place):
    from rasterio.transform import xy
    from rasterio.warp import transform as project

    crs, transform = place
    page = opened(scene[0])
    page.select_option("#left", "gt")
    page.locator("#divider").fill("100")
    size = LARGE[1:]
    click(page, 300, 900, "sr: fused", size)
    shown = page.text_content("#pixel")
    found = re.match(r"Row (\d+), column (\d+) .*? E ([\d.]+) m, N ([\d.]+) m · ([\d.]+)° N, ([\d.]+)° E", shown)
    assert found, shown
    row, column, east, north, latitude, longitude = (float(text) for text in found.groups())
    assert abs(row - 300) <= 3 and abs(column - 900) <= 3  # a pixel of the screen has several of the image
    x, y = xy(transform, row, column)
    assert (east, north) == (pytest.approx(x, abs=0.51), pytest.approx(y, abs=0.51))
    (lon,), (lat,) = project(crs, "EPSG:4326", [x], [y])
    assert (latitude, longitude) == (pytest.approx(lat, abs=2e-6), pytest.approx(lon, abs=2e-6))
    assert values(page)["gt"][0] == pytest.approx(900, abs=4)

    page.locator("#compare").scroll_into_view_if_needed()
    box = page.locator("#compare").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    middle = re.search(r"E ([\d.]+) m, N ([\d.]+) m", page.text_content("#pointer"))
    wanted = xy(transform, size[0] / 2, size[1] / 2, offset="ul")
    assert middle and [float(v) for v in middle.groups()] == [pytest.approx(v, abs=4) for v in wanted]
    metres = float(page.text_content("#scalebar").removesuffix(" m"))
    width = page.locator("#scalebar").bounding_box()["width"]
    assert metres / width == pytest.approx(2 * size[1] / box["width"], rel=0.02)
    turned = re.search(r"rotate\(([-\d.]+)deg", page.get_attribute("#north", "style"))
    down, across = np.linalg.solve([[transform.b, transform.a], [transform.e, transform.d]], [0, 1])
    assert turned and float(turned[1]) == pytest.approx(np.degrees(np.arctan2(across, -down)), abs=0.01)

    def contrast() -> int:
        settled(page)
        return page.evaluate("""() => {
            const shown = document.querySelector("#panels canvas[aria-label='gt: ground truth']"), w = shown.width;
            const copy = new OffscreenCanvas(w, 1).getContext("2d", { willReadFrequently: true });
            copy.drawImage(shown, 0, -(shown.height >> 2));
            const row = [...copy.getImageData(0, 0, w, 1).data];
            const green = row.filter((_, i) => i % 4 === 1);
            return Math.max(...green) - Math.min(...green);
        }""")

    click(page, 570, 200, "sr: fused", size)
    for _ in range(10):  # until a pixel is larger than one of the screen
        page.click("#in")
    assert contrast() > 200, "stripes of one pixel"
    page.select_option("#stretch", "2")
    assert contrast() < 60, "the means of two"


# ---- runs -----------------------------------------------------------------------------------------------------------

LOSSES = {"first": [0.5, 0.25, 0.125], "second": [0.4, 0.3, float("nan")]}


@pytest.fixture(scope="module")
def runs_folder(samples, tmp_path_factory) -> Path:
    """Two runs that differ in rate and width; both have fused the same two images, of which one run's differ."""
    root = tmp_path_factory.mktemp("runs")
    for name, rate in (("first", "1e-3"), ("second", "5e-4")):
        folder = root / "log_file/p" / name
        folder.mkdir(parents=True)
        flags = ["--arch", "PNN", "--lr", rate, "-e", "7", "--seed", "11", "--dataset", "wv3"]
        config.save(config.resolve(config.parse(flags).flags), folder / "config.yaml")
        training = {"metrics": {"sam": 2.5, "psnr": 31.0}, "training": {"epoch": 7, "step": 6, "minutes": 1.5}}
        save_weights(folder / "weights/best.safetensors", {}, training)
        save_weights(folder / "weights/last.safetensors", {}, training)
        (folder / "weights/README.md").write_text("---\ntags: [x]\n---\n# PNN <b>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
        curves = Curves(folder, 0)
        for step, loss in zip((2, 4, 6), LOSSES[name], strict=True):
            curves.add({"train/total": loss, "loop/lr": float(rate)}, step=step, epoch=step, seconds=step)
        method = {"first": "good", "second": "bad"}[name]
        images = {role: np.stack([one[key] for one in samples]) for role, key in (("gt", "gt"), ("sr", method))}
        images |= {role: np.stack([one[role] for one in samples]) for role in ("lms", "pan")}
        out = root / f"visualized_img/PNN_wv3/p/{name}/data_PNN_wv3_ref.mat"
        out.parent.mkdir(parents=True)
        facts = {"info_divisor": 2047.0, "info_ratio": 4.0}
        write_mat(out, images, info=facts)
    return root


@pytest.fixture
def report(runs_folder, monkeypatch):
    monkeypatch.chdir(runs_folder)
    return lambda *words: report_command.run(parse("report", [*words]))


def table(page, name: str) -> list[list[str]]:
    return page.evaluate(f"[...document.querySelectorAll('#{name} tr')].map(r => [...r.cells].map(c => c.textContent))")


def test_the_page_of_two_runs(opened, report, runs_folder, samples):
    assert report("p/*", "--out", "two.html") == 0
    page = opened(runs_folder / "two.html")
    heads, *rows = table(page, "scores")
    cells = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    assert set(cells) == {"p/first", "p/second"} and cells["p/first"]["step"] == "6"
    assert cells["p/second"]["valid. PSNR"].startswith("31.0")
    for run, method in (("p/first", "good"), ("p/second", "bad")):
        angles = [sam(*(torch.from_numpy(one[key])[None] for key in (method, "gt"))) for one in samples]
        assert float(cells[run]["test SAM"].split()[0]) == pytest.approx(float(sum(angles)) / 2, rel=1e-3)
    names, *differing = table(page, "settings")
    shown = [dict(zip(names, row, strict=True)) for row in differing]
    assert shown == [{"setting": "optimizer.lr", "p/first": "0.001", "p/second": "0.0005"}]
    drawn = json.loads(page.text_content("#page"))["curves"]
    lines = {line["run"]: line for line in drawn[0]["lines"]}
    assert drawn[0]["title"] == "train/total" and lines["p/first"]["values"] == LOSSES["first"]
    assert lines["p/second"]["values"] == [0.4, 0.3] and lines["p/second"]["steps"] == [2, 4]
    assert page.locator("#curves canvas").count() == len(drawn) == 2
    page.locator("#curves .u-over").first.hover(position={"x": 2, "y": 20})
    assert "step 2: " in page.text_content("#curve-values") and "p/first 0.5" in page.text_content("#curve-values")
    click(page, 20, 70, "p/second")
    assert values(page)["p/second"] == pytest.approx(samples[0]["bad"][:, 20, 70], abs=2)


def test_the_page_of_one_run_has_what_differs_from_the_defaults(report, runs_folder, capsys):
    assert report("p/first") == 0
    page = (runs_folder / "log_file/p/first/report.html").read_text(encoding="utf-8")
    assert "log_file/p/first/report.html" in capsys.readouterr().out
    settings = re.search(r'<table id="settings">(.*?)</table>', page, re.S)
    assert settings
    rows = dict(re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', settings[1]))
    default = config.resolve({"model": {"arch": "PNN"}}).train
    assert rows["train.seed"] == f"<td>{default.seed}</td><td>11</td>"
    assert rows["train.epochs"] == f"<td>{default.epochs}</td><td>7</td>"
    assert "train.batch_size" not in rows and "log.run_name" not in rows
    assert "PNN &lt;b&gt;</h3>" in page and "<td>1</td>" in page and "tags: [x]" not in page


def test_runs_that_are_not_there_or_have_no_page_name(report, runs_folder):
    with pytest.raises(UserError, match=r"no run fits 'p/frist'.*p/first"):
        report("p/frist")
    with pytest.raises(UserError, match="--out FILE.html for 2 runs"):
        report("p/first", "p/second")
