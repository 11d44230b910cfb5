"""Train a network: resolve the configuration, build data, network, loss, optimizer and schedule, fit.

Results: log_file/<proj>/<run>/ (config.yaml, train.log, metrics.jsonl, metrics.csv, checkpoints/, weights/) and
runs/<proj>/<run>/ (TensorBoard).
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import platform
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from lemamba.commands.planning import show_training
from lemamba.commands.steps import as_typed
from lemamba.datasets.build import build_dataset, check_range, find_entry, names_no_divisor
from lemamba.datasets.guide_order import dataset_centres
from lemamba.datasets.h5 import H5Dataset
from lemamba.datasets.provenance import file_facts
from lemamba.datasets.transforms import Augment
from lemamba.engine.fusing.cost import count_flops, count_parameters
from lemamba.engine.training.checkpoint import create_folder, find_run, open_run, read_state
from lemamba.engine.training.fit import fit
from lemamba.engine.training.job import Job, Samples, check
from lemamba.engine.training.nan_guard import find_culprit, load_batch
from lemamba.engine.training.optim import build_optimizer
from lemamba.engine.training.ranks import Ranks
from lemamba.engine.training.schedule import Schedule
from lemamba.engine.training.sharding import check_sharding
from lemamba.engine.training.state import seed_all
from lemamba.engine.weights.bands import Bands, adapt_bands
from lemamba.engine.weights.files import load_strict, load_weights, open_weights
from lemamba.losses import build_loss
from lemamba.model import build_model, model_entry
from lemamba.model.convert import convert_state_dict
from lemamba.model.ops.scan.backends import choose, state_of
from lemamba.reporting.pictures import choose_bands
from lemamba.utils import config
from lemamba.utils.atomic import write_text
from lemamba.utils.device import usable_device, use_scan_backend, use_tf32
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts
from lemamba.utils.geometry import Geometry
from lemamba.utils.sensors import get_sensor
from lemamba.utils.version import project_version

_MLFLOW_RUN = "mlflow_run"  # in the run's folder
_WRAP: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


@dataclass(frozen=True)
class Resolved:
    """What the command line asks for.

    Attributes:
        settings: the configuration.
        layers: where its values come from.
        folder, checkpoint: the run that is resumed and its checkpoint, or None.
    """

    settings: config.Config
    layers: config.Layers
    folder: Path | None = None
    checkpoint: Path | None = None


def resolve_config(options: config.TrainOptions) -> Resolved:
    """Merge the configuration; when resuming, find the run."""
    if options.resume is None:
        return Resolved(*config.resolve_layers(options.flags, options.config_file))
    early, layers = config.resolve_layers({"log": options.flags.get("log", {})}, options.config_file)
    named = config.source_of("log.proj_name", layers) != "default"
    project = early.log.proj_name if named else None
    folder, checkpoint = find_run(options.resume, Path(early.log.log_dir), project, early.log.run_name)
    saved = read_state(checkpoint)["config"]
    return Resolved(*config.resolve_layers(options.flags, options.config_file, saved), folder, checkpoint)


def build_data(settings: config.Config) -> tuple[H5Dataset, H5Dataset]:
    """Open the training and the validation set; the test file is not used in training."""
    data = settings.data
    build = partial(
        build_dataset,
        data.dataset,
        root=data.root,
        ratio=data.ratio,
        sensor=data.sensor,
        divisor=data.divisor,
    )
    train = build("train", augment=Augment(data.aug_probs[0], data.crop, settings.train.seed))
    if data.divisor is None:
        check_range(train)
    known = data.divisor or (train.facts.divisor if names_no_divisor(train) else None)  # both by the same
    valid = build("valid", augment=Augment(data.aug_probs[1], seed=settings.train.seed), divisor=known)
    for key in ("bands", "guide_bands", "ratio", "divisor"):
        one, other = getattr(train.facts, key), getattr(valid.facts, key)
        if one != other:
            raise UserError(
                f"training and validation set differ in {key}: {one} in {train.path}, {other} in {valid.path}; "
                "simulate both for one sensor"
            )
    return train, valid


def build_network(settings: config.Config, data: Samples) -> tuple[nn.Module, dict[str, Any], dict[str, str]]:
    """Return the network for the data; the name and arguments from which it can be built again; rows for the log."""
    entry = model_entry(settings.model.arch)
    if not entry.traits.trained:
        raise UserError(f"{entry.name} has nothing to train; fuse with it: inference.py --arch {entry.name}")
    arguments = config.model_arguments(settings) | {
        "img_channel": data.facts.bands,
        "condition_channel": data.facts.guide_bands,
        "out_channel": data.facts.bands,
        "ratio": data.facts.ratio,
    }
    model = build_model(entry.name, **arguments)
    rows = load_pretrained(model, settings, arguments, data.facts)
    if settings.train.grad_ckpt:
        enable = getattr(model, "set_grad_checkpointing", None)
        if enable is None:
            raise UserError(f"{entry.name} cannot recompute activations; drop --grad_ckpt")
        enable(True)
    if settings.train.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs
    return model, {"name": entry.name, "args": arguments}, rows


def load_pretrained(
    model: nn.Module, settings: config.Config, arguments: Mapping[str, Any], facts: DataFacts
) -> dict[str, str]:
    """Load the initial weights, if there are any; return rows for the log.

    Those of the authors' releases are converted (`lemamba.model.convert`), those of other bands adapted if
    `--adapt_bands` says so.
    """
    wanted = settings.model
    if not wanted.pretrained:
        if wanted.adapt_bands:
            raise UserError("--adapt_bands: expected --pretrain_model_path, the weights to adapt; give them")
        return {}
    file = open_weights(wanted.pretrained, Path(settings.log.log_dir))
    convert = partial(convert_state_dict, wanted.arch)
    if wanted.adapt_bands is None:
        try:
            load_weights(model, file, convert)
        except UserError as error:
            hint = "; to start from weights of other bands: --adapt_bands" if "of another shape" in str(error) else ""
            raise UserError(f"{error}{hint}") from None
        return {"initial weights": str(file.path)}
    name = model_entry(wanted.arch).name
    return adapt_bands(
        model,
        file,
        convert,
        build=lambda bands, guide: build_model(
            name, **{**arguments, "img_channel": bands, "condition_channel": guide, "out_channel": bands}
        ),
        target=Bands(facts.bands, facts.guide_bands, facts.sensor),
        ratio=facts.ratio,
        by_wavelength=wanted.adapt_bands == "wavelength",
        sensor=wanted.pretrained_sensor,
    )


def describe(
    settings: config.Config, model: nn.Module, train: H5Dataset, valid: H5Dataset, device: torch.device, world: int
) -> dict[str, str]:
    """Return the rows of the table at the start of a run."""
    sample = {key: value[None] for key, value in train[0].items()}
    height, width = sample["lms"].shape[-2:]
    model.to(device)
    flops = count_flops(model, sample)
    batch = settings.train.batch_size * world * settings.train.grad_accum_steps
    data = train.facts
    rows = {
        "network": f"{model.model_name} {settings.model.variant if settings.model.variants else ''}".strip(),
        "parameters": f"{count_parameters(model):,}",
        "FLOPs": f"{flops / 1e9:.3f} G for one sample of {height} x {width}",
        "training data": f"{len(train)} samples of {train.path}",
        "validation data": f"{len(valid)} samples of {valid.path}",
        "bands, ratio": f"{data.bands} + {data.guide_bands} guide, ratio {data.ratio}, divided by {data.divisor:g}",
        "batch": f"{batch} = {settings.train.batch_size} x {world} process(es) x {settings.train.grad_accum_steps}",
        "device": f"{device}, {world} process(es), mixed precision {settings.train.mixed_precision}",
    }
    if any(name.endswith("A_log") for name, _ in model.named_parameters()):  # the decays of a selective scan
        rows["scan backend"] = describe_scan(device)
    if settings.log.comment:
        rows["comment"] = settings.log.comment
    return rows


def described_settings(
    settings: config.Config, layers: config.Layers, model: nn.Module, arguments: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the rows of the log that say where each setting comes from, and all settings by dotted key.

    Args:
        settings: the resolved configuration.
        layers: where its values come from.
        model: the network.
        arguments: those it was built with; what they leave out is the default of its class.
    """
    values = config.flat(config.to_dict(settings))
    by_source: dict[str, list[str]] = {source: [] for source, _ in reversed(layers)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not key.startswith(("model.variants.", "model.args.")):  # they are the network's arguments
            found[key] = value
            by_source.setdefault(config.source_of(key, layers), []).append(f"{key} {_word(value)}")
    variant = f"model.variants.{settings.model.variant}"
    for key, parameter in inspect.signature(type(model)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value, source = arguments.get(key, parameter.default), f"the class {type(model).__name__}"
        if key in settings.model.args:
            source = config.source_of(f"model.args.{key}", layers)
        elif f"{variant}.{key}" in values:
            source = config.source_of(f"{variant}.{key}", layers)
        elif key in arguments:
            source = "the data"
        found[f"network.{key}"] = value
        by_source.setdefault(source, []).append(f"network.{key} {_word(value)}")
    names = {"default": "by default"}
    rows = {
        names.get(source, f"set by {source}"): "\n".join(textwrap.wrap(", ".join(items), 84, **_WRAP))
        for source, items in by_source.items()
        if items
    }
    return rows, found


def _word(value: Any) -> str:
    return "none" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def record(
    settings: config.Config, model: nn.Module, train: H5Dataset, valid: H5Dataset, rows: dict[str, str], world: int
) -> dict[str, Any]:
    """Return what is saved with the weights about data files, network and machine; `rows` come from `describe`."""
    device = next(model.parameters()).device
    choice = inspect.signature(type(model)).parameters.get("state_grad")  # LE-Mamba's, or its default
    facts = {
        "task": find_entry(settings.data.dataset, settings.data.root).task,
        "parameters": rows["parameters"],
        "FLOPs": rows["FLOPs"],
        "state_grad": config.model_arguments(settings).get("state_grad", choice.default) if choice else None,
        "processes": world,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})",
        "scan backend": rows.get("scan backend", "").partition(":")[0] or None,
        "project": project_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return {"files": [file_facts("training", train), file_facts("validation", valid)], "facts": facts}


def describe_scan(device: torch.device) -> str:
    """Return the name of the scan backend that runs on `device`, and why."""
    name = choose(None, device.type, torch.float32, state_grad=False)
    return f"{name}: {state_of(name).reason}"


def start_accelerator(settings: config.Config) -> Accelerator:
    """Start accelerate on the device, in the precision and with the trackers of the configuration."""
    others = [name for name in config.trackers(settings.log) if name != "tensorboard"]  # ours writes pictures, too
    for name in others:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--log_with {name} needs the package {name}: pip install {name}")
    precision, device = settings.train.mixed_precision, _chosen_device(settings.train.device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # an earlier training of this process may have had other settings
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            cpu=device is not None and device.type == "cpu" or None,
            log_with=others or None,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=settings.train.rank_wait))],
        )
    except ImportError as error:  # accelerate.yaml asks for DeepSpeed
        raise UserError(f"accelerate cannot start ({error}); pip install deepspeed transformers ninja") from None
    except ValueError as error:  # bf16 on an old GPU
        raise UserError(f"--mixed_precision {precision} does not work here: {error}; use no or bf16") from None
    if device is not None and accelerator.device.type != device.type:
        raise UserError(f"--device {device}, but accelerate was started for {accelerator.device}; give one of the two")
    if precision == "fp16" and accelerator.device.type == "cpu":  # autocast would run, without loss scaling
        raise UserError("--mixed_precision fp16 needs a GPU, this runs on the CPU; use bf16 or no")
    check_sharding(accelerator)
    return accelerator


