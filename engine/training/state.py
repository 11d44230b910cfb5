"""The state of a training at the end of a step, as tensors and JSON values, and back.

Exact on one process, under DDP, FSDP2 and DeepSpeed (sharded tensors are gathered and split again). Optimizer tensors
are named ``<parameter>/<key>``, whoever holds them, so a run can be resumed in another way.
"""

from __future__ import annotations

import base64
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lemamba.engine.training.checkpoint import read_checkpoint
from lemamba.engine.training.sharding import (
    cut,
    gather_all,
    is_zero,
    kind_of,
    load_zero_state,
    put_back,
    take_weights,
    whole,
    whole_state,
    zero_state,
)
from lemamba.engine.weights.files import check_fit
from lemamba.utils.config import to_dict
from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    from lemamba.engine.training.fit import Trainer

Tensors = dict[str, Tensor]
_RANK_SEED = 7919  # ranks draw different numbers (DropPath), far from any neighbouring seed
_STEP_SEED = 1_000_003
_ADVICE = "resume with the run's own --arch, --variant and data"


@dataclass
class Counters:
    """Progress of a training.

    Attributes:
        epoch: whole epochs done.
        batch: batches of the current epoch done, per process; equal to the epoch's length while it awaits validation.
        step: optimizer steps tried, including skipped ones.
        seconds: wall-clock time of the training so far, over all its sessions.
        best: best value of the chosen metric, None before the first validation.
        best_epoch: the epoch that gave it.
        skipped: steps skipped because a value was not finite.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int | None = None
    skipped: int = 0


# ------------------------------------------------------------------------------------------ a whole training


def seed_all(seed: int) -> None:
    """Seed every global generator of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def start(trainer: Trainer) -> list[str]:
    """Seed a new run, or restore the one to be resumed; return lines for the log."""
    if trainer.job.resume is not None:
        return restore(trainer, trainer.job.resume)
    seed_all(trainer.settings.seed + _RANK_SEED * trainer.ranks.rank)
    return []


