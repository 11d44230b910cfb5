"""The training command as users type it: the published line, two processes, resuming, bad input."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from small_files import write_training_set

from lemamba.commands import train as accelerate_main
from lemamba.engine.weights.files import load_strict, read_weights, resolve_weights
from lemamba.model import build_model
from lemamba.model.ops import available_backends
from lemamba.utils import config
from lemamba.utils.device import tf32
from lemamba.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
LINE = """--proj_name LE-Mamba --arch PanNet --dataset ikonos --num_worker 2 -e 2 -b 4 --aug_probs 0. 0. --loss l1ssim
--grad_accum_steps 2 --checkpoint_every_n 20 --val_n_epoch 20 --comment "a comment" --log_metric --logger_on"""
SMALL = "--arch PanNet --dataset ikonos -e 1 -b 4 --run_name r"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_training_set(folder / "train_ikonos.h5", 18, 0)
    write_training_set(folder / "valid_ikonos.h5", 5, 1)
    return folder


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps precision and device for the life of a process; each test starts afresh."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def launch(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def main(monkeypatch, folder: Path, data: Path | None, line: str) -> None:
    """Run the command in this process."""
    monkeypatch.chdir(folder)
    root = ["--data_root", str(data)] if data else []
    accelerate_main.run(config.parse([*shlex.split(line), *root]))


def test_published_command_line_under_accelerate_launch(tmp_path, data):
    file = str(ROOT / "configs/huggingface/accelerate.yaml")
    command = ["-m", "accelerate.commands.launch", "--config_file", file, str(ROOT / "accelerate_main.py")]
    done = launch(tmp_path, *command, *shlex.split(LINE), LEMAMBA_DATA=str(data))
    assert done.returncode == 0, done.stderr
    run = next((tmp_path / "log_file/LE-Mamba").iterdir())
    assert {p.name for p in run.iterdir()} == {
        *(".lock", "config.yaml", "train.log", "metrics.jsonl", "metrics.csv", "checkpoints", "weights")
    }
    assert {p.name for p in (run / "weights").iterdir()} == {
        "README.md",
        *(f"{n}.{s}" for n in ("best", "last") for s in ("json", "safetensors")),
    }
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step_00000004"]
    assert list((tmp_path / "runs/LE-Mamba" / run.name).glob("events.*"))
    log = (run / "train.log").read_text()
    for shown in ("77,640", "FLOPs", "a comment", "ergas", "qn", "qave", "samples/s"):
        assert shown in log

    state, meta = read_weights(resolve_weights(run))
    assert meta["data"] == {"dataset": "ikonos", "sensor": "IKONOS", "divisor": 2047.0, "ratio": 4}
    model = build_model(meta["model"]["name"], **meta["model"]["args"])
    load_strict(model, state)
    assert meta["config"]["train"]["epochs"] == 2 and set(meta["metrics"]) >= {"ergas", "qn", "ssim"}


def test_two_processes_with_hugging_face_datasets_installed(tmp_path, data):
    """A package called `datasets`, seen by accelerate through its metadata, must not be taken for ours."""
    facts = tmp_path / "fake/datasets-9.9.9.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: datasets\nVersion: 9.9.9\n")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    line = LINE.replace("-b 4", "-b 2").replace("--num_worker 2", "--num_worker 0") + " --run_name r"
    done = launch(
        tmp_path,
        *command,
        str(ROOT / "accelerate_main.py"),
        *shlex.split(line),
        LEMAMBA_DATA=str(data),
        ACCELERATE_USE_CPU="true",
        PYTHONPATH=str(tmp_path / "fake"),
    )
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log_file/LE-Mamba/r/train.log").read_text()
    assert "2 process(es)" in log and log.count("validation after") == 1


BROKEN_RANK = """
import torch
from lemamba.commands import train
from lemamba.utils import config
from lemamba.utils.device import tf32

def fit(job, accelerator):
    if accelerator.process_index == 1:
        raise RuntimeError("this rank broke")
    while True:  # the other one trains on, as far as it knows
        torch.distributed.all_reduce(torch.zeros(3))

