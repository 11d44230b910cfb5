"""Networks or moments that are split over processes (FSDP2, DeepSpeed): the one place that gathers and puts back.

Under FSDP2 a parameter is a `DTensor`: each rank holds a part. `whole` gathers one, `cut` is its inverse. Gathering is
an exchange, so all ranks call it, in the order of the network's state; cutting needs none, because every rank has read
the whole value from the same file.

A forward pass without backward leaves the parameters of FSDP2's outermost module gathered: plain tensors, of which
the averaged weights know nothing. Whatever reads or replaces parameters therefore calls `put_back` first.

DeepSpeed's ZeRO-1 and ZeRO-2 leave the parameters whole. Their optimizer steps a flat copy of this rank's part, which
has the moments, and then overwrites the parameters; `zero_state` and `load_zero_state` name moments by parameter.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import Tensor, nn

from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from torch.distributed.tensor import DTensor

    from lemamba.engine.training.job import Job


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether no rank can run the network alone, because its passes are exchanges."""
    from accelerate.utils import DistributedType

    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def check_sharding(accelerator: Accelerator) -> None:
    """Refuse what cannot be trained right, before anything is written.

    Raises:
        UserError: FSDP version 1, FSDP2 with fp16, DeepSpeed with mixed precision or another stage than 1 and 2.
    """
    from accelerate.utils import DistributedType

    kind, precision = accelerator.distributed_type, accelerator.mixed_precision
    if kind == DistributedType.FSDP and precision == "fp16":
        raise UserError("--mixed_precision fp16 was never run under FSDP; give bf16 or no, or use DDP (multi_gpu.yaml)")
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise UserError(
            "FSDP version 1 flattens parameters, so EMA and checkpoints cannot name them; set fsdp_version: 2 in "
            "the accelerate configuration, as configs/huggingface/fsdp.yaml does"
        )
    if kind == DistributedType.DEEPSPEED and precision != "no":
        raise UserError(
            f"--mixed_precision {precision} under DeepSpeed would round all weights, the decays of the scan among "
            "them; give --mixed_precision no, or use DDP or FSDP2 (multi_gpu.yaml, fsdp.yaml)"
        )
    if kind == DistributedType.DEEPSPEED and (stage := accelerator.state.deepspeed_plugin.zero_stage) not in (1, 2):
        raise UserError(
            f"expected zero_stage 1 or 2 in DeepSpeed's configuration, given {stage}; stage 3 leaves no rank with "
            "whole weights to average and save: use FSDP2 (fsdp.yaml)"
        )


def prepare(job: Job, accelerator: Accelerator) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Return network and optimizer as accelerate wraps them for one process, DDP, FSDP2 or DeepSpeed.

    Raises:
        UserError: see `check_sharding`.
    """
    from accelerate.utils import DistributedType

    settings = job.config.train
    check_sharding(accelerator)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:  # one source of truth: our configuration
        plugin = accelerator.state.deepspeed_plugin.deepspeed_config
        plugin["train_micro_batch_size_per_gpu"] = settings.batch_size
        plugin["gradient_accumulation_steps"] = 1  # the loop accumulates
        plugin["gradient_clipping"] = settings.clip_norm or 0.0
    if accelerator.distributed_type != DistributedType.FSDP:
        return accelerator.prepare(job.model, job.optimizer)
    # accelerate's policy casts every parameter and every input to bf16: the decays would be ruined, and the image to
    # which details are added rounded to 8 bits. Autocast rounds operands of products only, as without FSDP.
    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    wrapped, optimizer = accelerator.prepare(job.model, job.optimizer)
    if accelerator.mixed_precision != "no":
        wrapped.forward = _autocast(accelerator, wrapped.forward)
    return wrapped, optimizer


def _autocast(accelerator: Accelerator, forward: Any) -> Any:
    def run(*args: Any, **named: Any) -> Any:
        with accelerator.autocast():
            return forward(*args, **named)

    return run


def put_back(model: nn.Module) -> None:
    """Make each parameter the part of this rank again; does nothing where nothing is sharded. No exchange."""
    for module in model.modules():
        reshard = getattr(module, "reshard", None)  # FSDP2 adds it to the modules that it wraps
        if callable(reshard):
            reshard()


def _is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether a tensor is sharded; importing the class takes longer than torch, and whoever shards has it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor (all ranks call it); return any other tensor unchanged."""
    tensor = tensor.detach()
    return tensor.full_tensor() if _is_part(tensor) else tensor