def capture(trainer: Trainer) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Return the state of `trainer` as tensors by file name and JSON values; all ranks call it together."""
    optimizer, scaler = trainer.optimizer.optimizer, trainer.accelerator.scaler
    tensors = {"model": whole_state(trainer.core)}
    if trainer.ema is not None:
        tensors["ema"] = gather_all(trainer.ema.state_dict(trainer.core))
    tensors["optimizer"], values = optimizer_state(trainer.core, optimizer)
    state = {
        "counters": asdict(trainer.counters),
        "shape": _shape(trainer),
        "schedule": trainer.job.schedule.state,
        "optimizer": {"kind": kind_of(optimizer), "values": values},
        "ema_updates": trainer.ema.updates if trainer.ema is not None else 0,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "generators": trainer.ranks.gather(generator_states(trainer.accelerator.device)),
        "config": to_dict(trainer.job.config),
    }
    return tensors, state


def restore(trainer: Trainer, checkpoint: Path) -> list[str]:
    """Restore `trainer` from a checkpoint folder.

    Returns:
        Lines for the log: where the run was resumed, and what could not be restored exactly.

    Raises:
        UserError: a damaged checkpoint, or one of another network.
    """
    tensors, state = read_checkpoint(checkpoint)
    optimizer, scaler = trainer.optimizer.optimizer, trainer.accelerator.scaler
    notes = [f"resumed from {checkpoint}"]
    trainer.counters = Counters(**state["counters"])
    before, now = state["shape"], _shape(trainer)
    if before != now:
        # continue after the same share of this epoch's samples: the schedule is a function of samples, not of steps
        done = trainer.counters.batch / max(before["batches_per_epoch"], 1)
        trainer.counters.batch = min(round(done * now["batches_per_epoch"]), now["batches_per_epoch"])
        changed = ", ".join(f"{k} {before[k]} -> {now[k]}" for k in now if before.get(k) != now[k])
        notes.append(
            f"resumed with another shape ({changed}): the schedule continues where it was; not exact are the batches "
            "of this epoch and the random numbers of each process"
        )
    load_model(trainer.core, tensors["model"])
    take_weights(optimizer)
    if trainer.ema is not None:
        if "ema" in tensors:
            check_fit(trainer.core.state_dict(), tensors["ema"], "averaged weights of the checkpoint", _ADVICE)
            averaged = {n: cut(tensors["ema"][n], shadow) for n, shadow in trainer.ema.shadow.items()}
            trainer.ema.load_state_dict(averaged, state["ema_updates"])
        else:
            notes.append("the checkpoint has no EMA: averaging starts from its weights")
            trainer.ema.load_state_dict({n: p.detach() for n, p in trainer.core.named_parameters()}, updates=0)
    if state["optimizer"]["kind"] == kind_of(optimizer):
        load_optimizer(trainer.core, optimizer, tensors["optimizer"], state["optimizer"]["values"])
    else:
        notes.append(f"the optimizer was {state['optimizer']['kind']}: its state is not restored")
    trainer.job.schedule.state = state["schedule"]
    if scaler is not None and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    if len(state["generators"]) == trainer.ranks.world:
        restore_generators(state["generators"][trainer.ranks.rank], trainer.accelerator.device)
    else:
        seed_all(trainer.settings.seed + _STEP_SEED * trainer.counters.step + _RANK_SEED * trainer.ranks.rank)
    return notes


def _shape(trainer: Trainer) -> dict[str, int]:
    """Return what decides which samples a step sees; a run resumed with another shape is not exact."""
    return {
        "processes": trainer.ranks.world,
        "batch_size": trainer.settings.batch_size,
        "grad_accum_steps": trainer.settings.grad_accum_steps,
        "batches_per_epoch": len(trainer.sampler),
        "seed": trainer.settings.seed,
    }


# ------------------------------------------------------------------------------------------ network and optimizer


@torch.no_grad()
def load_model(model: nn.Module, state: Tensors) -> None:
    """Copy `state` into the network's parameters and buffers."""
    put_back(model)
    own = model.state_dict()
    check_fit(own, state, "weights of the checkpoint", _ADVICE)
    for name, tensor in own.items():
        tensor.copy_(cut(state[name], tensor))


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of the optimizer's parameters in the order in which it numbers them."""
    by_id = {id(p): n for n, p in model.named_parameters()}
    inside: Any = optimizer
    groups = inside.bit16_groups if is_zero(optimizer) else [group["params"] for group in optimizer.param_groups]
    return [by_id[id(p)] for group in groups for p in group]


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """Return the optimizer's tensors and its other values (JSON), both by ``<parameter>/<key>``."""
    state = _state_of(model, optimizer)
    tensors = {place: whole(value) for place, value in state.items() if isinstance(value, Tensor)}
    return tensors, {place: value for place, value in state.items() if place not in tensors}


def _state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's state by ``<parameter>/<key>``, in the same order on every rank."""
    if is_zero(optimizer):
        return zero_state({id(p): n for n, p in model.named_parameters()}, optimizer)
    names = _names(model, optimizer)
    # sorted: gathering is an exchange, and after a restore the order is that of the file, which ranks may read apart
    states = sorted(optimizer.state_dict()["state"].items())
    return {f"{names[number]}/{key}": value for number, state in states for key, value in sorted(state.items())}


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors, values: dict[str, Any]
) -> None:
    """Restore what `optimizer_state` gave; learning rate and weight decay stay those of the current configuration."""
    numbers = {name: i for i, name in enumerate(_names(model, optimizer))}
    parameters = dict(model.named_parameters())
    places = sorted({**tensors, **values}.items())
    unknown = [name for name in (place.rpartition("/")[0] for place, _ in places) if name not in numbers]
    if unknown:
        raise UserError(f"the checkpoint's optimizer knows {unknown[0]}, the network does not; use its own --arch")
    if is_zero(optimizer):
        load_zero_state({id(p): n for n, p in parameters.items()}, optimizer, dict(places))
        return
    state: dict[int, dict[str, Any]] = {}
    for place, value in places:
        name, _, key = place.rpartition("/")
        if isinstance(value, Tensor) and value.dim():
            value = cut(value, parameters[name].detach())
        state.setdefault(numbers[name], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# ------------------------------------------------------------------------------------------ random generators


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators (Python, NumPy, torch, CUDA where `device` is one) as JSON values."""
    version, numbers, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy_state
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
        "torch": _text(torch.get_rng_state()),
    }
    if device.type == "cuda":
        states["cuda"] = _text(torch.cuda.get_rng_state(device))
    return states


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    """Restore the global generators to what `generator_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_tensor(states["torch"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(_tensor(states["cuda"]), device)


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
