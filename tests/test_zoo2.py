"""Published weights beyond DLPan-Toolbox's, and the networks they came with, against the published classes.

`tests/golden_differences.py` lists the files; the JSON beside each array states the rounding of the published class.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from golden_differences import ADAPTED, DLPAN, OTHERS, ZOO2, Golden, differences, folder, numbers_in_file
from scipy.io import loadmat
from torch import nn
from torch.nn import functional as F

from lemamba.commands import fuse, parse
from lemamba.engine.weights.files import open_weights
from lemamba.model import build_model
from lemamba.model.adknet import AdaptiveKernels
from lemamba.model.bam import BilateralBlock
from lemamba.model.convert import convert_state_dict
from lemamba.utils.atomic import sha256
from lemamba.utils.errors import UserError

TOLERANCE = 1e-5  # of max|sr|
METHODS = Path(__file__).resolve().parent.parent / "docs" / "methods.md"


pytestmark = pytest.mark.usefixtures("one_thread")


def network(name: str, C: int, P: int, ratio: int = 4, **more) -> nn.Module:
    return build_model(name, img_channel=C, condition_channel=P, out_channel=C, ratio=ratio, **more).eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def rounding(shared, golden: Golden, case: str) -> float:
    """Return the largest rounding error of the published class itself, as its JSON states it."""
    facts = json.loads(Path(shared(f"golden/{golden.arrays}_io.json")).read_text())
    stated = next(net for net in facts["nets"] if net["net"] == golden.key)["float32_minus_float64_max"]
    return stated[case] if isinstance(stated, dict) else stated


@pytest.mark.parametrize("golden", ZOO2, ids=str)
def test_published_outputs(golden, shared):
    """Where the published class rounds more than the tolerance, in float64: what is left is its own rounding."""
    place = folder(shared, golden)
    cases = dict(golden.cases(place))
    assert cases
    for name, share in differences(golden, place).items():
        largest = cases[name]["sr"].abs().max().item()
        own = rounding(shared, golden, name)
        if own <= TOLERANCE * largest:
            assert share <= TOLERANCE, name
            continue
        exact = golden.network(place).double()
        with torch.inference_mode():
            sr = exact(*(cases[name][role].double() for role in ("ms", "lms", "pan")))
        assert (sr - cases[name]["sr"]).abs().max() <= 1.01 * own, name


BY_COMMAND = [  # one of each kind of file: nested below "net" and below "state_dict", plain, two ratios, two tasks
    ("PSRT", "hiftool_qb/PSRT_400.pth", "rect"),
    ("PSRT", "psrt/cave_x8_best.pth.tar", "rect"),
    ("A-PNN", "zpnn/WV3_ZL-PNN_model.tar", "random"),
    ("BAM", "bam/HISR_CAVE_NET_1150.pth", "random"),
]


@pytest.mark.parametrize(("arch", "file", "case"), BY_COMMAND)
def test_published_files_from_the_command_line(arch, file, case, shared, tmp_path):
    golden = next(g for g in ZOO2 if g.arch == arch and g.weights == f"zoo2/{file}")
    place = folder(shared, golden)
    arrays = dict(golden.cases(place))[case]
    with h5py.File(tmp_path / "test.h5", "w") as data:
        for role, values in arrays.items():
            data[role.replace("sr", "gt")] = values.numpy() * 2048.0
    arguments = ["--arch", arch, "--weights", str(place / "weights" / golden.weights), "--pictures", "0", "--no_clip"]
    arguments += ["--data", str(tmp_path / "test.h5"), "--sensor", "none", "--divisor", "2048"]
    assert not fuse.run(parse("fuse", [*arguments, "--out", str(tmp_path / "fused.mat")]))
    expected = np.squeeze(arrays["sr"].permute(0, 2, 3, 1).numpy()) * 2048.0
    sr = np.squeeze(loadmat(tmp_path / "fused.mat")["sr"])
    sr = sr if sr.shape == expected.shape else np.moveaxis(sr, 0, -1)
    assert np.abs(sr - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_files_of_the_same_family_for_another_sensor_load(shared):
    """WorldView-2's have no outputs to compare with."""
    for file in ("A-PNN-TA-FR", "L-PNN", "Z-PNN", "ZL-PNN"):
        state = open_weights(str(shared(f"weights/zoo2/zpnn/WV2_{file}_model.tar"))).state
        network("A-PNN", 8, 1).load_state_dict(convert_state_dict("A-PNN", state))


