"""Methods that train on the images they fuse: published outputs, geometry, both kinds of input, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from small_files import PIXEL, smooth, tif, write_h5, write_test_set

import lemamba
from lemamba.commands import fuse as inference
from lemamba.commands import parse
from lemamba.commands.adapting import STEPS, Adapting, Lesson, Target, crops_of, reduced, scene_targets
from lemamba.commands.methods import load_method
from lemamba.commands.rows import chosen_methods
from lemamba.datasets.pair import open_pair
from lemamba.engine.fusing.stages import train_stage
from lemamba.engine.weights.files import save_weights
from lemamba.losses.spectral import downgrade
from lemamba.model import build_model, model_entry
from lemamba.model.convert import convert_state_dict
from lemamba.operators import interp23
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry

WV3 = DataFacts("WV3", 2047, 4, 8, 1)
SIZES = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}
PUBLISHED = {
    "A-PNN": ("zpnn", "A-PNN", "zpnn/WV3_A-PNN-TA-FR_model.tar"),
    "A-PNN-FT": ("zpnn", "L-PNN_fast", "zpnn/WV3_L-PNN_model.tar"),
    "Z-PNN": ("zpnn", "Z-PNN", "zpnn/WV3_Z-PNN_model.tar"),
    "lambda-PNN": ("lambdapnn", "Lambda-PNN", "lambda_pnn/WV3_L-PNN_model.tar"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("arch", PUBLISHED)
def test_networks_give_the_published_outputs(arch, shared):
    golden, net, weights = PUBLISHED[arch]
    arrays = np.load(shared(f"golden/zoo2/{golden}_wv3_io.npz"))
    state = torch.load(shared(f"weights/zoo2/{weights}"), "cpu", weights_only=True)
    network = build_model(arch, img_channel=8, condition_channel=1, out_channel=8).eval()
    network.load_state_dict(convert_state_dict(arch, state))
    assert sum(p.numel() for p in network.parameters()) == sum(v.numel() for v in state.values())
    for kind in [k.removeprefix("ms_") for k in arrays if k.startswith("ms_")]:
        with torch.no_grad():
            sr = network(*(torch.from_numpy(arrays[f"{role}_{kind}"]) for role in ("ms", "lms", "pan"))).numpy()
        expected = arrays[f"sr_{net}_{kind}"]
        assert np.abs(sr - expected).max() <= 1e-5 * np.abs(expected).max(), kind


@pytest.mark.parametrize(("arch", "steps", "tolerance"), [("Z-PNN", 20, 6e-5), ("lambda-PNN", 5, 5e-5)])
def test_adapting_gives_the_published_outputs(arch, steps, tolerance, shared):
    """The released code after so many steps; rounding alone costs half of the tolerance (README of the files)."""
    golden, net, weights = PUBLISHED[arch]
    arrays = np.load(shared(f"golden/zoo2/{golden}_wv3_io.npz"))
    ms = torch.from_numpy(arrays["adapt_ms"].astype(np.float64)).permute(2, 0, 1)[None]
    pan = torch.from_numpy(arrays["adapt_pan"].astype(np.float32))[None, None] / 2048
    target = Target((ms / 2048).float(), (interp23(ms, 4) / 2048).float(), pan, WV3.geometry)
    method = load_method(arch, str(shared(f"weights/zoo2/{weights}")), WV3, steps)
    assert isinstance(method, Adapting)
    losses = method.adapt([target])
    assert len(losses) == steps and losses[-1] < losses[0]
    sr = method(target.ms, target.lms, target.pan)[..., 32:96, 32:96].numpy()
    assert np.abs(sr - arrays[f"adapted_{net}_{steps}"]).max() < tolerance


def test_a_stage_keeps_the_weights_of_the_smallest_loss():
    """Adam at a large rate overshoots the minimum of |x|; what is kept is where the loss before the step was least."""
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    places: list[float] = []

    def terms(step):
        places.append(module.weight.item())
        return [lambda: module.weight.abs().sum()]

    losses = train_stage(module, terms, steps=30, rate=0.4)
    assert losses == pytest.approx([abs(p) for p in places], rel=1e-6)
    best = max(i for i, loss in enumerate(losses) if loss == min(losses))
    assert best < 29 and module.weight.item() == places[best + 1]
    with pytest.raises(UserError, match=r"diverged in step 1;"):
        train_stage(module, lambda step: [lambda: module.weight.sum() * torch.inf], steps=3, rate=0.1)


@pytest.mark.parametrize(
    "geometry", [Geometry.toolbox(4), Geometry.corners(4), Geometry((2.0, 2.0), (0.0, 0.0))], ids=str
)
def test_reduced_images_lie_on_each_other(geometry):
    """Of a plane seen by all bands, PAN and MS brought down by one ratio are the same plane."""
    H = W = 192
    plane = (0.1 + 0.002 * torch.arange(H)[:, None] + 0.001 * torch.arange(W))[None, None].double()
    r = geometry.nominal
    at = [o + r * torch.arange(n // r, dtype=torch.float64) for o, n in zip(geometry.offset, (H, W), strict=True)]
    ms = (0.1 + 0.002 * at[0][:, None] + 0.001 * at[1])[None, None].repeat(1, 2, 1, 1)
    lesson = reduced(Target(ms, plane.repeat(1, 2, 1, 1), plane, geometry), (0.3, 0.25), 0.15)
    k = 24 if r == 4 else 40  # the repeated edge is no plane
    inside = (..., slice(k, -k), slice(k, -k))
    assert lesson.lms.shape == lesson.ms.shape and lesson.pan.shape[-2:] == lesson.ms.shape[-2:]
    if lesson.ms[inside].numel():
        assert (lesson.lms - lesson.ms)[inside].abs().max() < 1e-4
    m = 20 // r + 1
    assert (lesson.pan - lesson.ms)[
        ..., m:-m, m:-m
    ].abs().max() < 1e-7  # the tail of the filter reaches a little further


def test_crops_of_a_lesson_cover_it():
    for side, count in ((20, 10), (127, 10), (150, 18)):
        index = torch.arange(side * side).view(1, 1, side, side)
        crops = crops_of(Lesson(index, index, index))
        assert len(crops) == count and all(torch.equal(c.ms, c.pan) for c in crops)
        assert set(torch.cat([c.ms.flatten() for c in crops]).tolist()) == set(range(side * side))


def scene(side: int = 64) -> tuple[Target, torch.Tensor]:
    """A scene of four bands that show the same fine structure with other gains and colours, and its truth."""
    g = torch.Generator().manual_seed(4)
    fine = sum(  # structure at all scales, so that what is learnt at one helps at the next
        torch.nn.functional.interpolate(
            torch.rand(1, 1, side // s, side // s, generator=g), size=(side, side), mode="bilinear"
        )
        for s in (2, 4, 8, 16)
    )
    fine = fine / 4
    colour = torch.nn.functional.interpolate(torch.rand(1, 4, 4, 4, generator=g), size=(side, side), mode="bilinear")
    truth = 0.2 * colour + fine * torch.tensor([0.2, 0.4, 0.6, 0.5])[:, None, None]
    ms = downgrade(truth, (0.26, 0.28, 0.29, 0.28), Geometry.toolbox(4), (side // 4, side // 4))
    return Target(ms, interp23(ms, 4), truth.mean(1, keepdim=True), Geometry.toolbox(4)), truth


@pytest.mark.parametrize("arch", STEPS)
def test_every_method_learns_and_repeats_itself(arch):
    facts, one = DataFacts("IKONOS", 2047, 4, 4, 1), scene()[0]
    own = {"ZS-Pan": ["response of PAN", "reduced resolution", "full resolution"], "SpectraLift": ["spectra"]}
    titles = []
    results = []
    for _ in range(2):
        method = load_method(arch, None, facts, 9)
        state = torch.get_rng_state()
        losses = method.adapt([one], lambda title, step, loss: titles.append((title, step)))
        assert torch.equal(torch.get_rng_state(), state), "the user's random numbers are left alone"
        results.append(method(one.ms, one.lms, one.pan))
    assert torch.equal(*results) and torch.isfinite(results[0]).all() and losses
    stages = list(dict.fromkeys(title for title, _ in titles))
    last = "fine-tuning" if arch == "A-PNN-FT" else "full resolution"
    assert stages == own.get(arch, ["reduced resolution", last])
    assert [step for _, step in titles] == [*range(1, 10)] * 2
    method.adapt([one])
    assert torch.equal(method(one.ms, one.lms, one.pan), results[0]), "each adaptation starts anew"


def test_training_at_reduced_resolution_beats_interpolation():
    """On a scene whose truth is known, in an eighth of the steps."""
    one, truth = scene(128)
    method = load_method("A-PNN-FT", None, DataFacts("IKONOS", 2047, 4, 4, 1), 200)
    method.adapt([one])
    errors = [(x - truth)[..., 8:-8, 8:-8].square().mean() for x in (method(one.ms, one.lms, one.pan), one.lms)]
    assert errors[0] < 0.6 * errors[1]


def test_a_result_that_is_not_the_image_is_refused():
    """Weights that add structure of their own, ten times that of the bands, which one step does not change."""
    target, _ = scene()
    facts = DataFacts("none", 1.0, 4, target.ms.shape[1], 1, geometry=target.geometry)
    network = build_model("Z-PNN", img_channel=facts.bands, condition_channel=1, out_channel=facts.bands, ratio=4)
    method = Adapting(network, facts, pretrained=True, steps=1)
    for name in list(method.start):
        method.start[name] = method.start[name] * 30
    with pytest.raises(UserError, match=r"did not learn these images: .* times the contrast of the bands"):
        method.adapt([target])


def run(*arguments: object) -> int:
    return inference.run(parse("fuse", [*map(str, arguments), "--device", "cpu"]))


def test_every_image_of_a_set_is_adapted_to_by_itself(tmp_path, capsys):
    data, alone = write_test_set(tmp_path / "two.h5"), write_test_set(tmp_path / "one.h5", count=1)
    arguments = ("--arch", "Z-PNN", "--adapt_steps", 6, "--dataset", "ikonos", "--pictures", 0)
    assert run(*arguments, "--data", data, "--out", tmp_path / "two.mat") == 0
    assert "starts from a training at reduced resolution on the images themselves: 6 steps" in capsys.readouterr().out
    assert run(*arguments, "--data", data, "--out", tmp_path / "tiles.mat", "--tile", 40) == 0
    assert run(*arguments, "--data", alone, "--out", tmp_path / "one.mat") == 0
    two, one, tiles = (loadmat(tmp_path / f"{name}.mat") for name in ("two", "one", "tiles"))
    shared_images = np.array_equal(two["ms"][:1], one["ms"])
    assert not shared_images or np.array_equal(two["sr"][:1], one["sr"])
    # within 8 pixels of its rim a tile sees the rim; the blend lets at most (8 / 33)^4 of that through
    np.testing.assert_allclose(tiles["sr"], two["sr"], atol=2)
    sr = lemamba.fuse(two["ms"][0], two["pan"][0], "Z-PNN", sensor="IKONOS", adapt_steps=6, device="cpu")
    assert sr.shape == (4, 64, 64) and np.isfinite(sr).all()


@pytest.mark.parametrize("arch", ["lambda-PNN", "ZS-Pan"])
def test_a_geotiff_pair_is_adapted_to_once(tmp_path, arch, capsys):
    """Ordinary products: the corners agree, offset 1.5."""
    ms = tif(tmp_path / "ms.tif", smooth(20, 24, 4), pixel=4 * PIXEL)
    pan = tif(tmp_path / "pan.tif", smooth(80, 96, 1))
    out = tmp_path / "out.tif"
    given = ("--arch", arch, "--adapt_steps", 5, "--sensor", "IKONOS", "--ms", ms, "--pan", pan)
    assert run(*given, "--out", out) == 0
    assert "trained on the scene: loss" in capsys.readouterr().out
    with open_pair([ms], [pan], sensor="IKONOS") as pair:
        (whole,) = scene_targets(pair, torch.device("cpu"))
        assert whole.geometry == Geometry.corners(4) and whole.ms.shape == (1, 4, 20, 24)
    import rasterio

    with rasterio.open(out) as file:
        assert (file.count, file.height, file.width) == (4, 80, 96) and file.read().std() > 0


def test_a_large_scene_is_trained_on_in_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("lemamba.commands.adapting.WHOLE", 60 * 60)
    monkeypatch.setattr("lemamba.commands.adapting.WINDOW", 32)
    image = smooth(40, 40, 4)
    image[:, :16] = 0
    ms = tif(tmp_path / "ms.tif", image, pixel=4 * PIXEL, nodata=0)
    pan = tif(tmp_path / "pan.tif", smooth(160, 160, 1))
    with open_pair([ms], [pan], sensor="IKONOS") as pair:
        targets = scene_targets(pair, torch.device("cpu"))
        assert 8 <= len(targets) <= 16 and all(t.pan.shape == (1, 1, 32, 32) for t in targets)
        assert min(float(t.ms.min()) for t in targets) > 0, "windows without data are left out"


def weights_of(arch: str, path) -> str:
    network = build_model(arch, **SIZES)
    save_weights(path, network.state_dict(), {"model": {"name": arch, "args": {**SIZES, "ratio": 4}}})
    return str(path)


def test_weights_of_the_same_network_are_a_start(tmp_path):
    data, out = write_test_set(tmp_path / "test.h5", count=1), tmp_path / "x.mat"
    given = ("--data", data, "--sensor", "IKONOS", "--pictures", 0, "--out", out)
    start = weights_of("A-PNN", tmp_path / "start.safetensors")
    assert run(*given, "--arch", "Z-PNN", "--weights", start, "--adapt_steps", 0) == 0
    adapted = loadmat(out)["sr"]
    assert run(*given, "--weights", start) == 0
    assert np.array_equal(loadmat(out)["sr"], adapted), "0 steps fuse with the weights as they are"
    network = lemamba.load(start, "Z-PNN", device="cpu")
    before = [p.clone() for p in network.parameters()]
    images = (loadmat(out)[role][0] for role in ("ms", "pan"))
    sr = lemamba.fuse(*images, network, sensor="IKONOS", divisor=2047, adapt_steps=2)
    assert not np.array_equal(sr, adapted[0]), "a loaded network adapts too"
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)), (
        "the caller's is left alone"
    )
    with pytest.raises(UserError, match="holds weights of PNN, given the name Z-PNN"):
        run(*given, "--arch", "Z-PNN", "--weights", weights_of("PNN", tmp_path / "other.safetensors"))


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    data, out = write_test_set(tmp_path / "test.h5", count=1), tmp_path / "x.mat"
    given = ("--data", data, "--sensor", "IKONOS", "--out", out)
    small = write_test_set(tmp_path / "small.h5", count=1, size=48)
    g = np.random.default_rng(0)
    rgb = {"ms": g.random((1, 4, 16, 16)), "lms": g.random((1, 4, 64, 64)), "pan": g.random((1, 3, 64, 64))}
    guide = write_h5(tmp_path / "rgb.h5", rgb, sensor="none", divisor=1.0)
    little, few = ("--data", small, *given[2:]), ("--adapt_steps", 4)
    only = "only A-PNN-FT, Z-PNN, lambda-PNN, ZS-Pan, SpectraLift do"
    cases = {
        f"EXP takes no --adapt_steps, {only}": (*given, "--arch", "EXP", *few),
        "has no weights and would not train; give": (*given, "--arch", "Z-PNN", "--adapt_steps", 0),
        "expected an image of at least 60 x 60 pixels, given 48 x 48": (
            *little,
            *few,
            "--arch",
            "Z-PNN",
            "--weights",
            weights_of("A-PNN", tmp_path / "start.safetensors"),
        ),
        "expected an MS image of at least 16 x 16 pixels .* given 12 x 12": (*little, "--arch", "ZS-Pan", *few),
        "one PAN band, given 3 guide bands": ("--data", guide, "--out", out, "--arch", "Z-PNN"),
    }
    for message, arguments in cases.items():
        with pytest.raises(UserError, match=message) as error:
            run(*arguments)
        assert "\n" not in str(error.value) and not out.exists()


def test_boards_take_adapting_methods_by_name_only():
    """They take minutes an image."""
    assert not set(STEPS) & set(chosen_methods("all", "pansharpening", 4))
    assert set(STEPS) <= set(chosen_methods("A-PNN-FT,z-pnn,lambda-PNN,ZS-Pan,SpectraLift", "pansharpening", 4))
    assert all(model_entry(name).traits.adapts for name in STEPS)
