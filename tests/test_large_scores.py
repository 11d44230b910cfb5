"""Scores of scenes that stay in their files equal those of the same images in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_files import PIXEL, tif

from lemamba.metrics import full_resolution, large, reduced_resolution
from lemamba.metrics.large import LargeImage
from lemamba.utils.errors import UserError
from lemamba.utils.geometry import Geometry


def lazily(image):
    """An image (1, C, H, W) that is read by parts; whole reads are refused."""
    return LargeImage(lambda rows, columns: image[0][:, rows, columns], image.shape[1:], image.dtype)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """No index may hold more than a third of the test image at once."""
    monkeypatch.setattr(large, "MOST", 500_000)
    monkeypatch.setattr(large, "_SIDE", 100)


def images(H, W, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 5, H // 8 + 1, W // 8 + 1, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(H, W), mode="bilinear") * 1500 + 100
    noisy = smooth + 20 * torch.randn(1, 5, H, W, generator=generator, dtype=torch.float64)
    mask = torch.rand(1, 1, H, W, generator=generator) > 0.0005
    mask[..., 40:90, 10:300] = False
    return smooth.round()[:, :4], noisy.round()[:, :4].clamp(min=0), noisy[:, 4:].round(), mask


@pytest.mark.parametrize(("masked", "cut"), [(False, 0), (True, 21)])
def test_reduced_resolution(masked, cut):
    """Sizes that are no multiple of anything; with a mask and a border."""
    gt, sr, _, mask = images(431, 413)
    given = {"ratio": 4, "const": 2047, "cut": cut, "extra": "rmse,psnr_cube,uiqi"}
    whole = reduced_resolution(sr, gt, mask=mask if masked else None, **given)
    parts = reduced_resolution(lazily(sr), lazily(gt), mask=lazily(mask) if masked else None, **given)
    for name, value in whole.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("ratio", "geometry", "cut"),
    [(4, None, 0), (2, Geometry((2, 2), (0.5, 0.5)), 21), (4, Geometry((4, 4), (1.5, 1.5)), 0), (3, None, 5)],
)
def test_full_resolution(masked, ratio, geometry, cut):
    """The published convention, whose interpolation wraps around the image, and others."""
    lms, sr, pan, mask = images(480, 384)
    ms = lms[..., ratio // 2 :: ratio, ratio // 2 :: ratio]
    given = {"ratio": ratio, "sensor": "IKONOS", "geometry": geometry, "cut": cut}
    whole = full_resolution(sr, ms, lms, pan, mask=mask if masked else None, **given)
    lazy_mask = lazily(mask) if masked else None
    parts = full_resolution(*map(lazily, (sr, ms, lms, pan)), mask=lazy_mask, **given)
    for name, value in whole.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-9, abs=1e-9), name


def test_an_index_that_needs_the_whole_image_is_refused():
    lms, sr, pan, _ = images(480, 384)
    with pytest.raises(UserError, match="needs the whole image of"):
        full_resolution(*map(lazily, (sr, lms[..., ::4, ::4], lms, pan)), ratio=4, sensor="IKONOS", extra="d_rho")


# ------------------------------------------------------------------------------------------- from the command line


def evaluated(*given):
    result = evaluation(*given)
    return {name: values[0] for name, values in result.samples.items()}, result.notes


def evaluation(*given):
    from lemamba.commands import evaluate, parse

    return evaluate.evaluate(parse("evaluate", list(map(str, given))))


@pytest.fixture
def scene(tmp_path):
    """MS and PAN whose corners agree, a fused image, and a truth; a part of each has no data."""
    pytest.importorskip("rasterio", reason="rasterio is optional")
    gt, sr, pan, _ = (x[0].numpy().astype(np.uint16) for x in images(420, 456))
    ms = gt.reshape(4, 105, 4, 114, 4).mean((2, 4)).round().astype(np.uint16)
    for image, bottom in ((ms, 10), (sr, 60), (gt, 30)):
        image[:, :bottom, : 2 * bottom] = 0
    paths = {}
    for name, image, pixel in (("ms", ms, 4 * PIXEL), ("pan", pan, PIXEL), ("sr", sr, PIXEL), ("gt", gt, PIXEL)):
        more = {} if name == "pan" else {"nodata": 0}
        paths[name] = tif(tmp_path / f"{name}.tif", image, pixel=pixel, tiled=True, compress="deflate", **more)
    return paths


@pytest.mark.parametrize("protocol", ["reduced", "full"])
def test_a_scene_in_its_files_has_the_scores_and_the_page_of_the_images_in_memory(scene, monkeypatch, protocol):
    pairs = {"reduced": ["--gt", scene["gt"]], "full": ["--ms", scene["ms"], "--pan", scene["pan"]]}[protocol]
    results = []
    for limit in (2**25, 0):
        monkeypatch.setattr("lemamba.commands.samples.WHOLE", limit)
        results.append(evaluation("--sr", scene["sr"], *pairs, "--sensor", "IKONOS", "--html", "page.html"))
    whole, parts = results
    assert list(parts.samples) == list(whole.samples) and parts.notes == whole.notes
    for name, values in whole.samples.items():
        assert parts.samples[name] == pytest.approx(values, rel=1e-9, abs=1e-9), name
    pages = [json.loads(*result.pictures.samples) for result in results]
    assert pages[0]["place"]["crs"] == "EPSG:32633" and pages[0]["maps"]["sr"]
    scales = [page.pop("scales") for page in pages]
    for name, ends in scales[0].items():
        assert scales[1][name] == pytest.approx(ends, rel=1e-9)
        for page in pages:  # the step is a part of the scale, whose last digit depends on the order of sums
            del page["maps"]["sr"][name]["step"], page["maps"]["sr"][name]["low"]
    assert pages[0] == pages[1], "values, maps, scores of bands, place"


def test_the_map_of_hqnr(scene, tmp_path, monkeypatch):
    """Its D_lambda_K has the index as mean; it lies on the scene, with a pixel for each block; gaps are NaN."""
    import rasterio

    from lemamba.commands import evaluate, parse

    scores, _ = evaluated("--sr", scene["sr"], "--ms", scene["ms"], "--pan", scene["pan"], "--sensor", "IKONOS")
    found = []
    for limit in (2**25, 0):
        monkeypatch.setattr("lemamba.commands.samples.WHOLE", limit)
        out = tmp_path / f"map{limit}.tif"
        given = ["--sr", scene["sr"], "--ms", scene["ms"], "--pan", scene["pan"], "--sensor", "IKONOS"]
        assert evaluate.run(parse("evaluate", list(map(str, [*given, "--hqnr_map", out])))) == 0
        with rasterio.open(out) as file:
            assert file.descriptions == ("HQNR", "D_lambda_K", "D_s") and file.crs.to_epsg() == 32633
            assert file.transform.a == 32 * PIXEL and file.shape == (416 // 32, 448 // 32)
            found.append(file.read().astype(float))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    hqnr, d_lambda_k, d_s = found[0]
    assert np.isnan(d_lambda_k[0, 0]) and np.isnan(hqnr).sum() == 8, "60 x 120 pixels touch 2 x 4 blocks"
    assert np.nanmean(d_lambda_k) == pytest.approx(scores["d_lambda_k"], abs=1e-6)
    assert scores["d_s"] <= np.nanmean(d_s)
    np.testing.assert_allclose(hqnr, (1 - d_lambda_k) * (1 - d_s), atol=1e-6)
    with pytest.raises(UserError, match="expected --ms and --pan with --hqnr_map"):
        evaluate.run(parse("evaluate", ["--sr", str(scene["sr"]), "--gt", str(scene["gt"]), "--hqnr_map", "x.tif"]))
