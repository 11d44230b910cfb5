"""Fusing fast: batches, half precision and the compiler change no number beyond what they say, and fail in one line."""

from __future__ import annotations

import copy
import shutil
import sys

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from lemamba.commands import fuse as inference
from lemamba.commands import parse
from lemamba.commands.images import fuse_set
from lemamba.datasets.h5 import H5Dataset
from lemamba.engine.fusing.runner import Runner
from lemamba.engine.fusing.tiles import fuse
from lemamba.engine.fusing.tiling import Tiling, default_batch
from lemamba.engine.weights.files import load_weights, open_weights, save_weights
from lemamba.model import build_model, list_models, model_entry
from lemamba.model.layers.ss2d import VSSBlock
from lemamba.operators import interp23
from lemamba.utils.errors import UserError
from lemamba.utils.registry import Traits

CPU = torch.device("cpu")
SIZES = {"img_channel": 4, "condition_channel": 1, "out_channel": 4}
TINY = {"width": 8, "ssm_enc_blk_nums": [1, 1, 1], "ssm_dec_blk_nums": [1, 1, 1]}


def images(count: int, side: int = 32, guide: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ms = torch.rand(count, 4, side // 4, side // 4, dtype=torch.float64)
    return ms.float(), interp23(ms, 4).float(), torch.rand(count, guide, side, side)


@pytest.fixture
def five(tmp_path):
    """An H5 file of five images of different brightness."""
    ms, lms, pan = images(5, 64)
    with h5py.File(tmp_path / "five.h5", "w") as file:
        for key, value in {"ms": ms, "lms": lms, "pan": pan}.items():
            file[key] = (value * torch.linspace(200, 2000, 5).view(5, 1, 1, 1)).numpy()
    return H5Dataset(tmp_path / "five.h5", sensor="IKONOS")


class Counting(nn.Module):
    """A network of one pixel that records how many images it saw at once."""

    model_name, traits = "Counting", Traits()

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, ms: torch.Tensor, lms: torch.Tensor, pan: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(lms))
        return 0.5 * lms + 0.25 * pan


@pytest.mark.parametrize("name", [*list_models(family="classical"), "LEMamba"])
def test_batches_change_nothing(name, five, monkeypatch):
    """Any number of images at once gives what one by one gives: statistics are of an image, never of a batch."""
    settings = TINY if name == "LEMamba" else {"sensor": five.facts.sensor}
    method = build_model(name, **SIZES, ratio=4, **settings).eval()
    module = sys.modules[type(method).__module__]
    for steps in ("_ITERATIONS", "_ROUNDS", "_UPDATES", "_REACH"):  # images could mix in any step: two of each do
        if hasattr(module, steps):
            monkeypatch.setattr(module, steps, 2)
    single = fuse_set(Runner(method, CPU, Tiling(batch=1)), five)[0]
    for batch in (2, 5, 8):
        together = fuse_set(Runner(method, CPU, Tiling(batch=batch)), five)[0]
        assert together.keys() == single.keys()
        for key, value in together.items():
            torch.testing.assert_close(value, single[key], rtol=0, atol=1e-6 * five.facts.divisor)


def test_batch_and_tiles_go_to_the_network_as_asked(five):
    network = Counting()
    fuse_set(Runner(network, CPU, Tiling(batch=2)), five)
    assert network.seen == [2, 2, 1]
    network.seen.clear()
    fuse_set(Runner(network, CPU, Tiling(32, 0, 3)), five)
    assert network.seen == [3, 1] * 5


def test_default_batch_fills_the_device_and_is_at_least_one():
    for device in ("cpu", "cuda"):
        assert default_batch(5000, 5000, device) == 1
        assert default_batch(32, 32, device) >= 2 * default_batch(64, 64, device) >= 4
    assert default_batch(64, 64, "cuda") > default_batch(64, 64, "cpu")


def in_half_precision(name: str) -> bool:
    traits = model_entry(name).traits
    return not (traits.adapts or traits.float64)


@pytest.mark.parametrize("name", filter(in_half_precision, list_models(family="learned")))
def test_every_network_runs_in_bf16(name):
    """Weights are halved, what comes out is float32 and close; parts that insist on float32 still run."""
    guide = 1 if "pansharpening" in model_entry(name).tasks else 3
    network = build_model(name, **{**SIZES, "condition_channel": guide}).eval()
    batch = images(1, 32, guide)
    runner = Runner(copy.deepcopy(network), CPU, Tiling(precision="bf16"))
    with torch.inference_mode():
        exact, sr = network(*batch), runner(*batch)
    assert sr.dtype == torch.float32 and not torch.equal(sr, exact)
    assert (sr - exact).abs().max() <= 0.03 * exact.abs().max()
    kept = {n.rpartition(".")[2] for n, p in runner.named_parameters() if p.dtype == torch.float32}
    assert kept == ({"A_log", "D", "dt_bias"} if name == "LEMamba" else set())


@pytest.mark.parametrize(("precision", "words"), [("fp16", "needs a GPU"), ("int8", "expected a precision")])
def test_precisions_that_cannot_be(precision, words):
    with pytest.raises(UserError, match=words):
        Runner(Counting(), CPU, Tiling(precision=precision))


def test_classical_methods_keep_their_precision(capsys):
    method = build_model("Brovey", **SIZES, ratio=4, sensor="none")
    batch = images(2)
    torch.testing.assert_close(Runner(method, CPU, Tiling(precision="bf16"), compile=True)(*batch), method(*batch))
    assert "float64" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ the compiler


@pytest.fixture
def recorded(monkeypatch):
    """`torch.compile` that compiles nothing and writes down the sizes of the batches."""
    sizes: list[int] = []

    def stand_in(network, **options):
        assert options["dynamic"] is False
        return lambda *inputs: sizes.append(len(inputs[0])) or network(*inputs)

    monkeypatch.setattr(torch, "compile", stand_in)
    return sizes


def test_compiled_networks_always_see_full_batches(recorded):
    network, batch = Counting(), images(2, 64)
    runner = Runner(network, CPU, Tiling(batch=4), compile=True)
    for tiling in (Tiling(32, 8, 2), Tiling()):
        torch.testing.assert_close(fuse(runner, *batch, tiling), fuse(network, *batch, tiling))
    assert set(recorded) == {4}


def test_a_compiler_that_fails_costs_one_line(monkeypatch, capsys):
    """At the first call already, with the result of the network as it is; later calls do not try again."""
    calls = []

    def broken(*inputs):
        calls.append(1)
        raise RuntimeError("no such target\nand more")

    monkeypatch.setattr(torch, "compile", lambda network, **_: broken)
    network, batch = Counting(), images(2)
    runner = Runner(network, CPU, compile=True)
    for _ in range(2):
        torch.testing.assert_close(runner(*batch), network(*batch))
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "no such target)" in told and len(calls) == 1


def test_no_compiler_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    network, batch = Counting(), images(1)
    torch.testing.assert_close(Runner(network, CPU, compile=True)(*batch), network(*batch))
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "apt-get install g++" in told


def test_what_the_network_refuses_is_said_as_ever(recorded):
    runner = Runner(build_model("LEMamba", **SIZES, **TINY).eval(), CPU, compile=True)
    ms, lms, pan = images(1)
    with pytest.raises(UserError, match="LEMamba expects"):
        runner(ms, lms, pan[..., :16, :16])


class OneBlock(nn.Module):
    """One block of LE-Mamba: what a compiler meets, in the smallest number of kernels."""

    model_name, traits = "OneBlock", Traits()

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(5, 8), nn.Linear(8, 4)
        self.block = VSSBlock(8, mlp_ratio=1, d_state=4, kernel=3, ssm_ratio=1)

    def forward(self, ms: torch.Tensor, lms: torch.Tensor, pan: torch.Tensor) -> torch.Tensor:
        x, _ = self.block(self.head(torch.cat((lms, pan), dim=1).permute(0, 2, 3, 1)))
        return lms + self.tail(x).permute(0, 3, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_compiled_equals_eager(precision, capsys):
    """Through the C++ compiler, scan included; an incomplete batch too."""
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs g++ on a CPU")
    network = OneBlock().eval()
    plain = Runner(copy.deepcopy(network), CPU, Tiling(precision=precision))
    runner = Runner(network, CPU, Tiling(batch=2, precision=precision), compile=True)
    with torch.inference_mode():
        for count in (2, 1):
            batch = images(count)
            error = (runner(*batch) - plain(*batch)).abs().max()
            assert error < (1e-5 if precision == "no" else 0.02)
    assert capsys.readouterr().out == ""  # it did not fall back


@pytest.mark.parametrize("wanted", [False, True])
def test_tf32_is_as_asked_and_afterwards_as_before(wanted):
    """torch's own default rounds the operands of a GPU's convolutions to 10 bits."""

    class Look(torch.nn.Module):
        def forward(self, ms, lms, pan):
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return lms

    seen: list = []
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    Runner(Look().eval(), CPU, tf32=wanted)(*images(1))
    assert seen == [("high", True) if wanted else ("highest", False)]
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert parse("fuse", ["--tf32"] if wanted else []).tf32 is wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("precision", "error"), [("no", 1e-4), ("bf16", 0.03), ("fp16", 0.01)])
@pytest.mark.parametrize("compiled", [False, True])  # compiling takes long: last
def test_gpu_modes_equal_the_cpu(precision, error, compiled, capsys):
    """Half types and CUDA graphs: results of one call are not overwritten by the next."""
    network = build_model("LEMamba", **SIZES, **TINY).eval()
    runner = Runner(
        copy.deepcopy(network), torch.device("cuda"), Tiling(batch=4, precision=precision), compile=compiled
    )
    batches = [images(4), images(4), images(3)]
    with torch.inference_mode():
        results = [runner(*batch) for batch in batches]
        for batch, sr in zip(batches, results, strict=True):
            assert (sr.cpu() - network(*batch)).abs().max() < error
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------ the command line, weights


def test_flags_reach_the_network(tmp_path, five, capsys):
    network = build_model("LEMamba", **SIZES, **TINY)
    meta = {"model": {"name": "LEMamba", "args": {**SIZES, **TINY, "ratio": 4}}, "data": {"dataset": "ikonos"}}
    save_weights(tmp_path / "net.safetensors", network.state_dict(), meta)
    base = ["--weights", str(tmp_path / "net.safetensors"), "--data", str(five.path), "--pictures", "0"]
    results = {}
    for name, flags in (("one", ["--batch", "1"]), ("auto", []), ("half", ["--precision", "bf16", "--batch", "3"])):
        inference.run(parse("fuse", [*base, "--device", "cpu", "--out", str(tmp_path / f"{name}.mat"), *flags]))
        results[name] = inference_result(tmp_path / f"{name}.mat")
    assert np.abs(results["auto"] - results["one"]).max() <= 1e-6 * 2047
    assert 0 < np.abs(results["half"] - results["one"]).max() < 0.02 * 2047
    with pytest.raises(UserError, match="--batch_size: expected at least 1, given 0"):
        inference.run(parse("fuse", [*base, "--batch", "0"]))
    with pytest.raises(UserError, match="needs a GPU"):
        inference.run(parse("fuse", [*base, "--precision", "fp16", "--device", "cpu"]))


def inference_result(path):
    from lemamba.utils.formats.mat import read_mat

    return read_mat(path)["sr"]


def test_weights_are_converted_only_where_they_are_published(tmp_path):
    """Our names load as they are from any file; foreign names, or what is said to be published, are converted."""
    network = build_model("PNN", **SIZES)
    ours = {n: torch.rand_like(v) for n, v in network.state_dict().items()}
    theirs = {f"their.{n}": v for n, v in ours.items()}
    torch.save(ours, tmp_path / "ours.pth")
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    save_weights(tmp_path / "run.safetensors", theirs, {"model": {"name": "PNN"}})

    def convert(state):
        return {n.removeprefix("their."): v for n, v in state.items()}

    for given in ("ours.pth", "theirs.pth"):
        loaded = load_weights(build_model("PNN", **SIZES), open_weights(str(tmp_path / given)), convert).state_dict()
        assert all(torch.equal(loaded[n], v) for n, v in ours.items())
    with pytest.raises(UserError, match="missing"):  # a run that says what it is has no foreign names
        load_weights(network, open_weights(str(tmp_path / "run.safetensors")), convert)
    said = open_weights(f"dlpan:{tmp_path / 'run.safetensors'}")
    assert torch.equal(load_weights(network, said, convert).state_dict()[next(iter(ours))], next(iter(ours.values())))
