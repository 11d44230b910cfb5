"""Learned rivals for hyperspectral images with a PAN or with a guide of several bands: parts against plain references.

References are numpy, scipy or a loop over pixels, in float64; counts are added up from the papers' layers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.io import loadmat
from small_files import PIXEL, smooth, tif, write_h5
from torch import nn

from lemamba.commands import fuse as inference
from lemamba.commands import parse
from lemamba.commands.adapting import CYCLE, Target, one_cycle
from lemamba.commands.methods import load_method
from lemamba.engine.fusing.stages import train_stage
from lemamba.model import build_model, model_entry
from lemamba.model.bdt import DilatedSpatial, GroupedAttention, Merge, contract, dilate
from lemamba.model.convert import convert_state_dict
from lemamba.model.dt3_net import ShiftedAttention, TransformerPrior
from lemamba.model.hyper_dsnet import edges
from lemamba.model.layers.unfolding import Unfolding
from lemamba.model.mog_dcn import UNet
from lemamba.operators import interpolate
from lemamba.operators.observation import start
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry

FOR_PAN = ("HyperPNN", "HSpeNet", "Hyper-DSNet", "DHP-DARN")
FOR_GUIDES = ("BDT", "MoG-DCN", "3DT-Net", "SpectraLift")


pytestmark = pytest.mark.usefixtures("one_thread")


def network(name: str, C: int = 5, P: int = 1, ratio: int = 4, **more) -> nn.Module:
    return build_model(name, img_channel=C, condition_channel=P, out_channel=C, ratio=ratio, **more).eval()


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def c(channels_in: int, channels_out: int, side: int, bias: bool = True) -> int:
    """Numbers of a convolution."""
    return channels_in * channels_out * side * side + bias * channels_out


COUNTS = {  # (network, bands, guide bands, ratio): from the layers
    ("HyperPNN", 31, 1, 4): c(31, 64, 1) + 2 * c(64, 64, 1) + c(65, 64, 3) + 2 * c(64, 64, 3) + c(64, 31, 1),
    ("HSpeNet", 31, 1, 4): (
        c(1, 16, 3) + c(16, 16, 3) + c(31, 64, 1) + c(64, 64, 1) + sum(c(n, 16, 3) for n in range(80, 145, 16))
    )
    + c(160, 31, 1),
    ("Hyper-DSNet", 191, 1, 4): (
        sum(c(198, 16, k) for k in (3, 5, 7)) + c(48, 32, 3) + c(32, 16, 3) + c(16, 8, 3) + c(8, 8, 3)
    )
    + c(112, 191, 1)
    + c(191, 47, 1)
    + c(47, 191, 1),
    ("DHP-DARN", 31, 1, 4): (
        c(32, 64, 3) + 4 * (2 * c(64, 64, 3) + c(64, 4, 1) + c(4, 64, 1) + c(64, 1, 1)) + c(64, 31, 3)
    ),
    ("SpectraLift", 31, 3, 4): c(3, 64, 1) + 5 * c(64, 64, 1) + c(64, 31, 1),
}


def dilated_spatial(w: int) -> int:
    """D-Spa of BDT: three times two norms, four projections, an MLP of four times the width."""
    return 3 * (4 * w + 3 * (w * w + w) + w * w + w + 8 * w * w + 5 * w)


COUNTS["BDT", 31, 3, 4] = (
    sum(map(dilated_spatial, (48, 96, 192)))
    + c(34, 48, 3)
    + 4 * 48 * (2 + 96)
    + 4 * 96 * (2 + 192)
    + c(31, 48, 3, False)
    # G-Spe at three sizes: norms, temperatures, attention, gated layer of 127 = int(2.66 * 48)
    + 3 * (4 * 48 + 8 + 4 * c(48, 48, 1, False) + 144 * 9 + c(48, 254, 1, False) + 254 * 9 + c(127, 48, 1, False))
    + 4 * c(48, 4 * 48, 3, False)
    + sum(c(n + 48 * m, d, 3, False) + c(d, d, 5, False) for n, m, d in ((192, 1, 48), (96, 2, 48), (48, 2, 31)))
)


def unfolded(stages: int, side: int) -> int:
    """What MoG-DCN and 3DT-Net share, for 31 bands and RGB: layers before the prior, four operators, four scalars."""
    before = c(31, 64, 3) + stages * c(192, 64, 3) + sum(c(64 + 128 * i, 64, 3) for i in range(1, stages))
    return before + 2 * c(31, 31, side) + c(31, 3, 3) + c(3, 31, 3) + 4


def decoder(channels_in: int, channels_out: int, side: int) -> int:
    return c(channels_in, 128, 3) + c(256, 128, 3) + 2 * c(128, 128, 3) + c(128, channels_out, side) + 1


COUNTS["MoG-DCN", 31, 3, 4] = (
    unfolded(4, 7)
    + 5 * (3 * c(64, 64, 3) + c(64, 128, 3) + 1)
    + 4 * c(128, 64, 3)
    + (decoder(128, 512, 1) + 2 * decoder(512, 512, 1) + decoder(512, 31, 3))
)
COUNTS["3DT-Net", 31, 3, 8] = (
    unfolded(3, 13)
    + (c(64, 128, 3) + c(128, 180, 3) + 2 * 2 * 180 + 2 * c(180, 180, 3) + c(180, 31, 3))
    # six blocks: norms, table of distances, four projections, MLP of twice the width
    + 6 * (4 * 180 + 15 * 15 * 6 + 4 * c(180, 180, 1) + c(180, 360, 1) + c(360, 180, 1))
    # two convolutions with a length beside the direction: of each of 64 kernels, of one kernel
    + (64 * 9 + 64 + 64)
    + (64 * 3 + 1 + 1)
)


@pytest.mark.parametrize("case", COUNTS)
def test_counts_from_the_layers(case):
    assert count(network(*case)) == COUNTS[case]


def test_the_released_mog_dcn_for_ratio_8_differs_in_its_kernels_alone():
    assert count(network("MoG-DCN", 31, 3, 8)) - count(network("MoG-DCN", 31, 3, 4)) == 2 * 31 * 31 * (13**2 - 7**2)


@pytest.mark.parametrize("name", FOR_PAN)
def test_networks_for_pan_refuse_a_guide_of_several_bands(name):
    assert model_entry(name).tasks == ("pansharpening",)
    with pytest.raises(UserError, match=f"{name}: expected 1 guide band .PAN., given 3; choose another network"):
        network(name, 31, 3)


@pytest.mark.parametrize("name", FOR_GUIDES)
def test_networks_for_guides_take_any_number_of_bands(name):
    assert model_entry(name).tasks == ("hmif",)
    small = {"MoG-DCN": {"stages": 1}, "3DT-Net": {"stages": 1, "width": 12, "depth": 2}}.get(name, {})
    model = network(name, 7, 5, 2, **small)
    with torch.no_grad():
        sr = model(torch.rand(1, 7, 3, 5), torch.rand(1, 7, 6, 10), torch.rand(1, 5, 6, 10))
    assert sr.shape == (1, 7, 6, 10) and sr.isfinite().all()


# --- released names ---------------------------------------------------------------------------------------------------


def keys(*modules: str, parts: str = "weight bias") -> list[str]:
    return [f"{module}.{part}" for module in modules for part in parts.split()]


def bdt_names(levels: int) -> list[str]:
    d1, d2 = "t.direction1", "t.direction2"
    names = keys(f"{d1}.conv") + keys(f"{d2}.patch_embed.proj", parts="weight")
    for i in range(1, levels + 1):
        names += keys(*(f"{d1}.stage{i}.attn{n}.{part}" for n in (1, 2, 3) for part in ("qkv", "proj")))
        names += keys(*(f"{d1}.stage{i}.mlp{n}.fc{part}" for n in (1, 2, 3) for part in (1, 2)))
        names += keys(*(f"{d1}.stage{i}.norm{n}" for n in range(1, 7)))
        names += keys(f"{d2}.stage{i}.norm1.body", f"{d2}.stage{i}.norm2.body") + [f"{d2}.stage{i}.attn.temperature"]
        weights = ["attn.qkv", "attn.qkv_dwconv", "attn.project_out", "ffn.project_in", "ffn.dwconv", "ffn.project_out"]
        names += keys(*(f"{d2}.stage{i}.{part}" for part in weights), parts="weight")
        names += keys(f"t.merge{i}.0", f"t.merge{i}.1", parts="weight")
        if i < levels:
            names += keys(f"{d1}.downsample{i}.norm") + keys(f"{d1}.downsample{i}.reduction", parts="weight")
            names += keys(f"{d2}.up{i}_{i + 1}.body.0", f"t.up{i}.body.0", parts="weight")
    return names


def unfolded_names(calls: int) -> list[str]:
    names = keys(
        "conv_downsample", "conv_upsample", "conv_torgb", "conv_tohsi", *(f"fe_conv{i + 1}" for i in range(calls))
    )
    return [*names, "acti.weight", *(f"{kind}_{i}" for kind in ("delta", "eta") for i in range(7))]


def mog_dcn_names() -> list[str]:
    encoders = {f"Encoding_block{i}": 5 for i in range(1, 5)} | {"Encoding_block_end": 4}
    names = [f"spatial.{block}.conv{n}" for block, last in encoders.items() for n in range(1, last + 1)]
    decoders = ("Decoding_block1", "Decoding_block2", "Decoding_block3", "Decoding_block_End")
    names += [f"spatial.{block}.{n}" for block in decoders for n in ("conv0", "conv1", "conv2", "conv3", "up")]
    slopes = keys(*(f"spatial.{block}.act" for block in (*encoders, *decoders)), "spatial.acti", parts="weight")
    return [*keys(*names), *slopes, *unfolded_names(8), "P"]


def dt3_net_names() -> list[str]:
    body = "spatial.body"
    names = ["spatial.head", "spatial.feture", "spatial.tail", f"{body}.patch_embed.norm", f"{body}.norm"]
    names += [f"{body}.conv_after_body", f"{body}.layers.0.conv"]
    blocks = [f"{body}.layers.0.residual_group.blocks.{i}" for i in range(6)]
    names += [f"{b}.{n}" for b in blocks for n in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    more = keys(*(f"{b}.attn" for b in blocks), parts="relative_position_bias_table relative_position_index")
    more += keys(*blocks[1::2], parts="attn_mask")
    more += keys("spatial.conv3d1", "spatial.conv3d2", parts="weight_g weight_v bias")
    return [*keys(*names), *more, *unfolded_names(6)]


RELEASED = {  # names in the public classes, and how many of them are dropped
    "HyperPNN": (1, 4, keys(*(f"conv{i}" for i in range(1, 8))), 0),
    "HSpeNet": (1, 4, keys("conv1_1", "conv2_1", "conv1_2", "conv2_2", *(f"conv{i}" for i in range(3, 9))), 0),
    "Hyper-DSNet": (
        1,
        4,
        keys(*(f"block2.conv{i}.0" for i in (1, 2, 3)), *(f"block3.conv0{i}" for i in (1, 2, 3, 4)), "convlast")
        + keys("CA.conv_du.0", "CA.conv_du.2"),
        0,
    ),
    "DHP-DARN": (1, 4, keys("FEN", "RRN", *(f"CSA{b}.conv{i}" for b in range(1, 5) for i in range(1, 6))), 0),
    "BDT": (3, 4, bdt_names(3), 0),
    "BDT, ratio 8": (3, 8, bdt_names(4), 0),
    "MoG-DCN": (3, 4, mog_dcn_names(), 1 + 10 + 2),
    "3DT-Net": (3, 8, dt3_net_names(), 1 + 10 + 6 + 3),
}


@pytest.mark.parametrize("case", RELEASED)
def test_released_names_are_those_of_every_parameter(case):
    guides, ratio, names, dropped = RELEASED[case]
    name = case.partition(",")[0]
    converted = convert_state_dict(name, {key: torch.tensor(float(i)) for i, key in enumerate(names)})
    assert set(converted) == set(network(name, 31, guides, ratio).state_dict())
    assert len(converted) == len(set(names)) - dropped == len({float(v) for v in converted.values()})
    with pytest.raises(UserError, match="unknown key"):
        convert_state_dict(name, {key: torch.zeros(1) for key in [*names, "other.weight"]})


# --- numpy references -------------------------------------------------------------------------------------------------


def correlate(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """A convolution layer on (c, H, W), window by window."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    reach = weight.shape[-1] // 2
    mode = {"zeros": "constant", "reflect": "reflect"}[layer.padding_mode]
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)), mode=mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))
    return np.einsum("dcij,chwij->dhw", weight, windows) + bias[:, None, None]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def hyperpnn(m: nn.Module, lms: np.ndarray, pan: np.ndarray) -> np.ndarray:
    s = relu(correlate(relu(correlate(lms, m.encode1)), m.encode2))
    y = np.concatenate([pan, s])
    for layer in m.spatial:
        y = relu(correlate(y, layer))
    return correlate(relu(correlate(y + s, m.decode1)), m.decode2)