def _chosen_device(name: str | None) -> torch.device | None:
    """Return the device of ``--device``, made the current one if it is a GPU; None: accelerate chooses."""
    if name is None:
        return None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if name not in ("cpu", "cuda"):
            raise UserError(f"--device {name}: with several processes, each has its own GPU; use --device cuda")
        return torch.device(name)  # not tried here: that would put every process on the first GPU
    device = usable_device(name)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def start_trackers(job: Job, accelerator: Accelerator) -> None:
    """Start what `--log_with` names; main process only.

    A resumed run continues its own record where the tracker can do so (not wandb offline). Files of wandb go to the
    run's folder.

    Raises:
        UserError: one cannot be started.
    """
    log, folder = job.config.log, job.folder
    project, run = folder.parent.name, folder.name
    told = {
        key: value if isinstance(value, bool | int | float) else _word(value) for key, value in job.settings.items()
    }
    mark = hashlib.sha256(f"{folder.absolute()}".encode()).hexdigest()[:16]
    kwargs: dict[str, dict[str, Any]] = {
        "wandb": {"name": run, "id": mark, "resume": "allow", "dir": str(folder), "notes": log.comment or None},
        "mlflow": {"run_name": run, "run_id": _known_mlflow_run(folder), "description": log.comment or None},
        "trackio": {"name": run, "resume": "allow"},
    }
    try:
        accelerator.init_trackers(project, init_kwargs=kwargs)
        for tracker in accelerator.trackers:
            if tracker.name != "mlflow" or kwargs["mlflow"]["run_id"] is None:  # it takes each setting once
                tracker.store_init_configuration(told)
    except Exception as error:  # each has its own
        raise UserError(f"--log_with {log.log_with}: cannot start ({error}); correct its settings or drop it") from None
    for tracker in accelerator.trackers:
        if tracker.name == "mlflow":
            write_text(folder / _MLFLOW_RUN, tracker.tracker.info.run_id)


