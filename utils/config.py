"""Configuration: defaults < YAML < command line, as frozen dataclasses. No torch here: `--help` is instant.

Sections: data, model, loss, optimizer, schedule, train, log. Each field is declared once, with its help text, its
bounds and its flags; the command line (`utils.cli`) is made from these declarations, so that a flag and a YAML key
cannot disagree. Defaults are the released settings of LE-Mamba (arXiv 2404.09293).

Order of what wins: defaults, `configs/<Arch>_config.yaml`, (when resuming) the run's own config, the file of `-c`,
flags and `--set section.key=value`. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemamba.utils.errors import UserError, nearest
from lemamba.utils.registry import normalise, scan_folder
from lemamba.utils.safe_yaml import read_yaml, write_yaml
from lemamba.utils.values import check_bounds, converted

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"
_LOSS_ENTRIES = scan_folder(Path(__file__).resolve().parent.parent / "losses", "register_loss")
_LOSSES = ", ".join(sorted(entry.name for entry in _LOSS_ENTRIES.values()))


def option(default: Any, text: str, *flags: str, choices: tuple[str, ...] = (), low: float | None = None) -> Any:
    """Declare a field: its default, what it means, its flags, the allowed words and the smallest allowed number."""
    meta = {"help": text, "flags": flags, "choices": choices, "low": low}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how samples are drawn from them."""

    dataset: str = option("wv3", "name of the data set (utils/sensors.py)", "--dataset")
    root: str | None = option(None, "folder with the H5 files; default: LEMAMBA_DATA", "--data_root")
    sensor: str | None = option(None, "sensor, where it is not the data set's own", "--sensor")
    ratio: int | None = option(None, "resolution ratio, where it is not the data set's own", "--ratio", low=1)
    divisor: float | None = option(None, "digital numbers are divided by this; default: the sensor's", "--divisor")
    aug_probs: tuple[float, float] = option((0.0, 0.0), "augmentation probability: train, validation", "--aug_probs")
    crop: int | None = option(None, "random crop of the training patches, in pixels of gt", "--crop", low=1)
    num_workers: int = option(0, "loader processes per training process", "--num_worker", "--num_workers", low=0)
    shuffle: bool = option(True, "draw a new order each epoch", "--shuffle")
    val_batch_size: int | None = option(None, "batch of the validation; default: batch_size", low=1)