def hspenet(m: nn.Module, lms: np.ndarray, pan: np.ndarray) -> np.ndarray:
    p = pan - relu(correlate(relu(correlate(pan, m.smooth1)), m.smooth2))
    parts = [p, relu(correlate(relu(correlate(lms, m.encode1)), m.encode2))]
    for layer in m.dense:
        parts.append(relu(correlate(np.concatenate(parts), layer)))
    return correlate(np.concatenate(parts), m.tail) + lms


def dhp_darn(m: nn.Module, lms: np.ndarray, pan: np.ndarray) -> np.ndarray:
    x = correlate(np.concatenate([lms, pan]), m.head)
    for block in m.blocks:
        u = correlate(relu(correlate(x, block.conv1)), block.conv2)
        pooled = u.mean((1, 2), keepdims=True)
        channel = sigmoid(correlate(relu(correlate(pooled, block.squeeze)), block.excite))
        pixel = sigmoid(correlate(u, block.place))
        x = u * channel + u * pixel + x
    return correlate(x, m.tail) + lms


@pytest.mark.parametrize(
    ("name", "reference", "more"),
    [
        ("HyperPNN", hyperpnn, {"width": 6}),
        ("HSpeNet", hspenet, {"width": 6, "growth": 3, "depth": 3}),
        ("DHP-DARN", dhp_darn, {"width": 16, "depth": 2}),
    ],
)
def test_whole_networks_against_numpy(name, reference, more):
    model = network(name, **more).double()
    lms, pan = torch.rand(1, 5, 8, 12).double(), torch.rand(1, 1, 8, 12).double()
    with torch.no_grad():
        sr = model(torch.zeros(1, 5, 2, 3), lms, pan)[0].numpy()
    assert np.allclose(sr, reference(model, lms[0].numpy(), pan[0].numpy()), atol=1e-12)


