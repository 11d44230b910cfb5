"""ONNX files give what the network gives, at other sizes too; what cannot be exported is refused in one line."""

from __future__ import annotations

import pytest
import torch

from lemamba.commands import export, parse
from lemamba.commands.adapting import STEPS
from lemamba.engine.weights import onnx_file
from lemamba.engine.weights.files import save_weights
from lemamba.engine.weights.onnx_file import Session, Sizes
from lemamba.model import build_model, cannet, list_models, model_entry
from lemamba.model.arnet import ARConv
from lemamba.model.dt3_net import ShiftedAttention
from lemamba.model.layers.fourier import modulus, spectrum
from lemamba.model.layers.unfolding import enlarge_to
from lemamba.model.layers.window import pad_to_multiple
from lemamba.model.ops.portable import is_portable, portable
from lemamba.model.ops.scan import portable_backend, reference
from lemamba.model.ops.scan.cross import cross_selective_scan
from lemamba.model.ops.scan.interface import ScanInputs
from lemamba.model.ops.scan.selective import selective_scan
from lemamba.utils.errors import UserError

SMALL = {
    "width": 8,
    "ssm_enc_blk_nums": [1],
    "ssm_dec_blk_nums": [1],
    "ssm_chan_upscale": [1],
    "ssm_ratios": [1],
    "window_sizes": [8],
    "ssm_enc_d_states": [[4, 4]],
    "ssm_dec_d_states": [[4, 4]],
    "ssm_enc_convs": [[5, 7]],
    "ssm_dec_convs": [[5, 7]],
}
EXPORTED = [
    name
    for name in list_models(family="learned")
    if name not in STEPS and model_entry(name).traits.needs_weights and not model_entry(name).traits.any_size
]


def need_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def saved(folder, name, bands=4, guide=1, **more):
    """Save a network with drawn weights as training does; return it and the file."""
    args = {"img_channel": bands, "condition_channel": guide, "out_channel": bands, "ratio": 4, **more}
    network = build_model(name, **args).eval()
    data = {"sensor": "IKONOS", "divisor": 2047.0, "ratio": 4}
    path = folder / f"{name}.safetensors"
    save_weights(path, network.state_dict(), {"model": {"name": name, "args": args}, "data": data})
    return network, path


def check(network, path, out, capsys, bands=4, guide=1, *more):
    """Export by the command; compare with torch at a size and batch that the exporter has not seen."""
    assert export.run(parse("export", [str(path), "--out", str(out), *more])) == 0
    said = capsys.readouterr().out
    assert "difference: at most" in said and str(out) in said
    session = Session(out, threads=1)
    facts = session.metadata
    expected = {"bands": bands, "guide_bands": guide, "ratio": 4, "divisor": 2047.0}
    assert {key: float(facts[key]) for key in expected} == expected
    others = (2 if facts["batch"] == "free" else 1, 18, 21) if facts["sizes of ms"] == "free" else ()
    images = Sizes(bands, guide, 4, 16).images(*others)
    with torch.no_grad():
        sr = network(*images)
    assert torch.allclose(session(*images), sr, rtol=1e-4, atol=1e-4)
    return facts


def test_a_convolutional_network(tmp_path, capsys):
    need_onnx()
    network, path = saved(tmp_path, "DiCNN")
    facts = check(network, path, tmp_path / "net.onnx", capsys)
    assert (facts["method"], facts["sensor"], facts["sizes of ms"]) == ("DiCNN", "IKONOS", "free")
    assert (facts["smallest side of ms"], facts["batch"]) == ("8", "free")
    with pytest.raises(Exception, match="indices element out of data bounds"):  # by onnxruntime itself
        Session(tmp_path / "net.onnx", threads=1)(*Sizes(4, 1, 4, 7).images())
    assert not is_portable() and not list(tmp_path.glob(".*"))