@dataclass(frozen=True)
class ModelConfig:
    """Which network. `variants` holds constructor arguments by variant; `args` come on top of the chosen one."""

    arch: str = option("LEMamba", "registered network (model.list_models())", "--arch")
    variant: str = option("tiny", "entry of model.variants", "--variant")
    variants: dict[str, Any] = option({}, "constructor arguments by variant name")
    args: dict[str, Any] = option({}, "constructor arguments")
    pretrained: str | None = option(None, "weights to start from (.safetensors, .pth, run)", "--pretrain_model_path")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    name: str = option("l1ssim", _LOSSES, "--loss")
    args: dict[str, Any] = option({}, "arguments of the loss")


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move."""

    name: str = option("adamw", "adamw, adam, sgd, lion, or timm/<name>", "--optimizer")
    lr: float = option(1e-3, "peak learning rate", "--lr", low=0)
    weight_decay: float = option(1e-6, "weight decay (never on norms, biases, A_log, D)", "--weight_decay", low=0)
    args: dict[str, Any] = option({}, "further arguments, e.g. {betas: [0.9, 0.99]}")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes; lengths are in epochs, so they do not depend on the number of processes."""

    name: str = option(
        "cos_anneal_restart_reduce",
        "constant, cos_anneal, cos_anneal_restart, cos_anneal_restart_reduce, multi_step, plateau",
        "--schedule",
    )
    per_epoch: bool = option(True, "change the rate between epochs (true) or at every step (false)")
    warmup: float = option(0.0, "epochs of linear warm-up", "--warmup", low=0)
    eta_min: float = option(8e-5, "smallest rate of the cosine schedules", low=0)
    T0: float = option(50.0, "epochs to the first restart", low=0)
    T_mult: float = option(2.0, "each period is this much longer than the one before", low=1)
    reduce: float = option(0.9, "peak rate times this at each restart (…_reduce)", low=0)
    milestones: tuple[float, ...] = option((), "epochs at which multi_step multiplies by gamma")
    gamma: float = option(0.1, "factor of multi_step and plateau", low=0)
    patience: int = option(5, "validations without gain before plateau reduces", low=0)


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    epochs: int = option(800, "passes over the training set", "-e", "--epochs", "--num_epochs", low=1)
    batch_size: int = option(32, "batch per process", "-b", "--batch_size", low=1)
    grad_accum_steps: int = option(2, "batches per optimizer step", "--grad_accum_steps", low=1)
    clip_norm: float | None = option(0.03, "clip the gradient norm to this; null: off", "--clip_norm", low=0)
    ema_decay: float | None = option(0.995, "EMA of the weights; null: off", "--ema_decay", low=0)
    ema_warmup: bool = option(True, "let the decay grow as (1 + n)/(10 + n) at the start")
    mixed_precision: str = option("no", "no, bf16, fp16", "--mixed_precision", choices=("no", "bf16", "fp16"))
    seed: int = option(3407, "seed of everything", "--seed", low=0)
    max_minutes: float | None = option(None, "time budget; the schedule is squeezed into it", "--max_minutes", low=0)
    clock: str = option("wall", "what max_minutes counts; core: time the loop had a core", choices=("wall", "core"))
    val_n_epoch: int = option(20, "validate every n epochs; 0: only at the end", "--val_n_epoch", low=0)
    checkpoint_every_n: int = option(20, "checkpoint every n epochs; 0: only at the end", "--checkpoint_every_n", low=0)
    checkpoint_every_steps: int = option(0, "also every n optimizer steps; 0: off", "--checkpoint_every_steps", low=0)
    ckpt_max_limit: int = option(3, "checkpoints kept; 0: all", "--ckpt_max_limit", low=0)
    best_metric: str = option("ergas", "validation metric that chooses the best weights", "--best_metric")
    nan_policy: str = option("stop", "at a non-finite loss or gradient", "--nan_policy", choices=("stop", "skip"))
    compile: bool = option(False, "torch.compile the network", "--compile")
    grad_ckpt: bool = option(False, "recompute activations in the backward pass", "--grad_ckpt")
    channels_last: bool = option(False, "channels-last memory format", "--channels_last")
    cpu: bool = option(False, "train on the CPU even where there is a GPU", "--cpu")


@dataclass(frozen=True)
class LogConfig:
    """Where things are written and what is logged."""

    proj_name: str = option("LE-Mamba", "project folder", "--proj_name")
    run_name: str | None = option(None, "run folder; default: network, data and time", "--run_name")
    comment: str = option("", "free text, kept with the run", "--comment")
    license: str | None = option(None, "licence of the weights, for their model card, e.g. apache-2.0", "--license")
    log_metric: bool = option(False, "validate with every index (qn, qave, scc, ssim too)", "--log_metric")
    logger_on: bool = option(False, "write TensorBoard files", "--logger_on")
    log_every: int = option(50, "optimizer steps between two log lines", "--log_every", low=1)
    log_dir: str = option("log_file", "runs live in <log_dir>/<proj>/<run>", "--log_dir")
    tensorboard_dir: str = option("runs", "TensorBoard files in <tensorboard_dir>/<proj>/<run>", "--tensorboard_dir")


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)


