"""Optimizers by name, and the parameters exempt from weight decay.

Pulling a norm's gain, a bias, or the transition A_log, skip D and step bias of a state-space model to zero makes no
sense: these, all parameters with at most one axis longer than 1, and any with ``_no_weight_decay = True`` form a
separate group with decay 0.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lemamba.utils.errors import UserError, nearest

# the last part of a parameter's name: bias, dt_projs_bias, A_log, A_logs, D, Ds, Dskip
_SPARED_NAME = re.compile(r"(^|_)bias$|^A_?logs?$|^D(s|skip)?$", re.IGNORECASE)


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al., 2023): the sign of an interpolated momentum, with decoupled weight decay.

    c = b1·m + (1−b1)·g;  p = p·(1 − lr·wd) − lr·sign(c);  m = b2·m + (1−b2)·g. Needs about a third of Adam's rate.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step over all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(p)
        momentum, (b1, b2) = state["exp_avg"], group["betas"]
        direction = torch.lerp(grad, momentum, b1).sign_()
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
        momentum.lerp_(grad, 1 - b2)


def _sgd(params: list[dict], **args: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, **{"momentum": 0.9, **args})


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": _sgd,
    "lion": Lion,
}


def is_spared(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is exempt from weight decay; see the module's docstring."""
    long_axes = sum(size > 1 for size in parameter.shape)
    marked = getattr(parameter, "_no_weight_decay", False)
    return marked or long_axes <= 1 or bool(_SPARED_NAME.search(name.rsplit(".", 1)[-1]))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into one group with decay and one without, in the order of the network."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    spared = [p for n, p in named if is_spared(n, p)]
    decayed = [p for n, p in named if not is_spared(n, p)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def _timm_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    try:
        from timm.optim import get_optimizer_class
    except ImportError as error:
        raise UserError(f"optimizer timm/{name} needs timm ({error}); pip install timm, or choose another") from None
    try:
        return get_optimizer_class(name, bind_defaults=True)
    except ValueError:
        raise UserError(f'timm has no optimizer "{name}"; see timm.optim.list_optimizers()') from None


def build_optimizer(
    name: str, model: nn.Module, *, lr: float, weight_decay: float = 0.0, **args: Any
) -> torch.optim.Optimizer:
    """Build an optimizer over the network's trainable parameters.

    Args:
        name: adamw, adam, sgd (momentum 0.9), lion (any case), or ``timm/<name>`` where timm is installed.
        model: the network; its parameter names decide the weight decay groups.
        lr: peak learning rate.
        weight_decay: for the parameters that are not exempt.
        **args: the optimizer's own arguments, e.g. ``betas``.

    Raises:
        UserError: unknown name or argument.
    """
    if name.lower().startswith("timm/"):
        make = _timm_class(name[5:])
    elif name.lower() in OPTIMIZERS:
        make = OPTIMIZERS[name.lower()]
        _check_arguments(name.lower(), args)
    else:
        raise UserError(
            f'unknown optimizer "{name}"{nearest(name, OPTIMIZERS)}; known: {", ".join(OPTIMIZERS)}, timm/…'
        )
    try:
        return make(parameter_groups(model, weight_decay), lr=lr, **args)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {name}: {error}; correct optimizer.args") from None


def _check_arguments(name: str, args: dict[str, Any]) -> None:
    cls = torch.optim.SGD if name == "sgd" else OPTIMIZERS[name]
    known = [p for p in inspect.signature(cls).parameters if p not in ("params", "lr", "weight_decay")]
    for key in args:
        if key not in known:
            raise UserError(f'optimizer {name} has no argument "{key}"{nearest(key, known)}; known: {", ".join(known)}')
