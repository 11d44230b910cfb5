"""What the tests start with several CPU processes: FSDP2 and DeepSpeed over what accelerate takes for GPUs, and DDP.

``torchrun --nproc_per_node N tests/sharded.py SCENARIO FOLDER [ARGUMENT]``; the scenarios are the
functions below. A hang shows the stacks of all threads and ends the process.
"""

from __future__ import annotations

import faulthandler
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import accelerate.state  # noqa: E402
import tiny_training  # noqa: E402
from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402
from tiny_training import KeyedData, TinyNet, make_job, train  # noqa: E402

from lemamba.engine.training.fit import Trainer, fit  # noqa: E402
from lemamba.engine.training.job import Job, StopRequest  # noqa: E402
from lemamba.model import build_model  # noqa: E402
from lemamba.utils.errors import UserError  # noqa: E402

SMALL = {"width": 8, "middle_blk_nums": 1, "ssm_enc_blk_nums": [1, 1], "ssm_dec_blk_nums": [1, 1]}
SMALL |= {"ssm_chan_upscale": [1, 1], "ssm_ratios": [2, 1], "window_sizes": [8, None]}
SMALL |= {"ssm_enc_d_states": [[4, 4], [None, 4]], "ssm_dec_d_states": [[None, 4], [4, 4]]}
SMALL |= {"ssm_enc_convs": [[3, 3], [None, 3]], "ssm_dec_convs": [[None, 3], [3, 3]]}
LINE = ["-e", "2", "--grad_accum_steps", "1", "--set", "train.ema_decay=0.9", "--logger_on", "--log_every", "1"]


