"""Published weights of the field: converted, loaded strictly, and equal to the published outputs."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from scipy.io import loadmat

from lemamba.commands import fuse as inference
from lemamba.commands import parse
from lemamba.model import build_model
from lemamba.model.convert import convert_state_dict
from lemamba.utils.errors import UserError

TOLERANCE = 1e-5  # of max|sr|
FILES = {
    "PNN": "pnn",
    "PanNet": "pannet",
    "FusionNet": "fusionnet",
    "DiCNN": "dicnn1",
    "DRPNN": "drpnn",
    "MSDCNN": "msdcnn",
}
PARAMETERS = {  # published, unique, for 8 and 4 bands
    "PNN": (104_360, 80_420),
    "PanNet": (83_024, 77_640),
    "FusionNet": (78_632, 76_324),
    "DiCNN": (46_792, 42_180),
    "DRPNN": (433_465, 418_365),
    "MSDCNN": (228_556, 189_852),
}


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("sensor", ["WV3", "QB"])
def test_published_outputs(name, sensor, shared):
    weights = shared(f"weights/dlpan/{sensor}/{FILES[name]}.pth")
    golden = np.load(shared(f"golden/zoo/dlpan_{sensor.lower()}_io.npz"))
    ms, lms, pan = (torch.from_numpy(golden[k]) for k in ("ms", "lms", "pan"))
    bands = ms.shape[1]
    model = build_model(name, img_channel=bands, condition_channel=1, out_channel=bands)
    published = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict(convert_state_dict(name, published), strict=True)
    with torch.inference_mode():
        sr = model(ms, lms, pan).numpy()
    expected = golden[f"sr_{name}"]
    assert np.abs(sr - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_published_weights_from_the_command_line(shared, tmp_path):
    """Scaling, subtraction and clipping belong to the network and the command."""
    weights = shared("weights/dlpan/WV3/fusionnet.pth")
    golden = np.load(shared("golden/zoo/dlpan_wv3_io.npz"))
    expected = np.clip(golden["sr_FusionNet"], 0, 1) * 2047
    with h5py.File(tmp_path / "test.h5", "w") as file:
        for key in ("ms", "lms", "pan"):
            file[key] = golden[key] * 2047.0
        file["gt"] = expected
    arguments = ["--arch", "fusionnet", "--weights", f"dlpan:{weights}", "--dataset", "wv3", "--pictures", "0"]
    arguments += ["--data", str(tmp_path / "test.h5"), "--out", str(tmp_path / "fused.mat")]
    assert not inference.run(parse("fuse", arguments))
    sr = loadmat(tmp_path / "fused.mat")["sr"]
    assert np.abs(sr - expected).max() <= TOLERANCE * expected.max()


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameter_counts(name):
    for bands, expected in zip((8, 4), PARAMETERS[name], strict=True):
        assert count(build_model(name, img_channel=bands, condition_channel=1, out_channel=bands)) == expected


def published_like(*modules: str) -> dict[str, torch.Tensor]:
    return {f"{m}.{p}": torch.zeros(1) for m in modules for p in ("weight", "bias")}


def test_unknown_key_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r'unknown key "conv33.weight".*did you mean "conv3"'):
        convert_state_dict("pnn", published_like("conv1", "conv2", "conv33"))


def test_missing_module_is_named():
    with pytest.raises(UserError, match=r'"conv3\.\*" is missing'):
        convert_state_dict("PNN", published_like("conv1", "conv2"))


def test_a_duplicate_that_differs_is_refused():
    blocks = [f"res{i}.conv2{j}" for i in range(1, 5) for j in (0, 1)]
    state = published_like("conv1", "conv3", *blocks, "backbone.0.conv20")
    assert len(convert_state_dict("FusionNet", state)) == 20
    state["backbone.0.conv20.weight"] = torch.ones(1)
    with pytest.raises(UserError, match="should repeat res1.conv20"):
        convert_state_dict("FusionNet", state)


def test_prefix_of_a_wrapped_model_is_dropped():
    state = {f"module.{k}": v for k, v in published_like("conv1", "conv2", "conv3").items()}
    assert set(convert_state_dict("DiCNN", state)) == {k.removeprefix("module.") for k in state}


def test_network_without_published_weights_says_so():
    with pytest.raises(UserError, match="no known published weights"):
        convert_state_dict("EXP", {})
