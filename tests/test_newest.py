"""The newest networks: counts of the published classes, and what their papers promise, against plain references."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lemamba.engine.fusing.cost import count_flops
from lemamba.model import build_model
from lemamba.model.arnet import SIDES, ARConv, Slow
from lemamba.model.convert import convert_state_dict
from lemamba.model.lgteun import DataStep, GlobalMixer, LocalMixer
from lemamba.model.pan_crafter import AlignmentAttention
from lemamba.model.pan_rwkv import RWKVBlock, shift, wkv
from lemamba.model.s2dbpn import SpatialDown, SpatialUp, SpectralUp
from lemamba.model.wfanet import Level, _published_names, haar, inverse_haar
from lemamba.utils.errors import UserError

SMALL = {  # the same networks, narrow
    "panRWKV": {"width": 8, "enc_blk_nums": [1, 1], "middle_blk_nums": 1, "dec_blk_nums": [1, 1]},
    "WFANet": {"width": 16},
    "LGTEUN": {"expansion": 2},
    "S2DBPN": {"width": 32, "narrow": 8},
    "ARConv": {"width": 8},
    "PAN-Crafter": {"width": 16, "groups": 8, "embedding": 16, "heads": 2, "dropout": 0.0},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def network(name: str, C: int = 4, P: int = 1, ratio: int = 4, **more) -> nn.Module:
    return build_model(name, img_channel=C, condition_channel=P, out_channel=C, ratio=ratio, **more).eval()


def images(C: int = 4, P: int = 1, h: int = 4, w: int = 4, ratio: int = 4):
    return torch.rand(1, C, h, w), torch.rand(1, C, h * ratio, w * ratio), torch.rand(1, P, h * ratio, w * ratio)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ----------------------------------------------------- counts, added up layer by layer from the published classes


def conv(c: int, d: int, side: int = 3, bias: bool = True) -> int:
    """Numbers of a convolution of side x side; of a linear layer with side 1."""
    return c * d * side**2 + bias * d


def wfanet(C: int, P: int, c: int = 32) -> int:
    residual = 2 * conv(c, c) + c
    feed1 = conv(c, c // 2, 1) + conv(c // 2, c // 2) + c // 2 + conv(c // 2, c // 2, 1) + conv(c // 2, c, 1)
    feed3 = conv(c, c // 2) + conv(c // 2, c // 2) + c // 2 + conv(c // 2, c // 2, 1) + conv(c // 2, c)
    mlp = conv(c, 2 * c, 1) + conv(2 * c, c, 1)
    level = 4 * (5 * mlp + 3 * 2 * c) + 4 * conv(c, c, 1) + 5 * residual + 2 + feed1 + 2 * feed3
    heads = conv(P, c, 5) + 2 * conv(C, c, 5) + 3 * (c + conv(c, c))
    tail = conv(c, c) + c + conv(c, C) + conv(C, C)
    return 2 * level + feed1 + 2 * residual + 2 + heads + conv(C, 16 * C) + tail + 2 * C


def lgteun(C: int, P: int, stages: int = 2) -> int:
    def block(c: int) -> int:
        local = conv(c // 2, 3 * c // 2, 1) + 2 * 64**2
        spectrum = 2 * 2 * (c // 2)
        feed = conv(c, 4 * c, 1) + conv(4 * c, 4 * c, 1) + 9 * 4 * c + 4 * c + conv(4 * c, c, 1)
        return 4 * c + local + spectrum + conv(c, c, 1) + feed

    c = 4 * C
    prior = 2 * C + conv(C, c, 1) + 2 * c + 4 * block(c) + block(2 * c)
    prior += conv(c, 2 * c, 1) + 2 * conv(2 * c, c, 1) + conv(c, C, 1)
    return stages * (prior + 1) + 4 * 10 * C + conv(C, P, 1) + conv(P, C, 1)


def s2dbpn(C: int, P: int, c: int = 128, n: int = 32, r: int = 4) -> int:
    gate, enlarge, shrink = 2 * conv(c // 2, c // 2, 1), conv(c, c * r * r), conv(c, c, r + 4)
    spatial = 2 * (2 * enlarge + shrink + 2 * gate) + 2 * shrink + enlarge + gate
    widen, narrow = 3 * conv(n, c, 1), conv(c, n, 1)
    spectral = 2 * (2 * widen + narrow) + 2 * narrow + widen
    return spatial + spectral + conv(P, n) + conv(C, c) + sum(
        conv(a, b, 1) for a, b in ((3 * c, c), (c, c // 2), (c // 2, c // 4), (c // 4, C))
    )  # fmt: skip


def arnet(C: int, P: int, c: int = 32) -> int:
    def arconv(c: int) -> int:
        kernels = sum(rows * columns * c * c + c for rows, columns in SIDES)
        extents = 2 * (conv(c, 1) + conv(1, 1, 1) + 2 * 2)
        return kernels + 6 * conv(c, c) + 2 * (conv(c, c) + 2 * c) + extents

    def down(c: int) -> int:
        return conv(c, c, 2) + 9 * c + conv(c, 2 * c, 1)

    def up(c: int) -> int:
        return conv(c, c // 2, 2) + 9 * (c // 2) + conv(c // 2, c // 2, 1)

    blocks = sum(2 * arconv(factor * c) for factor in (1, 2, 4, 2, 1))
    return conv(C + P, c) + blocks + down(c) + down(2 * c) + up(4 * c) + up(2 * c) + conv(c, C)


def pan_crafter(C: int, P: int, c: int = 128, heads: int = 8) -> int:
    def block(first: int) -> int:
        skip = 0 if first == c else conv(first, c, 1)
        return 2 * first + conv(first, c) + conv(c, 2 * c, 1) + 2 * c + conv(c, c) + skip

    def attention(side: int) -> int:
        keys = conv(c + C, c, side) + conv(c + P, c, side) + conv(c + 3 * P, c, side) + conv(c + C, 2 * c, side)
        near = (9 + 1) * 9 * (c // heads)
        return keys + near + 2 * conv(c, c, 1) + conv(c, 2 * c, 1) + conv(c, 4 * c, 1) + conv(4 * c, c, 1)

    ends = conv(3 * P + C, c) + 2 * c + conv(c, C)
    blocks = 11 * block(c) + 3 * block(2 * c)
    return ends + blocks + 3 * conv(c, c) + 3 * conv(c, c, 2) + attention(1) + 4 * attention(3) + 2 * c


PUBLISHED = {"WFANet": wfanet, "LGTEUN": lgteun, "S2DBPN": s2dbpn, "ARConv": arnet, "PAN-Crafter": pan_crafter}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_the_published_classes(name):
    for C in (8, 4):
        with torch.device("meta"):
            assert count(network(name, C)) == PUBLISHED[name](C, 1)


def test_panrwkv_costs_about_what_lemamba_does():
    """The figures of docs/methods.md: one sample of 64 x 64, 8 bands."""
    sample = dict(zip(("ms", "lms", "pan"), images(8, h=16, w=16), strict=True))
    costs = {name: network(name, 8) for name in ("panRWKV", "LEMamba")}
    found = {name: (count(model), round(count_flops(model, sample) / 1e9, 1)) for name, model in costs.items()}
    assert found == {"panRWKV": (708_168, 1.0), "LEMamba": (743_464, 4.8)}


@pytest.mark.parametrize("name", SMALL)
def test_learns_on_a_miniature(name):
    """Twelve steps on one sample take a fifth of the error away."""
    ms, _, pan = images()
    lms = F.interpolate(ms, scale_factor=4, mode="bicubic")
    gt = lms + 0.5 * (pan - F.avg_pool2d(F.pad(pan, [2] * 4, "reflect"), 5, 1))
    model = network(name, **SMALL[name]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr={"S2DBPN": 1e-3, "ARConv": 1e-2}.get(name, 3e-3))
    losses = []
    for _ in range(12):
        loss = F.l1_loss(model(ms, lms, pan), gt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("WFANet", {"window": 30}, "multiple of the ratio 4, given 30"),
        ("panRWKV", {"dec_blk_nums": [1]}, "2 dec_blk_nums like enc_blk_nums, given 1"),
    ],
)
def test_settings_that_cannot_be(name, setting, words):
    with pytest.raises(UserError, match=words):
        network(name, **setting)


# ------------------------------------------------------------------------------------------------------------- panRWKV


def wkv_by_pixels(decay, bonus, key, value):
    """The definition, every pair of tokens by itself, in float64."""
    decay, bonus, key, value = (t.double() for t in (decay, bonus, key, value))
    T = key.shape[2]
    y = torch.zeros_like(value)
    for t in range(T):
        steps = ((torch.arange(T) - t).abs() - 1).clamp(min=0)
        logits = key - decay[:, None] * steps / T
        logits[..., t] = key[..., t] + bonus
        y[..., t] = (logits.softmax(dim=2) * value).sum(dim=2)
    return y


def test_wkv_equals_its_definition():
    decay, bonus = 10 * torch.rand(5), torch.randn(5)
    key, value = 3 * torch.randn(2, 5, 17), torch.randn(2, 5, 17)
    expected = wkv_by_pixels(decay, bonus, key, value)
    double = [t.double() for t in (decay, bonus, key, value)]
    assert torch.allclose(wkv(*double), expected, rtol=1e-12, atol=1e-13)
    assert torch.allclose(wkv(decay, bonus, key, value).double(), expected, atol=1e-5)


@pytest.mark.parametrize("spread", [80.0, 1e4])
def test_wkv_neither_overflows_nor_divides_by_zero(spread):
    """Keys far apart and decays far above 60, which count as 60."""
    decay, bonus = torch.tensor([0.0, 60.0, 1e6]), torch.zeros(3)
    key, value = spread * torch.randn(1, 3, 50), torch.randn(1, 3, 50)
    expected = wkv_by_pixels(decay.clamp(max=60), bonus, key, value)
    assert torch.allclose(wkv(decay, bonus, key, value).double(), expected, atol=1e-4)


def test_wkv_gradients_match_those_of_the_definition():
    inputs = [torch.rand(3), torch.randn(3), torch.randn(1, 3, 9), torch.randn(1, 3, 9)]
    weights = torch.randn(1, 3, 9, dtype=torch.float64)
    gradients = []
    for function in (wkv, wkv_by_pixels):
        leaves = [t.double().requires_grad_() for t in inputs]
        (function(*leaves) * weights).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for found, expected in zip(*gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_shift_moves_a_quarter_of_the_channels_to_each_side():
    x = torch.rand(1, 4, 5, 9)
    y = shift(x)
    assert torch.equal(y[:, :, 1:, :2], x[:, :, :-1, :2]) and not y[:, :, 0, :2].any()
    assert torch.equal(y[:, :, :-1, 2:4], x[:, :, 1:, 2:4]) and not y[:, :, -1, 2:4].any()
    assert torch.equal(y[:, 1:, :, 4:6], x[:, :-1, :, 4:6]) and not y[:, 0, :, 4:6].any()
    assert torch.equal(y[:, :-1, :, 6:8], x[:, 1:, :, 6:8]) and not y[:, -1, :, 6:8].any()
    assert torch.equal(y[..., 8:], x[..., 8:])


def test_rwkv_block_sees_the_whole_image_and_its_guide():
    block = RWKVBlock(8, 1, 0.5, 2).double()
    x, guide = torch.rand(1, 6, 7, 8, dtype=torch.float64), torch.rand(1, 6, 7, 1, dtype=torch.float64)
    before = block(x, guide)
    far, other = x.clone(), guide.clone()
    far[0, -1, -1, 0] += 1
    other[0, -1, -1] += 1
    assert (block(far, guide)[0, 0, 0] - before[0, 0, 0]).abs().max() > 1e-9
    assert (block(x, other)[0, 0, 0] - before[0, 0, 0]).abs().max() > 1e-9


# -------------------------------------------------------------------------------------------------------------- WFANet


def test_wavelets_are_exact_and_their_bands_are_filters():
    x = torch.rand(2, 3, 6, 10, dtype=torch.float64)
    bands = haar(x)
    assert torch.allclose(inverse_haar(*bands), x, rtol=1e-14)
    signs = ([[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]])
    for band, sign in zip(bands, signs, strict=True):
        kernel = (torch.tensor(sign) / 4).double().expand(3, 1, 2, 2)
        assert torch.allclose(band, F.conv2d(x, kernel, stride=2, groups=3), rtol=1e-13, atol=1e-16)
    assert 4 * sum(b.square().sum() for b in bands) == pytest.approx(x.square().sum().item())


def test_wfanet_attends_large_maps_window_by_window():
    level = Level(16, 8, 0.0, 4).double().eval()
    q, k, v = torch.rand(3, 1, 16, 8, 12, dtype=torch.float64)

    def attend(*maps):
        tokens = level.attention[1](*(level._tokens(m) for m in maps))
        return level._image(tokens, (maps[0].shape[2], maps[0].shape[3]))

    whole = attend(q, k, v)
    for i in (0, 4):
        for j in (0, 4, 8):
            here = (..., slice(i, i + 4), slice(j, j + 4))
            assert torch.allclose(whole[here], attend(q[here], k[here], v[here]), rtol=1e-10)


@pytest.mark.parametrize(("ratio", "h", "w"), [(2, 9, 5), (8, 3, 2), (4, 5, 17)])
def test_wfanet_pyramid_reaches_the_size_of_ms(ratio, h, w):
    model = network("WFANet", ratio=ratio, window=32, width=16)
    ms, lms, pan = images(h=h, w=w, ratio=ratio)
    assert 2 ** len(model.levels) == ratio
    with torch.no_grad():
        assert model(ms, lms, pan).shape == lms.shape


def test_wfanet_takes_the_published_names():
    model = network("WFANet", 8)
    ours = model.state_dict()
    back = {o: t for t, o in _published_names().items()}
    published = {f"{back[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in ours.items()}
    linear = [k for k in published if "_conv.linear." in k or ".mlp.linear_" in k]
    published |= {k: published[k].flatten(1) for k in linear if k.endswith("weight")}
    for place in ("L_MWiT_block", "F_MWiT_block.s_mwit"):
        published |= {f"{place}.WD.w_{b}": torch.ones(1, 1, 2, 2) for b in ("ll", "lh", "hl", "hh")}
        published |= {f"{place}.conv_idwt_{b}.IDWT.filters": torch.ones(4, 1, 2, 2) for b in ("pan", "up")}
    assert sum(v.numel() for k, v in published.items() if "w_" not in k and "filters" not in k) == wfanet(8, 1)
    converted = convert_state_dict("WFANet", published)
    assert set(converted) == set(ours)
    assert all(torch.equal(converted[k], ours[k]) for k in ours)
    del published["F_MWiT_block.combine.a"], published["F_MWiT_block.combine.b"]
    with pytest.raises(UserError, match=r'"F_MWiT_block.combine\.\*" is missing'):
        convert_state_dict("WFANet", published)


# -------------------------------------------------------------------------------------------------------------- LGTEUN


def matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and constant of an affine layer on images of a shape (c, H, W)."""
    basis = torch.eye(shape[0] * shape[1] * shape[2], dtype=torch.float64).view(-1, *shape)
    constant = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    return (layer(basis).flatten(1) - constant).T, constant


