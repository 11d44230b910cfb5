"""Configuration of a training: defaults < YAML < command line, as frozen dataclasses.

Sections: data, model, loss, optimizer, schedule, train, log. Each field is declared once, with its help, its bounds
and its flags; `parse` makes the command line from these declarations, so a flag and a YAML key cannot disagree.
Defaults are the released settings of LE-Mamba (arXiv 2404.09293); other networks start from `configs/neutral.yaml`.

Precedence, lowest first: defaults, `configs/neutral.yaml`, `<Arch>_config.yaml`, (when resuming) that of the run,
the file of `-c`, flags and `--set section.key=value`. An unknown key is an error that names the nearest known one.
No torch here, so ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemamba.utils.command_line import (
    Parser,
    add_options,
    batch_option,
    check_bounds,
    device_option,
    dry_run_option,
    option,
    parse_bool,
    precision_option,
    read_options,
    scan_option,
    tf32_option,
)
from lemamba.utils.errors import UserError, nearest
from lemamba.utils.registry import normalise, own_entry, scan_folder
from lemamba.utils.safe_yaml import parse_yaml, read_yaml, write_yaml

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"
_LOSS_ENTRIES = scan_folder(Path(__file__).resolve().parent.parent / "losses", "register_loss")
_LOSSES = ", ".join(sorted(entry.name for entry in _LOSS_ENTRIES.values()))
NEUTRAL = "neutral.yaml"  # in CONFIG_FOLDER
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how samples are drawn from them."""

    dataset: str = option("wv3", "name of the data set (utils/sensors.py)", "--dataset")
    root: str | None = option(None, "folder of the H5 files (default: LEMAMBA_DATA)", "--data_root")
    sensor: str | None = option(None, "overrides the data set's sensor", "--sensor")
    ratio: int | None = option(None, "overrides the data set's resolution ratio", "--ratio", low=1)
    divisor: float | None = option(None, "digital numbers are divided by this (default: the sensor's)", "--divisor")
    aug_probs: tuple[float, float] = option(
        (0.0, 0.0), "augmentation probability", "--aug_probs", metavar=("TRAIN", "VAL")
    )
    crop: int | None = option(None, "random crop of the training patches, in pixels of gt", "--crop", low=1)
    num_workers: int = option(0, "loader processes per training process", "--num_worker", "--num_workers", low=0)
    shuffle: bool = option(True, "draw a new order each epoch", "--shuffle")
    val_batch_size: int | None = option(None, "batch size of the validation (default: batch_size)", low=1)


@dataclass(frozen=True)
class ModelConfig:
    """Which network. `variants` holds constructor arguments by variant; `args` override those of the chosen one."""

    arch: str = option("LEMamba", "name of a network (docs/methods.md)", "--arch")
    variant: str = option("tiny", "entry of model.variants", "--variant")
    variants: dict[str, Any] = option({}, "constructor arguments by variant name")
    args: dict[str, Any] = option({}, "constructor arguments")
    pretrained: str | None = option(None, "weights to start from (.safetensors, .pth, run)", "--pretrain_model_path")
    adapt_bands: str | None = option(
        None,
        "weights of other bands: map the layers that depend on them by wavelength, or remake these",
        "--adapt_bands",
        choices=("wavelength", "remake"),
    )
    pretrained_sensor: str | None = option(
        None, "sensor of these weights, where their file does not name it", "--pretrain_sensor"
    )


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    name: str = option("l1ssim", _LOSSES, "--loss")
    args: dict[str, Any] = option({}, "arguments of the loss")


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are updated."""

    name: str = option("adamw", "name of an optimizer, or timm/<name> (docs/training.md)", "--optimizer")
    lr: float = option(1e-3, "peak learning rate", "--lr", low=0)
    weight_decay: float = option(1e-6, "weight decay (never on norms, biases, A_log, D)", "--weight_decay", low=0)
    args: dict[str, Any] = option({}, "further arguments, e.g. {betas: [0.9, 0.99]}")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes. Lengths are in epochs, so they do not depend on the number of processes."""

    name: str = option("cos_anneal_restart_reduce", "name of a schedule (docs/training.md)", "--schedule")
    per_epoch: bool = option(True, "change the rate between epochs (true) or at each step (false)")
    warmup: float = option(0.0, "epochs of linear warm-up", "--warmup", low=0)
    eta_min: float = option(8e-5, "smallest rate of the cosine schedules", low=0)
    T0: float = option(50.0, "epochs to the first restart", low=0)
    T_mult: float = option(2.0, "each period is longer than the one before by this factor", low=1)
    reduce: float = option(0.9, "factor of the peak rate at each restart (…_reduce)", low=0)
    milestones: tuple[float, ...] = option((), "epochs at which multi_step multiplies by gamma")
    gamma: float = option(0.1, "factor of multi_step and plateau", low=0)
    patience: int = option(5, "validations without improvement before plateau reduces", low=0)


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    epochs: int = option(800, "passes over the training set", "--epochs", "-e", "--num_epochs", low=1)
    batch_size: int = batch_option(32, "batch size per process")
    grad_accum_steps: int = option(2, "batches per optimizer step", "--grad_accum_steps", low=1)
    clip_norm: float | None = option(0.03, "clip the gradient norm to this; null: off", "--clip_norm", low=0)
    ema_decay: float | None = option(0.995, "EMA of the weights; null: off", "--ema_decay", low=0)
    ema_warmup: bool = option(True, "let the decay start as (1 + n)/(10 + n)")
    mixed_precision: str = precision_option()
    tf32: bool = tf32_option()
    seed: int = option(3407, "seed of weights, order and augmentation", "--seed", low=0)
    max_minutes: float | None = option(None, "time budget; the schedule is compressed to fit", "--max_minutes", low=0)
    clock: str = option("wall", "what max_minutes counts: wall time, or CPU-core time", choices=("wall", "core"))
    val_n_epoch: int = option(20, "validate every n epochs; 0: only at the end", "--val_n_epoch", low=0)
    checkpoint_every_n: int = option(20, "checkpoint every n epochs; 0: only at the end", "--checkpoint_every_n", low=0)
    checkpoint_every_steps: int = option(0, "also every n optimizer steps; 0: off", "--checkpoint_every_steps", low=0)
    ckpt_max_limit: int = option(3, "checkpoints kept; 0: all", "--ckpt_max_limit", low=0)
    best_metric: str = option("ergas", "validation metric that chooses the best weights", "--best_metric")
    nan_policy: str = option(
        "stop", "what to do at a non-finite loss or gradient", "--nan_policy", choices=("stop", "skip")
    )
    compile: bool = option(False, "torch.compile the network", "--compile")
    grad_ckpt: bool = option(False, "recompute activations in the backward pass", "--grad_ckpt")
    channels_last: bool = option(False, "channels-last memory format", "--channels_last")
    rank_wait: float = option(600.0, "seconds to wait for another process before giving up", "--rank_wait", low=1)
    device: str | None = device_option()
    scan_backend: str | None = scan_option()


