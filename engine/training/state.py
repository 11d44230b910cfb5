"""What a training is made of at the end of a step, taken apart into tensors and JSON and put together again.

Works on one process, under DDP, under FSDP2 (sharded tensors are gathered and cut again) and, without the optimizer,
under DeepSpeed. Optimizer tensors are named ``<parameter>/<key>``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lemamba.utils.errors import UserError


@dataclass
class Counters:
    """Where a training stands.

    Attributes:
        epoch: whole epochs done.
        batch: batches of the present epoch done, per process; equal to the epoch's length while it waits for its
            validation.
        step: optimizer steps tried, skipped ones included.
        seconds: wall-clock time of the training so far, over all its sessions.
        best: best value of the chosen metric, None before the first validation.
        best_epoch: the epoch that gave it.
        skipped: steps left out because a number was not finite.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int | None = None
    skipped: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the counters as JSON values."""
        return asdict(self)


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor (all ranks call it); any other tensor is returned as it is."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, place: Tensor) -> Tensor:
    """Bring a whole tensor to the device of `place`, cut like it where it is sharded."""
    if isinstance(place, DTensor) and value.shape == place.shape:
        return distribute_tensor(value.to(place.device), place.device_mesh, place.placements)
    return value.to(place.device)


def gather_all(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather every sharded tensor of a state."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def check_names(own: dict[str, Tensor], state: dict[str, Tensor], what: str) -> None:
    """Refuse a state whose names or shapes are not the network's."""
    wrong = [n for n in own if n not in state or state[n].shape != own[n].shape] + [n for n in state if n not in own]
    if wrong:
        raise UserError(
            f"{what} of the checkpoint does not fit the network: {len(wrong)} tensors differ (first: {wrong[0]}); "
            "resume with the run's own --arch, --variant and data"
        )


@torch.no_grad()
def load_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill the network's parameters and buffers in place."""
    own = model.state_dict()
    check_names(own, state, "the network")
    for name, tensor in own.items():
        tensor.copy_(like(state[name], tensor))


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in the order of its own numbering."""
    by_id = {id(p): n for n, p in model.named_parameters()}
    return [by_id[id(p)] for group in optimizer.param_groups for p in group["params"]]


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take the optimizer apart: tensors by ``<parameter>/<key>``, and everything else as JSON values."""
    names = _names(model, optimizer)
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            place = f"{names[number]}/{key}"
            if isinstance(value, Tensor):
                tensors[place] = whole(value)
            else:
                values[place] = value
    return tensors, values


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]
) -> None:
    """Put the optimizer together; rates and decay stay those of the present configuration."""
    names = _names(model, optimizer)
    numbers = {name: i for i, name in enumerate(names)}
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, Any]] = {}
    for place, value in {**tensors, **values}.items():
        name, _, key = place.rpartition("/")
        if name not in numbers:
            raise UserError(f"the checkpoint's optimizer knows {name}, the network does not; take its own --arch")
        if isinstance(value, Tensor) and value.dim():
            value = like(value, parameters[name].detach())
        state.setdefault(numbers[name], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