def gather_all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather every sharded tensor of a state; all ranks call it with the same names in the same order."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return ``model.state_dict()`` with whole tensors; all ranks call it."""
    put_back(model)
    return gather_all(model.state_dict())


def cut(value: Tensor, place: Tensor) -> Tensor:
    """Move a whole tensor to the device of `place`, and take this rank's part if `place` is sharded. No exchange."""
    value = value.to(place.device)
    if not _is_part(place) or value.shape != place.shape:
        return value
    from torch.distributed.tensor import DTensor, Shard

    mesh, local = place.device_mesh, value
    coordinate = mesh.get_coordinate()
    assert coordinate is not None, "a rank outside the mesh holds no parameters"
    for axis, placement in enumerate(place.placements):
        if isinstance(placement, Shard):
            parts = local.chunk(mesh.size(axis), placement.dim)  # as FSDP2 splits: the last parts may be missing
            mine = coordinate[axis]
            local = parts[mine] if mine < len(parts) else local.narrow(placement.dim, 0, 0)
    local = local.clone()  # contiguous, and the whole value can be freed
    return DTensor.from_local(
        local, mesh, place.placements, run_check=False, shape=place.shape, stride=value.contiguous().stride()
    )


# ------------------------------------------------------------------------------------------ DeepSpeed


def is_zero(optimizer: Any) -> bool:
    """Return whether an optimizer is DeepSpeed's, around torch's own."""
    return hasattr(optimizer, "bit16_groups")


def kind_of(optimizer: Any) -> str:
    """Return the class name of torch's optimizer, also of the one inside DeepSpeed's."""
    return type(optimizer.optimizer if is_zero(optimizer) else optimizer).__name__


def take_weights(optimizer: Any) -> None:
    """Let the optimizer continue from the present parameters; DeepSpeed's would return to its own copy of them."""
    if is_zero(optimizer):
        optimizer.refresh_fp32_params()


def zero_state(names: Mapping[int, str], optimizer: Any) -> dict[str, Any]:
    """Return the state of DeepSpeed's optimizer by ``<parameter>/<key>``, with whole tensors; all ranks call it.

    Args:
        names: of the parameters, by their `id`.
        optimizer: DeepSpeed's, of stage 1 or 2.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_get_full_optimizer_state

    found: dict[str, Any] = {}
    for flat, parameters in _zero_groups(optimizer):
        # DeepSpeed does so itself, but after the step of the first group, when the others have no moments yet
        lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.optimizer.state)
        for key, value in sorted(optimizer.optimizer.state.get(flat, {}).items()):
            split = isinstance(value, Tensor) and value.shape == flat.shape
            for p in parameters:  # the rest, such as the number of steps, is one for all
                found[f"{names[id(p)]}/{key}"] = safe_get_full_optimizer_state(p, key) if split else value
    return found


def load_zero_state(names: Mapping[int, str], optimizer: Any, state: Mapping[str, Any]) -> None:
    """Restore what `zero_state` or torch's own optimizer gave. No exchange."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_set_full_optimizer_state

    by_name: dict[str, dict[str, Any]] = {}
    for place, value in state.items():
        name, _, key = place.rpartition("/")
        by_name.setdefault(name, {})[key] = value
    for flat, parameters in _zero_groups(optimizer):
        own = {names[id(p)]: by_name.get(names[id(p)], {}) for p in parameters}
        kept = optimizer.optimizer.state[flat]
        for key, value in next(iter(own.values())).items():
            split = isinstance(value, Tensor) and value.dim() > 0
            kept[key] = flat.detach().new_zeros(flat.shape) if split else value
        lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.optimizer.state)
        for p in parameters:
            for key, value in own[names[id(p)]].items():
                if isinstance(value, Tensor) and value.dim() > 0:
                    safe_set_full_optimizer_state(p, value.to(p.device), key)


def _zero_groups(optimizer: Any) -> list[tuple[Tensor, list[nn.Parameter]]]:
    """Return this rank's flat part of each group, and the group's parameters."""
    flats = [group["params"][0] for group in optimizer.optimizer.param_groups]
    return list(zip(flats, optimizer.bit16_groups, strict=True))
