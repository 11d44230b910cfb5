"""LE-Mamba against the published network's outputs, against a second implementation, and its own promises."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import lemamba_reference as reference
import numpy as np
import pytest
import torch
import yaml
from torch.nn import Parameter

from lemamba.engine.training.optim import is_spared
from lemamba.model import build_model
from lemamba.model.layers import ss2d
from lemamba.model.layers.drop_path import DropPath
from lemamba.model.layers.window import resize_window_states
from lemamba.utils import config
from lemamba.utils.errors import UserError

HISR = "LEMamba_hisr_config.yaml"
CONFIG = Path(__file__).parent.parent / "configs" / "LEMamba_config.yaml"
VARIANTS = yaml.safe_load(CONFIG.read_text())["model"]["variants"]


def small(**changes):
    return build_model("LEMamba", **(reference.SMALL | changes))


def gradient_norms(net: torch.nn.Module) -> dict[str, float]:
    return {k: 0.0 if p.grad is None else p.grad.double().norm().item() for k, p in net.named_parameters()}


@pytest.mark.parametrize(
    ("variant", "bands", "guide", "count"),
    [
        ("tiny", 8, 1, 743_464),
        ("tiny", 4, 1, 741_156),
        ("tiny", 31, 3, 757_311),
        ("base", 8, 1, 1_650_152),
        ("small", 8, 1, 2_652_424),
    ],
)
def test_published_parameter_counts(variant, bands, guide, count):
    net = build_model("LEMamba", img_channel=bands, condition_channel=guide, out_channel=bands, **VARIANTS[variant])
    assert sum(p.numel() for p in net.parameters()) == count


def test_variants_drop_paths_as_published():
    assert {name: variant["drop_path_rate"] for name, variant in VARIANTS.items()} == {
        "tiny": 0.1,
        "base": 0.2,
        "small": 0.2,
    }


@pytest.mark.parametrize(
    ("case", "state_grad"),
    [("gf2", "full"), ("cave", "full"), ("gf2_rect", "full"), ("gf2_rect", "detached")],
)
def test_equals_the_published_network(shared, case, state_grad):
    """The published network's output and all 397 gradient norms, float32 on a CPU."""
    facts = json.loads(shared(f"golden/lemamba/lemamba_tiny_{case}.json").read_text())
    weights = np.load(shared(f"golden/lemamba/lemamba_tiny_{case}_weights.npz"))
    io = np.load(shared(f"golden/lemamba/lemamba_tiny_{case}_io.npz"))
    net = build_model("LEMamba", **facts["config"], state_grad=state_grad)
    published = {k: torch.from_numpy(weights[k].astype(np.float32)) for k in weights.files}
    net.load_state_dict(net.from_published(published))
    assert sum(p.numel() for p in net.parameters()) == facts["params"]

    tensors = {k: torch.from_numpy(io[k]) for k in io.files}
    sr = net(tensors["ms"], tensors["lms"], tensors["pan"])
    assert (sr - tensors["sr"]).abs().max() <= 5e-6

    # The gradient of the L1 loss, with the signs of the published output: where sr is close to gt ours could flip.
    sr.backward(torch.sign(tensors["sr"] - tensors["gt"]) / sr.numel())
    ours = gradient_norms(net)
    expected = facts["grad_norms" if state_grad == "full" else "grad_norms_detached"]
    assert len(expected) == len(ours) == 397
    for name, norm in expected.items():
        (our_name,) = net.from_published({name: None})
        assert ours[our_name] == pytest.approx(norm, rel=1e-5, abs=0), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_equals_the_second_implementation(dtype, tolerance):
    """Output and gradient norms of the float64 implementation in lemamba_reference.py, kept in the repository."""
    golden = {k: torch.from_numpy(v) for k, v in np.load(reference.GOLDEN).items()}
    net = small(state_grad="full").to(dtype)
    net.load_state_dict({k.split("/")[1]: v for k, v in golden.items() if k.startswith("parameter/")})
    sr = net(None, golden["lms"].to(dtype), golden["pan"].to(dtype))
    assert (sr - golden["sr"]).abs().max() <= tolerance * golden["sr"].abs().max()
    sr.backward(golden["output_gradient"].to(dtype))
    ours = gradient_norms(net)
    for name, norm in ((k.split("/")[1], v.item()) for k, v in golden.items() if k.startswith("gradient_norm/")):
        assert ours[name] == pytest.approx(norm, rel=tolerance), name