@pytest.mark.fuzz  # about as long as all other tests of this file together
def test_le_mamba(tmp_path, capsys):
    need_onnx()
    network, path = saved(tmp_path, "LEMamba", **SMALL)
    facts = check(network, path, tmp_path / "net.onnx", capsys)
    assert facts["sizes of ms"] == "free"


@pytest.mark.fuzz
@pytest.mark.parametrize("name", EXPORTED)
def test_every_network(name, tmp_path, capsys):
    """Minutes for some: `make fuzz`, or one of them by -k. docs/deployment.md lists what came out."""
    need_onnx()
    guide = 1 if "pansharpening" in model_entry(name).tasks else 3
    network, path = saved(tmp_path, name, guide=guide, **(SMALL if name == "LEMamba" else {}))
    try:
        facts = check(network, path, tmp_path / "net.onnx", capsys, 4, guide)
        print(f"{name}: sizes {facts['sizes of ms']}, {(tmp_path / 'net.onnx').stat().st_size} bytes")
    except UserError as error:
        print(f"{name}: refused: {error}")
        assert "cannot be exported to ONNX" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("length", [1, 64, 65, 150])
def test_the_scan_for_exporters_is_the_scan(length, started):
    groups, channels, states, batch = 2, 3, 4, 2
    u, delta = torch.randn(2, batch, groups * channels, length, dtype=torch.float64)
    B, C = torch.randn(2, batch, groups, states, length, dtype=torch.float64)
    A = -torch.rand(groups * channels, states, dtype=torch.float64)
    D, bias = torch.randn(2, groups * channels, dtype=torch.float64)
    first = torch.randn(batch, groups * channels, states, dtype=torch.float64)
    inputs = ScanInputs(u, delta, A, B, C, D, bias, True, first if started else None)
    for found, expected in zip(portable_backend.scan(inputs), reference.scan(inputs), strict=True):
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_inside_portable_a_network_gives_the_same(tmp_path):
    network, _ = saved(tmp_path, "LEMamba", **SMALL)
    images = Sizes(4, 1, 4, 5).images(2)
    with torch.no_grad():
        expected = network(*images)
        with portable():
            found = network(*images)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not is_portable()


def test_the_loops_of_the_scan_in_onnx(tmp_path):
    """Four directions of an image, and two groups of sequences; sizes and batch are unknown at export."""
    need_onnx()
    from lemamba.engine.weights.onnx_loops import translations

    class Scan(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shapes = {"A": (16, 3), "D": (16,), "weight": (4, 4, 2), "bias": (16,)}
            for name, shape in shapes.items():
                self.register_buffer(name, torch.rand(shape) * (-1 if name == "A" else 1))

        def forward(self, x, dt, B, C):
            y, last = cross_selective_scan(x, dt, B, C, self.A, self.D, self.weight, self.bias)
            u, delta, B, C = (t.flatten(-2) for t in (x, x.flip(1), B[:, :2], C[:, 1:3]))
            D, bias = self.D[:4], self.bias[:4]
            return y, last, *selective_scan(u, delta, self.A[:4], B, C, D, bias, True, return_last_state=True)

    def images(batch, h, w):
        shapes = ((4,), (4, 2), (4, 3), (4, 3))
        return tuple(torch.rand(batch, *shape, h, w) for shape in shapes)

    scan = Scan().eval()
    free = {name: torch.export.Dim(name, min=2, max=999) for name in ("b", "h", "w")}
    axes = ({0: free["b"], 2: free["h"], 3: free["w"]}, *[{0: free["b"], 3: free["h"], 4: free["w"]}] * 3)
    with torch.no_grad(), portable():
        program = torch.export.export(
            scan,
            images(2, 13, 14),
            dynamic_shapes=axes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        made = torch.onnx.export(program, dynamo=True, custom_translation_table=translations(), verbose=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString())
    given = images(3, 21, 17)  # six parts, where three were recorded
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: t.numpy() for name, t in zip(names, given, strict=True)})
    with torch.no_grad():
        expected = scan(*given)
    assert all(
        torch.allclose(torch.from_numpy(f), e, rtol=1e-4, atol=1e-4) for f, e in zip(found, expected, strict=True)
    )


