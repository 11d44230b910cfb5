"""Weights for data of other bands: mapped by wavelength or remade, for every network that can be trained."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from scipy.io import loadmat
from small_files import write_training_set

from lemamba.commands import train as accelerate_main
from lemamba.engine.weights.bands import Bands, adapt_bands, interpolation
from lemamba.engine.weights.files import WeightFile, open_weights, read_weights, save_weights
from lemamba.model import build_model, list_models, model_entry
from lemamba.model.convert import convert_state_dict
from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import SENSORS, Sensor, get_sensor

NETWORKS = [
    name for name in list_models(family="learned") if (t := model_entry(name).traits).trained and not t.any_size
]
NOT_ALL = {"FeINFN"}  # some of its layers have C + 2 or 128 + C + P channels: these start anew
BLOCKS = {"ssm_enc_blk_nums": [1, 1, 1], "ssm_dec_blk_nums": [1, 1, 1]}
SMALL = {  # fewer and narrower blocks, which do not know the bands
    "LEMamba": {"width": 8, **BLOCKS},
    "PanMamba": {"depth": 1, "cross_depth": 1},
    **{name: {"depth": 1} for name in ("DCFNet", "LFormer", "FeINFN", "PSRT")},
    **{name: {"width": 8} for name in ("ARConv", "FusionMamba", "panRWKV")},
    "3DT-Net": {"stages": 1, "width": 12, "heads": 2, "depth": 1},
    "MoG-DCN": {"stages": 1},
    "BDT": {"width": 16},
    "PAN-Crafter": {"width": 32, "embedding": 16, "groups": 8, "depth": 1},
    "S2DBPN": {"width": 16, "narrow": 8, "rounds": 1},
}
# SSRNet puts the guide in the place of some bands, FusionMamba scans the bands, 3DT-Net convolves over them
BY_PLACE = {"SSRNet", "FusionMamba", "3DT-Net"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _own_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _reversed_sensor(monkeypatch):
    """QuickBird with its bands in the opposite order."""
    turned = Sensor("turned", 4, 2047, (1, 2, 3), (0.3,), 0.15, wavelengths=get_sensor("QB").wavelengths[::-1])
    monkeypatch.setitem(SENSORS, "turned", turned)


def builder(name: str):
    more = SMALL.get(name, {})
    return lambda c, p: build_model(name, img_channel=c, condition_channel=p, out_channel=c, **more).eval()


def weights_of(network: torch.nn.Module, bands: Bands) -> WeightFile:
    args = {"img_channel": bands.bands, "condition_channel": bands.guide}
    return WeightFile(Path("w"), network.state_dict(), {"model": {"args": args}, "data": {"sensor": bands.sensor}})


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """Change all weights a little, so that none is zero or one because it was built so."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def adapted(name, network, source, target, **more):
    build = builder(name)
    model = build(target.bands, target.guide)
    rows = adapt_bands(model, weights_of(network, source), dict, build=build, target=target, **more)
    return model, rows


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_sensor_changes_nothing_and_one_of_another_order_permutes_the_bands(name):
    guide = 1 if "pansharpening" in model_entry(name).tasks else 3
    source = Bands(4, guide, "QB")
    network = moved(builder(name)(4, guide))
    same, rows = adapted(name, network, source, source)
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in same.state_dict().items())
    assert len(rows) > 1 and "remade" not in str(rows)
    turned, rows = adapted(name, network, source, Bands(4, guide, "turned"))
    partly = "belongs to no single band" in str(rows)
    assert partly or name not in NOT_ALL
    if partly or name in BY_PLACE:
        return
    ms, lms, pan = torch.rand(1, 4, 4, 4), torch.rand(1, 4, 16, 16), torch.rand(1, guide, 16, 16)
    with torch.no_grad():
        expected = network(ms, lms, pan).flip(1)
        torch.testing.assert_close(turned(ms.flip(1), lms.flip(1), pan), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(network(ms.flip(1), lms.flip(1), pan), expected, rtol=1e-2, atol=1e-3)


def test_interpolation_along_wavelengths_whatever_the_order():
    known = (830.0, 485.0, 660.0, 560.0)
    assert torch.equal(interpolation(known, known), torch.eye(4, dtype=torch.float64))
    matrix = interpolation((400, 485, 500, 700, 950), known)
    assert torch.equal(matrix[0], torch.tensor([0, 1, 0, 0.0]).double()) and torch.equal(matrix[0], matrix[1])
    assert matrix[2].tolist() == pytest.approx([0, 0.8, 0, 0.2])  # 15 of 75 nm
    assert matrix[3].tolist() == pytest.approx([40 / 170, 0, 130 / 170, 0])
    assert matrix[4].tolist() == [1, 0, 0, 0]
    assert matrix.sum(1).tolist() == pytest.approx([1] * 5)
    assert interpolation((500, 600), (550,)).tolist() == [[1], [1]]


def test_the_weights_are_mapped_as_the_formula_says():
    """PNN's first layer sees lms and the guide, its last gives the bands: Nᵀ w and M w, written out here."""
    network = moved(builder("PNN")(8, 1))
    model, rows = adapted("PNN", network, Bands(8, 1, "WV3"), Bands(4, 1, "QB"))
    wv3, qb = get_sensor("WV3").wavelengths, get_sensor("QB").wavelengths

    def interpolate(wanted, known):
        return np.stack([np.interp(wanted, known, row) for row in np.eye(len(known))], axis=1)

    old = {key: tensor.double().numpy() for key, tensor in network.state_dict().items()}
    new = {key: tensor.double().numpy() for key, tensor in model.state_dict().items()}
    (first, *_), (*_, last) = [[key for key in old if key.endswith(".weight")]] * 2
    lms = np.einsum("st,oskl->otkl", interpolate(wv3, qb), old[first][:, :8])
    assert np.allclose(new[first], np.concatenate([lms, old[first][:, 8:]], axis=1), atol=1e-6)
    assert np.allclose(new[last], np.einsum("ts,sikl->tikl", interpolate(qb, wv3), old[last]), atol=1e-6)
    assert list(rows)[1:] == [f"  {first}", f"  {last}", f"  {last.replace('weight', 'bias')}"]
    assert "input channels by wavelength" in rows[f"  {first}"] and "3 mapped" in rows["initial weights"]


def test_remaking_keeps_all_but_the_first_and_the_last_layer():
    network, build = moved(builder("FusionNet")(8, 1)), builder("FusionNet")
    fresh = build(4, 1)
    start = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    target = Bands(4, 1, None)
    rows = adapt_bands(
        fresh, weights_of(network, Bands(8, 1, None)), dict, build=build, target=target, by_wavelength=False
    )
    remade = {row.strip() for row in rows if row.startswith("  ")}
    for key, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, start[key] if key in remade else network.state_dict()[key])
    assert len(remade) == 3 and "3 remade" in rows["initial weights"]


