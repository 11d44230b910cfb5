"""What accelerate is given of our settings, for back ends that this machine may not have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType
from tiny_training import make_job

from lemamba.engine.training.sharding import prepare
from lemamba.utils.errors import UserError


class Accelerator:
    """Stands in for accelerate's: returns what it is given and keeps the configuration DeepSpeed would get."""

    is_fsdp2 = False
    mixed_precision = "no"

    def __init__(self, kind: DistributedType) -> None:
        self.distributed_type, self.given = kind, None
        plugin = SimpleNamespace(deepspeed_config={"gradient_clipping": 7.0, "zero_optimization": {"stage": 2}})
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


def test_the_first_version_of_fsdp_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match="fsdp_version: 2"):
        prepare(make_job(tmp_path), Accelerator(DistributedType.FSDP))


def test_deepspeed_with_mixed_precision_is_refused_in_one_line(tmp_path):
    """DeepSpeed would round every weight to bf16, accelerate turns autocast off, and the first step dies."""
    accelerator = Accelerator(DistributedType.DEEPSPEED)
    accelerator.mixed_precision = "bf16"
    with pytest.raises(UserError, match="--mixed_precision bf16 under DeepSpeed"):
        prepare(make_job(tmp_path), accelerator)
    assert accelerator.given is None