def as_gpus() -> None:
    """Make accelerate believe that the processes are GPUs of one machine; they exchange through gloo."""
    state = accelerate.state.PartialState
    state._prepare_backend = lambda *a, **k: ("gloo", DistributedType.MULTI_GPU)
    state.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def fsdp(precision: str = "no") -> Accelerator:
    """Start accelerate as ``accelerate launch --config_file configs/huggingface/fsdp.yaml`` would."""
    as_gpus()
    given = yaml.safe_load((ROOT / "configs/huggingface/fsdp.yaml").read_text())["fsdp_config"]
    for key, value in given.items():  # the launcher hands the file over in the environment
        os.environ[key.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    return Accelerator(mixed_precision=precision)


def zero() -> Accelerator:
    """Start accelerate as ``accelerate launch --config_file configs/huggingface/deepspeed_zero2.yaml`` would."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # before the import
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}  # its own exchange takes minutes to compile; this one goes through gloo, too
    as_gpus()
    given = yaml.safe_load((ROOT / "configs/huggingface/deepspeed_zero2.yaml").read_text())["deepspeed_config"]
    return Accelerator(deepspeed_plugin=DeepSpeedPlugin(zero_stage=given["zero_stage"]))


def start(way: str) -> Accelerator:
    """Start accelerate for DeepSpeed ("zero"), or for FSDP2 in the precision that `way` names."""
    return zero() if way == "zero" else fsdp(way)


def small_mamba() -> torch.nn.Module:
    """LE-Mamba with blocks, states and a skip, but few channels."""
    torch.manual_seed(0)
    return build_model("LEMamba", img_channel=3, condition_channel=1, out_channel=3, **SMALL)


def job(folder: Path, *flags: str, samples: int = 8, resume: bool = False, train=None, valid=None):
    """A training of the small LE-Mamba on samples of 16 x 16."""
    tiny_training.SIDE = 16
    sets = {"train": train or KeyedData(samples), "valid": valid or KeyedData(3, seed=9)}
    return make_job(folder, *LINE, *flags, model=small_mamba(), resume=resume, **sets)


def resume(folder: Path, way: str) -> None:
    """Run undisturbed, killed after the first checkpoint, and stopped by a signal to rank 1."""
    accelerator = start(way)
    seen: set[str] = set()
    if way == "bf16":
        watch_dtypes(seen)
    interrupt(folder, accelerator, job)
    if accelerator.is_main_process:
        (folder / "dtypes").write_text(" ".join(sorted(seen)))


def interrupt(folder: Path, accelerator: Accelerator, build: Callable[..., Job]) -> None:
    """Train four steps in folder/{whole,killed,parts}: undisturbed, killed and resumed, stopped and resumed."""
    fit(build(folder / "whole"), accelerator)
    accelerator.free_memory()  # it would compare the parameters of all networks that it has prepared
    if accelerator.is_main_process:  # what a kill leaves after the first checkpoint
        shutil.copytree(folder / "whole", folder / "killed")
        run = folder / "killed/log/p/run"
        shutil.rmtree(run / "checkpoints/step_00000004")
        shutil.rmtree(run / "weights")
    accelerator.wait_for_everyone()
    fit(build(folder / "killed", resume=True), accelerator)
    accelerator.free_memory()
    outcome = train(build(folder / "parts"), accelerator, stop_after=3, signal="SIGUSR1", rank=1)
    assert (outcome.reason, outcome.counters.step) == ("SIGUSR1", 3)
    accelerator.free_memory()
    fit(build(folder / "parts", resume=True), accelerator)
    accelerator.free_memory()


def watch_dtypes(seen: set[str]) -> None:
    """Collect the dtypes of what must stay float32."""
    from lemamba.model.layers import ss2d

    scan = ss2d.SS2D.scan

    def watched(self, *given):
        seen.update(f"{name}:{getattr(self, name).dtype}" for name in self.FLOAT32_PARAMETERS)
        return scan(self, *given)

    ss2d.SS2D.scan = watched
    from lemamba.model.panMamba import LEMamba

    check = LEMamba._check_inputs

    def inputs(self, lms, pan):
        seen.add(f"lms:{lms.dtype}")
        return check(self, lms, pan)

    LEMamba._check_inputs = inputs


def uneven(folder: Path, way: str) -> None:
    """Work that the ranks do not share evenly, under DDP with a toy network, then in the `way` with a LE-Mamba."""

    def toy(place: Path, *flags: str, **sets: KeyedData) -> Job:
        return make_job(place, *LINE, *flags, **sets)  # with running statistics, which a NaN would spoil

    unequal(folder / "ddp", Accelerator(cpu=True), toy)
    AcceleratorState._reset_state(reset_partial_state=True)
    unequal(folder / "sharded", start(way), job)


def unequal(folder: Path, accelerator: Accelerator, build: Callable[..., Job]) -> None:
    """One validation sample; a NaN that one rank meets, with a last round of one sample; a signal; a NaN that stops."""
    ranks = accelerator.num_processes
    lone = {"train": KeyedData(2 * ranks), "valid": KeyedData(1, seed=9)}
    fit(build(folder / "lone", "-e", "1", **lone), accelerator)
    accelerator.free_memory()
    spoiled = {"train": KeyedData(4 * ranks, nan_at=1), "valid": KeyedData(ranks + 1, seed=9)}
    outcome = fit(
        build(folder / "nan", "--nan_policy", "skip", "--set", "data.val_batch_size=1", **spoiled), accelerator
    )
    assert (outcome.counters.skipped, outcome.reason) == (2, "finished"), outcome
    accelerator.free_memory()
    odd = {"train": KeyedData(4 * ranks + 1), "valid": KeyedData(1, seed=9)}  # the last sample has no batch
    outcome = train(build(folder / "stop", **odd), accelerator, stop_after=1, signal="SIGUSR1", rank=ranks - 1)
    assert (outcome.reason, outcome.counters.step) == ("SIGUSR1", 1), outcome
    accelerator.free_memory()
    if ranks > 2:  # the same exchange again: seconds
        return
    try:
        fit(build(folder / "ended", **spoiled), accelerator)
    except UserError as error:  # on every rank, with the name of the one that met it
        assert re.search(r"on rank \d, batch.*; lower the learning rate", str(error)), error
    else:
        raise AssertionError("the training went on")
    accelerator.free_memory()


class Stalling(KeyedData):
    """Rank 1 does not come back with its first sample, or fails there."""

    rank, fails = 0, False

    def __getitem__(self, key):
        if self.rank == 1 and self.fails:
            raise UserError("sample 7 cannot be read")
        if self.rank == 1:
            time.sleep(60)
        return super().__getitem__(key)


def lost(folder: Path, how: str) -> None:
    """DDP with a limit of 10 seconds; `how`: rank 1 is "silent" or "fails". Each rank writes the line it ends with."""
    limit = InitProcessGroupKwargs(timeout=timedelta(seconds=10))
    accelerator = Accelerator(cpu=True, kwargs_handlers=[limit])
    data = Stalling(8)
    data.rank, data.fails = accelerator.process_index, how == "fails"
    begun = time.monotonic()
    try:
        fit(make_job(folder, "--rank_wait", "10", train=data), accelerator)
    except UserError as error:
        accelerator.end_training()  # as the command does; it must not wait either
        (folder / f"rank{accelerator.process_index}").write_text(f"{error}\n{time.monotonic() - begun:.1f}")
    os._exit(0)  # the sleeping rank would be waited for


class OneInf(KeyedData):
    """An Inf in the ground truth of sample 5: the l1 loss is Inf, but its gradient is +-1/N."""

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        if key[1] == 5:
            sample["gt"][0, 0, 0] = math.inf
        return sample


def deferred(folder: Path, _: str) -> None:
    """DDP, one rank meets an Inf loss in every other step: fused AdamW and its deferred guard, then the plain one.

    The first once more, stopped by a signal to rank 1 and resumed.
    """
    accelerator = Accelerator(cpu=True)
    data = OneInf(4 * accelerator.num_processes)

    def build(name: str, fused: str, resume: bool = False) -> Job:
        flags = ["--nan_policy", "skip", "--set", "train.ema_decay=0.9", "--set", f"optimizer.args.fused={fused}"]
        flags += ["--grad_accum_steps", "1", "--log_every", "2", "--checkpoint_every_steps", "1"]
        torch.manual_seed(0)
        model = TinyNet(drop=0.0, norm=False)
        return make_job(folder / name, *flags, train=data, model=model, resume=resume)

    for fused in ("true", "false"):
        with StopRequest() as stop:
            trainer = Trainer(build(fused, fused), accelerator, stop)
            assert trainer.deferred == (fused == "true")
            trainer.run()
            trainer.log.close()
        weights = torch.cat([p.detach().flatten() for p in trainer.core.parameters()])
        averaged = torch.cat([p.detach().flatten() for p in trainer.ema.shadow.values()])
        facts = {"updates": trainer.ema.updates, "counters": vars(trainer.counters)}
        name = f"{fused}_rank{accelerator.process_index}.pt"
        torch.save({"weights": weights, "ema": averaged, **facts}, folder / name)
    outcome = train(build("parts", "true"), accelerator, stop_after=3, signal="SIGUSR1", rank=1)
    assert (outcome.reason, outcome.counters.step) == ("SIGUSR1", 3)
    fit(build("parts", "true", resume=True), accelerator)


def ddp(folder: Path, backend: str) -> None:
    """DDP with accumulation, EMA and a NaN on one rank: the network plain, with recomputed activations, compiled.

    The last two are also interrupted, the compiled one with dropout and with a `backend` of torch.compile.
    """
    accelerator = Accelerator(cpu=True)
    accumulated = ["--grad_accum_steps", "2", "--nan_policy", "skip"]

    def mamba(place: Path, recompute: bool = True, **named) -> Job:
        training = job(place, *accumulated, train=KeyedData(16, nan_at=1), **named)
        training.model.set_grad_checkpointing(recompute)
        return training

    def toy(place: Path, *flags: str, drop: float = 0.3, compiler: str | None = backend, **named) -> Job:
        torch.manual_seed(0)
        data, model = KeyedData(16, nan_at=1), TinyNet(drop=drop)
        training = make_job(place, *LINE, *accumulated, *flags, model=model, train=data, **named)
        if compiler:
            training.model.compile(backend=compiler)
        return training

    fit(mamba(folder / "plain", recompute=False), accelerator)
    accelerator.free_memory()
    interrupt(folder / "grad_ckpt", accelerator, mamba)
    for place, compiler in (("eager", None), ("inductor", "inductor")):
        # not Adam: a bias before a norm has a gradient of rounding noise, which that turns into whole steps
        fit(toy(folder / place, "--optimizer", "sgd", drop=0.0, compiler=compiler), accelerator)
        accelerator.free_memory()
    interrupt(folder / "compiled", accelerator, toy)


if __name__ == "__main__":
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(500, exit=True)
    scenario, place, *rest = sys.argv[1:]
    globals()[scenario](Path(place), rest[0] if rest else "no")
    torch.distributed.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()