def test_the_data_step_descends_both_data_terms():
    """Where Dt and Rt are the transposes, the step is A^T (A z - b), zero at the solution of least squares."""
    with torch.no_grad():
        step = DataStep(2, 1, 4).double()
        z, ms, pan = (torch.rand(1, *s, dtype=torch.float64) for s in ((2, 8, 8), (2, 2, 2), (1, 8, 8)))
        D, d = matrix(step.D, (2, 8, 8))
        R, r = matrix(step.R, (2, 8, 8))
        Dt, dt = matrix(step.Dt, (2, 2, 2))
        Rt, rt = matrix(step.Rt, (1, 8, 8))
        flat = [t.flatten() for t in (z, ms, pan)]
        expected = Dt @ (D @ flat[0] + d - flat[1]) + dt + Rt @ (R @ flat[0] + r - flat[2]) + rt
        assert torch.allclose(step(z, ms, pan).flatten(), expected, rtol=1e-10, atol=1e-12)

        class Times(nn.Module):
            def __init__(self, A: torch.Tensor) -> None:
                super().__init__()
                self.A = A

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (self.A @ x.flatten()).view(1, 2, 8, 8)

        step.Dt, step.Rt = Times(D.T), Times(R.T)
        A, b = torch.cat([D, R]), torch.cat([flat[1] - d, flat[2] - r])
        assert torch.allclose(step(z, ms, pan).flatten(), A.T @ (A @ flat[0] - b), rtol=1e-10, atol=1e-12)
        solution = torch.linalg.lstsq(A, b[:, None], driver="gelsd").solution
        assert step(solution.view_as(z), ms, pan).abs().max() < 1e-10


