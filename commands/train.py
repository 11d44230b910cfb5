"""Train a fusion network: parse the command line, resolve the configuration, build everything, fit.

    accelerate launch --config_file configs/huggingface/accelerate.yaml accelerate_main.py --proj_name LE-Mamba \
        --arch LEMamba --dataset wv3 --num_worker 6 -e 800 -b 32 --aug_probs 0. 0. --loss l1ssim \
        --grad_accum_steps 2 --checkpoint_every_n 20 --val_n_epoch 20 --comment "…" --log_metric --logger_on

One process: `python accelerate_main.py …`. Two on a CPU: `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 …`.
Results: log_file/<proj>/<run>/ (config.yaml, train.log, checkpoints/, weights/) and runs/<proj>/<run>/ (TensorBoard).
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lemamba.utils import cli, config
from lemamba.utils.errors import UserError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from lemamba.engine.training.job import Job
    from lemamba.engine.training.ranks import Ranks
    from lemamba.engine.training.schedule import Schedule

QUICK_METRICS = ("sam", "ergas", "psnr")


def resolve_config(command: cli.CommandLine) -> tuple[config.Config, Path | None, Path | None]:
    """Return the configuration and, when resuming, the run's folder and the checkpoint to go on from."""
    if command.resume is None:
        return config.resolve(command.flags, command.config_file), None, None
    from lemamba.engine.training.checkpoint import find_run, read_state

    early = config.resolve({"log": command.flags.get("log", {})}, command.config_file)  # where runs are looked for
    folder, checkpoint = find_run(command.resume, Path(early.log.log_dir), early.log.proj_name, early.log.run_name)
    resolved = config.resolve(command.flags, command.config_file, read_state(checkpoint)["config"])
    return resolved, folder, checkpoint


def build_data(settings: config.Config) -> tuple[Dataset, Dataset]:
    """Open the training and the validation set; the test file is never touched here."""
    from lemamba.datasets.build import build_dataset, check_range

    data = settings.data
    build = partial(
        build_dataset,
        data.dataset,
        root=data.root,
        ratio=data.ratio,
        sensor=data.sensor,
        divisor=data.divisor,
        seed=settings.train.seed,
    )
    train = build("train", augment_prob=data.aug_probs[0], crop=data.crop)
    if data.divisor is None:
        check_range(train)
    valid = build("valid", augment_prob=data.aug_probs[1])
    for key in ("bands", "guide_bands", "ratio", "divisor"):
        if getattr(train, key) != getattr(valid, key):
            raise UserError(
                f"training and validation set differ in {key}: {getattr(train, key)} in {train.path}, "
                f"{getattr(valid, key)} in {valid.path}; simulate both from one sensor"
            )
    return train, valid


