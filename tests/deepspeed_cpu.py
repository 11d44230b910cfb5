"""DeepSpeed ZeRO-2 on its CPU accelerator, as `make sharded` runs it: two processes train, validate, save and resume.

``python tests/deepspeed_cpu.py FOLDER`` starts both. Needs deepspeed, transformers and ninja; without them it says so
and ends well. DeepSpeed compiles its exchange operator at the first use, which takes minutes.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def train(folder: Path) -> None:
    """Train in this process, a rank of two; resume where there is a checkpoint."""
    from accelerate import Accelerator, DeepSpeedPlugin
    from safetensors.torch import load_file
    from sharded import as_gpus, job

    from lemamba.engine.training.fit import fit

    as_gpus()
    accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(zero_stage=2))
    if not (folder / "log").exists():
        accelerator.wait_for_everyone()  # neither has made the folder before the other has looked
        fit(job(folder, valid=1), accelerator)
        return
    fit(job(folder, "-e", "3", resume=True), accelerator)
    if accelerator.is_main_process:
        state = load_file(folder / "log/p/run/weights/last.safetensors")
        assert all(value.isfinite().all() for value in state.values())
        log = (folder / "log/p/run/train.log").read_text()
        assert "moments start anew" in log and log.count("validation after") == 3, log
        print("DeepSpeed ZeRO-2 on two CPU processes: trained, validated, saved, resumed")


def main() -> int:
    """Start both ranks; 0 also where DeepSpeed is not installed."""
    missing = [name for name in ("deepspeed", "transformers", "ninja") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"DeepSpeed was not tested: pip install {' '.join(missing)}")
        return 0
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555", "WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # of the ninja next to this Python
    command = [sys.executable, __file__, sys.argv[1]]
    for _ in ("train", "resume"):
        ranks = [
            subprocess.Popen(command, env={**os.environ, **common, "PATH": path, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(2)
        ]
        status = max(abs(rank.wait()) for rank in ranks)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main() if "RANK" not in os.environ else train(Path(sys.argv[1])))
