"""Several CPU processes: FSDP2 and DeepSpeed with EMA, uneven work, a rank that is lost, DDP with its options.

Each case is one start of tests/sharded.py per rank, as a launcher would start it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sharded
import tiny_training
import torch
from safetensors.torch import load_file

from lemamba.engine.training.checkpoint import Checkpoints, read_checkpoint
from lemamba.engine.training.curves import read_curves
from lemamba.engine.training.logger import Running
from lemamba.engine.training.nan_guard import load_batch

ROOT = Path(__file__).resolve().parent.parent


def launch(processes: int, scenario: str, folder: Path, argument: str = "", outlives: int | None = None) -> None:
    """Run a scenario to its end on every rank but `outlives`, which is killed then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    common["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # its processes would load torch twice more for each rank
    command = [sys.executable, "-W", "ignore", "tests/sharded.py", scenario, str(folder)] + [argument] * bool(argument)
    started = []
    for rank in range(processes):
        env = {**os.environ, "OMP_NUM_THREADS": "1", **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"output{rank}").open("w") as output:
            started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output))
    try:
        for rank, process in enumerate(started):
            if rank != outlives:
                status = process.wait(timeout=520)
                assert status == 0, "\n".join((folder / f"output{r}").read_text()[-3000:] for r in range(processes))
    finally:
        for process in started:
            process.kill()
            process.wait()


def last(folder: Path):
    tensors, state = read_checkpoint(Checkpoints(folder / "log/p/run/checkpoints").latest())
    state["counters"].pop("seconds")
    return tensors, state


def assert_same(one: Path, other: Path) -> None:
    a, b = last(one), last(other)
    assert a[0].keys() == b[0].keys()
    for part, tensors in a[0].items():
        assert all(torch.equal(t, b[0][part][name]) for name, t in tensors.items()), part
    for key in ("counters", "generators", "schedule", "ema_updates"):
        assert a[1][key] == b[1][key], key


def assert_gates(run: Path, weights: dict, rel: float) -> None:
    """What the split network said of itself at the end is what a whole one with its last weights says."""
    network = sharded.small_mamba().eval()
    network.load_state_dict(weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_training, "SIDE", 16)
        sample = tiny_training.KeyedData(8)[0, 0]
    said = network.log_scalars(lambda: network(*(sample[key][None] for key in ("ms", "lms", "pan"))))
    expected = {f"{group}/{name}": value for group, values in said.items() for name, value in values.items()}
    rows = [row for row in read_curves(run) if "state_gate/decoder1_block1" in row]
    assert len(rows) == 2, "once an epoch, by one rank"
    assert {name: rows[-1][name] for name in expected} == pytest.approx(expected, rel=rel)


def there(way: str) -> None:
    """Skip the test where DeepSpeed is meant and not installed."""
    for name in ("deepspeed", "transformers") if way == "zero" else ():
        pytest.importorskip(name, reason=f"{name} is not installed: pip install deepspeed transformers")


@pytest.mark.parametrize("way", ["no", "bf16", "zero"])
def test_fsdp2_and_deepspeed_train_validate_save_and_resume_exactly(tmp_path, way):
    there(way)
    launch(2, "resume", tmp_path, way)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert_same(tmp_path / "whole", tmp_path / "parts")
    tensors, _ = last(tmp_path / "whole")
    written = load_file(tmp_path / "whole/log/p/run/weights/last.safetensors")
    assert all(torch.equal(written[name], value) for name, value in tensors["ema"].items()), "the averaged weights"
    assert any(not torch.equal(written[name], value) for name, value in tensors["model"].items()), "not the raw ones"
    assert (tmp_path / "whole/log/p/run/weights/README.md").is_file()
    assert_gates(tmp_path / "whole/log/p/run", written, rel=0.1 if way == "bf16" else 1e-3)
    if way == "bf16":
        seen = (tmp_path / "dtypes").read_text().split()
        assert seen == [f"{name}:torch.float32" for name in ("A_log", "D", "dt_bias", "lms")]


