"""FusionMamba, CANNet and ADWM: published weights give the published outputs; the layers against plain references."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from golden_differences import OTHERS, differences, folder
from scipy.cluster.vq import kmeans2
from torch import nn
from torch.nn import functional as F

from lemamba.model import build_model
from lemamba.model.adwm import CovarianceWeighting, DualWeighting
from lemamba.model.cannet import CANConv, k_means
from lemamba.model.convert import convert_state_dict
from lemamba.model.fusion_mamba import image, sequences
from lemamba.utils.errors import UserError

TOLERANCE = 1e-5  # of max|sr|
GOLDENS = {f"{golden.arch}, {golden.arrays.rpartition('_')[2].upper()}": golden for golden in OTHERS}
COUNTS = {  # published parameters
    "FusionMamba, WV3": 735_401,
    "CANNet, WV3": 787_426,
    "CANNet, QB": 785_118,
    "ADWM-FusionNet, WV3": 87_257,
    "ADWM-LAGConv, WV3": 396_024,
    "ADWM-LGPNet, WV3": 33_373,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def network(arch: str, bands: int) -> nn.Module:
    return build_model(arch, img_channel=bands, condition_channel=1, out_channel=bands).eval()


@pytest.mark.parametrize("case", [case for case in GOLDENS if not case.startswith("CANNet")])
def test_published_outputs(case, shared):
    """ADWM-LAGConv in float64: features of 2000 cancel in it, so that in float32 the published class itself is right to
    1e-4 only, or to 0.02.
    """
    found = differences(GOLDENS[case], folder(shared, GOLDENS[case]))
    assert set(found) == {"random", "real", "rect"} and max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("case", ["CANNet, WV3", "CANNet, QB"])
def test_published_outputs_of_cannet_with_its_clusters(case, shared):
    """In float64 nothing is left but the noise of the published class; in float32 ours is of the same size."""
    golden = GOLDENS[case]
    place = folder(shared, golden)
    facts = json.loads(shared(f"golden/{golden.arrays}_io.json").read_text())
    noise = facts["nets"][0]["float32_minus_float64_max_same_clusters"]
    largest = {name: arrays["sr"].abs().max().item() for name, arrays in golden.cases(place)}
    assert set(largest) == set(noise)
    for dtype, factor in ((torch.float64, 1.01), (torch.float32, 3)):
        for which, share in differences(golden, place, dtype).items():
            assert share <= max(TOLERANCE, factor * noise[which] / largest[which]), (which, dtype)


@pytest.mark.parametrize("case", COUNTS)
def test_published_parameter_counts(case):
    model = network(GOLDENS[case].arch, 4 if case.endswith("QB") else 8)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[case]


def test_an_unknown_tensor_of_a_published_file_is_named():
    names = ("stage0.fm.spa_mamba_layers.0.block.A_e_log", "bw_output.temperature")
    for arch, name in zip(("FusionMamba", "ADWM-FusionNet"), names, strict=True):
        with pytest.raises(UserError, match=rf'{arch} weights: unknown key "{name}"'):
            convert_state_dict(arch, {name: torch.zeros(1)})


# FusionMamba


@pytest.mark.parametrize("directions", [2, 4])
def test_sequences_are_put_back_in_their_place(directions):
    x = torch.rand(2, 3, 5, 4)
    ways = sequences(x, directions)
    assert torch.equal(ways[1, 1, :, -1], x[1, 0, 0])  # the second way ends where the first begins
    assert torch.allclose(image(ways, (3, 5)), x)
    if directions == 4:
        assert torch.equal(ways[0, 2].unflatten(-1, (5, 3)).permute(2, 1, 0), x[0])


# CANNet


def inertia(x: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances from the mean of the own cluster."""
    return sum(((x[labels == k] - x[labels == k].mean(0)) ** 2).sum() for k in np.unique(labels))


def test_k_means_is_as_good_as_that_of_scipy():
    pixels = torch.randn(3, 600, 8).cumsum(1) * torch.rand(3, 1, 8)
    labels = k_means(pixels, 12, tolerance=0.0)
    for x, found in zip(pixels.double().numpy(), labels.numpy(), strict=True):
        centres = np.stack([x[found == k].mean(0) for k in range(12)])
        assert np.array_equal(((x[:, None] - centres) ** 2).sum(-1).argmin(1), found)  # where Lloyd's algorithm ends
        theirs = [inertia(x, kmeans2(x, 12, minit="++", seed=seed)[1]) for seed in range(5)]
        assert inertia(x, found) <= 1.1 * np.median(theirs)


