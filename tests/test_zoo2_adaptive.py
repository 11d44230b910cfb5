"""FusionMamba, CANNet and ADWM: published weights give the published outputs; the layers against plain references."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
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
# our name: weights, golden file, name there, published parameters of those weights
NETWORKS = {
    "FusionMamba": ("fusionmamba/420.pth", "fusionmamba_wv3_io", "FusionMamba", 735_401),
    "CANNet": ("cannet/cannet_wv3.pth", "cannet_wv3_io", "CANNet", 787_426),
    "CANNet, QB": ("cannet/cannet_qb.pth", "cannet_qb_io", "CANNet", 785_118),
    "ADWM-FusionNet": ("adwm/BWNET_FusionNet_WV3.pth", "adwm_wv3_io", "FusionNet", 87_257),
    "ADWM-LAGConv": ("adwm/BWNET_LAGConv_WV3.pth", "adwm_wv3_io", "LAGConv", 396_024),
    "ADWM-LGPNet": ("adwm/BWNET_LGPNet_WV3.pth", "adwm_wv3_io", "LGPNet", 33_373),
}
INPUTS = ("random", "real", "rect")


pytestmark = pytest.mark.usefixtures("one_thread")


def network(case: str, bands: int) -> nn.Module:
    return build_model(case.partition(",")[0], img_channel=bands, condition_channel=1, out_channel=bands).eval()


def published(case: str, shared, dtype: torch.dtype):
    """Return the network with the published weights and its golden file."""
    weights, golden, _, _ = NETWORKS[case]
    arrays = np.load(shared(f"golden/zoo2/{golden}.npz"))
    model = network(case, arrays["ms_random"].shape[1])
    state = torch.load(shared(f"weights/zoo2/{weights}"), map_location="cpu", weights_only=True)
    model.load_state_dict(convert_state_dict(model.model_name, state), strict=True)
    return model.to(dtype), arrays


def largest_difference(model: nn.Module, arrays, which: str, expected: np.ndarray) -> float:
    """Fuse a golden input, with the golden clusters where there are some, and compare."""
    dtype = next(model.parameters()).dtype
    more = {}
    if f"clusters1_{which}" in arrays:
        more["clusters"] = [torch.from_numpy(arrays[f"clusters{i}_{which}"]).long() for i in (1, 2, 3)]
    with torch.inference_mode():
        sr = model(*(torch.from_numpy(arrays[f"{k}_{which}"]).to(dtype) for k in ("ms", "lms", "pan")), **more)
    return np.abs(sr.double().numpy() - expected).max()


@pytest.mark.parametrize("case", ["FusionMamba", "ADWM-FusionNet", "ADWM-LGPNet"])
def test_published_outputs(case, shared):
    model, arrays = published(case, shared, torch.float32)
    for which in INPUTS:
        expected = arrays[f"sr_{NETWORKS[case][2]}_{which}"]
        assert largest_difference(model, arrays, which, expected) <= TOLERANCE * np.abs(expected).max(), which


def test_published_outputs_of_adwm_lagconv(shared):
    """Features of 2000 cancel in it: in float32 the published class itself is right to 1e-4 only, or to 0.02."""
    model, arrays = published("ADWM-LAGConv", shared, torch.float64)
    for which in INPUTS:
        expected = arrays[f"sr64_LAGConv_{which}"]
        assert largest_difference(model, arrays, which, expected) <= TOLERANCE * np.abs(expected).max(), which


@pytest.mark.parametrize("case", ["CANNet", "CANNet, QB"])
def test_published_outputs_of_cannet_with_its_clusters(case, shared):
    """In float64 nothing is left but the noise of the published class; in float32 ours is of the same size."""
    facts = json.loads(shared(f"golden/zoo2/{NETWORKS[case][1]}.json").read_text())
    for which, noise in facts["nets"][0]["float32_minus_float64_max_same_clusters"].items():
        for dtype, factor in ((torch.float64, 1.01), (torch.float32, 3)):
            model, arrays = published(case, shared, dtype)
            expected = arrays[f"sr_CANNet_{which}"]
            allowed = max(TOLERANCE * np.abs(expected).max(), factor * noise)
            assert largest_difference(model, arrays, which, expected) <= allowed, (which, dtype)


@pytest.mark.parametrize("case", NETWORKS)
def test_published_parameter_counts(case):
    model = network(case, 4 if case.endswith("QB") else 8)
    assert sum(p.numel() for p in model.parameters()) == NETWORKS[case][3]


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
    model, arrays = published("CANNet, QB", shared, torch.float32)
    inputs = [torch.from_numpy(arrays[f"{k}_random"]) for k in ("ms", "lms", "pan")]
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