# --- Hyper-DSNet ------------------------------------------------------------------------------------------------------


def opencv_like(pan: np.ndarray) -> np.ndarray:
    """The authors' maps with the arithmetic of OpenCV: 8-bit images, saturation, rounding half to even."""

    def filtered(image: np.ndarray, kernel: list[list[int]]) -> np.ndarray:
        return ndimage.correlate(image, np.array(kernel, dtype=np.float64), mode="mirror")

    def strength(image: np.ndarray, *kernels: list[list[int]]) -> np.ndarray:
        sizes = [np.minimum(np.rint(np.abs(filtered(image, k))), 255) for k in kernels]
        return np.rint(sum(sizes) / len(sizes))

    smoothed = ndimage.correlate1d(
        ndimage.correlate1d(pan, [0.25, 0.5, 0.25], 0, mode="mirror"), [0.25, 0.5, 0.25], 1, mode="mirror"
    )
    factor = 255 / smoothed.max()
    fine = smoothed * factor
    coarse = np.trunc(fine)
    sobel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    prewitt = [[-1, 0, 1]] * 3
    maps = [
        np.diff(pan, axis=0, prepend=pan[:1]),
        np.diff(pan, axis=1, prepend=pan[:, :1]),
        strength(coarse, [[-1, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]) / factor,
        strength(coarse, prewitt, (-np.array(prewitt).T).tolist()) / factor,
        strength(fine, sobel, np.array(sobel).T.tolist()) / factor,
        strength(coarse, [[2, 0, 2], [0, -8, 0], [2, 0, 2]]) / factor,
    ]
    return np.stack(maps)


def test_edges_are_those_of_opencv():
    rng = np.random.default_rng(0)
    pan = np.stack([0.2 + 0.7 * rng.random((12, 9)), smooth(12, 9, 1)[0] / 2047])
    ours = edges(torch.from_numpy(pan)[:, None]).numpy()
    for image, maps in zip(pan, ours, strict=True):
        expected = opencv_like(image)
        level = image.max() / 255
        off = np.abs(maps - expected)
        assert off.max() <= 1.001 * level, "a value half-way between two levels may be rounded the other way"
        assert (off > 1e-12).mean() < 0.01


def test_edges_scale_with_the_image_and_vanish_on_a_flat_one():
    pan = torch.rand(1, 1, 8, 8, dtype=torch.float64) + 0.1
    assert torch.allclose(edges(4 * pan), 4 * edges(pan), atol=1e-12)
    assert not edges(torch.full((1, 1, 8, 8), 0.3)).any()
    assert edges(torch.zeros(1, 1, 8, 8)).isfinite().all()


def test_hyper_dsnet_adds_details_that_attention_scales_band_by_band():
    model = network("Hyper-DSNet").double()
    lms, pan = torch.rand(1, 5, 8, 8).double(), torch.rand(1, 1, 8, 8).double()
    first, second = torch.rand(2, 1, 5, 2, 2).double()
    with torch.no_grad():
        a, b = model(first, lms, pan) - lms, model(second, lms, pan) - lms
        shares = model.attention(first) / model.attention(second)
    assert torch.allclose(a, b * shares, atol=1e-12)
    assert ((model.attention(first) > 0) & (model.attention(first) < 1)).all()


# --- BDT --------------------------------------------------------------------------------------------------------------


def test_dilation_brings_every_second_pixel_together_and_back():
    x = torch.rand(2, 16, 32, 3)
    y = dilate(x, 8)
    for top, left in ((0, 0), (0, 16)):
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            square = x[:, top : top + 16, left : left + 16]
            window = y[:, top + 8 * i : top + 8 * i + 8, left + 8 * j : left + 8 * j + 8]
            assert torch.equal(window, square[:, i::2, j::2])
    assert torch.equal(contract(y, 8), x)


def test_second_attention_of_bdt_sees_every_second_pixel():
    block = DilatedSpatial(8).double()
    for layer in (block.first, block.third):
        for linear in (layer.project, layer.mlp[2]):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)  # both give back their input
    x = torch.rand(1, 8, 16, 16).double()
    with torch.no_grad():
        y = block(x)
        for i, j in ((0, 1), (1, 1)):
            alone = block.second(x[:, :, i::2, j::2].permute(0, 2, 3, 1))
            assert torch.allclose(y[:, :, i::2, j::2].permute(0, 2, 3, 1), alone, atol=1e-12)


