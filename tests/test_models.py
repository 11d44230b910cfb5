"""Every registered method runs on what it declares: tasks, ratios, odd sizes, gradients, saving, bf16.

Names come from the registry, so that a new file in model/ is tested without an edit here.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lemamba.model import build_model, list_models, model_entry
from lemamba.utils.config import arch_file, model_arguments, resolve
from lemamba.utils.errors import UserError

ALL = list_models()
LEARNED = list_models(family="learned")
GUIDE = {"pansharpening": 1, "hmif": 3}
BANDS = {"pansharpening": (4, 8, 31), "hmif": (31,)}
TESTED_RATIOS = (4, 8)


pytestmark = pytest.mark.usefixtures("one_thread")


def cases() -> list[tuple[str, str, int, int]]:
    """Give (name, task, bands, ratio) for all that is declared; the second ratio with one number of bands only."""
    found = []
    for name in ALL:
        entry = model_entry(name)
        for task in entry.tasks:
            ratios = [r for r in TESTED_RATIOS if r in entry.ratios]
            for ratio in ratios:
                bands = BANDS[task] if ratio == ratios[0] else BANDS[task][:1]
                found += [(name, task, b, ratio) for b in bands]
    return found


def sample(bands: int, guide: int, ratio: int, h: int = 4, w: int = 4, batch: int = 1, dtype=torch.float32):
    """Smooth positive images, so that classical methods meet no division by nearly nothing."""
    ms = torch.rand(batch, bands, h, w, dtype=dtype) * 0.5 + 0.25
    lms = torch.nn.functional.interpolate(ms, scale_factor=ratio, mode="bilinear")
    pan = lms.mean(1, keepdim=True) + 0.1 * torch.rand(batch, guide, ratio * h, ratio * w, dtype=dtype)
    return ms, lms, pan


def small(name: str, bands: int = 4, task: str | None = None, ratio: int = 4) -> torch.nn.Module:
    entry = model_entry(name)
    guide = GUIDE[task or entry.tasks[0]]
    return build_model(name, img_channel=bands, condition_channel=guide, out_channel=bands, ratio=ratio).eval()


def guide_of(name: str) -> int:
    return GUIDE[model_entry(name).tasks[0]]


@pytest.mark.parametrize(("name", "task", "bands", "ratio"), cases())
def test_shape_type_and_finite(name, task, bands, ratio):
    model = small(name, bands, task, ratio)
    ms, lms, pan = sample(bands, GUIDE[task], ratio, 4, 16 // ratio)
    before = [t.clone() for t in (ms, lms, pan)]
    with torch.no_grad():
        sr = model(ms, lms, pan)
    assert sr.shape == lms.shape
    assert sr.dtype == lms.dtype
    assert sr.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, (ms, lms, pan), strict=True)), "inputs were changed in place"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("h", "w"), [(5, 7), (3, 5)])
def test_odd_sizes(name, h, w):
    ratio = next(r for r in TESTED_RATIOS if r in model_entry(name).ratios)
    model = small(name, ratio=ratio)
    ms, lms, pan = sample(4, guide_of(name), ratio, h, w)
    with torch.no_grad():
        assert model(ms, lms, pan).shape == (1, 4, ratio * h, ratio * w)


@pytest.mark.parametrize("name", ALL)
def test_images_of_a_batch_do_not_mix(name):
    model = small(name)
    ms, lms, pan = sample(4, guide_of(name), 4, batch=2)
    with torch.no_grad():
        together = model(ms, lms, pan)
        alone = model(ms[1:], lms[1:], pan[1:])
    assert torch.allclose(together[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEARNED)
def test_gradient_reaches_every_parameter(name):
    model = small(name)
    ms, lms, pan = sample(4, guide_of(name), 4)
    sr = model(ms, lms, pan)
    (sr * torch.randn_like(sr)).sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", LEARNED)
def test_saved_weights_give_the_same_output(name, tmp_path):
    first, second = small(name), small(name)
    save_file({k: v.contiguous() for k, v in first.state_dict().items()}, tmp_path / "weights.safetensors")
    second.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    inputs = sample(4, guide_of(name), 4)
    with torch.no_grad():
        assert torch.equal(first(*inputs), second(*inputs))


@pytest.mark.parametrize("name", LEARNED)
def test_bf16_autocast_on_the_cpu(name):
    model = small(name).train()
    inputs = sample(4, guide_of(name), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sr = model(*inputs)
    assert sr.isfinite().all()
    sr.float().square().mean().backward()
    with torch.no_grad():
        exact = model.eval()(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(*inputs).float()
    assert (half - exact).abs().max() <= 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", [n for n in ALL if model_entry(n).family == "classical"])
def test_classical_methods_have_no_parameters(name):
    assert not list(small(name).parameters())
    assert not small(name).state_dict()


@pytest.mark.parametrize("name", LEARNED)
def test_configuration_builds_the_network(name):
    """Where an architecture has a YAML it must resolve, name that architecture, and hold arguments it accepts."""
    config = resolve({"model": {"arch": name}})
    if arch_file(name) is not None:
        assert config.model.arch == name
    arguments = model_arguments(config)
    build_model(name, img_channel=4, condition_channel=guide_of(name), out_channel=4, **arguments)


@pytest.mark.parametrize("name", ALL)
def test_undeclared_ratio_is_an_error(name):
    with pytest.raises(UserError, match=r"is defined for ratio .* given 9"):
        build_model(name, img_channel=4, condition_channel=guide_of(name), out_channel=4, ratio=9)