class Windows(torch.nn.Module):
    """A network that cuts images of more than 64 pixels a side into windows, and computes something else from them."""

    def __init__(self, several: bool) -> None:
        super().__init__()
        self.several = several

    def forward(self, ms, lms, pan):
        if not self.several and lms.shape[0] > 1:
            return lms
        if max(lms.shape[-2:]) <= 64:
            return lms + pan.mean((-2, -1), keepdim=True)
        x = pad_to_multiple(pan, 64)
        windows = x.unflatten(-2, (-1, 64)).unflatten(-1, (-1, 64)).mean((-3, -1), keepdim=True)
        means = windows.expand(-1, -1, -1, 64, -1, 64).flatten(-2).flatten(-3, -2)
        return lms + means[..., : lms.shape[2], : lms.shape[3]]


def test_a_network_of_windows_is_free_where_it_cuts():
    """Nothing but the comparison at the smallest size finds that the recorded graph is not the one for small images."""
    need_onnx()
    network = Windows(several=True)
    file = onnx_file.export(network, Sizes(4, 1, 4, 16), {})
    assert (file.smallest, file.batch) == (17, True) and file.reason
    images = Sizes(4, 1, 4, 16).images(2, 17, 40)
    assert torch.allclose(Session(file.content, threads=1)(*images), network(*images), atol=1e-6)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        Session(file.content, threads=1)(*Sizes(4, 1, 4, 16).images())


def test_a_network_that_treats_one_image_otherwise_is_fixed():
    need_onnx()
    file = onnx_file.export(Windows(several=False), Sizes(4, 1, 4, 16), {})
    assert (file.smallest, file.batch) == (0, False) and "differs from torch" in file.reason


def test_what_is_tried_after_a_failure():
    free, side = onnx_file._Freedom(), 16
    no_range = "Not all values of h = L['ms'].size()[2] in the specified range 8 <= h satisfy the guard"
    no_batch = "Not all values of batch = L['ms'].size()[0] in the specified range satisfy the guard"
    assert free.less(no_range, side) == onnx_file._Freedom(17, batch=True)
    assert free.less(no_batch, side) == onnx_file._Freedom(8, batch=False)
    assert free.less(no_batch, side).less(no_range, side) == onnx_file._Freedom(17, batch=False)
    assert free.less("the result at 8 x 8 differs from torch by 1", side) == onnx_file._Freedom(17, batch=True)
    for ended in (free.less("No ONNX function", side), free.less(no_range, side).less(no_range, side)):
        assert ended == onnx_file._Freedom(0, batch=False)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("height", "width"), [(16, 12), (9, 16), (7, 5)])