def test_k_means_sees_each_image_alone_and_repeats_itself():
    pixels = torch.randn(3, 200, 5) + 1000.0
    labels = k_means(pixels, 7)
    assert torch.equal(labels, k_means(pixels, 7))
    assert torch.equal(labels[1:2], k_means(pixels[1:2], 7))


def test_k_means_finds_clusters_that_lie_apart():
    truth = torch.arange(60) % 6
    pixels = 10.0 * torch.eye(6)[truth] + 0.1 * torch.randn(60, 6)
    labels = k_means(pixels[None], 6)[0]
    assert len({(a, b) for a, b in zip(truth.tolist(), labels.tolist(), strict=True)}) == 6


@pytest.mark.parametrize("pixels", [torch.rand(1, 3, 4), torch.ones(1, 40, 4)], ids=["few", "equal"])
def test_k_means_with_fewer_points_than_clusters(pixels):
    labels = k_means(pixels, 32)
    distinct = len(pixels[0].unique(dim=0))
    assert len(labels.unique()) == distinct


def test_canconv_is_a_convolution_with_a_kernel_for_each_cluster():
    conv = CANConv(4, 3, threshold=0.1).double()
    x = torch.rand(2, 4, 5, 8, dtype=torch.float64)
    labels = torch.randint(4, (2, 40))
    with torch.no_grad():
        found = conv(x, labels)
    for b in range(2):
        patches = F.unfold(x[b : b + 1], 3, padding=1)[0].T
        for k in labels[b].unique():
            patch = patches.mean(0) if k == 3 else patches[labels[b] == k].mean(0)
            hidden = conv.head(patch)
            scales = (torch.sigmoid(layer(hidden)) for layer in (conv.to_out, conv.to_in, conv.to_area))
            kernel = torch.einsum("o,i,a,iao->oia", *scales, conv.kernels).unflatten(-1, (3, 3))
            expected = F.conv2d(x[b : b + 1], kernel, conv.bias(patch), padding=1)[0]
            at = (labels[b] == k).view(5, 8)
            assert torch.allclose(found[b][:, at], expected[:, at], rtol=1e-10, atol=1e-12)


def test_small_clusters_are_joined():
    """Of 200 pixels, 0.022 is 4.4: clusters of 4 and fewer are small. Pixels are compared by the means of patches."""
    conv = CANConv(2, 6, threshold=0.022)
    x = torch.zeros(1, 2, 10, 20)
    x[..., 12:] = 5.0
    x[..., :2, :2] = 90.0
    raw = k_means(F.unfold(x, 3, padding=1).unflatten(1, (2, 9)).mean(2).transpose(1, 2), 6)[0]
    small = torch.bincount(raw, minlength=6) <= 4
    assert small[raw].any()
    assert not small[raw].all()
    assert torch.equal(conv.cluster(x)[0], torch.where(small[raw], 6, raw))


def test_labels_for_another_image_are_refused():
    lms = torch.rand(1, 4, 8, 8)
    labels = [torch.zeros(1, n, dtype=torch.long) for n in (64, 16, 5)]
    with pytest.raises(UserError, match=r"expected labels of shape \(1, 4\) at level 2, given \(1, 5\)"):
        network("CANNet", 4)(lms[..., ::4, ::4], lms, lms[:, :1], labels)


def test_cannet_repeats_itself_and_changes_with_the_clusters(shared):
    place = folder(shared, GOLDENS["CANNet, QB"])
    model, arrays = GOLDENS["CANNet, QB"].network(place), dict(GOLDENS["CANNet, QB"].cases(place))["random"]
    inputs = [arrays[role] for role in ("ms", "lms", "pan")]
    with torch.inference_mode():
        first, second = model(*inputs), model(*inputs)
        one = model(*inputs, [torch.full((1, n), 32) for n in (1024, 256, 64)])
    assert torch.equal(first, second)
    assert (first - one).abs().max() > 0.01


# ADWM


def test_weights_of_channels_come_from_their_cosines():
    weighing = CovarianceWeighting(5, 3).double()
    x = torch.rand(2, 30, 5, dtype=torch.float64)
    rows = x[1] - x[1].mean(1, keepdim=True)
    cosines = torch.stack([F.cosine_similarity(rows, rows[:, i : i + 1], dim=0) for i in range(5)])
    assert torch.allclose(weighing(x)[1], weighing.weigh(cosines)[:, 0])
    assert torch.allclose(weighing(100 * x), weighing(x))


def test_dead_features_are_weighted_without_nan():
    features = [torch.zeros(1, 4, 6, 6, requires_grad=True), torch.ones(1, 4, 6, 6, requires_grad=True)]
    y = DualWeighting(4, 2, hidden=4)(features)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(x.grad.isfinite().all() for x in features)
