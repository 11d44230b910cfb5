"""Building blocks of the learned networks against plain references, and what their papers promise."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lemamba.model import build_model, list_models, table
from lemamba.model.convert import convert_state_dict
from lemamba.model.dcfnet import _shares
from lemamba.model.feinfn import blend, four_neighbours
from lemamba.model.fusformer import SelfAttention
from lemamba.model.lagnet import LAGConv
from lemamba.model.layers.mamba import Mamba, TwoStreamMamba
from lemamba.model.lformer import Windows
from lemamba.model.mimo_sst import ExchangeBlock
from lemamba.model.ops.causal_conv import causal_conv
from lemamba.model.psrt import reshuffle, shuffle
from lemamba.model.ssrnet import inserted_bands
from lemamba.model.u2net import S2Attention, S2Block, _published_names
from lemamba.utils.errors import UserError

# Counted by hand from the papers' layer tables or published; (network, C, P, ratio): parameters
COUNTS = {
    ("PSRT", 31, 3, 4): 247_455,
    ("HSRNet", 31, 3, 8): 1_090_206,
    ("SSRNet", 31, 3, 4): 3 * (31 * 31 * 9 + 31),
    ("A-PNN", 8, 1, 4): (9 * 81 + 1) * 48 + (48 * 25 + 1) * 32 + (32 * 25 + 1) * 8,
    ("lambda-PNN", 8, 1, 4): (
        (9 * 9 + 1) * 64  # first convolution; then one and four in the blocks; two attentions; last convolution
        + 5 * (64 * 9 + 1) * 64
        + 2 * ((64 + 1) * 16 + (16 + 1) * 64 + 2 * 49 + 1)
        + (64 * 25 + 1) * 8
    ),
}
# Published to two or three digits; ours must round to them (tolerance 2 %).
PUBLISHED = {("LAGNet", 8, 1, 4): 0.15e6, ("PanMamba", 8, 1, 4): 0.48e6, ("DCFNet", 8, 1, 4): 2.77e6}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def network(name: str, C: int = 4, P: int = 1, ratio: int = 4, **more) -> nn.Module:
    return build_model(name, img_channel=C, condition_channel=P, out_channel=C, ratio=ratio, **more).eval()


def images(C: int = 4, P: int = 1, h: int = 4, w: int = 4, ratio: int = 4):
    return torch.rand(1, C, h, w), torch.rand(1, C, h * ratio, w * ratio), torch.rand(1, P, h * ratio, w * ratio)


@pytest.mark.parametrize("case", COUNTS)
def test_parameter_counts(case):
    assert count(network(*case)) == COUNTS[case]


@pytest.mark.parametrize("case", PUBLISHED)
def test_parameters_are_within_two_percent_of_the_papers(case):
    assert count(network(*case)) == pytest.approx(PUBLISHED[case], rel=0.02)


def test_u2net_takes_the_published_names_and_explains_the_published_count():
    """The authors' class holds 642,008 numbers: ours, and the layers that it makes and never uses."""
    model = network("U2Net", 8)
    ours = model.state_dict()
    back = {o: t for t, o in _published_names().items()}
    published = {f"{back[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in ours.items()}
    for i, width in enumerate((32, 64)):  # max-pool variant of the way down
        for layer in (nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 2 * width, 3, groups=2 * width)):
            published |= {f"down{i}.maxpool_conv.{len(published)}.{k}": v for k, v in layer.state_dict().items()}
    for i, width in enumerate((128, 64)):  # separable variant of the way up
        half = width // 2
        layers = nn.ConvTranspose2d(width, width, 2), nn.Conv2d(width, half, 1), nn.Conv2d(half, half, 3, groups=half)
        for layer in layers:
            published |= {f"up{i}.up0.{len(published)}.{k}": v for k, v in layer.state_dict().items()}
    assert sum(v.numel() for v in published.values()) == 642_008
    converted = convert_state_dict("U2Net", published)
    assert set(converted) == set(ours)
    assert all(torch.equal(converted[k], ours[k]) for k in ours)


