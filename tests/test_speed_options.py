"""Switches that change how fast a network is trained, not what it learns: --compile, --grad_ckpt, --channels_last."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from small_files import write_training_set

from lemamba.commands import train as commands_train
from lemamba.engine.weights.files import read_weights
from lemamba.model import panMamba
from lemamba.utils import config

TWO_STEPS = "--dataset ikonos -e 1 -b 2 --grad_accum_steps 1 --lr 0.01 --schedule constant --optimizer sgd --cpu"
# both kinds of window, two levels, dropped paths: what recomputing has to repeat
SMALL_LEMAMBA = """--arch LEMamba --set "model.variants={tiny: {width: 4, middle_blk_nums: 1, ssm_enc_blk_nums: [1, 1],
ssm_dec_blk_nums: [1, 1], ssm_chan_upscale: [1, 1], ssm_ratios: [1, 1], window_sizes: [8, null],
ssm_enc_d_states: [[2, 2], [null, 2]], ssm_dec_d_states: [[null, 2], [2, 2]], ssm_enc_convs: [[3, 3], [null, 3]],
ssm_dec_convs: [[null, 3], [3, 3]], drop_path_rate: 0.5}}" """


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four training samples, 4 bands, 32 x 32: two steps."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 4), ("valid", 1)):
        write_training_set(folder / f"{split}_ikonos.h5", count, seed=count)
    return folder


@pytest.fixture
def train(tmp_path, data, monkeypatch):
    """Train by the command line; returns the weights after two steps."""

    def run(line: str, name: str) -> dict[str, torch.Tensor]:
        AcceleratorState._reset_state(reset_partial_state=True)
        words = shlex.split(f"{TWO_STEPS} {line} --data_root {data} --log_dir {tmp_path} --run_name {name}")
        commands_train.run(config.parse(words))
        return read_weights(next(tmp_path.glob(f"*/{name}/checkpoints/*/model.safetensors")))[0]

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[k].double() - two[k].double()).abs().max()) for k in one)


def test_recomputed_activations_give_the_same_weights(train, monkeypatch):
    """After two steps with dropped paths: the recomputed pass must drop the same ones."""
    plain = train(SMALL_LEMAMBA, "plain")
    calls, original = [], panMamba.checkpoint
    monkeypatch.setattr(panMamba, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    saving = train(SMALL_LEMAMBA + "--grad_ckpt", "saving")
    assert difference(plain, train(SMALL_LEMAMBA + "--lr 0.0", "still")) > 1e-4  # it has learnt something
    assert difference(plain, saving) < 1e-6
    assert calls, "nothing was recomputed"


def test_channels_last_gives_the_same_weights(train):
    plain, last = train("--arch FusionNet", "plain"), train("--arch FusionNet --channels_last", "last")
    assert difference(plain, last) < 1e-5


@pytest.mark.slow
def test_compiled_network_learns_the_same(train):
    plain = train("--arch PanNet", "plain")
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = train("--arch PanNet --compile", "compiled")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before, "nothing was compiled"
    assert difference(plain, compiled) < 1e-5
