"""The network, its optimizer and its EMA as accelerate prepared them; taking them apart for a checkpoint and back.

Which ways of running are supported: one process, DDP and FSDP2 exactly; DeepSpeed with weights, EMA and counters
(its optimizer restarts on resuming, and that is said). FSDP1 flattens parameters and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from lemamba.engine.training.checkpoint import read_checkpoint
from lemamba.engine.training.ema import EMA
from lemamba.engine.training.generators import generator_states, restore_generators, seed_all
from lemamba.engine.training.ranks import Ranks
from lemamba.engine.training.state import (
    Counters,
    check_names,
    gather_all,
    like,
    load_model,
    load_optimizer,
    optimizer_state,
)
from lemamba.utils.config import to_dict
from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    from lemamba.engine.training.job import Job
    from lemamba.engine.training.sampler import TrainSampler

_RANK_SEED = 7919  # ranks draw different numbers (DropPath), far from any neighbouring seed
_STEP_SEED = 1_000_003


class Session:
    """What `prepare` returned, and its state.

    Attributes:
        model: what is called in training (wrapped for several processes).
        core: the bare network behind it.
        optimizer: accelerate's wrapper of the optimizer.
        ema: averaged weights of `core`, or None.
        sharded: True where a forward pass needs all ranks.
    """

    def __init__(self, job: Job, accelerator: Accelerator, ranks: Ranks, counters: Counters) -> None:
        self.job, self.accelerator, self.ranks, self.counters = job, accelerator, ranks, counters
        settings = job.config.train
        kind = accelerator.distributed_type
        self.deepspeed = kind == DistributedType.DEEPSPEED
        self.sharded = kind == DistributedType.FSDP
        if self.sharded and not accelerator.is_fsdp2:
            raise UserError(
                "FSDP version 1 flattens parameters, so EMA and checkpoints cannot name them; set fsdp_version: 2 in "
                "the accelerate configuration, as configs/huggingface/fsdp.yaml does"
            )
        if self.deepspeed:  # one source of truth: our configuration
            plugin = accelerator.state.deepspeed_plugin.deepspeed_config
            plugin["train_micro_batch_size_per_gpu"] = settings.batch_size
            plugin["gradient_accumulation_steps"] = 1
            plugin["gradient_clipping"] = settings.clip_norm or 0.0
        self.model, self.optimizer = accelerator.prepare(job.model, job.optimizer)
        self.core = accelerator.unwrap_model(self.model)
        self.ema = None
        if settings.ema_decay:
            self.ema = EMA(self.core, settings.ema_decay, settings.ema_warmup)

    @property
    def raw_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer behind accelerate's wrapper."""
        return self.optimizer.optimizer

    # ------------------------------------------------------------------------------------------ starting

    def start(self, sampler: TrainSampler) -> list[str]:
        """Begin afresh or from ``job.resume``; returns what the user should be told."""
        seed = self.job.config.train.seed
        if self.job.resume is None:
            seed_all(seed + _RANK_SEED * self.ranks.rank)
            return []
        tensors, state = read_checkpoint(self.job.resume)
        notes = [f"resumed from {self.job.resume}"]
        self._restore_counters(state, sampler, notes)
        load_model(self.core, tensors["model"])
        if self.ema is not None:
            self._restore_ema(tensors, state, notes)
        if self.deepspeed:
            notes.append("DeepSpeed: weights, EMA and counters are restored, the optimizer's moments start anew")
        elif state["optimizer"]["kind"] == type(self.raw_optimizer).__name__:
            load_optimizer(self.core, self.raw_optimizer, tensors["optimizer"], state["optimizer"]["values"])
        else:
            notes.append(f"the optimizer was {state['optimizer']['kind']}: its state is not taken over")
        self.job.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if len(state["generators"]) == self.ranks.world:
            restore_generators(state["generators"][self.ranks.rank], self.accelerator.device)
        else:
            seed_all(seed + _STEP_SEED * self.counters.step + _RANK_SEED * self.ranks.rank)
        return notes

    def _restore_counters(self, state: dict[str, Any], sampler: TrainSampler, notes: list[str]) -> None:
        for key, value in state["counters"].items():
            setattr(self.counters, key, value)
        then = state["shape"]
        now = self._shape(len(sampler))
        if then == now:
            return
        # samples seen in this epoch decide where to go on: the schedule is a function of them, not of steps
        seen = self.counters.batch / max(then["batches_per_epoch"], 1)
        self.counters.batch = min(round(seen * len(sampler)), len(sampler))
        changed = ", ".join(f"{k} {then[k]} -> {now[k]}" for k in now if then.get(k) != now[k])
        notes.append(
            f"resumed with another shape ({changed}): the schedule goes on where it was; not exact are the batches of "
            "this epoch and the random numbers of each process"
        )

    def _restore_ema(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], notes: list[str]) -> None:
        if "ema" not in tensors:
            notes.append("the checkpoint has no EMA: averaging starts from its weights")
            self.ema.load_state_dict({n: p.detach() for n, p in self.core.named_parameters()}, updates=0)
            return
        check_names(self.core.state_dict(), tensors["ema"], "the EMA")
        placed = {n: like(tensors["ema"][n], shadow) for n, shadow in self.ema.shadow.items()}
        self.ema.load_state_dict(placed, state["ema_updates"])

    def share_buffers(self) -> None:
        """Give every rank rank 0's buffers: batch-norm statistics differ, and the network that is saved is rank 0's."""
        if self.ranks.world > 1:
            for buffer in self.core.buffers():
                torch.distributed.broadcast(buffer, src=0)

    # ------------------------------------------------------------------------------------------ saving

    def _shape(self, batches_per_epoch: int) -> dict[str, int]:
        settings = self.job.config.train
        return {
            "processes": self.ranks.world,
            "batch_size": settings.batch_size,
            "grad_accum_steps": settings.grad_accum_steps,
            "batches_per_epoch": batches_per_epoch,
            "seed": settings.seed,
        }

    def capture(self, batches_per_epoch: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Take everything apart: tensors by file, and JSON values. All ranks call it together."""
        tensors = {"model": gather_all(self.core.state_dict())}
        if self.ema is not None:
            tensors["ema"] = gather_all(self.ema.state_dict(self.core))
        values: dict[str, Any] = {}
        if not self.deepspeed:
            tensors["optimizer"], values = optimizer_state(self.core, self.raw_optimizer)
        scaler = self.accelerator.scaler
        state = {
            "counters": self.counters.as_json(),
            "shape": self._shape(batches_per_epoch),
            "schedule": self.job.schedule.state_dict(),
            "optimizer": {"kind": type(self.raw_optimizer).__name__, "values": values},
            "ema_updates": self.ema.updates if self.ema is not None else 0,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "generators": self.ranks.gather(generator_states(self.accelerator.device)),
            "config": to_dict(self.job.config),
        }
        return tensors, state

    def user_weights(self) -> dict[str, Tensor]:
        """Return the weights handed to users: averaged where there is an EMA. All ranks call it together."""
        return gather_all(self.ema.state_dict(self.core) if self.ema is not None else self.core.state_dict())

    def meta(self, metrics: dict[str, float], epoch: int) -> dict[str, Any]:
        """Return what stands in a weight file beside the tensors; `epoch` counts the whole ones trained."""
        c = self.counters
        progress = {"epoch": epoch, "step": c.step, "minutes": round(c.seconds / 60, 3)}
        return {**self.job.meta, "metrics": metrics, "training": progress, "config": to_dict(self.job.config)}