def test_fusformer_without_the_unused_tables():
    unused = 2 * 64 * 64 * 48
    assert count(network("Fusformer", 31, 3)) + unused == pytest.approx(0.504e6, rel=1e-3)


def convolution(channels_in: int, channels_out: int, side: int, bias: bool = True) -> int:
    """Numbers of a convolution of side x side."""
    return channels_in * channels_out * side * side + bias * channels_out


def test_the_count_published_for_restfnet_is_that_of_tfnet():
    """Both classes stand in the same public repository; their layers differ where the two sums below do."""
    C, P, c = 31, 3, convolution
    stem = c(C, 32, 3) + c(P, 32, 3) + 2 * c(32, 32, 3) + 2 * c(32, 64, 2) + 2 * c(128, 128, 3)
    middle = c(128, 256, 2) + 2 * c(256, 256, 3) + c(256, 128, 2)
    residual = 2 * c(32, 32, 3) + c(256, 128, 1) + 2 * c(128, 128, 3) + c(128, 64, 2) + c(128, 64, 1)
    residual += 2 * c(64, 64, 3) + c(64, C, 3) + 20  # slopes of PReLU
    plain = c(256, 128, 3) + c(128, 128, 3) + c(128, 64, 2) + c(128, 64, 3) + c(64, 64, 3) + c(64, C, 3) + 18
    assert count(network("ResTFNet", C, P)) == stem + middle + residual
    assert round((stem + middle + plain) / 1e6, 3) == 2.387


def test_mimo_sst_without_the_unused_layers_of_the_published_class():
    level = convolution(192, 96, 3, False) + convolution(384, 768, 3, False) + convolution(384, 192, 1, False)
    attention = 1 + convolution(48, 144, 1, False) + 144 * 9 + convolution(48, 48, 1, False)
    used_of_three = convolution(48, 144, 1, False) + 144 * 9 + convolution(48, 48, 1, False) + 2
    unused = level + convolution(240, 192, 3) + convolution(48, 48, 3) + attention + 3 * attention - used_of_three
    assert count(network("MIMO-SST", 31, 3, outputs=3)) + unused == pytest.approx(4.983e6, abs=500)


def test_exchange_block_against_a_loop_over_feature_maps():
    block = ExchangeBlock(6, 2).double()
    with torch.no_grad():
        block.guide_temperature.copy_(torch.tensor([2.0, 3.0]).view(2, 1, 1))
        block.cube_temperature.copy_(torch.tensor([0.2, 0.5]).view(2, 1, 1))
    inputs = torch.rand(2, 1, 6, 4, 5, dtype=torch.float64)

    def normed(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, 1, 1)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
        return x * norm.weight.view(shape) + norm.bias.view(shape)

    parts = [block.qkv(normed(block.norm1, x))[0].flatten(1).split(6) for x in inputs]
    mixed = torch.zeros(2, 6, 20, dtype=torch.float64)
    for own, other in ((0, 1), (1, 0)):
        for i in range(6):
            head = i // 3
            temperature = block.guide_temperature[head, 0, 0] if own == 0 else 1 / block.cube_temperature[head, 0, 0]
            maps = range(3 * head, 3 * head + 3)
            alike = [F.cosine_similarity(parts[other][0][i], parts[own][1][j], dim=0) * temperature for j in maps]
            shares = torch.stack(alike).exp() / torch.stack(alike).exp().sum()
            mixed[own, i] = sum(s * parts[other][2][j] for s, j in zip(shares, maps, strict=True))
    guide = inputs[0] + block.project(mixed[0].view(1, 6, 4, 5))
    cube = inputs[1] + mixed[1].view(1, 6, 4, 5)
    for found, x in zip(block(*inputs), (guide, cube), strict=True):
        assert torch.allclose(found, x + block.feed(normed(block.norm2, x)), rtol=1e-10)


