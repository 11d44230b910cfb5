"""What accelerate is given of our settings, for back ends that this machine may not have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from tiny_training import make_job

from lemamba.engine.training.fit import Trainer
from lemamba.engine.training.sharding import prepare
from lemamba.utils.errors import UserError


class Accelerator:
    """Stands in for accelerate's: returns what it is given and keeps the configuration DeepSpeed would get."""

    is_fsdp2 = False
    mixed_precision = "no"

    def __init__(self, kind: DistributedType) -> None:
        self.distributed_type, self.given = kind, None
        config = {"gradient_clipping": 7.0, "zero_optimization": {"stage": 2}}
        plugin = SimpleNamespace(deepspeed_config=config, zero_stage=2)
        self.state = SimpleNamespace(deepspeed_plugin=plugin)

    def prepare(self, *objects):
        self.given = dict(self.state.deepspeed_plugin.deepspeed_config)
        return objects


@pytest.mark.parametrize(("clip", "given"), [("0.25", 0.25), ("none", 0.0)])
def test_deepspeed_takes_batch_accumulation_and_clipping_from_our_configuration(tmp_path, clip, given):
    """Accumulation is the loop's own, so DeepSpeed counts each of its calls as a step; all this before it prepares."""
    accelerator = Accelerator(DistributedType.DEEPSPEED)
    prepare(make_job(tmp_path, "-b", "3", "--clip_norm", clip), accelerator)
    assert accelerator.given == {
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": given,
        "zero_optimization": {"stage": 2},
    }


@pytest.mark.parametrize(
    ("kind", "precision", "stage", "says"),
    [
        ("FSDP", "no", 2, "fsdp_version: 2"),
        ("FSDP", "fp16", 2, "--mixed_precision fp16 was never run under FSDP; give bf16 or no"),
        # DeepSpeed would round every weight to bf16, accelerate turns autocast off, and the first step dies
        ("DEEPSPEED", "bf16", 2, "--mixed_precision bf16 under DeepSpeed"),
        ("DEEPSPEED", "fp16", 2, "--mixed_precision fp16 under DeepSpeed"),
        ("DEEPSPEED", "no", 3, "zero_stage 1 or 2 in DeepSpeed's configuration, given 3"),
        ("DEEPSPEED", "no", 0, "zero_stage 1 or 2 in DeepSpeed's configuration, given 0"),
    ],
)
def test_what_cannot_be_trained_right_is_refused_in_one_line(tmp_path, kind, precision, stage, says):
    accelerator = Accelerator(DistributedType[kind])
    accelerator.mixed_precision, accelerator.state.deepspeed_plugin.zero_stage = precision, stage
    with pytest.raises(UserError, match=says) as refusal:
        prepare(make_job(tmp_path), accelerator)
    assert accelerator.given is None and "\n" not in str(refusal.value)


@pytest.mark.parametrize("total", [2.0, torch.inf, torch.nan])
def test_deepspeed_leaves_out_a_step_whose_loss_alone_is_not_finite(total):
    """It steps within backward, and looks at gradients only: these are NaN then, and as they were otherwise."""
    steered = {}
    for alone in (False, True):
        weight = torch.tensor(1.0, requires_grad=True)
        loss = weight * 3 + (total - weight.detach() * 3)  # its gradient is 3, whatever its value
        value = Trainer.steered(SimpleNamespace(steps_alone=alone), loss)
        value.backward()
        steered[alone] = weight.grad.item()
    assert steered[False] == 3
    assert steered[True] == 3 if total == 2 else steered[True] != steered[True]