def test_chained_decoder_states_equal_the_second_implementation():
    """The extension rewires which state a decoder block takes; widths are equal here, so weights fit both wirings."""
    config = reference.SMALL | {"ssm_chan_upscale": [1, 1], "ssm_ratios": [2, 2]}
    p = reference.random_parameters(build_model("LEMamba", **config), seed=3)
    lms, pan = torch.rand(1, 2, 8, 8, dtype=torch.float64), torch.rand(1, 1, 8, 8, dtype=torch.float64)
    outputs = {}
    for chain in (False, True):
        net = build_model("LEMamba", **config, chain_decoder_states=chain)
        net.load_state_dict({k: v.float() for k, v in p.items()})
        expected = reference.lemamba(lms, pan, p, config, chain_decoder=chain)
        outputs[chain] = net(None, lms.float(), pan.float())
        assert (outputs[chain] - expected).abs().max() <= 5e-6 * expected.abs().max()
    assert (outputs[True] - outputs[False]).abs().max() > 1e-3


def test_detached_states_change_gradients_only():
    """As published, no gradient passes through a shared state; the output does not depend on the switch."""
    state = small().state_dict()
    norms, outputs = {}, {}
    lms, pan = torch.rand(1, 2, 16, 16), torch.rand(1, 1, 16, 16)
    for mode in ("detached", "full"):
        net = small(state_grad=mode)
        net.load_state_dict(state)
        outputs[mode] = net(None, lms, pan)
        outputs[mode].square().mean().backward()
        norms[mode] = gradient_norms(net)
    assert torch.equal(outputs["detached"], outputs["full"])
    last_block = "decoders.1.1.whole.ss2d.W1"  # nothing reads the states behind it: equal in both modes
    assert norms["detached"][last_block] == pytest.approx(norms["full"][last_block], rel=1e-6)
    assert norms["detached"]["encoders.0.0.whole.ss2d.A_log"] != norms["full"]["encoders.0.0.whole.ss2d.A_log"]


