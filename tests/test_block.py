"""The kernels of inference against the layers that training runs, one after the other in float64."""

from __future__ import annotations

import json

import lemamba_reference as reference
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lemamba.model import build_model
from lemamba.model.layers.ss2d import VSSBlock
from lemamba.model.ops.native import block as module
from lemamba.model.ops.native import scratch as scratch_module
from lemamba.model.ops.native.build import library
from lemamba.model.ops.native.scratch import SMALLEST, scratch

pytestmark = pytest.mark.skipif(library()[0] is None, reason="no C compiler")
FUSED = {"block_cpp"}


@pytest.fixture(autouse=True)
def _native(monkeypatch):
    monkeypatch.setenv(module.VARIABLE, "cpp")
    monkeypatch.setenv("LEMAMBA_DEPTHWISE", "cpp")


def vss_block(channels: int, ratio: float = 2, **changes) -> VSSBlock:
    """Make a block whose parameters are all random: norms at their start would hide a mistake."""
    torch.manual_seed(0)
    block = VSSBlock(channels, mlp_ratio=2, d_state=6, kernel=5, ssm_ratio=ratio, **changes).eval()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if "norm" in name or "fc" in name:
                parameter.normal_(std=0.5).add_("norm" in name and "weight" in name)
    return block


def operators(call) -> set[str]:
    """Return the names of the project's operators that a call runs."""
    with torch.profiler.profile() as profile:
        call()
    return {e.key.removeprefix("lemamba::") for e in profile.key_averages() if e.key.startswith("lemamba::")}


def relative(given: torch.Tensor, expected: torch.Tensor) -> float:
    return float((given - expected).abs().max().detach() / expected.abs().max().detach())


@pytest.mark.parametrize("channels", [16, 32, 21, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_the_layers_in_float64(channels, threads):
    """Rows that fill no vector, and pixels that fill no chunk, too."""
    block, x = vss_block(channels, prev_inner=2 * channels), torch.randn(2, 11, 13, channels)
    prev = torch.randn(2, 8 * channels, 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            y, last = block(x, prev)
            assert operators(lambda: block(x, prev)) >= FUSED
    finally:
        torch.set_num_threads(before)
    expected, expected_last = block.double()(x.double(), prev.double())
    assert relative(y, expected) <= 2e-6
    assert relative(last, expected_last) <= 2e-6


@pytest.mark.parametrize(("window", "shared"), [(4, False), (4, True), (12, True)])
def test_windows_equal_cutting_and_joining(window, shared):
    """With states that arrive at every window, and windows of more pixels than a chunk, too."""
    block = vss_block(16, prev_inner=8 if shared else None)
    x, factor, boxes = torch.randn(2, window, 2 * window, 16), torch.randn(1, 1, 1, 16), 4
    prev = torch.randn(boxes, 4 * 8, 6) if shared else None
    with torch.no_grad():
        y, empty = block.windows(x, window, factor, prev, None, want_last=False)
        kept, last = block.windows(x, window, factor, prev, None, want_last=True)
        assert operators(lambda: block.windows(x, window, factor, prev, None, want_last=True)) >= FUSED
    doubles = prev.double() if prev is not None else None
    expected, states = block.double().windows(x.double(), window, factor.double(), doubles, None, want_last=True)
    assert relative(y, expected) <= 2e-6
    assert torch.equal(kept, y)
    assert empty.numel() == 0, "states that nobody reads are not written"
    assert relative(last, states) <= 2e-6


def test_threads_do_not_change_a_bit():
    """Pairs of directions and parts of the channels are threads' shares."""
    block, x, before, results = vss_block(40), torch.randn(1, 9, 10, 40), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            with torch.no_grad():
                results.append(block(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("variable", ["LEMAMBA_SCAN", "LEMAMBA_DEPTHWISE", module.VARIABLE])
def test_a_layer_that_is_forced_to_torch_is_not_in_the_kernel(monkeypatch, variable):
    monkeypatch.setenv(variable, "torch")
    block, x = vss_block(16), torch.randn(1, 8, 8, 16)
    with torch.no_grad():
        assert not operators(lambda: block(x)) & FUSED


def test_training_and_gradients_never_use_it():
    block, x = vss_block(16), torch.randn(1, 8, 8, 16)
    assert not operators(lambda: block(x)) & FUSED, "gradients are on"
    with torch.no_grad():
        assert not operators(lambda: block.train()(x)) & FUSED, "checkpointing runs forward without gradients"


def test_the_network_equals_the_second_implementation():
    golden = {k: torch.from_numpy(v) for k, v in np.load(reference.GOLDEN).items()}
    net = build_model("LEMamba", **reference.SMALL).eval()
    net.load_state_dict({k.split("/")[1]: v for k, v in golden.items() if k.startswith("parameter/")})
    with torch.inference_mode():
        sr = net(None, golden["lms"].float(), golden["pan"].float())
    assert (sr - golden["sr"]).abs().max() <= 1e-5 * golden["sr"].abs().max()


@pytest.mark.parametrize("case", ["gf2", "cave", "gf2_rect"])
def test_equals_the_published_network(shared, case):
    facts = json.loads(shared(f"golden/lemamba/lemamba_tiny_{case}.json").read_text())
    weights = np.load(shared(f"golden/lemamba/lemamba_tiny_{case}_weights.npz"))
    io = np.load(shared(f"golden/lemamba/lemamba_tiny_{case}_io.npz"))
    net = build_model("LEMamba", **facts["config"]).eval()
    net.load_state_dict(net.from_published({k: torch.from_numpy(weights[k].astype(np.float32)) for k in weights.files}))
    with torch.inference_mode():
        sr = net(*(torch.from_numpy(io[k]) for k in ("ms", "lms", "pan")))
    assert (sr - torch.from_numpy(io["sr"])).abs().max() <= 5e-6


def test_nothing_is_counted_less(monkeypatch):
    """FLOPs are those of the layers one after the other, but for the rows that fill whole cache lines."""
    net = build_model("LEMamba", **reference.SMALL).eval()
    inputs = (
        None,
        torch.rand(1, reference.SMALL["img_channel"], 32, 32),
        torch.rand(1, reference.SMALL["condition_channel"], 32, 32),
    )
    counts = []
    for way in ("torch", "cpp"):
        monkeypatch.setenv(module.VARIABLE, way)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(*inputs)
        counts.append(counter.get_total_flops())
    assert counts[0] <= counts[1] <= 1.1 * counts[0]


def test_operators_are_sound():
    """Schemas and fake implementations agree with what the kernels return."""
    block, x = vss_block(16), torch.randn(1, 8, 8, 16)
    for window, factor, want_last in ((0, None, True), (4, torch.randn(1, 1, 1, 16), False)):
        weights = [None if w is None else w.detach() for w in block._weights(factor)]
        with torch.no_grad():
            torch.library.opcheck(torch.ops.lemamba.block_cpp, (x, window, 1e-6, 1e-5, want_last, None, *weights))


def test_kept_memory_is_used_again_and_never_twice(monkeypatch):
    monkeypatch.setattr(scratch_module, "_blocks", [])
    first = scratch(SMALLEST // 4)
    view = first[10:20]
    address = first.data_ptr()
    del first
    second = scratch(SMALLEST // 4)
    assert second.data_ptr() != address, "a view still refers to it"
    del view
    assert scratch(SMALLEST // 8, 2).data_ptr() == address
    assert scratch(3, 5).shape == (3, 5)