def test_lgteun_stages_follow_each_other():
    """Of two stages with priors that change nothing, the second starts where the first ended."""
    model = network("LGTEUN", expansion=2).double()
    for prior in model.priors:
        nn.init.zeros_(prior.tail.weight)
        nn.init.zeros_(prior.tail.bias)
    ms, lms, pan = (t.double() for t in images(h=4, w=4))
    with torch.no_grad():
        z = F.interpolate(ms, scale_factor=4, mode="bicubic")
        for eta in model.eta:
            z = z - eta * model.gradient(z, ms, pan)
        assert torch.allclose(model(ms, lms, pan), z, rtol=1e-10)
        model.priors[0].tail.bias.fill_(0.5)
        assert not torch.allclose(model(ms, lms, pan), z, atol=0.1)


def test_local_mixer_against_explicit_matrices():
    layer = LocalMixer(6, 2, 2).double()
    x = torch.rand(1, 2, 4, 6, dtype=torch.float64)
    y = layer(x)
    for j in (0, 2):
        q, k, v = layer.qkv(x[0, :, j : j + 2].reshape(4, 6)).split(6, dim=-1)
        heads = []
        for n, s in enumerate((slice(0, 3), slice(3, 6))):
            shares = torch.softmax(q[:, s] @ k[:, s].T / 3**0.5 + layer.position[0, n], dim=-1)
            heads.append(shares @ v[:, s])
        assert torch.allclose(y[0, :, j : j + 2].reshape(4, 6), torch.cat(heads, dim=-1), rtol=1e-10)