def build_network(settings: config.Config, data: Dataset) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network for the data; returns it and the facts by which it can be built again."""
    from lemamba.model import build_model, model_entry

    entry = model_entry(settings.model.arch)
    if entry.classical:
        raise UserError(f"{entry.name} is a classical method, there is nothing to train; use inference.py --arch")
    arguments = config.model_arguments(settings) | {
        "img_channel": data.bands,
        "condition_channel": data.guide_bands,
        "out_channel": data.bands,
        "ratio": data.ratio,
    }
    model = build_model(entry.name, **arguments)
    if settings.model.pretrained:
        load_pretrained(model, entry.name, settings.model.pretrained, Path(settings.log.log_dir))
    if settings.train.grad_ckpt:
        if not hasattr(model, "set_grad_checkpointing"):
            raise UserError(f"{entry.name} cannot recompute activations; leave out --grad_ckpt")
        model.set_grad_checkpointing(True)
    if settings.train.channels_last:
        import torch

        model.to(memory_format=torch.channels_last)
    return model, {"name": entry.name, "args": arguments}


def load_pretrained(model: nn.Module, name: str, given: str, log_folder: Path) -> None:
    """Load weights to start from: ours as they are, published ones through `lemamba.model.convert`."""
    from lemamba.engine.weights.files import load_weights, open_weights
    from lemamba.model.convert import convert_state_dict

    load_weights(model, open_weights(given, log_folder), partial(convert_state_dict, name))


def measure(sr: Tensor, gt: Tensor, *, ratio: int, divisor: float, every: bool) -> dict[str, Tensor]:
    """Metrics of a batch in digital numbers; sr, gt (B, C, H, W) in [0, 1], sr clipped as inference does."""
    from lemamba import metrics

    sr, gt = sr.double().clamp(0, 1) * divisor, gt.double() * divisor
    if every:
        return metrics.reduced_resolution(sr, gt, ratio=ratio, const=divisor)
    return {
        "sam": metrics.sam(sr, gt),
        "ergas": metrics.ergas(sr, gt, ratio=ratio),
        "psnr": metrics.psnr(sr, gt, const=divisor),
    }


def describe(
    settings: config.Config, model: nn.Module, train: Dataset, valid: Dataset, device: torch.device, world: int
) -> dict[str, str]:
    """Return the lines of the table at the start of a run."""
    from lemamba.engine.fusing.cost import count_flops, count_parameters

    sample = {key: value[None] for key, value in train[0].items()}
    height, width = sample["lms"].shape[-2:]
    model.to(device)
    flops = count_flops(model, {key: value.to(device) for key, value in sample.items()})
    batch = settings.train.batch_size * world * settings.train.grad_accum_steps
    rows = {
        "network": f"{model.model_name} {settings.model.variant if settings.model.variants else ''}".strip(),
        "parameters": f"{count_parameters(model):,}",
        "FLOPs": f"{flops / 1e9:.3f} G for one sample of {height} x {width}",
        "training data": f"{len(train)} samples of {train.path}",
        "validation data": f"{len(valid)} samples of {valid.path}",
        "bands, ratio": f"{train.bands} + {train.guide_bands} guide, ratio {train.ratio}, divided by {train.divisor:g}",
        "batch": f"{batch} = {settings.train.batch_size} x {world} process(es) x {settings.train.grad_accum_steps}",
        "device": f"{device}, {world} process(es), mixed precision {settings.train.mixed_precision}",
    }
    if "lemamba.model.ops.scan.selective" in sys.modules:
        rows["scan backend"] = describe_scan(device)
    if settings.log.comment:
        rows["comment"] = settings.log.comment
    return rows


def record(
    settings: config.Config, model: nn.Module, train: Dataset, valid: Dataset, told: dict[str, str], world: int
) -> dict[str, Any]:
    """Return what weight files and their model card say of data files, network and machine; `told` by `describe`."""
    import inspect
    import platform

    import torch

    from lemamba.datasets.build import find_entry
    from lemamba.datasets.provenance import file_facts
    from lemamba.utils.version import project_version

    device = next(model.parameters()).device
    choice = inspect.signature(type(model)).parameters.get("state_grad")  # LE-Mamba's; the default where none is given
    facts = {
        "task": find_entry(settings.data.dataset, settings.data.root).task,
        "parameters": told["parameters"],
        "FLOPs": told["FLOPs"],
        "state_grad": config.model_arguments(settings).get("state_grad", choice.default) if choice else None,
        "processes": world,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})",
        "scan backend": told.get("scan backend", "").partition(":")[0] or None,
        "project": project_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return {"files": [file_facts("training", train), file_facts("validation", valid)], "facts": facts}


def describe_scan(device: torch.device) -> str:
    """Say which scan backend runs on `device`, and why."""
    import torch

    from lemamba.model.ops.scan.backends import choose, state_of

    name = choose(None, device.type, torch.float32, state_grad=False)
    return f"{name}: {state_of(name).reason}"


def start_accelerator(settings: config.Config) -> Accelerator:
    """Start accelerate on the device and in the precision asked for."""
    from accelerate import Accelerator

    precision = settings.train.mixed_precision
    try:
        accelerator = Accelerator(mixed_precision=precision, cpu=settings.train.cpu or None)
    except ValueError as error:  # bf16 on an old GPU
        raise UserError(f"--mixed_precision {precision} does not work here: {error}; use no or bf16") from None
    if precision == "fp16" and accelerator.device.type == "cpu":  # autocast would run, without loss scaling
        raise UserError("--mixed_precision fp16 needs a GPU, this runs on the CPU; use bf16 or no")
    return accelerator


def build_optimizer_for(settings: config.Config, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimizer; on a GPU, Adam and AdamW are fused unless told otherwise."""
    from lemamba.engine.training.optim import build_optimizer

    optimizer, arguments = settings.optimizer, dict(settings.optimizer.args)
    if device.type == "cuda" and optimizer.name.lower() in ("adamw", "adam"):
        arguments.setdefault("fused", True)
    return build_optimizer(optimizer.name, model, lr=optimizer.lr, weight_decay=optimizer.weight_decay, **arguments)


def build_schedule_for(settings: config.Config) -> Schedule:
    """Build the schedule of the learning rate."""
    from lemamba.engine.training.schedule import build_schedule

    shape = vars(settings.schedule).copy()
    return build_schedule(shape.pop("name"), base_lr=settings.optimizer.lr, epochs=settings.train.epochs, **shape)