def test_half_size_of_tdnet(shared):
    golden = next(g for g in ZOO2 if g.arch == "TDNet")
    place = folder(shared, golden)
    tdnet, arrays = golden.network(place), np.load(place / f"golden/{golden.arrays}_io.npz")
    for name, case in golden.cases(place):
        with torch.inference_mode():
            full, half = tdnet.forward_scales(case["ms"], case["lms"], case["pan"])
        assert torch.equal(full, tdnet(case["ms"], case["lms"], case["pan"]))
        expected = torch.from_numpy(arrays[f"half_TDNet_{name}"])
        assert (half - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_fusformer_clamps_lms():
    fusformer = network("Fusformer", 4, 1)
    ms, lms, pan = torch.rand(1, 4, 4, 4), 2 * torch.rand(1, 4, 16, 16) - 0.5, torch.rand(1, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(fusformer(ms, lms, pan), fusformer(ms, lms.clamp(0, 1), pan))


# ------------------------------------------------------------------ conversions, without the published files


def published_psrt(bands: int, guide: int) -> dict[str, torch.Tensor]:
    """Name our parameters as the authors do, by pyramid and level; the last convolution is theirs, 64 times smaller."""
    parts = {"qkv": "attn.qkv", "project": "attn.proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    places = {"head": "w.conv", "tail": "conv.0"}
    found = {}
    for name, value in network("PSRT", bands, guide).state_dict().items():
        module, _, parameter = name.rpartition(".")
        if module in places:
            found[f"{places[module]}.{parameter}"] = value / 64 if name == "tail.weight" else value
            continue
        _, block, which, part = module.split(".", 3)
        pyramid, level = divmod(int(block), 3)
        window = ("first", "second", "third").index(which) + 1
        found[f"w.layers.{pyramid}.layers.{level}.WA{window}.{parts.get(part, part)}.{parameter}"] = value
    return found


@pytest.mark.parametrize(("bands", "guide"), [(4, 1), (31, 3)])
@pytest.mark.parametrize("wrap", [("net", ""), ("state_dict", "model."), ("weights", "module.model.")])
def test_psrt_in_the_wrappings_of_published_files(bands, guide, wrap, tmp_path):
    key, prefix = wrap
    published = published_psrt(bands, guide)
    content = {"epoch": 3, key: {f"{prefix}{k}": v for k, v in published.items()}, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "best.pth.tar")
    converted = convert_state_dict("PSRT", open_weights(str(tmp_path / "best.pth.tar")).state)
    psrt = network("PSRT", bands, guide)
    psrt.load_state_dict(converted)
    assert torch.equal(psrt.tail.weight, published["conv.0.weight"] * 64)
    assert torch.equal(psrt.tail.bias, published["conv.0.bias"])
    assert torch.equal(psrt.blocks[4].second.mlp[2].weight, published["w.layers.1.layers.1.WA2.mlp.fc2.weight"])


def test_two_states_below_unknown_keys_are_refused(tmp_path):
    """Which of them is meant is the user's to say."""
    state = published_psrt(4, 1)
    torch.save({"generator": state, "teacher": state}, tmp_path / "two.pth")
    with pytest.raises(UserError, match="expected a state_dict"):
        open_weights(str(tmp_path / "two.pth"))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"net": network("PSRT", 4, 1)}, tmp_path / "best.pth.tar")
    with pytest.raises(UserError, match="would run code"):
        open_weights(str(tmp_path / "best.pth.tar"))


def test_a_file_of_another_network_is_refused():
    with pytest.raises(UserError, match="Fusformer weights: unknown key"):
        convert_state_dict("Fusformer", published_psrt(4, 1))


def test_both_names_of_the_blocks_of_bam():
    state = {f"{m}.{p}": torch.zeros(1) for m in ("head_conv", "tail_conv") for p in ("weight", "bias")}
    for block in ("BRRB", "DARB"):
        inside = {f"{block}{i}.conv{j}.weight": torch.full((1,), i + 0.1 * j) for i in range(1, 6) for j in (1, 2, 3)}
        converted = convert_state_dict("BAM", state | inside)
        assert converted["blocks.3.negative.weight"] == pytest.approx(4.3)
    with pytest.raises(UserError, match="unknown key"):
        convert_state_dict("BAM", state | {"DARB1.conv1.weight": torch.zeros(1), "BRRB2.conv1.weight": torch.zeros(1)})


# ----------------------------------------------------------------------------------------------- networks


def convolution(channels_in: int, channels_out: int, side: int) -> int:
    return channels_in * channels_out * side * side + channels_out


@pytest.mark.parametrize(("C", "P", "published"), [(8, 1, 64_713), (31, 3, 229_518)])
def test_parameters_of_adknet(C, P, published):
    c = convolution
    layer = 60 * 9 + 60 + c(60, 9, 1) + 2 * c(9, 9, 3) + c(60, 3, 1) + c(3, 540, 1) + 540
    assert 2 * c(C, C, 8) + c(C, 60, 5) + c(P, 60, 5) + c(60, C, 3) + 7 * layer + 1 == published
    assert count(network("ADKNet", C, P)) == published


@pytest.mark.parametrize(("C", "P", "width", "published"), [(4, 1, 32, 95_108), (31, 3, 64, 406_815)])
def test_parameters_of_bam(C, P, width, published):
    c = convolution
    assert c(C + P, width, 3) + 5 * (c(width, width, 3) + 2 * c(width, width // 2, 3)) + c(width, C, 3) == published
    assert count(network("BAM", C, P)) == published


def test_parameters_of_tdnet():
    assert count(network("TDNet", 8, 1)) == 545_842  # of the released class and file


def test_adaptive_kernels_against_a_loop_over_pixels():
    layer = AdaptiveKernels(20).double()
    x, y = torch.rand(2, 1, 20, 4, 5, dtype=torch.float64)

    def normed(values: torch.Tensor) -> torch.Tensor:
        return (values - values.mean()) / (((values - values.mean()) ** 2).sum() / 8).sqrt()

    gain = nn.init.calculate_gain("leaky_relu") / 3
    first, last = layer.squeeze, layer.expand
    inside = F.leaky_relu(first.weight[..., 0, 0] @ x.mean((2, 3))[0] + first.bias, 0.2)
    per_channel = (last.weight[..., 0, 0] @ inside + last.bias).view(20, 9)
    per_pixel = layer.spatial(y)[0]
    padded, filtered = F.pad(x, [1] * 4)[0], layer(x, y)[0]
    for i in range(4):
        for j in range(5):
            spatial = normed(per_pixel[:, i, j]) * gain
            for c in (0, 7, 19):
                kernel = normed(per_channel[c]) * layer.std.view(20, 9)[c] * spatial
                expected = (padded[c, i : i + 3, j : j + 3] * kernel.view(3, 3)).sum()
                assert torch.allclose(filtered[c, i, j], expected, rtol=1e-9)


def test_bilateral_block_loses_no_sign():
    """With both halves the identity on their maps, y = conv(x) comes back as its positive and its negative part."""
    block = BilateralBlock(4).double()
    for half in (block.positive, block.negative):
        nn.init.zeros_(half.bias)
        nn.init.dirac_(half.weight)
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    y, added = block.conv(x)[:, :2], block(x) - x
    assert torch.allclose(added[:, :2] - added[:, 2:], y)
    assert (added[:, :2] * added[:, 2:] == 0).all()


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_tdnet_doubles_once_per_level(ratio):
    tdnet = network("TDNet", 3, 1, ratio, width=8, fusing_width=12)
    ms, pan = torch.rand(1, 3, 3, 5), torch.rand(1, 1, 3 * ratio, 5 * ratio)
    with torch.inference_mode():
        sizes = [tuple(sr.shape[-2:]) for sr in tdnet.forward_scales(ms, None, pan)]
    assert sizes == [(3 * ratio // 2**i, 5 * ratio // 2**i) for i in range(ratio.bit_length() - 1)]


@pytest.mark.parametrize("seed", range(8))
def test_attention_of_tdnet_can_learn_from_any_start(seed):
    torch.manual_seed(seed)
    tdnet = network("TDNet", 4, 1, width=8, fusing_width=12)
    tdnet(torch.rand(1, 4, 4, 4), None, torch.rand(1, 1, 16, 16)).square().sum().backward()
    assert all(level.attention[0].weight.grad.any() for level in tdnet.levels)


# --------------------------------------------------------------------------------------------------- docs


def documented(title: str) -> list[list[str]]:
    """Rows of the table below a title of docs/methods.md, without its two header lines."""
    section = METHODS.read_text(encoding="utf-8").split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_compared_file_is_documented(shared):
    """The differences of the page are those of its command on one machine; here they only have to be tolerable."""
    rows = {(row[0], row[5].strip("`")): row for row in documented("Published weights, compared")}
    goldens = {(g.arch, g.weights.removeprefix("zoo2/")): g for g in [*DLPAN, *ADAPTED, *ZOO2, *OTHERS]}
    assert set(rows) == set(goldens)
    for key, (_, _, setting, theirs, ours, _, difference) in rows.items():
        C, P, ratio = (int(n) for n in re.split(r" \+ |, ", setting))
        assert ours == f"{count(network(key[0], C, P, ratio)):,}"
        assert float(difference) <= 3 * TOLERANCE  # of CANNet: the rounding of the published class
        assert theirs == f"{numbers_in_file(goldens[key], folder(shared, goldens[key])):,}"


def test_documented_sha256(shared):
    rows = documented("What published weights were trained on")
    files = [(file.strip("`"), row[-1].strip("`")) for row in rows for file in [row[0]]]
    assert {g.weights.removeprefix("zoo2/") for g in [*DLPAN, *ADAPTED, *ZOO2]} <= {file for file, _ in files}
    for file, expected in files:
        place = "weights/" if file.startswith("dlpan/") else "weights/zoo2/"
        assert sha256(shared(f"{place}{file}")) == expected, file
