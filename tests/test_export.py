"""ONNX files give what the network gives, at other sizes too; what cannot be exported is refused in one line."""

from __future__ import annotations

import pytest
import torch

from lemamba.commands import export, parse
from lemamba.commands.adapting import STEPS
from lemamba.engine.weights import onnx_file
from lemamba.engine.weights.files import save_weights
from lemamba.engine.weights.onnx_file import Session, Sizes
from lemamba.model import build_model, list_models, model_entry
from lemamba.model.ops.portable import is_portable, portable
from lemamba.model.ops.scan import portable_backend, reference
from lemamba.model.ops.scan.cross import cross_selective_scan
from lemamba.model.ops.scan.interface import ScanInputs
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
    images = Sizes(bands, guide, 4, 16).images(*((2, 11, 21) if facts["sizes of ms"] == "free" else ()))
    with torch.no_grad():
        sr = network(*images)
    assert torch.allclose(session(*images), sr, rtol=1e-4, atol=1e-4)
    return facts


def test_a_convolutional_network(tmp_path, capsys):
    need_onnx()
    network, path = saved(tmp_path, "DiCNN")
    facts = check(network, path, tmp_path / "net.onnx", capsys)
    assert (facts["method"], facts["sensor"], facts["sizes of ms"]) == ("DiCNN", "IKONOS", "free")
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


@pytest.mark.parametrize("length", [1, 64, 65, 150])
def test_the_scan_for_exporters_is_the_scan(length):
    groups, channels, states, batch = 2, 3, 4, 2
    u, delta = torch.randn(2, batch, groups * channels, length, dtype=torch.float64)
    B, C = torch.randn(2, batch, groups, states, length, dtype=torch.float64)
    A = -torch.rand(groups * channels, states, dtype=torch.float64)
    D, bias = torch.randn(2, groups * channels, dtype=torch.float64)
    first = torch.randn(batch, groups * channels, states, dtype=torch.float64)
    inputs = ScanInputs(u, delta, A, B, C, D, bias, True, first)
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
    """Four directions of an image, sizes and batch unknown at export; what LE-Mamba is made of besides convolutions."""
    need_onnx()
    from lemamba.engine.weights.onnx_loops import translations

    class Scan(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shapes = {"A": (16, 3), "D": (16,), "weight": (4, 4, 2), "bias": (16,)}
            for name, shape in shapes.items():
                self.register_buffer(name, torch.rand(shape) * (-1 if name == "A" else 1))

        def forward(self, x, dt, B, C):
            return cross_selective_scan(x, dt, B, C, self.A, self.D, self.weight, self.bias)

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
        onnx_file._difference(lambda ms, lms, pan: lms + 0.1, _identity(), Sizes(4, 1, 4, 8), onnx_file._Freedom(0, batch=False))


def _identity() -> bytes:
    from onnx import TensorProto, helper

    axes = ["b", "c", "H", "W"]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, axes) for n in ("lms", "sr")]
    graph = helper.make_graph([helper.make_node("Identity", ["lms"], ["sr"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_file.OPSET)], ir_version=9)
    return model.SerializeToString()