@pytest.mark.parametrize("width", [4, 5])
def test_global_mixer_that_changes_no_frequency_gives_the_modulus(width):
    layer = GlobalMixer(3).double()
    with torch.no_grad():
        for mixer in (layer.amplitude, layer.phase):
            mixer.weight.fill_(1)
            mixer.bias.zero_()
    x = torch.randn(2, 4, width, 3, dtype=torch.float64)
    assert torch.allclose(layer(x), x.abs(), rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------------------------------------------------- S2DBPN


def consistent(*, width: int = 4, ratio: int = 4) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution before the pixel shuffle that repeats pixels, and a strided one that takes their mean."""
    repeat = nn.Conv2d(width, width * ratio**2, 3, padding=1, padding_mode="reflect")
    mean = nn.Conv2d(width, width, ratio + 4, stride=ratio, padding=2, padding_mode="reflect")
    with torch.no_grad():
        for layer in (repeat, mean):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        repeat.weight[:, :, 1, 1] = torch.eye(width).repeat_interleave(ratio**2, dim=0)
        mean.weight[:, :, 2:-2, 2:-2] = (torch.eye(width) / ratio**2).view(width, width, 1, 1)
    return repeat, mean


def test_back_projection_adds_nothing_where_there_is_no_error():
    """If reducing undoes enlarging, the second enlargement sees zeros, whatever its weights."""
    up, down = SpatialUp(4, 4), SpatialDown(4, 4)
    up.first[0], up.back[0] = consistent()
    down.back[0], down.first[0] = consistent()
    for gate in (up.gate1, up.gate2, down.gate):
        for layer in (gate.first, gate.second):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, 100)
    for second in (up.second, down.second):
        nn.init.zeros_(second[0].bias)
    x = torch.rand(1, 4, 5, 6)
    enlarged = F.interpolate(x, scale_factor=4, mode="nearest")
    with torch.no_grad():
        assert torch.allclose(up(x), enlarged, atol=1e-5)
        assert torch.allclose(down(enlarged), x, atol=1e-5)
        nn.init.constant_(up.back[0].bias, 0.1)
        assert not torch.allclose(up(x), enlarged, atol=1e-3)


def test_spectral_back_projection_adds_nothing_where_there_is_no_error():
    block = SpectralUp(3, 6)
    with torch.no_grad():
        for layer in (block.first.conv, block.back, block.second.conv):
            nn.init.zeros_(layer.bias)
        block.first.conv.weight.copy_(torch.eye(3).repeat(6, 1).view(18, 3, 1, 1))
        block.back.weight.copy_(torch.eye(3).repeat(1, 2).view(3, 6, 1, 1) / 2)
        x = torch.rand(1, 3, 4, 5)
        assert torch.allclose(block(x), x.repeat(1, 2, 1, 1), atol=1e-6)


def test_s2dbpn_rounds_share_their_weights():
    sizes = [count(network("S2DBPN", rounds=n, **SMALL["S2DBPN"])) for n in (3, 4)]
    assert sizes[1] - sizes[0] == 32 * 32  # only the convolution that joins the means grows


# -------------------------------------------------------------------------------------------------------------- ARConv


@pytest.mark.parametrize("kernel", range(len(SIDES)), ids=map(str, SIDES))
@pytest.mark.parametrize("spread", [1, 2])
def test_arconv_of_fixed_size_is_an_ordinary_convolution(kernel, spread):
    """A kernel as large as its grid; twice as large it is dilated by 2."""
    layer = ARConv(3, 4).double().eval()
    rows, columns = SIDES[kernel]
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    height, width = torch.full((2, 1, 9, 8), spread * rows), torch.full((2, 1, 9, 8), spread * columns)
    first = sum(r * c for r, c in SIDES[:kernel])
    weight = layer.weight[:, :, first : first + rows * columns].unflatten(2, (rows, columns))
    padding = (spread * (rows // 2), spread * (columns // 2))
    expected = F.conv2d(x, weight, layer.bias[kernel], padding=padding, dilation=spread)
    assert torch.allclose(layer.convolve(x, height, width, (rows, columns)), expected, rtol=1e-9, atol=1e-12)


def test_arconv_samples_between_pixels():
    """In a linear ramp, the mean of symmetric samples is the pixel, however far apart they are."""
    layer = ARConv(1, 1).double().eval()
    nn.init.constant_(layer.weight, 1 / 9)
    nn.init.zeros_(layer.bias)
    x = (2 * torch.arange(20.0)[:, None] - 3 * torch.arange(21.0)).double().view(1, 1, 20, 21)
    extent = 3 + 6 * torch.rand(2, 1, 1, 20, 21, dtype=torch.float64)
    with torch.no_grad():
        y = layer.convolve(x, extent[0], extent[1], (3, 3))
    assert torch.allclose(y[..., 3:-3, 3:-3], x[..., 3:-3, 3:-3], rtol=1e-9)


def test_arconv_chooses_its_kernel_in_training_only():
    layer = ARConv(3, 3, largest=18, search_steps=2)
    tall, flat = torch.full((1, 1, 4, 4), 15.9), torch.full((1, 1, 4, 4), 9.9)
    assert layer.eval().choose(tall, flat) == (3, 3)
    assert layer.train().choose(tall, flat) == (7, 3)  # 15.9 // 2 = 7; 9.9 // 2 = 4 is even
    assert layer.choose(flat, torch.full_like(flat, 10.1)) == (3, 5)
    assert layer.choose(tall, tall) == (3, 5)  # the search is over
    copy = ARConv(3, 3)
    copy.load_state_dict(layer.state_dict())
    assert copy.eval().choose(tall, tall) == (3, 5)


def test_arconv_extents_stay_in_range():
    layer = ARConv(3, 3, largest=9).eval()
    for extent in layer.extents(100 * torch.randn(1, 3, 6, 6)):
        assert extent.min() >= 1 and extent.max() <= 9


def test_a_tenth_of_the_gradient_comes_back():
    x = torch.rand(3, requires_grad=True)
    y = Slow()(x)
    assert torch.equal(y, x)
    y.sum().backward()
    assert torch.allclose(x.grad, torch.full((3,), 0.1))


# --------------------------------------------------------------------------------------------------------- PAN-Crafter


def test_alignment_attention_against_a_loop_over_neighbours():
    """As it starts: every pixel attends to the nine pixels around it, of zeros where there is none."""
    layer = AlignmentAttention(6, heads=2, bands=4, guides=1, kernel=1, side=3).double()
    q, k, v = torch.rand(3, 1, 6, 4, 5, dtype=torch.float64)
    y = layer.attend(q, k, v)
    padded_k, padded_v = (F.pad(t, [1] * 4) for t in (k, v))
    for i in range(4):
        for j in range(5):
            near_k, near_v = (t[0, :, i : i + 3, j : j + 3].flatten(1) for t in (padded_k, padded_v))
            for s in (slice(0, 3), slice(3, 6)):
                shares = torch.softmax(q[0, s, i, j] @ near_k[s] / 3**0.5, dim=0)
                assert torch.allclose(y[0, s, i, j], near_v[s] @ shares, rtol=1e-10)


@pytest.mark.parametrize("ratio", [4, 8])
def test_pan_crafter_starts_from_both_images(ratio):
    model = network("PAN-Crafter", ratio=ratio, **SMALL["PAN-Crafter"])
    ms, lms, pan = images(h=8, w=8, ratio=ratio)
    with torch.no_grad():
        sr, back = model.forward_modes(ms, pan)
        assert torch.equal(sr, model(ms, lms, pan))
        low = F.interpolate(pan, size=ms.shape[-2:], mode="bicubic", antialias=True)
        expected = [F.interpolate(x, scale_factor=ratio, mode="bicubic") for x in (ms, low)]
    assert (sr - expected[0]).abs().max() < 0.05
    assert (back - expected[1]).abs().max() < 0.05


def test_operations_of_pan_crafter_are_counted():
    """Its layers receive a parameter, and the counter refuses views of parameters."""
    sample = dict(zip(("ms", "lms", "pan"), images(), strict=True))
    assert count_flops(network("PAN-Crafter", depth=1, **SMALL["PAN-Crafter"]), sample) > 1e6


def test_pan_crafter_trains_both_modes():
    model = network("PAN-Crafter", **SMALL["PAN-Crafter"])
    ms, _, pan = images()
    sum(image.square().sum() for image in model.forward_modes(ms, pan)).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert (model.modes.grad != 0).any(dim=1).all()