SECTIONS: dict[str, type] = {f.name: typing.get_type_hints(Config)[f.name] for f in dataclasses.fields(Config)}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; `over` wins; mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def lay_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two layers of a configuration.

    Where the upper one names another loss or optimizer, the arguments that the lower one gave to its own are dropped.
    """
    below = dict(base)
    for section in ("loss", "optimizer"):
        lower, upper = base.get(section), over.get(section)
        if (
            isinstance(lower, dict)
            and isinstance(upper, dict)
            and upper.get("name", lower.get("name")) != lower.get("name")
        ):
            below[section] = {key: value for key, value in lower.items() if key != "args"}
    return merge(below, over)


def from_dict(values: dict[str, Any], source: str = "configuration") -> Config:
    """Build a `Config` from nested mappings; unknown sections and keys are errors that name the nearest known one."""
    sections = {}
    for name, content in values.items():
        if name not in SECTIONS:
            raise UserError(
                f'{source}: unknown section "{name}"{nearest(str(name), SECTIONS)}; known: {", ".join(SECTIONS)}'
            )
        sections[name] = _section(SECTIONS[name], name, {} if content is None else content, source)
    config = Config(**sections)
    _check_together(config)
    return config


def _section(cls: type, name: str, content: Any, source: str) -> Any:
    if not isinstance(content, dict):
        raise UserError(f"{source}: {name}: expected a mapping (key: value), given {content!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds = typing.get_type_hints(cls)
    chosen = {}
    for key, value in content.items():
        where = f"{source}: {name}.{key}"
        if key not in fields:
            raise UserError(
                f'{source}: unknown key "{name}.{key}"{nearest(str(key), fields)}; known: {", ".join(fields)}'
            )
        chosen[key] = converted(value, kinds[key], where)
        check_bounds(chosen[key], fields[key].metadata, where)
    return cls(**chosen)


def _check_together(config: Config) -> None:
    for key in ("proj_name", "run_name"):
        name = getattr(config.log, key)
        if name is not None and (name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name):
            raise UserError(f"log.{key}: expected the name of one folder, given {name!r}")
    if config.log.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", config.log.license):
        raise UserError(
            f"log.license: expected an identifier such as apache-2.0 or cc-by-4.0, given {config.log.license!r}"
        )
    if any(not 0 <= p <= 1 for p in config.data.aug_probs):
        raise UserError(f"data.aug_probs: expected probabilities from 0 to 1, given {list(config.data.aug_probs)}")
    if config.train.ema_decay is not None and config.train.ema_decay >= 1:
        raise UserError(f"train.ema_decay: expected less than 1, given {config.train.ema_decay}")
    model_arguments(config)


def model_arguments(config: Config) -> dict[str, Any]:
    """Return the constructor arguments that variant and `args` give; an unknown variant is a `UserError`."""
    variants, name = config.model.variants, config.model.variant
    if not variants:
        if name != ModelConfig().variant:
            raise UserError(f'{config.model.arch} has no variants in its configuration, given variant "{name}"')
        return dict(config.model.args)
    if name not in variants:
        raise UserError(
            f'{config.model.arch} has no variant "{name}"{nearest(name, variants)}; known: {", ".join(variants)}'
        )
    chosen = {} if variants[name] is None else variants[name]
    if not isinstance(chosen, dict):
        raise UserError(f"model.variants.{name}: expected a mapping (key: value), given {chosen!r}")
    return {**chosen, **config.model.args}


def to_dict(config: Config) -> dict[str, Any]:
    """Return the resolved configuration as plain mappings and lists; of the variants only the chosen one is kept."""
    plain = dataclasses.asdict(config)
    for section in plain.values():
        for key, value in section.items():
            if isinstance(value, tuple):
                section[key] = list(value)
    variants = plain["model"]["variants"]
    plain["model"]["variants"] = {k: v for k, v in variants.items() if k == config.model.variant}
    return plain


def arch_file(arch: str, folder: Path = CONFIG_FOLDER) -> Path | None:
    """Find `<Arch>_config.yaml` (case, ``-`` and ``_`` do not matter); None where the architecture has none."""
    for path in sorted(folder.glob("*_config.yaml")):
        if normalise(path.name.removesuffix("_config.yaml")) == normalise(arch):
            return path
    return None


def resolve(
    flags: dict[str, Any],
    config_file: str | Path | None = None,
    run_config: dict[str, Any] | None = None,
    folder: Path = CONFIG_FOLDER,
) -> Config:
    """Merge all layers into one `Config`.

    Args:
        flags: what the command line set, as nested mappings; only what was really given.
        config_file: the file of `-c`.
        run_config: the configuration saved with the run that is resumed.
        folder: where `<Arch>_config.yaml` is looked for.
    """
    file_values = read_yaml(Path(config_file)) if config_file else {}
    _section(ModelConfig, "model", file_values.get("model") or {}, str(config_file))
    from_dict(file_values | {"model": {}}, str(config_file))  # a wrong key is reported with the name of its file
    from_dict(run_config or {}, "the configuration saved with the run")
    over = lay_over(lay_over(run_config or {}, file_values), flags)
    arch = str((over.get("model") or {}).get("arch", ModelConfig().arch))
    path = arch_file(arch, folder)
    base = read_yaml(path) if path else {}
    from_dict(base, path.name if path else "")
    return from_dict(lay_over(base, over))


def save(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML that `-c` reads back to the same `Config`."""
    write_yaml(path, to_dict(config))