@pytest.mark.parametrize(
    ("processes", "way"), [pytest.param(2, "bf16", marks=pytest.mark.sharded), (3, "no"), (2, "zero")]
)
def test_work_that_ranks_share_unevenly(tmp_path, processes, way):
    """Under DDP, too: one validation sample, a last round for one rank, a NaN and a signal that one rank meets."""
    there(way)
    launch(processes, "uneven", tmp_path, way)
    for name in ("ddp", "sharded"):
        folder = tmp_path / name
        assert "validation after epoch 1" in (folder / "lone/log/p/run/train.log").read_text()
        log = (folder / "nan/log/p/run/train.log").read_text()
        named = re.findall(r"on rank (\d), batch\[\"\w+\"\]: \d+ NaN.*--replay (\S+);", log)
        assert len(named) == 2, log
        for rank, path in named:
            batch, state, _ = load_batch(Path(path))
            assert path.endswith(f"rank{rank}.safetensors") and any(v.isnan().any() for v in batch.values())
            assert all(v.isfinite().all() for v in state.values())
        assert all(v.isfinite().all() for v in last(folder / "nan")[0]["model"].values())
        assert last(folder / "stop")[1]["counters"]["step"] == 1


@pytest.mark.parametrize(
    ("how", "says"), [("silent", "rank 1 came only to"), ("fails", "rank 1 ended with error: sample 7 cannot be read")]
)
def test_a_lost_rank_is_named_in_one_line_after_the_limit(tmp_path, how, says):
    launch(2, "lost", tmp_path, how, outlives=1 if how == "silent" else None)
    line, _, seconds = (tmp_path / "rank0").read_text().rpartition("\n")
    assert says in line and "\n" not in line
    assert float(seconds) < 100, "torch's own limit is 1800 s"


def test_ranks_skip_a_step_together_and_the_average_leaves_it_out(tmp_path):
    launch(2, "deferred", tmp_path, "x")
    runs = {
        (fused, rank): torch.load(tmp_path / f"{fused}_rank{rank}.pt", weights_only=True)
        for fused in ("true", "false")
        for rank in (0, 1)
    }
    for fused in ("true", "false"):
        for key in ("weights", "ema"):
            assert torch.equal(runs[fused, 0][key], runs[fused, 1][key]), "ranks hold the same"
            torch.testing.assert_close(runs[fused, 0][key], runs["false", 0][key], rtol=0, atol=1e-6)
        assert runs[fused, 0]["counters"]["skipped"] == 3
        assert runs[fused, 0]["updates"] == 3, "six steps, one of two skipped"
        log = (tmp_path / fused / "log/p/run/train.log").read_text()
        assert "nan l1" not in log and "inf" not in " ".join(re.findall("total .* norm .*", log))
    assert_same(tmp_path / "true", tmp_path / "parts")
    # in the middle of an epoch, too, a checkpoint holds the average of the steps that were taken
    for step in range(1, 7):
        a, b = (tmp_path / f"{f}/log/p/run/checkpoints/step_{step:08d}" for f in ("true", "false"))
        (one, state), (other, plain) = read_checkpoint(a), read_checkpoint(b)
        assert state["ema_updates"] == plain["ema_updates"]
        assert state["counters"]["skipped"] == plain["counters"]["skipped"]
        for name, value in one["ema"].items():
            torch.testing.assert_close(value, other["ema"][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.sharded)])
def test_ddp_with_grad_ckpt_and_with_compile_learns_the_same_and_resumes_exactly(tmp_path, backend):
    """All with accumulation, EMA and a batch with a NaN in each of two epochs, which one rank meets."""
    launch(2, "ddp", tmp_path, backend)
    for one, other in (("plain", "grad_ckpt/whole"), ("eager", "inductor")):
        a, b = last(tmp_path / one)[0], last(tmp_path / other)[0]
        for part in ("model", "ema"):
            for name, value in a[part].items():
                torch.testing.assert_close(b[part][name], value, rtol=1e-4, atol=2e-5, msg=f"{other} {part} {name}")
    for way in ("grad_ckpt", "compiled"):
        assert_same(tmp_path / way / "whole", tmp_path / way / "killed")
        assert_same(tmp_path / way / "whole", tmp_path / way / "parts")
        tensors, state = last(tmp_path / way / "whole")
        assert (state["counters"]["step"], state["counters"]["skipped"], state["ema_updates"]) == (4, 2, 2)
        assert all(value.isfinite().all() for part in tensors.values() for value in part.values()), "buffers, too"
        log = (tmp_path / way / "whole/log/p/run/train.log").read_text()
        assert len(re.findall(r'on rank \d, batch\["\w+"\]: \d+ NaN', log)) == 2, log
    assert tensors["model"]["norm.num_batches_tracked"] == 4, "two steps of two batches"


def test_means_of_the_log_leave_out_what_was_skipped():
    running = Running()
    for value, skipped in ((1.0, False), (torch.nan, True), (4.0, False), (torch.inf, True)):
        running.add({"total": torch.tensor(value)}, samples=2, skipped=torch.tensor(skipped))
    assert running.samples == 8
    assert running.read()[0] == {"total": 2.5}