# ---------------------------------------------------------------------------------------------------- quality


def scenes(sensor: str, count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Scenes whose spectra are smooth: three curves over wavelength, mixed differently at every pixel."""
    g = torch.Generator().manual_seed(seed)
    at = torch.tensor(get_sensor(sensor).wavelengths) / 1000
    curves = torch.stack([at, (at - 0.7) ** 2 * 4, torch.sigmoid((at - 0.7) * 30)])
    amounts = torch.rand(count, 3, 32, 32, generator=g)
    amounts = torch.nn.functional.avg_pool2d(amounts, 3, 1, 1)
    gt = torch.einsum("nkhw,kc->nchw", amounts, curves) / 2
    ms = torch.nn.functional.avg_pool2d(gt, 4)
    lms = torch.nn.functional.interpolate(ms, scale_factor=4, mode="bicubic")
    return ms, lms, gt.mean(1, keepdim=True), gt


def error(network: torch.nn.Module, data: tuple[torch.Tensor, ...]) -> float:
    ms, lms, pan, gt = data
    with torch.no_grad():
        return float((network(ms, lms, pan) - gt).square().mean().sqrt())


def test_a_network_of_wv3_mapped_to_four_bands_starts_better_than_random():
    build = builder("PanNet")
    network, (ms, lms, pan, gt) = build(8, 1).train(), scenes("WV3", 2, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        (network(ms, lms, pan) - gt).square().mean().backward()
        optimizer.step()
    data = scenes("QB", 2, 1)
    mapped, _ = adapted("PanNet", network.eval(), Bands(8, 1, "WV3"), Bands(4, 1, "QB"))
    remade, _ = adapted("PanNet", network, Bands(8, 1, "WV3"), Bands(4, 1, "QB"), by_wavelength=False)
    start = build(4, 1)
    assert error(mapped, data) < 0.5 * min(error(start, data), error(remade, data))


@pytest.mark.parametrize("name", ["FusionNet", "PNN", "PanNet", "MSDCNN"])
def test_published_weights_of_wv3_start_far_above_random_ones_on_a_real_image_of_four_bands(name, shared):
    """A detail of the reduced Pleiades image. The published files name neither bands nor sensor: bands are found."""
    image = loadmat(shared("data/pleiades_reduced.mat"))
    gt, ms = (torch.from_numpy(image[key].transpose(2, 0, 1)[None]).float() for key in ("gt", "lrms"))
    pan = torch.from_numpy(image["pan"][None, None]).float()
    gt, pan, ms = gt[..., :96, :96], pan[..., :96, :96], ms[..., :24, :24]
    data, build = (ms, torch.nn.functional.interpolate(ms, scale_factor=4, mode="bicubic"), pan, gt), builder(name)
    mapped = build(4, 1)
    weights = open_weights(f"dlpan:{shared(f'weights/dlpan/WV3/{name.lower()}.pth')}")
    target = Bands(4, 1, "QB")
    rows = adapt_bands(
        mapped, weights, partial(convert_state_dict, name), build=build, target=target, sensor="WorldView-3"
    )
    assert "(WorldView-3, 8 + 1 bands)" in rows["initial weights"]
    assert error(mapped, data) < 0.4 * error(build(4, 1), data)


# ---------------------------------------------------------------------------------------------------- command


def test_from_the_command_line_it_is_told_layer_by_layer(tmp_path, monkeypatch):
    write_training_set(tmp_path / "train_ikonos.h5", 8, 0)
    write_training_set(tmp_path / "valid_ikonos.h5", 2, 1)
    monkeypatch.chdir(tmp_path)
    network = build_model("PNN", img_channel=8, condition_channel=1, out_channel=8)
    meta = {"model": {"name": "PNN", "args": {"img_channel": 8, "condition_channel": 1, "out_channel": 8}}}
    save_weights(tmp_path / "wv3.safetensors", network.state_dict(), meta | {"data": {"sensor": "WV3"}})
    save_weights(tmp_path / "nameless.safetensors", network.state_dict(), meta)
    line = (
        "--arch PNN --dataset ikonos --data_root . -e 1 -b 4 --lr 0 --run_name {} --pretrain_model_path {}.safetensors "
    )

    def run(name: str, more: str = "", weights: str = "wv3") -> None:
        accelerate_main.run(config.parse(shlex.split(line.format(name, weights) + more)))
        AcceleratorState._reset_state(reset_partial_state=True)

    with pytest.raises(UserError, match="of another shape.*--adapt_bands"):
        run("r")
    with pytest.raises(UserError, match="--pretrain_sensor.*--adapt_bands remake"):
        run("r", "--adapt_bands wavelength", "nameless")
    with pytest.raises(UserError, match="expected wavelength or remake"):
        run("r", "--set model.adapt_bands=guess")
    with pytest.raises(UserError, match="the weights to adapt"):
        run("r", "--adapt_bands remake --set model.pretrained=null")
    assert not (tmp_path / "log_file").exists()
    run("r", "--adapt_bands wavelength")
    run("named", "--adapt_bands wavelength --pretrain_sensor WV3", "nameless")
    one, two = (read_weights(f"log_file/LE-Mamba/{name}/weights/last.safetensors")[0] for name in ("r", "named"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    expected, _ = adapted("PNN", network, Bands(8, 1, "WV3"), Bands(4, 1, "IKONOS"))
    assert all(torch.allclose(one[key], tensor) for key, tensor in expected.state_dict().items())
    log = Path("log_file/LE-Mamba/r/train.log").read_text()
    assert re.search(
        r"initial weights +wv3.safetensors \(WV3, 8 \+ 1 bands\), for IKONOS, 4 \+ 1 bands: .*3 mapped", log
    )
    assert len(re.findall(r"(?:weight|bias) +\S+ -> \S+: (?:input|output) channels by wavelength", log)) == 3
