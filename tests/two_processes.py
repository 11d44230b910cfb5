"""What the tests start under torchrun with two CPU processes: an undisturbed run, a stopped and resumed one, plain DDP.

``torchrun --nproc_per_node 2 tests/two_processes.py FOLDER`` trains in FOLDER/{whole,parts,ddp}.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_training import TinyNet, make_job, train

from lemamba.engine.training.fit import fit

# a rate that changes at every step, so that a schedule which counted processes would show
PLAIN = ["--optimizer", "sgd", "--schedule", "cos_anneal", "-e", "3", "--clip_norm", "none"]
PLAIN += ["--set", "train.ema_decay=null", "--set", "schedule.per_epoch=false"]


def plain_net() -> TinyNet:
    """The network of the comparison with one process: no dropout, no batch norm, one start."""
    torch.manual_seed(0)
    return TinyNet(drop=0.0, norm=False)


def main() -> None:
    torch.set_num_threads(1)
    folder, accelerator = Path(sys.argv[1]), Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    fit(make_job(folder / "whole"), accelerator)
    # one of the two processes, not the writing one, is asked to stop
    outcome = train(make_job(folder / "parts"), accelerator, stop_after=3, signal="SIGUSR1", rank=1)
    assert (outcome.reason, outcome.counters.step) == ("SIGUSR1", 3)
    fit(make_job(folder / "parts", resume=True), accelerator)
    fit(make_job(folder / "ddp", *PLAIN, model=plain_net()), accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