def test_mimo_sst_gives_every_size_on_its_own_grid():
    """With no residual the outputs are every 1st, 2nd and 4th pixel of lms, also where padding was needed."""
    model = network("MIMO-SST", outputs=3)
    lms, pan = torch.rand(1, 4, 18, 22), torch.rand(1, 1, 18, 22)
    with torch.no_grad():
        trained = model.forward_scales(lms[..., ::4, ::4], lms, pan)
        assert torch.equal(model(lms[..., ::4, ::4], lms, pan), trained[0])
        for tail in (model.tail, model.quarter_tail):
            nn.init.zeros_(tail.weight)
            nn.init.zeros_(tail.bias)
        for step, first, sr in zip((1, 2, 4), trained, model.forward_scales(None, lms, pan), strict=True):
            assert torch.equal(sr, lms[..., ::step, ::step])
            assert not torch.equal(first, sr)
    assert len(network("MIMO-SST").forward_scales(None, lms, pan)) == 1


def test_mimo_sst_trains_the_quarter_size_by_its_own_output():
    model = network("MIMO-SST", outputs=3)
    model.forward_scales(None, torch.rand(1, 4, 8, 8), torch.rand(1, 1, 8, 8))[2].sum().backward()
    assert model.quarter_tail.weight.grad.any()
    assert model.up1[0].weight.grad is None


