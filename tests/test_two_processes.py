"""Two CPU processes: resume bit for bit, gradients and metrics of one process with the doubled batch, another world."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny_training import make_job
from two_processes import PLAIN, plain_net

from lemamba.engine.training.checkpoint import Checkpoints, read_checkpoint
from lemamba.engine.training.fit import fit
from lemamba.engine.weights.files import read_weights

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "tests/two_processes.py", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def last(folder: Path):
    tensors, state = read_checkpoint(Checkpoints(folder / "log/p/run/checkpoints").latest())
    state["counters"].pop("seconds")
    return tensors, state


def test_a_run_stopped_on_one_rank_and_resumed_equals_the_whole_one(trained):
    one, two = last(trained / "whole"), last(trained / "parts")
    for part, tensors in one[0].items():
        assert all(torch.equal(t, two[0][part][name]) for name, t in tensors.items()), part
    for key in ("counters", "generators", "schedule", "ema_updates"):
        assert one[1][key] == two[1][key], key
    generators = one[1]["generators"]
    assert len(generators) == 2 and generators[0]["torch"] != generators[1]["torch"], "ranks draw different numbers"


def test_weights_rates_and_metrics_are_those_of_one_process_with_the_doubled_batch(trained, tmp_path):
    """Three steps at three rates: gradients are means over the processes, and the schedule does not count these."""
    model = plain_net()
    outcome = fit(make_job(tmp_path, *PLAIN, "-b", "4", model=model), Accelerator(cpu=True))
    theirs = load_file(trained / "ddp/log/p/run/weights/last.safetensors")
    start = plain_net().state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-7)
        assert (value - start[name]).abs().max() > 1e-4, "a run that learns nothing proves nothing"
    _, meta = read_weights(trained / "ddp/log/p/run/weights/last.safetensors")
    assert meta["metrics"]["psnr"] == pytest.approx(outcome.metrics["psnr"], rel=1e-6)
    assert last(trained / "ddp")[1]["counters"]["best"] == pytest.approx(outcome.counters.best, rel=1e-6)


def test_resuming_with_another_number_of_processes_continues_the_schedule_and_says_what_is_not_exact(trained):
    job = make_job(trained / "whole", "-e", "5", resume=True)
    outcome = fit(job, Accelerator(cpu=True))
    assert (outcome.counters.epoch, outcome.reason) == (5, "finished")
    log = (trained / "whole/log/p/run/train.log").read_text()
    assert "processes 2 -> 1" in log and "not exact" in log
