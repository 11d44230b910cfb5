"""Training on a GPU (`make gpu`): fp16 with its scaler, FSDP and DeepSpeed take steps and leave whole weights.

Each run is the training command in a process of its own, as a user types it.
"""

from __future__ import annotations

import importlib.util
import math
import shlex
from pathlib import Path

import pytest
import torch
from test_accelerate_main import ROOT, data, launch  # noqa: F401  (`data` is a fixture)

from lemamba.engine.weights.files import read_weights
from lemamba.model import build_model

pytestmark = pytest.mark.gpu
LINE = "--arch PanNet --dataset ikonos -e 1 -b 4 --grad_accum_steps 2 --proj_name gpu --run_name r --loss l1"


def train(folder: Path, data: Path, config: str, *more: str) -> dict[str, torch.Tensor]:  # noqa: F811
    """Train one epoch of 18 samples (two optimizer steps) under a shipped accelerate config; return the weights."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    path = str(ROOT / "configs/huggingface" / config)
    command = ["-m", "accelerate.commands.launch", "--config_file", path, "--num_processes", "1"]
    line = [*shlex.split(LINE), *more]
    done = launch(folder, *command, str(ROOT / "accelerate_main.py"), *line, LEMAMBA_DATA=str(data))
    assert done.returncode == 0, done.stderr[-2000:]
    state, meta = read_weights(folder / "log_file/gpu/r/weights/last.safetensors")
    build_model(meta["model"]["name"], **meta["model"]["args"]).load_state_dict(state)
    assert math.isfinite(meta["metrics"]["loss"])
    return state


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_every_precision_trains(tmp_path, data, precision):  # noqa: F811
    state = train(tmp_path, data, "one_gpu.yaml", "--mixed_precision", precision)
    assert all(v.isfinite().all() for v in state.values())


@pytest.mark.parametrize(
    ("config", "needs"), [("fsdp.yaml", ()), ("deepspeed_zero2.yaml", ("deepspeed", "transformers"))]
)
def test_sharded_trainings_take_steps(tmp_path, data, config, needs):  # noqa: F811
    if any(importlib.util.find_spec(name) is None for name in needs):
        pytest.skip("deepspeed is not installed: pip install deepspeed transformers")
    for name in ("plain", "sharded"):
        (tmp_path / name).mkdir()
    plain = train(tmp_path / "plain", data, "one_gpu.yaml")
    sharded = train(tmp_path / "sharded", data, config)
    assert plain.keys() == sharded.keys()
    for name, value in plain.items():  # one process: sharding must not change what is learned
        torch.testing.assert_close(sharded[name], value, rtol=1e-3, atol=1e-5)