def test_bdt_gathers_four_pixels_in_the_released_order():
    merge = Merge(2, 3)
    x = torch.rand(1, 2, 4, 6)
    four = torch.cat([x[..., i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], dim=1)
    expected = merge.mix(merge.norm(four.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    assert torch.allclose(merge(x), expected, atol=1e-6)


def test_grouped_attention_against_loops():
    attention = GroupedAttention(16).double()
    with torch.no_grad():
        attention.temperature.copy_(torch.linspace(0.5, 2, 8).view(8, 1, 1))
    x = torch.rand(1, 16, 8, 16).double()
    q, k, v = attention.spread(attention.qkv(x))[0].split(16)
    mixed = torch.zeros(16, 8, 16).double()
    for left in (0, 8):
        parts = [t[:, :, left : left + 8].flatten(1) for t in (q, k, v)]
        for i in range(16):
            head = [2 * (i // 2), 2 * (i // 2) + 1]
            alike = torch.stack([torch.cosine_similarity(parts[0][i], parts[1][j], dim=0) for j in head])
            shares = (alike * attention.temperature[i // 2, 0, 0]).exp()
            value = sum(s * parts[2][j] for s, j in zip(shares / shares.sum(), head, strict=True))
            mixed[i, :, left : left + 8] = value.view(8, 8)
    assert torch.allclose(attention(x), attention.project(mixed[None]), atol=1e-10)


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])
def test_bdt_has_a_level_for_every_size(ratio):
    model = network("BDT", 4, 2, ratio, width=8, spectral_width=8)
    sizes: list[int] = []
    for block in (*model.spatial, *model.spectral):
        block.register_forward_hook(lambda block, inputs, y: sizes.append(y.shape[-1]))
    with torch.no_grad():
        model(torch.rand(1, 4, 2, 3), torch.rand(1, 4, 2 * ratio, 3 * ratio), torch.rand(1, 2, 2 * ratio, 3 * ratio))
    down = [3 * ratio // 2**i for i in range(ratio.bit_length())]
    assert sizes == down + down[::-1] and down[-1] == 3


# --- MoG-DCN and 3DT-Net ----------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A prior that keeps what it is called with."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.change, self.features = nn.Conv2d(64, bands, 1), nn.Conv2d(64, 128, 1)
        self.calls: list[torch.Tensor] = []

    def forward(self, x):
        self.calls.append(x)
        return self.change(x), self.features(x)


def adjoint(unfolding: Unfolding) -> None:
    """Make the learned counterparts what they stand for: transposes; no biases."""
    with torch.no_grad():
        unfolding.spread.weight.copy_(-unfolding.degrade.weight)
        unfolding.to_cube.weight.copy_(unfolding.to_guide.weight.transpose(0, 1).flip(2, 3))
        for layer in (unfolding.degrade, unfolding.spread, unfolding.to_cube, unfolding.to_guide):
            nn.init.zeros_(layer.bias)


@pytest.mark.parametrize("ratio", [2, 3, 4, 8, 16])
def test_steps_of_the_unfolding_are_gradient_steps(ratio):
    """Of the squared misfits to both images and the distance from the prior's cube, if counterparts are transposes."""
    unfolding = Unfolding(3, 2, ratio, 1, Recorder(3)).double()
    adjoint(unfolding)
    ms, pan = torch.rand(1, 3, 2, 3).double(), torch.rand(1, 2, 2 * ratio, 3 * ratio).double()
    x, v = (torch.rand(1, 3, 2 * ratio, 3 * ratio).double().requires_grad_(i == 0) for i in range(2))
    guide = (pan - unfolding.to_guide(x)).square().sum() / 2
    both = guide + (unfolding.degrade(x) - ms).square().sum() / 2 + 0.9 * (x - v).square().sum() / 2
    (slope,) = torch.autograd.grad(both, x, retain_graph=True)
    assert torch.allclose(unfolding.consistent(x, v, ms, pan), x - 0.1 * slope, atol=1e-7)
    (slope,) = torch.autograd.grad(guide, x)
    leaving = 0.1 * 0.9 * (x + v)
    assert torch.allclose(unfolding.guided(x, v, pan), x - 0.1 * slope - leaving, atol=1e-7)


def test_calls_of_the_prior_see_the_features_of_the_published_order():
    """Three stages written out, as the released 3DT-Net has them."""
    prior = Recorder(3)
    net = Unfolding(3, 2, 4, 3, prior).double().eval()
    ms, lms, pan = (torch.rand(1, n, s, s).double() for n, s in ((3, 2), (3, 8), (2, 8)))
    with torch.no_grad():
        sr = net(ms, lms, pan)
        calls = list(prior.calls)

        def call(number: int, layer: nn.Module | None, cube: torch.Tensor, *features: torch.Tensor):
            seen = net.embed(cube)
            if layer is not None:
                seen = layer(torch.cat((seen, *features), 1))
            assert torch.allclose(calls[number], seen, atol=1e-12)
            return prior.change(seen), prior.features(seen)

        x = lms
        v, f0 = call(0, None, x)
        z = net.guided(x, v + x, pan)
        w, _ = call(1, net.second[0], z, f0)
        x = net.consistent(x, w + z, ms, pan)
        v, f2 = call(2, net.first[0], x, f0)
        z = net.guided(x, v + x, pan)
        w, _ = call(3, net.second[1], z, f2)
        x = net.consistent(x, w + z, ms, pan)
        v, f4 = call(4, net.first[1], x, f0, f2)
        z = net.guided(x, v + x, pan)
        w, _ = call(5, net.second[2], z, f4)
    assert len(calls) == 6 and torch.allclose(sr, w + z, atol=1e-12)


def test_mog_dcn_halves_and_doubles_odd_sizes():
    prior = UNet(5)
    sizes: list[tuple[int, int]] = []
    for level in prior.up:
        level.register_forward_hook(lambda level, inputs, y: sizes.append((y.shape[-2], y.shape[-1])))
    with torch.no_grad():
        change, features = prior(torch.rand(1, 64, 7, 18))
    assert sizes == [(1, 3), (2, 5), (4, 9), (7, 18)]
    assert change.shape == (1, 5, 7, 18) and features.shape == (1, 128, 7, 18)


@pytest.mark.parametrize("shifted", [False, True])
def test_shifted_windows_against_attention_over_all_pixels(shifted):
    """Pixels attend to each other where they lie in one window of the unrolled image; half a window at the border."""
    attention = ShiftedAttention(12, 3, shifted=shifted).double()
    with torch.no_grad():
        attention.bias.copy_(torch.randn_like(attention.bias))
    H, W = 16, 24
    x = torch.randn(1, H, W, 12).double()
    place = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")).flatten(1)
    group = (place + (4 if shifted else 0)) // 8
    near = (group[:, :, None] == group[:, None]).all(0)
    apart = place[:, :, None] - place[:, None] + 7
    index = (apart[0] * 15 + apart[1]).where(near, torch.zeros(1, dtype=torch.long))
    q, k, v = attention.qkv(x[0].flatten(0, 1)).split(12, dim=1)
    parts = []
    for head in range(3):
        s = slice(4 * head, 4 * head + 4)
        logits = q[:, s] @ k[:, s].T / 2 + attention.bias[index, head]
        parts.append(logits.masked_fill(~near, -torch.inf).softmax(1) @ v[:, s])
    expected = attention.project(torch.cat(parts, dim=1)).view(1, H, W, 12)
    assert torch.allclose(attention(x), expected, atol=1e-10)


def test_convolutions_along_the_bands_see_the_neighbouring_bands():
    prior = TransformerPrior(6, 12, 3, 1).eval()
    cube = torch.rand(1, 1, 6, 4, 4)
    changed = cube.clone()
    changed[:, :, 3] += 1
    with torch.no_grad():
        y, z = (prior.spectrum(prior.space(x).relu())[0, 0] for x in (cube, changed))
    assert [bool((y[b] != z[b]).any()) for b in range(6)] == [False, False, True, True, True, False]


# --- SpectraLift ------------------------------------------------------------------------------------------------------

BANDS, GUIDES = 16, 4


def ground(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A ground (1, C, H, W) of four materials in sharp patches, mixed at fine scale, and the guide's response."""
    rng = np.random.default_rng(0)
    wave = np.linspace(0, 1, BANDS)
    spectra = np.stack([0.5 + 0.4 * np.sin(3 * wave * (k + 1) + 6 * rng.random()) for k in range(4)])
    shares = np.exp(3 * ndimage.gaussian_filter(rng.standard_normal((4, side, side)), (0, 1, 1)) * 3)
    centres = np.linspace(0.5, BANDS - 1.5, GUIDES)
    response = np.exp(-((np.arange(BANDS)[None] - centres[:, None]) ** 2) / 4)
    response /= response.sum(1, keepdims=True)
    x = np.einsum("kc,khw->chw", spectra, shares / shares.sum(0))
    return torch.from_numpy(x)[None], torch.from_numpy(response)


def pair(ratio: int) -> tuple[torch.Tensor, Target, DataFacts]:
    """Ground, the pair that shows it, and facts that know the response."""
    x, response = ground(48)
    geometry = Geometry.toolbox(ratio)
    ms = start(geometry, response, 0.4).degrade(x, (48 // ratio, 48 // ratio))
    pan = torch.einsum("pc,bchw->bphw", response, x)
    target = Target(*(t.float() for t in (ms, interpolate(ms, geometry, (48, 48)), pan)), geometry)
    known = tuple(map(tuple, response.tolist()))
    return x, target, DataFacts("none", 1.0, ratio, BANDS, GUIDES, response=known, geometry=geometry)


def fused(target: Target, facts: DataFacts, steps: int) -> torch.Tensor:
    method = load_method("SpectraLift", None, facts, steps)
    method.adapt([target])
    return method(target.ms, target.lms, target.pan)


@pytest.mark.parametrize("ratio", [3, 4])
def test_spectralift_learns_the_spectra_from_the_pair(ratio):
    x, target, facts = pair(ratio)
    error = (fused(target, facts, 300) - x).square().mean()
    assert error < 0.1 * (target.lms - x).square().mean()


def test_spectralift_estimates_the_response_where_it_is_not_known():
    x, target, facts = pair(4)
    unknown = DataFacts("none", 1.0, 4, BANDS, GUIDES, geometry=facts.geometry)
    assert (fused(target, unknown, 300) - x).square().mean() < 0.1 * (target.lms - x).square().mean()


def test_spectralift_trains_on_ms_and_the_response_alone():
    """Another guide leaves the weights as they are; each pixel is fused by itself."""
    _, target, facts = pair(4)
    method = load_method("SpectraLift", None, facts, 5)
    method.adapt([target])
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    method.adapt([Target(target.ms, target.lms, torch.rand_like(target.pan), target.geometry)])
    assert all(torch.equal(weights[name], value) for name, value in method.state_dict().items())
    sr = method(target.ms, target.lms, target.pan)
    order = torch.randperm(48 * 48)
    mixed = target.pan.flatten(2)[..., order].view_as(target.pan)
    assert torch.allclose(method(target.ms, target.lms, mixed).flatten(2), sr.flatten(2)[..., order], atol=1e-6)


def test_spectralift_has_the_sums_of_the_released_network():
    model = network("SpectraLift", 6, 3, width=4).double()
    guide = torch.rand(1, 3, 2, 2).double()

    def f(layer: int, x: np.ndarray) -> np.ndarray:
        y = model.layers[layer].weight.detach().numpy() @ x + model.layers[layer].bias.detach().numpy()
        return np.where(y > 0, y, 0.3 * y)

    x1 = f(0, guide[0, :, 1, 0].numpy())
    x2 = f(1, x1) + x1
    x4 = f(3, f(2, x2)) + x2
    x6 = f(5, f(4, x4)) + x4
    expected = model.tail.weight.detach().numpy() @ x6 + model.tail.bias.detach().numpy()
    with torch.no_grad():
        assert np.allclose(model(guide, guide, guide)[0, :, 1, 0].numpy(), expected, atol=1e-12)


def test_learning_rates_rise_and_fall_in_straight_lines():
    first, peak, last = CYCLE
    assert (one_cycle(0), one_cycle(1)) == pytest.approx((first, last))
    assert one_cycle(0.3) == pytest.approx(peak)
    assert one_cycle(0.15) == pytest.approx((first + peak) / 2)
    assert one_cycle(0.65) == pytest.approx((last + peak) / 2)
    shares: list[float] = []

    def rate(share: float) -> float:
        shares.append(share)
        return 0.0

    module = nn.Linear(1, 1)
    before = module.weight.item()
    train_stage(module, lambda step: [lambda: module.weight.square().sum()], steps=4, rate=rate)
    assert shares == [0, 0.25, 0.5, 0.75] and module.weight.item() == before


def run(*arguments: object) -> int:
    return inference.run(parse("fuse", [*map(str, arguments), "--device", "cpu"]))


def test_spectralift_from_the_command_line(tmp_path, capsys):
    """Files in memory and scenes on disk; a single image is what a scene of it becomes."""
    x, target, _ = pair(4)
    arrays = {"ms": target.ms.numpy(), "lms": target.lms.numpy(), "pan": target.pan.numpy(), "gt": x.numpy()}
    data = write_h5(tmp_path / "pair.h5", arrays, sensor="none", divisor=1.0)
    given = ("--arch", "SpectraLift", "--adapt_steps", 200)
    assert run(*given, "--data", data, "--out", tmp_path / "sr.mat", "--pictures", 0) == 0
    assert "SpectraLift starts from no weights: 200 steps on each image or scene" in capsys.readouterr().out
    sr = loadmat(tmp_path / "sr.mat")["sr"][0]
    assert np.square(sr - x[0].numpy()).mean() < 0.2 * np.square(arrays["lms"][0] - x[0].numpy()).mean()


def test_spectralift_on_a_geotiff_pair(tmp_path, capsys):
    x, target, _ = pair(4)
    ms = tif(tmp_path / "ms.tif", (target.ms[0] * 10000).round().numpy().astype(np.uint16), pixel=4 * PIXEL)
    guide = tif(tmp_path / "guide.tif", (target.pan[0] * 10000).round().numpy().astype(np.uint16))
    out = tmp_path / "out.tif"
    given = ("--arch", "SpectraLift", "--adapt_steps", 100, "--sensor", "none", "--divisor", 10000)
    assert run(*given, "--ms", ms, "--pan", guide, "--out", out) == 0
    assert "trained on the scene: loss" in capsys.readouterr().out
    import rasterio

    with rasterio.open(out) as file:
        assert (file.count, file.height, file.width) == (BANDS, 48, 48)
        sr = file.read() / 10000
    assert (
        np.square(sr - x[0].numpy()).mean()
        < 0.5 * np.square(x[0].numpy() - x[0].mean((1, 2), keepdim=True).numpy()).mean()
    )