@dataclass(frozen=True)
class LogConfig:
    """Where things are written and what is logged."""

    proj_name: str = option("LE-Mamba", "project folder", "--proj_name")
    run_name: str | None = option(None, "run folder (default: network, data set and time)", "--run_name")
    comment: str = option("", "free text, saved with the run", "--comment")
    license: str | None = option(None, "licence of the weights, for their model card, e.g. apache-2.0", "--license")
    log_metric: bool = option(False, "validate with every index (qn, qave, scc, ssim too)", "--log_metric")
    logger_on: bool = option(False, "write TensorBoard files; the same as --log_with tensorboard", "--logger_on")
    log_with: str = option("", f"log there too, separated by commas: {', '.join(TRACKERS)}", "--log_with")
    live: bool = option(True, "on a terminal, show curves, scores and time left below the log", "--live")
    log_every: int = option(50, "optimizer steps between log lines (at least one in 30 s)", "--log_every", low=1)
    log_dir: str = option("log_file", "runs are written to <log_dir>/<proj>/<run>", "--log_dir")
    tensorboard_dir: str = option("runs", "TensorBoard files go to <tensorboard_dir>/<proj>/<run>", "--tensorboard_dir")


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


Layers = list[tuple[str, dict[str, Any]]]  # (where from, values), the lowest first
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

    If the upper one names another loss or optimizer, the arguments that the lower one gave to its own are dropped.
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