def build_job(settings: config.Config, accelerator: Accelerator, folder: Path, checkpoint: Path | None) -> Job:
    """Build data, network, loss, optimizer and schedule; every complaint about the input comes from here.

    Args:
        settings: the resolved configuration.
        accelerator: tells device and number of processes.
        folder: the run's; nothing is written there yet.
        checkpoint: what to go on from, or None.
    """
    from lemamba.engine.training.generators import seed_all
    from lemamba.engine.training.job import Job
    from lemamba.losses import build_loss
    from lemamba.metrics import REDUCED_NAMES, Meter
    from lemamba.reporting.pictures import choose_bands
    from lemamba.utils.sensors import get_sensor

    device, world = accelerator.device, accelerator.num_processes
    loss, schedule = build_loss(settings.loss.name, **settings.loss.args), build_schedule_for(settings)
    train, valid = build_data(settings)
    seed_all(settings.train.seed)  # the same weights on every rank
    model, described = build_network(settings, train)
    facts, recorded = {}, {}
    if accelerator.is_main_process:  # which alone logs and writes weights
        facts = describe(settings, model, train, valid, device, world)
        recorded = record(settings, model, train, valid, facts, world)
    if settings.train.compile:
        model.compile()  # after the FLOPs are counted: what runs under the counter stays uncompiled for good
    data = {key: getattr(train, key) for key in ("sensor", "divisor", "ratio")}
    return Job(
        config=settings,
        model=model,
        optimizer=build_optimizer_for(settings, model, device),
        schedule=schedule,
        loss=loss.to(device),
        train_set=train,
        valid_set=valid,
        metrics=partial(measure, ratio=train.ratio, divisor=train.divisor, every=settings.log.log_metric),
        metric_names=REDUCED_NAMES if settings.log.log_metric else QUICK_METRICS,
        make_meter=Meter,
        folder=folder,
        tensorboard=Path(settings.log.tensorboard_dir) / folder.parent.name / folder.name,
        meta={"model": described, "data": {"dataset": settings.data.dataset, **data}, **recorded},
        rgb=choose_bands(
            get_sensor(train.sensor), *(valid[0][key].numpy() for key in ("lms", "pan")), own=train.own_rgb
        ),
        facts=facts,
        resume=checkpoint,
    )


def new_folder(settings: config.Config, ranks: Ranks) -> Path:
    """Name the folder of a new run; the same on every rank, although the name may hold the time."""
    name = settings.log.run_name or f"{settings.model.arch}_{settings.data.dataset}_{time.strftime('%Y%m%d-%H%M%S')}"
    return ranks.share(Path(settings.log.log_dir) / settings.log.proj_name / name)


def claim_folder(job: Job, ranks: Ranks, overwrite: bool) -> IO[str] | None:
    """Create and lock the run's folder and save the configuration there (main process); the others learn the outcome.

    Returns:
        The lock, to be kept open as long as the run lasts; None on the other ranks.
    """
    from lemamba.engine.training.run_folder import open_run

    lock, failure = None, None
    if ranks.main:
        try:
            board = job.tensorboard if job.config.log.logger_on else None
            lock = open_run(job.folder, board, resuming=job.resume is not None, overwrite=overwrite)
            config.save(job.config, job.folder / "config.yaml")
        except UserError as error:
            failure = str(error)
    failure = ranks.share(failure)
    if failure:
        raise UserError(failure)
    return lock


def replay(path: str) -> int:
    """Run a batch saved by the NaN guard again and say what is first not finite."""
    from lemamba.engine.training.nan_guard import find_culprit, load_batch
    from lemamba.engine.weights.files import load_strict
    from lemamba.losses import build_loss
    from lemamba.model import build_model

    batch, state, meta = load_batch(Path(path))
    model = build_model(meta["model"]["name"], **meta["model"]["args"])
    load_strict(model, state, path)
    loss = meta["config"]["loss"]
    found = find_culprit(model.train(), build_loss(loss["name"], **loss["args"]), batch)
    print(f"step {meta['step']}, then: {meta['culprit']}\nnow: {found}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says."""
    command = cli.parse(argv)
    if command.replay:
        return replay(command.replay)
    settings, resumed, checkpoint = resolve_config(command)
    from lemamba.engine.training.fit import check, fit
    from lemamba.engine.training.ranks import Ranks

    accelerator = start_accelerator(settings)
    ranks = Ranks()
    job = build_job(settings, accelerator, resumed or new_folder(settings, ranks), checkpoint)
    check(job, ranks.world)
    lock = claim_folder(job, ranks, command.overwrite)
    try:
        fit(job, accelerator)
        # before torch 2.7 a rank that ends beside a broadcast's last tensor waits for itself for ever; only where all
        # come so far: a rank that breaks must not wait for the others, which are in the middle of a step
        accelerator.wait_for_everyone()
    finally:
        if lock is not None:
            lock.close()
        accelerator.end_training()
    return 0