def _known_mlflow_run(folder: Path) -> str | None:
    """Return the name that mlflow gave to the run in `folder`, for a resumed run."""
    path = folder / _MLFLOW_RUN
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def build_optimizer_for(settings: config.Config, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimizer; on a GPU, Adam and AdamW use their fused form unless `optimizer.args` says otherwise."""
    optimizer, arguments = settings.optimizer, dict(settings.optimizer.args)
    if device.type == "cuda" and optimizer.name.lower() in ("adamw", "adam"):
        arguments.setdefault("fused", True)
    return build_optimizer(optimizer.name, model, lr=optimizer.lr, weight_decay=optimizer.weight_decay, **arguments)


def build_job(resolved: Resolved, accelerator: Accelerator, folder: Path) -> Job:
    """Build data, network, loss, optimizer and schedule. All errors in the input are found here.

    Args:
        resolved: the configuration, and the checkpoint to resume from.
        accelerator: gives the device and the number of processes.
        folder: the run's folder; nothing is written there yet.

    Raises:
        UserError: bad data, or settings that do not fit them.
    """
    settings, device, world = resolved.settings, accelerator.device, accelerator.num_processes
    loss = build_loss(settings.loss.name, **settings.loss.args)
    schedule = Schedule(settings.schedule, settings.optimizer.lr, settings.train.epochs)
    train, valid = build_data(settings)
    seed_all(settings.train.seed)  # the same weights on every rank
    model, described, started = build_network(settings, train)
    rows: dict[str, str] = {}
    recorded: dict[str, Any] = {}
    known: dict[str, Any] = {}
    if accelerator.is_main_process:  # only this one logs and writes weights
        rows = describe(settings, model, train, valid, device, world) | started
        recorded = record(settings, model, train, valid, rows, world)
        by_source, known = described_settings(settings, resolved.layers, model, described["args"])
        rows |= by_source
    if settings.train.compile:
        model.compile()  # after the FLOPs are counted: code that has run under the counter is never compiled
    data, shown = train.facts, valid[0]
    trained_on: dict[str, Any] = {
        "dataset": settings.data.dataset,
        "sensor": data.sensor,
        "divisor": data.divisor,
        "ratio": data.ratio,
    }
    if data.geometry != Geometry.toolbox(data.ratio):  # scenes are fused with ms where the network knows it
        trained_on["offset"] = list(data.geometry.offset)
    centres = dataset_centres(train)
    if centres:  # a guide in another order of bands is refused when fusing
        trained_on["guide_centres"] = list(centres)
    return Job(
        config=settings,
        model=model,
        optimizer=build_optimizer_for(settings, model, device),
        schedule=schedule,
        loss=loss.to(device),
        train_set=train,
        valid_set=valid,
        folder=folder,
        tensorboard=Path(settings.log.tensorboard_dir) / folder.parent.name / folder.name,
        meta={"model": described, "data": trained_on, **recorded},
        rgb=choose_bands(get_sensor(data.sensor), shown["lms"].numpy(), shown["pan"].numpy(), own=data.rgb),
        facts=rows,
        settings=known,
        resume=resolved.checkpoint,
        launch=launch_line(world),
    )


def launch_line(world: int) -> str:
    """Return the start of the command that trains with `world` processes."""
    plain = as_typed("train")
    if world == 1:
        return plain
    words = plain.split()
    script = words[1:] if words[1:2] and words[1].endswith(".py") else ["-m", "lemamba", "train"]
    return " ".join(["torchrun", "--nproc_per_node", str(world), *script])


def new_folder(settings: config.Config, ranks: Ranks) -> Path:
    """Return the folder of a new run, the same on every rank although its name may hold the time."""
    name = settings.log.run_name or f"{settings.model.arch}_{settings.data.dataset}_{time.strftime('%Y%m%d-%H%M%S')}"
    return ranks.share(Path(settings.log.log_dir) / settings.log.proj_name / name)


def claim_folder(job: Job, accelerator: Accelerator, ranks: Ranks, overwrite: bool) -> IO[str] | None:
    """Create and lock the run's folder, save the configuration there, start the trackers (main process only).

    A folder that is named after the time gets a number where another run has it; `job` names it on every rank.

    Returns:
        The lock, to be kept open while the run lasts; None on the other ranks.

    Raises:
        UserError: the folder cannot be used; on all ranks.
    """
    lock, failure = None, None
    if ranks.main:
        try:
            if job.resume is None and not job.config.log.run_name:
                job.folder = create_folder(job.folder)
                job.tensorboard = job.tensorboard and job.tensorboard.with_name(job.folder.name)
            board = job.tensorboard if "tensorboard" in config.trackers(job.config.log) else None
            lock = open_run(job.folder, board, resuming=job.resume is not None, overwrite=overwrite)
            config.save(job.config, job.folder / "config.yaml")
            start_trackers(job, accelerator)
        except UserError as error:
            failure = str(error)
    job.folder, failure = ranks.share((job.folder, failure))
    if failure:
        raise UserError(failure)
    return lock


def replay(path: str) -> int:
    """Run a batch saved by the NaN guard again and report the first non-finite tensor."""
    batch, state, meta = load_batch(Path(path))
    model = build_model(meta["model"]["name"], **meta["model"]["args"])
    load_strict(model, state, path)
    loss = meta["config"]["loss"]
    found = find_culprit(model.train(), build_loss(loss["name"], **loss["args"]), batch)
    print(f"step {meta['step']}, then: {meta['culprit']}\nnow: {found}")
    return 0


def run(options: config.TrainOptions) -> int:
    """Train; the exit status is 0 also after a signal, when a checkpoint was saved."""
    if options.replay:
        return replay(options.replay)
    resolved = resolve_config(options)
    settings = resolved.settings
    use_scan_backend(settings.train.scan_backend)
    use_tf32(settings.train.tf32)
    accelerator = start_accelerator(settings)
    ranks = Ranks(settings.train.rank_wait)
    job = build_job(resolved, accelerator, resolved.folder or new_folder(settings, ranks))
    check(job, ranks.world)
    if options.dry_run:
        if ranks.main:
            show_training(job, accelerator.device, ranks.world, overwrite=options.overwrite, title=job.facts)
        accelerator.wait_for_everyone()
        return 0
    lock = claim_folder(job, accelerator, ranks, options.overwrite)
    try:
        fit(job, accelerator)
        # Before torch 2.7, a rank that exits during a broadcast's last tensor hangs. A rank that breaks must not wait
        # here: the others are in the middle of a step.
        accelerator.wait_for_everyone()
    finally:
        if lock is not None:
            lock.close()
        accelerator.end_training()
    return 0