@pytest.mark.parametrize(("bands", "guides"), [(4, 1), (8, 1), (31, 3)])
def test_psrt_starts_near_lms(bands, guides):
    """Its features double in each of six blocks; undone, the first residual is no larger than the features were."""
    model = network("PSRT", bands, guides)
    _, lms, pan = images(bands, guides)
    with torch.no_grad():
        first = model.head(torch.cat([lms, pan], dim=1))
        grown = model.blocks(first.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        assert grown.std() / first.std() == pytest.approx(2 ** len(model.blocks), rel=0.2)
        assert (model(None, lms, pan) - lms).std() < first.std()


def test_lagconv_against_a_loop_over_pixels():
    layer = LAGConv(3, 5).double()
    x = torch.rand(1, 3, 6, 5, dtype=torch.float64)
    factors, bias = layer.adapt(x), layer.harmonic(x.mean(dim=(2, 3), keepdim=True))
    padded = F.pad(x, [1] * 4)
    y = layer(x)
    for i in range(6):
        for j in range(5):
            patch = padded[0, :, i : i + 3, j : j + 3] * factors[0, :, i, j].view(3, 3)
            expected = (layer.weight * patch).sum(dim=(1, 2, 3)) + bias[0, :, 0, 0]
            assert torch.allclose(y[0, :, i, j], expected, rtol=1e-12)


@pytest.mark.parametrize(("H", "W", "window"), [(8, 8, 4), (16, 8, 8), (4, 12, 2)])
def test_shuffle_moves_every_second_half_window_and_reshuffle_undoes_it(H, W, window):
    x = torch.arange(H * W).view(1, H, W, 1)
    d = window // 2

    def place(i: int, n: int) -> int:
        cell, inside = divmod(i, d)
        return ((cell % 2) * (n // window) + cell // 2) * d + inside

    y = shuffle(x, window)
    for i in range(H):
        for j in range(W):
            assert y[0, place(i, H), place(j, W), 0] == x[0, i, j, 0]
    assert torch.equal(reshuffle(y, window), x)


def test_s2attention_against_explicit_matrices():
    layer = S2Attention(8, 4).double()
    x, y = torch.rand(1, 10, 8, dtype=torch.float64), torch.rand(1, 10, 8, dtype=torch.float64)
    parts = []
    for head in range(2):
        h = slice(4 * head, 4 * head + 4)
        y1, y2 = layer.spatial_query(y)[0, :, h], layer.spatial_key(y)[0, :, h]
        x1, x2 = layer.spectral_query(x)[0, :, h], layer.spectral_key(x)[0, :, h]
        spatial = torch.softmax(y1 @ y2.T / math.sqrt(4), dim=-1) @ x1
        spectral = y1 @ torch.softmax(x1.T @ x2 / math.sqrt(4) / (10 / 4), dim=-1)
        parts.append(spatial * spectral)
    assert torch.allclose(layer(x, y)[0], layer.project(torch.cat(parts, dim=-1)), rtol=1e-10)


def test_self_attention_against_explicit_matrices():
    layer = SelfAttention(6, 2, 3).double()
    x = torch.rand(1, 7, 6, dtype=torch.float64)
    q, k, v = layer.qkv(layer.norm(x))[0].split(6, dim=-1)
    heads = [torch.softmax(q[:, s] @ k[:, s].T / math.sqrt(3), dim=-1) @ v[:, s] for s in (slice(0, 3), slice(3, 6))]
    assert torch.allclose(layer(x)[0], x[0] + layer.project(torch.cat(heads, dim=-1)), rtol=1e-10)


def test_fusformer_attends_large_images_window_by_window():
    """Three windows side by side: the first sees the last neither by attention nor by the two 3x3 convolutions."""
    model = network("Fusformer", window=16)
    ms, lms, pan = images(w=12)
    with torch.no_grad():
        before = model(ms, lms, pan)
        lms[..., 32:], pan[..., 32:] = 0.1, 0.9
        after = model(ms, lms, pan)
    assert torch.equal(before[..., :16], after[..., :16])
    assert not torch.equal(before[..., 32:], after[..., 32:])


def test_s2block_attends_large_maps_window_by_window():
    block = S2Block(8, head_width=4, window=4).double()
    x, y = torch.rand(2, 1, 8, 8, 12, dtype=torch.float64)
    whole = block(x, y)
    for i in (0, 4):
        for j in (0, 4, 8):
            alone = block(x[..., i : i + 4, j : j + 4], y[..., i : i + 4, j : j + 4])
            assert torch.allclose(whole[..., i : i + 4, j : j + 4], alone, rtol=1e-10)


@pytest.mark.parametrize("name", ["Fusformer", "U2Net", "PSRT", "LFormer", "ResTFNet", "MIMO-SST"])
def test_sizes_that_fit_no_window(name):
    more = {"window": 16} if name in ("Fusformer", "U2Net") else {}
    ms, lms, pan = images(h=3, w=5, ratio=4)
    with torch.no_grad():
        assert network(name, **more)(ms, lms, pan).shape == lms.shape


def test_windows_come_back_in_place():
    windows = Windows(heads=2, side=4)
    x = torch.rand(2, 6, 8, 12)
    assert torch.equal(windows.join(windows.cut(x), (8, 12)), x)
    assert windows.cut(x).shape == (12, 2, 16, 3)


def test_lformer_queries_see_a_single_pan_band():
    """A layer norm over one channel would erase it."""
    first = network("LFormer").attention
    lms, pan = torch.rand(1, 4, 8, 8), torch.rand(1, 1, 8, 8)
    assert not torch.allclose(first(lms, pan)[0], first(lms, 1 - pan)[0])


def test_causal_conv_sees_no_future():
    x, weight, bias = torch.rand(2, 3, 10), torch.rand(3, 4), torch.rand(3)
    y = causal_conv(x, weight, bias)
    for t in range(10):
        past = torch.stack([x[..., t - i] if t >= i else torch.zeros(2, 3) for i in (3, 2, 1, 0)], dim=-1)
        assert torch.allclose(y[..., t], F.silu((past * weight).sum(-1) + bias), atol=1e-6)


def mamba_by_steps(stream: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The recurrence of the Mamba paper, one token after the other, in float64."""
    u, gate = stream.in_proj(x)[0].chunk(2, dim=-1)
    u = causal_conv(u.T[None], stream.conv.weight[:, 0], stream.conv.bias)[0].T
    state = torch.zeros(u.shape[1], stream.d_state, dtype=torch.float64)
    outputs = []
    for step in range(u.shape[0]):
        dt, B, C = stream.x_proj(u[step]).split((stream.rank, stream.d_state, stream.d_state))
        delta = F.softplus(stream.dt_proj(dt))[:, None]
        state = torch.exp(-delta * stream.A_log.exp()) * state + delta * B * u[step][:, None]
        outputs.append(state @ C + stream.D * u[step])
    return torch.stack(outputs) * F.silu(gate)


def test_mamba_equals_its_recurrence():
    layer, x = Mamba(8).double(), torch.randn(1, 12, 8, dtype=torch.float64)
    expected = layer.out_proj(mamba_by_steps(layer.stream, x))
    assert torch.allclose(layer(x)[0], expected, rtol=1e-9, atol=1e-12)


def test_two_stream_mamba_sums_two_recurrences():
    layer = TwoStreamMamba(8).double()
    x, extra = torch.randn(2, 1, 9, 8, dtype=torch.float64)
    expected = mamba_by_steps(layer.stream, x) + mamba_by_steps(layer.extra_stream, extra)
    assert torch.allclose(layer(x, extra)[0], layer.out_proj(expected), rtol=1e-9, atol=1e-12)


def test_mamba_keeps_decay_and_skip_out_of_weight_decay():
    stream = Mamba(8).stream
    assert stream.A_log._no_weight_decay
    assert stream.D._no_weight_decay


def test_ssrnet_puts_the_guide_where_the_paper_says():
    assert inserted_bands(31, 3) == [0, 15, 30]
    assert inserted_bands(103, 5) == [0, 25, 51, 77, 102]
    with pytest.raises(UserError, match="SSRNet: expected 2 to 8 guide bands"):
        network("SSRNet", 8, 1)


def test_fusionnet_refuses_a_guide_it_cannot_subtract():
    with pytest.raises(UserError, match="FusionNet: expected 1 or 31 guide bands, given 3"):
        network("FusionNet", 31, 3)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_feinfn_neighbours_are_the_four_nearest_cells(ratio):
    """Inside, the cells gathered are the two nearest rows by the two nearest columns."""
    h, w = 5, 4
    number = torch.arange(float(h * w)).view(1, 1, h, w)
    fine = [(torch.arange(n * ratio) + 0.5) / ratio for n in (h, w)]
    found = [(gather(number)[0, 0], offset[0]) for gather, offset in four_neighbours((h * ratio, w * ratio), number)]
    for i in range(ratio, (h - 1) * ratio):
        for j in range(ratio, (w - 1) * ratio):
            y, x = fine[0][i], fine[1][j]
            rows, columns = ((torch.arange(n) + 0.5 - c).abs().argsort()[:2].tolist() for n, c in ((h, y), (w, x)))
            nearest = {row * w + column for row in rows for column in columns}
            assert {int(n[i, j]) for n, _ in found} == nearest
            for n, offset in found:
                row, column = divmod(int(n[i, j]), w)
                assert torch.allclose(offset[:, i, j] / 2, torch.stack([y - row - 0.5, x - column - 0.5]), atol=1e-6)


def test_feinfn_blend_is_a_mean_for_equal_weights():
    predictions = [torch.rand(1, 3, 2, 2) for _ in range(4)]
    for p in predictions:
        p[:, -1] = 0.7
    assert torch.allclose(blend(predictions), torch.stack(predictions).mean(0)[:, :-1], atol=1e-6)


def test_dcfnet_shares_sum_to_one_and_are_never_negative():
    weights = _shares(torch.tensor([[1.0, -2.0], [3.0, 5.0]]))
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(dim=0), torch.ones(2), atol=1e-3)


def documented(title: str) -> list[list[str]]:
    """Rows of the table below a title of docs/methods.md, without its two header lines."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    section = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_tables_of_methods_are_current():
    """After a change of a method: python -m lemamba.model.table."""
    page = table.PAGE.read_text(encoding="utf-8")
    assert len(documented("Classical")) == len(list_models(family="classical"))
    assert len(documented("Learned")) == len(list_models(family="learned"))
    assert table.updated(page) == page


@pytest.mark.parametrize("row", documented("Published counts"), ids=lambda row: row[0])
def test_documented_differences_from_published_counts(row):
    """More than 2 % needs a reason."""
    name, setting, published, here, difference, reason = row
    C, P, ratio = (int(n) for n in setting.replace("+", ",").split(","))
    ours = count(network(name, C, P, ratio))
    theirs = float(published.removesuffix(" M")) * 1e6 if published.endswith("M") else int(published.replace(",", ""))
    apart = 100 * (ours / theirs - 1)
    assert here == f"{ours:,}"
    assert difference in (f"{apart:+.1f} %", "0.0 %" if ours == theirs else "")
    assert abs(apart) <= 2 or reason
