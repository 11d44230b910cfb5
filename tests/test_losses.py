"""Losses against formulas written out in float64 NumPy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from lemamba.losses import build_loss, list_losses
from lemamba.utils.errors import UserError


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 4, 16, 18, generator=g, dtype=torch.float64), torch.rand(
        2, 4, 16, 18, generator=g, dtype=torch.float64
    )


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, 11x11 Gaussian, sigma 1.5, range 1, valid area."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(v):
        return correlate1d(correlate1d(v, taps, -1), taps, -2)[..., 5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    vx, vy, cxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * mx * my + c1) * (2 * cxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


def reference(name: str, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    l1 = np.abs(x - y).mean()
    if name == "l1":
        return {"total": l1, "l1": l1}
    if name == "mse":
        return {"total": ((x - y) ** 2).mean(), "mse": ((x - y) ** 2).mean()}
    if name == "charbonnier":
        value = np.sqrt((x - y) ** 2 + 1e-6).mean()
        return {"total": value, "charbonnier": value}
    if name == "l1ssim":
        part = 1 - ssim(x, y)
        return {"total": l1 + 0.1 * part, "l1": l1, "ssim": part}
    cos = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    angle = np.arccos(np.clip(cos, -1, 1)).mean()
    return {"total": l1 + 0.1 * angle, "l1": l1, "sam": angle}


@pytest.mark.parametrize("name", list_losses())
def test_values_match_the_formulas(name, pair):
    given = build_loss(name)(*pair)
    expected = reference(name, *(p.numpy() for p in pair))
    assert given.keys() == expected.keys()
    for key, value in expected.items():
        assert float(given[key]) == pytest.approx(value, rel=1e-9), key


@pytest.mark.parametrize("name", list_losses())
def test_gradients_are_right_and_finite_at_equality_and_black_pixels(name, pair):
    sr, gt = (p[:1, :2, :12, :12].clone() for p in pair)
    loss = build_loss(name)
    assert torch.autograd.gradcheck(lambda x: loss(x, gt)["total"], sr.requires_grad_(True))
    for x, y in ((gt.clone(), gt), (torch.zeros_like(gt), gt), (gt.clone(), torch.zeros_like(gt))):
        x = x.float().requires_grad_(True)
        loss(x, y.float())["total"].backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", list_losses())
def test_equal_images_have_the_smallest_loss(name, pair):
    loss = build_loss(name)
    assert float(loss(pair[0], pair[0])["total"]) < 2e-3 < float(loss(*pair)["total"])


def test_unknown_names_and_arguments_suggest_the_nearest():
    with pytest.raises(UserError, match='did you mean "l1ssim"'):
        build_loss("l1-sim")
    with pytest.raises(UserError, match='did you mean "weight"'):
        build_loss("l1ssim", wieght=1)
    assert build_loss("L1-SSIM", weight=0.5).weight == 0.5


def test_a_file_in_a_named_folder_is_a_loss(tmp_path, monkeypatch, pair):
    (tmp_path / "any_file.py").write_text(
        "from torch import nn\nfrom lemamba.utils.registry import register_loss\n\n"
        '@register_loss("twice")\nclass Twice(nn.Module):\n'
        '    def forward(self, sr, gt):\n        return {"total": 2 * (sr - gt).abs().mean()}\n'
    )
    assert "twice" not in list_losses()
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    assert "twice" in list_losses()
    assert torch.equal(build_loss("twice")(*pair)["total"], 2 * build_loss("l1")(*pair)["total"])


def test_listing_imports_no_loss():
    code = "import sys; from lemamba import losses; losses.list_losses(); print('lemamba.losses.l1' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