def converted(value: Any, kind: Any, where: str) -> Any:
    """Convert a YAML value to the declared type.

    Args:
        value: as YAML or a flag gave it.
        kind: bool, int, float, str, a dict, a tuple of numbers, a dataclass (a mapping of its fields), or one of these
            or None.
        where: file and key, for the message.

    Raises:
        UserError: the value does not fit. A number may be given as text, as in ``1e-3``; NaN and infinity are refused.
    """
    if isinstance(kind, types.UnionType):
        return None if value is None else converted(value, typing.get_args(kind)[0], where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_mapping(kind, value, where)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _convert_tuple(value, typing.get_args(kind), where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping (key: value), given {value!r}")
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float) and not isinstance(value, bool):
        return _convert_number(value, kind, where)
    raise UserError(f"{where}: expected {_describe(kind)}, given {value!r}")


def _convert_tuple(value: Any, kinds: tuple, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: expected a list of numbers, given {value!r}")
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise UserError(f"{where}: expected {len(kinds)} numbers, given {len(value)}: {list(value)}")
    return tuple(converted(v, kinds[0], where) for v in value)


def _convert_number(value: Any, kind: type, where: str) -> float | int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: expected {_describe(kind)}, given {value!r}") from None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise UserError(f"{where}: expected {_describe(kind)}, given {value!r}")
    return kind(number)


def _describe(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(kind, str(kind))


def from_mapping(cls: type, content: Any, source: str, section: str = "") -> Any:
    """Build a dataclass from a mapping.

    Args:
        cls: the dataclass.
        content: the mapping.
        source: name of the file, for messages.
        section: what precedes the keys in messages.

    Raises:
        UserError: not a mapping, an unknown key (the message names the nearest known one), a missing key, a value of
            another type or out of its bounds.
    """
    if not isinstance(content, Mapping):
        at = f": {section}" if section else ""
        raise UserError(f"{source}{at}: expected a mapping (key: value), given {content!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds = typing.get_type_hints(cls)
    chosen = {}
    for key, value in content.items():
        full = f"{section}.{key}" if section else str(key)
        if key not in fields:
            raise UserError(f'{source}: unknown key "{full}"{nearest(str(key), fields)}; known: {", ".join(fields)}')
        chosen[key] = converted(value, kinds[key], f"{source}: {full}")
        check_bounds(chosen[key], fields[key].metadata, f"{source}: {full}")
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in content]:
        raise UserError(f"{source}: {', '.join(missing)} missing; add it")
    return cls(**chosen)


def from_dict(values: dict[str, Any], source: str = "configuration") -> Config:
    """Build a `Config` from nested mappings; `source` names the file in messages. Raises as `from_mapping` does."""
    sections = {}
    for name, content in values.items():
        if name not in SECTIONS:
            raise UserError(
                f'{source}: unknown section "{name}"{nearest(str(name), SECTIONS)}; known: {", ".join(SECTIONS)}'
            )
        sections[name] = from_mapping(SECTIONS[name], {} if content is None else content, source, name)
    config = Config(**sections)
    _check_together(config)
    return config


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
    for name in trackers(config.log):
        if name not in TRACKERS:
            raise UserError(
                f'log.log_with: expected some of {", ".join(TRACKERS)}, given "{name}"{nearest(name, TRACKERS)}'
            )
    if config.train.ema_decay is not None and config.train.ema_decay >= 1:
        raise UserError(f"train.ema_decay: expected less than 1, given {config.train.ema_decay}")
    model_arguments(config)


def trackers(log: LogConfig) -> tuple[str, ...]:
    """Return the names in `log_with`, each once; TensorBoard is among them if it is switched on in either way."""
    named = [word.strip().lower() for word in log.log_with.split(",") if word.strip()]
    return tuple(dict.fromkeys((["tensorboard"] if log.logger_on else []) + named))


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
    """Find `<Arch>_config.yaml` (case, ``-`` and ``_`` do not matter); None if the architecture has none.

    That of a network of one's own (``LEMAMBA_MODEL_PATH``) lies next to its file.
    """
    own = own_entry(arch)
    for path in sorted((own.path.parent if own else folder).glob("*_config.yaml")):
        if normalise(path.name.removesuffix("_config.yaml")) == normalise(arch):
            return path
    return None


def config_path(given: str | Path) -> Path:
    """Return the path of a configuration file; ``configs/NAME`` names a shipped one, from any working folder."""
    path = Path(given)
    shipped = CONFIG_FOLDER.joinpath(*path.parts[1:])
    return shipped if path.parts[:1] == ("configs",) and not path.exists() and shipped.is_file() else path


def resolve(
    flags: dict[str, Any],
    config_file: str | Path | None = None,
    run_config: dict[str, Any] | None = None,
    folder: Path = CONFIG_FOLDER,
) -> Config:
    """Merge all layers into one `Config`; see `resolve_layers`."""
    return resolve_layers(flags, config_file, run_config, folder)[0]


def resolve_layers(
    flags: dict[str, Any],
    config_file: str | Path | None = None,
    run_config: dict[str, Any] | None = None,
    folder: Path = CONFIG_FOLDER,
) -> tuple[Config, Layers]:
    """Merge all layers into one `Config`, and return the layers too, which `source_of` reads.

    Args:
        flags: what the command line sets, as nested mappings without defaults.
        config_file: the file of `-c`.
        run_config: the configuration saved with the run that is resumed.
        folder: folder of the `<Arch>_config.yaml` files.
    """
    source = str(config_file)
    file_values = _renamed(read_yaml(config_path(config_file)) if config_file else {})
    from_mapping(ModelConfig, file_values.get("model") or {}, source, "model")
    from_dict(file_values | {"model": {}}, source)  # an unknown key is reported with the name of its file
    run_config = _renamed(run_config or {})
    from_dict(run_config, "the configuration saved with the run")
    flags = _renamed(flags)
    over = lay_over(lay_over(run_config, file_values), flags)
    arch = str((over.get("model") or {}).get("arch", ModelConfig().arch))
    path = arch_file(arch, folder)
    base = read_yaml(path) if path else {}
    from_dict(base, path.name if path else "")
    neutral = {} if normalise(arch) == normalise(ModelConfig().arch) else read_yaml(CONFIG_FOLDER / NEUTRAL)
    layers: Layers = [
        (f"configs/{NEUTRAL}", neutral),
        (_shown(path), base),
        ("the resumed run", run_config),
        (source, file_values),
        ("the command line", flags),
    ]
    return from_dict(lay_over(lay_over(neutral, base), over)), layers


def _shown(path: Path | None) -> str:
    """Return a shipped file as `config_path` reads it."""
    if path is None:
        return ""
    return f"configs/{path.name}" if path.parent == CONFIG_FOLDER else str(path)


def source_of(key: str, layers: Layers) -> str:
    """Return where the value of a dotted key comes from: a layer's name, or "default"."""
    for source, values in reversed(layers):
        found: Any = values
        for part in key.split("."):
            if not isinstance(found, dict) or part not in found:
                break
            found = found[part]
        else:
            return source
    return "default"


def flat(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key; an empty mapping has none."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        found |= flat(value, name) if isinstance(value, Mapping) else {name: value}
    return found


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``train.cpu`` of configurations before 0.2.0 by ``train.device``."""
    train = values.get("train")
    if not isinstance(train, dict) or not isinstance(train.get("cpu"), bool):
        return values
    rest = {key: value for key, value in train.items() if key != "cpu"}
    return values | {"train": ({"device": "cpu"} if train["cpu"] else {}) | rest}


def save(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML that `-c` reads back to the same `Config`."""
    write_yaml(path, to_dict(config))


@dataclass(frozen=True)
class TrainOptions:
    """Train a fusion network. Defaults < configs/<Arch>_config.yaml < -c FILE < flags and --set.

    Examples:
        --arch LEMamba --dataset wv3 --data_root data -e 800 -b 32
        -c configs/demo.yaml --dataset ikonos --data_root data/ikonos --run_name first --max_minutes 15 --dry_run
        --resume_path latest
    """

    config_file: str | None = option(
        None, "YAML with the sections " + ", ".join(SECTIONS), "--config_file", "-c", metavar="FILE"
    )
    assignments: tuple[str, ...] = option((), "set any field", "--set", metavar="SECTION.KEY=VALUE")
    resume: str | None = option(None, "resume a run exactly where it stopped", "--resume_path", metavar="RUN|latest")
    replay: str | None = option(
        None, "run a batch saved by the NaN guard again and report what fails", "--replay", metavar="FILE"
    )
    overwrite: bool = option(False, "replace an existing run of the same name", "--overwrite")
    dry_run: bool = dry_run_option()
    flags: dict[str, Any] = option({}, "what flags and --set give, as nested mappings; no defaults")


def build_parser(prog: str | None = None) -> Parser:
    """Return the parser of a training's command line; each flag is an alias of one field of the configuration."""
    parser = Parser(TrainOptions, prog=prog, allow_abbrev=False)
    for section, cls in SECTIONS.items():
        add_options(parser, cls, section)
    # an alias; not a field, because a configuration names the device in one place
    parser.add_argument(
        "--cpu",
        dest="train.device",
        type=lambda text: "cpu" if parse_bool(text) else None,
        nargs="?",
        const="true",
        default=argparse.SUPPRESS,
        metavar="true|false",
        help="the same as --device cpu",
    )
    return parser


def parse(argv: list[str] | None = None, prog: str | None = None) -> TrainOptions:
    """Read the command line of a training.

    Args:
        argv: the arguments; default: those of the process.
        prog: name of the program in the usage line; default: the script's.

    Raises:
        UserError: an unknown flag or a value of the wrong type. Bounds are checked by `resolve`.
    """
    return read(vars(build_parser(prog).parse_args(argv)))


def read(given: Mapping[str, Any]) -> TrainOptions:
    """Build the options from what the parser of `build_parser` found; raises as `parse` does."""
    flags: dict[str, Any] = {}
    for key, value in given.items():
        if "." in key:
            _set_nested(flags, key, value)
    for assignment in given.get("assignments", ()):
        dotted, equals, text = assignment.partition("=")
        if not equals or "." not in dotted or not all(dotted.split(".")):
            raise UserError(f"--set: expected section.key=value, given {assignment!r}")
        _set_nested(flags, dotted, parse_yaml(text, f"--set {dotted}"))
    return read_options(TrainOptions, {**given, "flags": flags})


def _set_nested(values: dict[str, Any], dotted: str, value: Any) -> None:
    keys = dotted.split(".")
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {dotted}: {key} holds a value, not further keys")
    values[keys[-1]] = value
