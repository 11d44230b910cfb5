"""Kill anything: SIGKILL at random moments, also while a checkpoint is written; the end is as if nothing happened."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_training import run_to_end

from lemamba.engine.training.checkpoint import Checkpoints, damage, read_checkpoint

# a checkpoint after every step, so that most of the time something is being written; 3 steps per epoch
FLAGS = ["--checkpoint_every_steps", "1", "--ckpt_max_limit", "2", "--set", "log.log_every=1000"]
EPOCHS_PER_KILL = 4


def processes():
    """A server that has imported everything once: each training is a real process that starts in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tiny_training", "lemamba.engine.training.fit", "lemamba.metrics", "accelerate", "torch._dynamo"]
    )
    return context


def end_state(folder: Path):
    tensors, state = read_checkpoint(Checkpoints(folder / "log/p/run/checkpoints").latest())
    state["counters"].pop("seconds")
    return tensors, state["counters"], state["generators"]


def newest(folder: Path) -> str:
    return max((p.name for p in folder.glob("log/p/run/checkpoints/step_*")), default="")


def kill_somewhere(child, folder: Path, chance: random.Random) -> None:
    """Kill the process while it starts, or some checkpoints later and a few milliseconds into the next."""
    wait_for = chance.randrange(8)
    for _ in range(wait_for):
        seen = newest(folder)
        while child.is_alive() and newest(folder) == seen:
            time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.02 if wait_for else 0.3))
    child.kill()
    child.join()


def survive(folder: Path, kills: int, epochs: int, seed: int) -> tuple[int, int]:
    """Kill a training `kills` times, restarting it each time, and let it end; (kills in mid-run, in mid-write)."""
    chance, context, running, writing = random.Random(seed), processes(), 0, 0
    arguments = (str(folder), "-e", str(epochs), *FLAGS)
    folder.mkdir()
    checkpoints = Checkpoints(folder / "log/p/run/checkpoints")
    for _ in range(kills):
        child = context.Process(target=run_to_end, args=arguments)
        child.start()
        kill_somewhere(child, folder, chance)
        running += child.exitcode == -signal.SIGKILL
        writing += any(checkpoints.folder.glob(".*"))
        assert all(damage(p) is None for p in checkpoints.list()), "a checkpoint with a good name must be whole"
    child = context.Process(target=run_to_end, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 0
    return running, writing


def check(tmp_path: Path, kills: int) -> None:
    epochs = EPOCHS_PER_KILL * kills
    survive(tmp_path / "undisturbed", 0, epochs, 0)
    running, writing = survive(tmp_path / "killed", kills, epochs, seed=11)
    print(f"{kills} kills: {running} in mid-run, {writing} in mid-write")
    assert running > kills // 2
    one, two = end_state(tmp_path / "undisturbed"), end_state(tmp_path / "killed")
    for part in one[0]:
        assert all(torch.equal(v, two[0][part][k]) for k, v in one[0][part].items())
    assert one[1:] == two[1:]
    left = list((tmp_path / "killed/log/p/run/checkpoints").glob(".*"))
    assert left == []


def test_ten_kills_lose_nothing(tmp_path):
    check(tmp_path, 10)


@pytest.mark.fuzz
def test_thirty_kills_lose_nothing(tmp_path):
    check(tmp_path, 30)