@pytest.mark.parametrize("switch", ["share_local_state", "share_across_stages", "chain_decoder_states"])
def test_extensions_reach_what_they_promise(switch):
    """Each extension adds its own weights (or rewires), and gradients reach every parameter."""
    windows = {"window_sizes": [4, 4], "ssm_enc_d_states": [[2, 3], [2, 3]], "ssm_dec_d_states": [[2, 3], [2, 3]]}
    windows |= {"ssm_enc_convs": [[3, 5], [3, 5]], "ssm_dec_convs": [[3, 5], [3, 5]], "share_across_stages": True}
    net = small(**(windows | {switch: True, "state_grad": "full"}))
    names = [k for k, _ in net.named_parameters()]
    assert ("encoders.0.1.local.ss2d.W1" in names) == (switch == "share_local_state")
    assert "encoders.1.0.whole.ss2d.W1" in names and "middle.0.whole.ss2d.W1" in names
    for scale in net.skip_scales:
        torch.nn.init.normal_(scale)
    net(None, torch.rand(1, 2, 16, 16), torch.rand(1, 1, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_local_states_follow_their_window():
    """Each window's state goes to the windows on its ground: children copy their parent, parents average children."""
    grid = torch.arange(4.0).reshape(4, 1, 1)  # one image, 2 x 2 windows, states 0..3
    doubled = resize_window_states(grid, (2, 2), (4, 4)).reshape(4, 4)
    assert torch.equal(doubled, torch.arange(4.0).reshape(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(resize_window_states(doubled.reshape(16, 1, 1), (4, 4), (2, 2)).flatten(), torch.arange(4.0))
    fine = torch.rand(2, 4, 6, 5, 3)  # two images of 4 x 6 windows
    coarse = resize_window_states(fine.reshape(-1, 5, 3), (4, 6), (2, 3))
    torch.testing.assert_close(coarse, fine.reshape(2, 2, 2, 3, 2, 5, 3).mean((2, 4)).reshape(-1, 5, 3))
    assert resize_window_states(coarse, (2, 3), (2, 3)) is coarse


@pytest.mark.parametrize("windows", [(4, None), (4, 4)])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (12, 20), (16, 16)])
def test_any_size(size, windows):
    """Sizes that are no multiple of anything are padded by reflection and cut back, at every level with windows."""
    sizes = {"ssm_enc_d_states": [[2, 3], [2, 3]], "ssm_dec_d_states": [[2, 3], [2, 3]]}
    sizes |= {"ssm_enc_convs": [[3, 5], [3, 5]], "ssm_dec_convs": [[3, 5], [3, 5]]}
    lms, pan = torch.rand(1, 2, *size), torch.rand(1, 1, *size)
    assert small(window_sizes=list(windows), **sizes).eval()(None, lms, pan).shape == lms.shape


def test_sizes_need_the_published_multiples():
    """16 for windows of 8 on two levels of three, 8 for three halvings alone."""
    sizes = {"img_channel": 4, "condition_channel": 1, "out_channel": 4, "width": 8}
    assert build_model("LEMamba", **sizes).multiple == 16
    assert build_model("LEMamba", **sizes, window_sizes=(None, None, None)).multiple == 8


def test_padding_is_reflection():
    """A 12 x 12 image gives the upper left part of its reflected 16 x 16 version."""
    net = small().eval()
    lms, pan = torch.rand(1, 2, 13, 13), torch.rand(1, 1, 13, 13)
    whole = net(None, *(torch.nn.functional.pad(t, (0, 3, 0, 3), mode="reflect") for t in (lms, pan)))
    torch.testing.assert_close(net(None, lms, pan), whole[..., :13, :13])


def test_checkpointing_keeps_values_and_gradients():
    net = small(drop_path_rate=0.2)
    lms, pan = torch.rand(2, 2, 8, 8), torch.rand(2, 1, 8, 8)
    results = []
    for on in (False, True):
        net.set_grad_checkpointing(on)
        net.zero_grad()
        torch.manual_seed(1)  # drop path must drop the same samples
        sr = net(None, lms, pan)
        sr.sum().backward()
        results.append((sr.detach(), gradient_norms(net)))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4, abs=1e-7)


def test_drop_rates_grow_linearly_from_encoder_to_decoder():
    """Over all blocks in order encoder, middle, decoder; a block's local and global part share its rate."""
    net = small(drop_path_rate=0.3)
    blocks = [block for stage in (*net.encoders, net.middle, *net.decoders) for block in stage]
    assert len(blocks) == 7
    for block, rate in zip(blocks, torch.linspace(0, 0.3, 7).tolist(), strict=True):
        assert block.whole.drop_path.rate == rate
        assert block.local is None or block.local.drop_path.rate == rate


def test_a_dropped_branch_is_missing_and_the_others_are_scaled_to_the_same_mean():
    x = torch.ones(4000, 2, 3)
    drop = DropPath(0.25)
    y = drop(x)
    kept = y.flatten(1).any(1)
    assert torch.equal(y[~kept], torch.zeros_like(y[~kept]))
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert float(kept.double().mean()) == pytest.approx(0.75, abs=0.03)
    assert drop.eval()(x) is x


def published_start(name: str, p: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a new parameter, from the description of the network."""
    last, width = name.rpartition(".")[2], p.shape[-1]
    if last == "A_log":
        logs = torch.arange(1.0, width + 1).log()
        return float(logs.mean()), float(logs.std(correction=0))
    if last == "dt_bias":  # compared with separate bounds in the test
        return float(p.mean()), float(p.std(correction=0))
    if last in ("dt_weight", "x_proj"):  # uniform in +- (inputs)^-1/2
        return 0, (3 * width) ** -0.5
    if last in ("W1", "W2", "G", "rho"):
        return 0, 1
    if last == "enhanced_factor" or (last == "weight" and p.dim() == 2):
        return 0, 0.02
    if last == "weight" and p.dim() == 4:  # Kaiming over the fan-out, groups ignored
        return 0, (2 / (p.shape[0] * p.shape[2] * p.shape[3])) ** 0.5
    return (1 if last in ("D", "weight") else 0), 0  # skips and gains of norms; biases and scales of skips


def test_a_new_network_starts_as_published():
    net = build_model("LEMamba", img_channel=8, condition_channel=1, out_channel=8)
    for name, p in net.named_parameters():
        p, (mean, deviation) = p.detach().double(), published_start(name, p.detach().double())
        few = 5 / p.numel() ** 0.5  # five standard errors
        assert float(p.mean()) == pytest.approx(mean, abs=few * deviation + 1e-6), name
        assert float(p.std(correction=0)) == pytest.approx(deviation, rel=few, abs=1e-6), name
    bias = torch.cat([p.detach().flatten() for n, p in net.named_parameters() if n.endswith("dt_bias")])
    dt = torch.nn.functional.softplus(bias)
    assert 1e-3 * 0.999 <= dt.min() < 1.1e-3 and 0.09 < dt.max() <= 0.1 * 1.001
    assert float(dt.log().mean()) == pytest.approx((math.log(1e-3) + math.log(0.1)) / 2, abs=0.05)


def test_no_weight_decay_on_what_is_no_weight():
    """A_log, D and dt bias, norms, biases, and scales of skips and windows are spared; state weights are not."""
    for name, p in small(condition_channel=3).named_parameters():
        last = name.rpartition(".")[2]
        scale = last in ("A_log", "D", "dt_bias", "bias", "enhanced_factor") or name.startswith("skip_scales")
        assert is_spared(name, p) == (scale or p.dim() == 1), name


def test_scan_parameters_stay_float32():
    """A_log, D and dt bias keep float32 when the network is cast to bf16: decays would be ruined."""
    net = small()
    before = {k: p.clone() for k, p in net.named_parameters() if k.endswith(("A_log", ".D", "dt_bias"))}
    net.to(torch.bfloat16)
    for name, parameter in net.named_parameters():
        assert parameter.dtype == (torch.float32 if name in before else torch.bfloat16), name
        if name in before:
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("precision", ["half weights", "autocast"])
def test_the_scan_gets_its_decays_in_float32(monkeypatch, precision):
    """Whatever the rest computes in: A = -exp(A_log), D and the bias of dt are neither cast nor rounded on the way."""
    net, given = small().eval(), []
    expected = {
        -m.A_log.detach().exp().sum().item() for m in net.modules() if isinstance(getattr(m, "A_log", None), Parameter)
    }
    original = ss2d.cross_selective_scan

    def scan(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, **more):
        given.append((A.dtype, D.dtype, dt_bias.dtype, A.sum().item()))
        return original(x, dt, Bt, Ct, A, D, dt_weight, dt_bias, **more)

    monkeypatch.setattr(ss2d, "cross_selective_scan", scan)
    half = precision == "half weights"
    net.to(torch.bfloat16 if half else torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert net(None, torch.rand(1, 2, 8, 8), torch.rand(1, 1, 8, 8)).isfinite().all()
    assert given
    for *types, total in given:
        assert types == [torch.float32] * 3
        assert total in expected


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"window_sizes": [4]}, "window_sizes"),
        ({"middle_blk_nums": 0}, "middle_blk_nums"),
        ({"state_grad": "half"}, "state_grad"),
        ({"spectral_rank": 0}, "spectral_rank must be at least 1"),
        ({"ssm_enc_d_states": [[2, 3], [None, 5]]}, "d_states"),
        ({"ssm_dec_convs": [[None, 5], [3, 5, 7]]}, "ssm_dec_convs needs pairs"),
        ({"ssm_enc_d_states": [[3], [None, 3]]}, "ssm_enc_d_states needs pairs"),
        ({"widht": 3}, 'did you mean "width"'),
    ],
)
def test_bad_arguments_are_named(change, word):
    with pytest.raises(UserError, match=word):
        small(**change)


def test_wrong_bands_are_named():
    with pytest.raises(UserError, match="expects lms"):
        small()(None, torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 8))


def test_a_low_rank_makes_the_cost_nearly_flat_in_the_bands_and_none_is_the_published_network():
    """Counted by hand: 3x3 convolutions from and to R maps, and two matrices between R maps and C bands."""
    sizes = {}
    for bands, rank in itertools.product((31, 198), (None, 16)):
        net = small(img_channel=bands, out_channel=bands, spectral_rank=rank)
        sizes[bands, rank] = sum(p.numel() for p in net.parameters())
        lms, width = torch.rand(1, bands, 8, 8), reference.SMALL["width"]
        assert net(None, lms, torch.rand(1, 1, 8, 8)).shape == lms.shape
    assert sizes[198, None] - sizes[31, None] == (198 - 31) * (2 * 9 * width + 1)
    assert sizes[198, 16] - sizes[31, 16] == (198 - 31) * (2 * 16 + 1)
    assert small(img_channel=8, out_channel=8, spectral_rank=16).mix.weight.shape == (8, 8)  # no more than the bands
    assert not {"mix", "unmix"} & {name.partition(".")[0] for name, _ in small().named_parameters()}


def test_a_new_network_of_low_rank_starts_from_the_interpolated_image():
    lms = torch.rand(1, 198, 16, 16)
    change = small(img_channel=198, out_channel=198, spectral_rank=16)(None, lms, torch.rand(1, 1, 16, 16)) - lms
    assert 0 < float(change.abs().max()) < 0.05


def test_the_correction_of_a_low_rank_has_that_rank():
    net = small(img_channel=31, out_channel=31, spectral_rank=3).double().eval()
    lms = torch.rand(1, 31, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        change = (net(None, lms, torch.rand(1, 1, 16, 16, dtype=torch.float64)) - lms)[0].flatten(1)
    assert torch.linalg.matrix_rank(change - change.mean(1, keepdim=True), rtol=1e-9) == 3


def test_the_configuration_for_hyperspectral_images():
    """It is the released tiny network; the variant for many bands differs by the rank alone."""
    settings = config.resolve({}, CONFIG.parent / HISR)
    tiny, many = (settings.model.variants[name] for name in ("tiny", "many_bands"))
    assert settings.model.variant == "tiny" and tiny == VARIANTS["tiny"]
    assert many == tiny | {"spectral_rank": 16}