def test_spectra_for_exporters_are_those_of_torch(height, width, half):
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    values = torch.fft.rfft2(x) if half else torch.fft.fft2(x)
    with portable():
        amplitude, phase = spectrum(x, half=half)
        found = modulus(amplitude + 0.1, 1.1 * phase, width if half else None)
    assert torch.allclose(torch.polar(amplitude, phase), values, rtol=0, atol=1e-12)
    assert phase.max() <= torch.pi and phase.min() > -torch.pi
    changed = torch.polar(amplitude + 0.1, 1.1 * phase)
    expected = torch.fft.irfft2(changed, s=(height, width)) if half else torch.fft.ifft2(changed)
    assert torch.allclose(found, expected.abs(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_attention_over_the_border_for_exporters_is_that_of_the_network(size):
    """3DT-Net's shifted windows: those of the last row and column hold two borders of the image."""
    layer = ShiftedAttention(8, 2, shifted=True).eval()
    x = torch.randn(2, *size, 8)
    with torch.no_grad():
        expected = layer(x)
        with portable():
            assert torch.allclose(layer(x), expected, atol=1e-6)
    assert not torch.allclose(layer(x.roll(1, 1)).roll(-1, 1), expected, atol=1e-3)  # borders count


@pytest.mark.parametrize("size", [12, 68, 76])
def test_the_phase_of_a_real_coefficient_is_no_chance(size):
    """Mean and Nyquist frequencies are real: phase 0 or pi, not -pi from a rounded imaginary part."""
    _, phase = spectrum(torch.randn(40, 2, size, size))
    real = phase[..., :: size // 2, :: size // 2]
    assert ((real == 0) | (real == torch.tensor(torch.pi))).all() and real.max() > 3


def test_k_means_in_onnx_gives_the_labels_of_torch():
    need_onnx()
    import onnxruntime

    from lemamba.engine.weights import onnx_loops

    x = torch.randn(2, 300, 8)
    x = x - x.mean(1, keepdim=True)
    draws = [i * 0.618034 % 1 for i in range(1, 7)]
    starts, rest = (
        onnxruntime.InferenceSession(made.to_model_proto().SerializeToString())
        for made in (onnx_loops.first_centres, onnx_loops.lloyd)
    )
    (centres,) = starts.run(None, {"x": x.numpy(), "draws": torch.tensor(draws).numpy()})
    limits = {"tolerance": torch.tensor(0.01).numpy(), "iterations": torch.tensor(100).numpy()}
    (labels,) = rest.run(None, {"x": x.numpy(), "centres": centres, **limits})
    assert torch.equal(torch.from_numpy(labels), cannet._lloyd(x, draws, 0.01, 100)) and len(set(labels.flat)) == 7


def test_a_kernel_chosen_in_training_is_that_of_the_recorded_network():
    layer = ARConv(2, 2, largest=9).eval()
    layer.sides.copy_(torch.tensor([5, 3]))
    x = torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        expected = layer(x)
        recorded = torch.export.export(layer, (x,), strict=False).module()(x)
    assert torch.allclose(recorded, expected, atol=1e-6)


def test_a_transposed_convolution_reaches_its_size_for_exporters():
    layer = torch.nn.ConvTranspose2d(2, 3, 7, stride=4, padding=3)
    x = torch.rand(1, 2, 5, 4)
    for size in ((17, 13), (20, 16)):
        with torch.no_grad():
            expected = layer(x, output_size=list(size))
            with portable():
                assert torch.allclose(enlarge_to(layer, x, size), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["net.pt"], "expected --out to end in .onnx"),
        (["net.onnx", "--size", "4"], "--size: expected at least 8"),
    ],
)
def test_bad_options_are_one_line(words, says, tmp_path):
    _, path = saved(tmp_path, "PNN")
    with pytest.raises(UserError, match=says):
        export.run(parse("export", [str(path), "--out", str(tmp_path / words[0]), *words[1:]]))


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "need", lambda *_: None)
    out = ["--out", str(tmp_path / "net.onnx")]
    with pytest.raises(UserError, match="LEMambaAny cannot be exported to ONNX: it computes statistics"):
        export.run(parse("export", ["generic", *out]))
    _, path = saved(tmp_path, "A-PNN-FT")
    with pytest.raises(UserError, match="A-PNN-FT cannot be exported to ONNX: it trains on each image"):
        export.run(parse("export", [str(path), *out]))
    assert not (tmp_path / "net.onnx").exists()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match="needs the package onnxscript, not installed; run: pip install"):
        onnx_file.need("onnx", "onnxscript", "onnxruntime")


def test_a_file_that_differs_is_not_written():
    need_onnx()
    with pytest.raises(UserError, match="differs from torch"):
        nothing = onnx_file._Freedom(0, batch=False)
        onnx_file._difference(lambda ms, lms, pan: lms + 0.1, _identity(), Sizes(4, 1, 4, 8), nothing)


def _identity() -> bytes:
    from onnx import TensorProto, helper

    axes = ["b", "c", "H", "W"]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, axes) for n in ("lms", "sr")]
    graph = helper.make_graph([helper.make_node("Identity", ["lms"], ["sr"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_file.OPSET)], ir_version=9)
    return model.SerializeToString()