train.fit = fit
train.run(config.parse())
"""


def test_a_rank_that_breaks_ends_the_run_and_waits_for_nobody(tmp_path, data):
    """The others are in the middle of a step and will never reach the barrier at the end."""
    (tmp_path / "broken.py").write_text(BROKEN_RANK)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "broken.py")]
    environment = {"LEMAMBA_DATA": str(data), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = launch(tmp_path, *command, *shlex.split(SMALL), **environment)
    assert done.returncode != 0
    assert "this rank broke" in done.stderr


def test_resume_by_name_takes_the_runs_own_settings(tmp_path, data, monkeypatch, capsys):
    main(monkeypatch, tmp_path, data, SMALL + " --loss mse")
    with pytest.raises(UserError, match="--resume_path"):
        main(monkeypatch, tmp_path, data, SMALL)
    main(monkeypatch, tmp_path, data, "--resume_path latest -e 3")
    saved = json.loads((tmp_path / "log_file/LE-Mamba/r/checkpoints/step_00000012/state.json").read_text())
    assert saved["counters"]["epoch"] == 3
    assert (saved["config"]["model"]["arch"], saved["config"]["loss"]["name"]) == ("PanNet", "mse")
    assert "resumed from" in capsys.readouterr().out
    main(monkeypatch, tmp_path, data, SMALL + " --overwrite")
    assert len(list((tmp_path / "log_file/LE-Mamba/r/checkpoints").iterdir())) == 1


def test_two_runs_of_one_second_get_a_folder_each(tmp_path, data, monkeypatch):
    monkeypatch.setattr(accelerate_main.time, "strftime", lambda *_: "20260101-000000")
    for _ in range(2):
        main(monkeypatch, tmp_path, data, SMALL.replace("--run_name r", "--logger_on"))
    for place, files in (("log_file", "weights/last.safetensors"), ("runs", "events.out.tfevents.*")):
        found = {
            path.relative_to(tmp_path / place / "LE-Mamba").parts[0] for path in tmp_path.glob(f"{place}/*/*/{files}")
        }
        assert found == {"PanNet_ikonos_20260101-000000", "PanNet_ikonos_20260101-000000-2"}


def test_weights_of_one_run_start_another(tmp_path, data, monkeypatch):
    main(monkeypatch, tmp_path, data, SMALL)
    main(monkeypatch, tmp_path, data, SMALL.replace("-e 1", "-e 1 --lr 0") + "2 --pretrain_model_path LE-Mamba/r")
    one, two = (read_weights(tmp_path / f"log_file/LE-Mamba/{r}/weights/last.safetensors")[0] for r in ("r", "r2"))
    assert all(torch.allclose(one[k], two[k]) for k in one)
    with pytest.raises(UserError, match="do not fit|no known"):
        main(monkeypatch, tmp_path, data, "--arch FusionNet --dataset ikonos --pretrain_model_path LE-Mamba/r -b 4")


def test_bf16_crops_and_augmentation_run(tmp_path, data, monkeypatch):
    options = " --mixed_precision bf16 --aug_probs 0.5 0 --crop 16 --channels_last --tf32"
    with tf32(False):
        main(monkeypatch, tmp_path, data, SMALL + options)
        assert torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "high"
    log = (tmp_path / "log_file/LE-Mamba/r/train.log").read_text()
    assert "mixed precision bf16" in log and "16 x 16" in log


def test_the_log_says_once_which_scan_runs_and_why(tmp_path, data, monkeypatch):
    blocks = "width: 4, ssm_enc_blk_nums: [1, 1, 1], ssm_dec_blk_nums: [1, 1, 1], state_grad: full"
    line = f'--arch LEMamba --set "model.args={{{blocks}}}" --dataset ikonos -e 1 -b 18 --run_name r'
    main(monkeypatch, tmp_path, data, line)
    run = tmp_path / "log_file/LE-Mamba/r"
    shown = [text for text in (run / "train.log").read_text().splitlines() if "scan backend" in text]
    assert len(shown) == 1 and shown[0].endswith(accelerate_main.describe_scan(torch.device("cpu")))
    name, _, reason = shown[0].rpartition("scan backend")[2].strip().partition(": ")
    assert available_backends()[name].reason == reason and len(reason) > 10
    state = json.loads(next((run / "checkpoints").glob("*/state.json")).read_text())
    _, meta = read_weights(run / "weights/last.safetensors")
    assert state["config"]["model"]["args"]["state_grad"] == meta["model"]["args"]["state_grad"] == "full"


def test_a_bad_batch_is_saved_and_replayed(tmp_path, data, monkeypatch, capsys):
    with pytest.raises(UserError, match="--replay") as error:
        main(
            monkeypatch, tmp_path, data, SMALL + " --lr 1e38 --clip_norm none --grad_accum_steps 1 --optimizer sgd -b 1"
        )
    saved = next((tmp_path / "log_file/LE-Mamba/r/nan").iterdir())
    main(monkeypatch, tmp_path, None, f"--replay {saved}")
    first, again = (line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()[-2:])
    assert first == again and first in str(error.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--arch PanNett", 'did you mean "PanNet"'),
        ("--arch EXP", "nothing to train"),
        ("--dataset ikonoss", 'did you mean "ikonos"'),
        ("--loss l1sim", 'did you mean "l1ssim"'),
        ("--optimizer adamww", 'did you mean "adamw"'),
        ("--schedule cosine", "cos_anneal"),
        ("--set train.epoks=3", 'did you mean "epochs"'),
        ("--set model.args.widht=3", "widht"),
        ("--resume_path log_file/none", "does not exist"),
        ("--resume_path latest", "no complete checkpoint"),
        ("-b 40", "smaller -b"),
        ("--best_metric qn", "--log_metric adds more"),
        ("--sensor WV3", "8 bands"),
        ("--ratio 8", "ratio"),
        ("--crop 30", "multiple"),
        ("--pretrain_model_path nowhere.pth", "neither"),
        ("--replay nowhere", "not there"),
        ("--log_dir file/log", '"file" is a file, not a folder; choose another place'),
        ("--logger_on --tensorboard_dir file", '"file" is a file, not a folder; choose another place'),
        ("--mixed_precision fp16", "fp16"),
        ("--device cuda:99", "expected a --device of this machine"),
        ("--grad_ckpt", "--grad_ckpt"),
        ("--dataset wv3", "train_wv3.h5"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, data, monkeypatch, line, says):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        main(monkeypatch, tmp_path, data, SMALL + " " + line)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_scan_backend_can_be_chosen(tmp_path, data, monkeypatch):
    monkeypatch.setenv("LEMAMBA_SCAN", "auto")  # restored after the test
    blocks = "width: 4, ssm_enc_blk_nums: [1, 1, 1], ssm_dec_blk_nums: [1, 1, 1]"
    line = f'--arch LEMamba --set "model.args={{{blocks}}}" --dataset ikonos -e 1 -b 18 --run_name r --device cpu'
    with pytest.raises(UserError, match='given "nonsense"'):
        main(monkeypatch, tmp_path, data, line + " --scan_backend nonsense")
    assert list(tmp_path.iterdir()) == []
    main(monkeypatch, tmp_path, data, line + " --scan_backend torch")
    assert "torch: " in (tmp_path / "log_file/LE-Mamba/r/train.log").read_text()


@pytest.mark.parametrize("name", ["train.log", "config.yaml", "checkpoints", "weights"])
def test_what_is_in_the_way_of_a_run_is_reported_before_it_trains(tmp_path, data, monkeypatch, name):
    """A file where the run needs a folder, or a folder where it needs a file, would show hours later, or never."""
    there = tmp_path / "log_file/LE-Mamba/r" / name
    there.parent.mkdir(parents=True)
    if there.suffix:
        there.mkdir()
    else:
        there.touch()
    with pytest.raises(UserError, match=f"cannot write .*{name}.*(remove it|another place)"):
        main(monkeypatch, tmp_path, data, SMALL)
    assert [p.name for p in there.parent.iterdir()] == [name]


def test_no_data_root_an_empty_set_and_bad_samples_say_what_to_do(tmp_path, data, monkeypatch):
    monkeypatch.delenv("LEMAMBA_DATA", raising=False)
    with pytest.raises(UserError, match="LEMAMBA_DATA"):
        main(monkeypatch, tmp_path, None, SMALL)
    write_training_set(tmp_path / "train_ikonos.h5", 8, 0)
    write_training_set(tmp_path / "valid_ikonos.h5", 4, 0)
    with h5py.File(tmp_path / "train_ikonos.h5", "a") as file:
        file["ms"][3, 0, 0, 0] = np.nan
    for workers in (0, 1):
        with pytest.raises(UserError) as error:
            main(monkeypatch, tmp_path, tmp_path, f"{SMALL}{workers} --num_worker {workers}")
        assert "sample 3" in str(error.value) and "\n" not in str(error.value)


def test_errors_exit_2_with_one_line_on_stderr(tmp_path):
    done = launch(tmp_path, str(ROOT / "accelerate_main.py"), "--arch", "PanNet", "--dataset", "nowhere")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_trainings_of_one_process_may_differ_in_precision():
    """As in a notebook: accelerate keeps its first settings for the process."""
    for precision in ("no", "bf16"):
        settings = config.resolve({"train": {"device": "cpu", "mixed_precision": precision}}, None)
        assert accelerate_main.start_accelerator(settings).mixed_precision == precision


def test_what_deepspeed_lacks_is_named_in_one_line(monkeypatch):
    """accelerate looks for transformers when it is to start DeepSpeed, and raises what an import would."""

    def start(**_):
        raise PackageNotFoundError("transformers")

    monkeypatch.setattr(accelerate_main, "Accelerator", start)
    settings = config.resolve({"train": {"device": "cpu"}}, None)
    with pytest.raises(UserError, match="transformers.*pip install deepspeed transformers") as refusal:
        accelerate_main.start_accelerator(settings)
    assert "\n" not in str(refusal.value)
